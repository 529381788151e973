//! `vctl status`: one line for each finding, with the next command to type, and an exit status.

use crate::support::{Pool, unmount};
use rustix::process::{Signal, kill_process};

/// Returns the line about a subject.
fn line<'a>(output: &'a str, subject: &str) -> &'a str {
    let found = output.lines().find(|line| line.contains(subject));
    found.unwrap_or_else(|| panic!("{subject:?} in {output}"))
}

#[test]
fn healthy_is_0_and_says_what_could_come_next() {
    let pool = Pool::with_volume();
    let output = pool.run(["status"]).ok().out;
    assert!(output.starts_with("healthy: 2 disks with "), "{output}");
    assert!(line(&output, "apparatuses: none runs").ends_with("next: vctl apparatus start NAME MOUNTPOINT"));

    let mount = pool.start("a");
    let output = pool.run(["status"]).ok().out;
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.contains("1 of 1 apparatus serves"), "{output}");
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn a_database_that_could_not_be_made_durable_is_reported_with_the_way_out() {
    let pool = Pool::with_volume();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mark = pool.path("pool/run/log-failed");
    std::fs::write(&mark, format!("{}\nInput/output error\n", boot.trim())).unwrap();
    let output = pool.run(["status"]).ended(7).out;
    let database = line(
        &output,
        "database: could not be made durable (Input/output error)",
    );
    assert!(database.starts_with("error"), "{database}");
    assert!(database.ends_with("next: vctl pool backup FILE"), "{database}");
    let refused = pool.run(["volume", "create", "w", "1M"]);
    assert_ne!(refused.status, 0, "{refused:?}");
    assert!(refused.err.contains("could not be made durable"), "{refused:?}");

    pool.run(["pool", "backup", &pool.file("backup")]).ok();
    pool.run(["pool", "restore", &pool.file("backup"), "--yes"]).ok();
    assert!(!mark.exists());
    pool.run(["volume", "create", "x", "1M"]).ok();
    pool.run(["status"]).ok();
}

/// The apparatus cannot restore the file itself, only the link to it.
#[test]
fn a_deleted_member_table_is_named_with_the_way_out() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    pool.run(["status"]).ok();
    std::fs::remove_file(std::fs::read_link(pool.path("pool/run/members")).unwrap()).unwrap();
    let output = pool.run(["status"]).ended(7).out;
    let table = line(&output, "is in use by processes of this pool and cannot be found");
    assert!(table.starts_with("error"), "{table}");
    assert!(table.ends_with("next: vctl apparatus stop a"), "{table}");
    let output = pool.run(["pool", "check"]).ended(7).out;
    line(&output, "is in use by processes of this pool and cannot be found");
    let refused = pool.run(["volume", "create", "w", "1M"]).ended(4);
    refused.complains(&["cannot be found", "stop all apparatuses", "then start them"]);

    pool.run(["apparatus", "stop", "a"]).ok();
    pool.start("a");
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["status"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn a_disk_that_takes_nothing_new_is_not_forgotten() {
    let pool = Pool::with_volume();
    pool.run(["disk", "set", "d1", "--no-allocate"]).ok();
    pool.run(["disk", "set", "d2", "--no-allocate"]).ok();
    let output = pool.run(["status"]).ok().out;
    assert!(line(&output, "disk d1: takes nothing new").ends_with("next: vctl disk set d1 --allocate"));
    assert!(line(&output, "disk d2: takes nothing new and is empty").ends_with("next: vctl disk remove d2"));
}

#[test]
fn what_asks_for_somebody_is_7_and_names_the_way_out() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "big", "110M"]).ok();
    let output = pool.run(["status"]).ended(7).out;
    assert!(output.starts_with("needs attention: "), "{output}");
    let space = line(&output, "space: ");
    assert!(
        space.starts_with("warning") || space.starts_with("error"),
        "{space}"
    );
    assert!(space.ends_with("next: vctl disk add PATH"), "{space}");
    pool.run(["volume", "remove", "big", "--yes"]).ok();
    pool.run(["status"]).ok();

    std::fs::rename(pool.path("d2.img"), pool.path("gone.img")).unwrap();
    let output = pool.run(["status"]).ended(7).out;
    assert!(line(&output, "disk d2").contains("; next: "), "{output}");
    std::fs::rename(pool.path("gone.img"), pool.path("d2.img")).unwrap();

    let mount = pool.start("a");
    kill_process(pool.pid_of("a"), Signal::KILL).unwrap();
    pool.run(["apparatus", "fence", "a"]).ok();
    unmount(&mount);
    pool.run(["status"]).ok();
}

#[test]
fn a_disk_on_which_requests_failed_is_named() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    // The part that is cut off is lost: the volume's bytes lie beyond the end now.
    let image = std::fs::OpenOptions::new()
        .write(true)
        .open(pool.path("d1.img"))
        .unwrap();
    image.set_len(1 << 20).unwrap();
    std::fs::read(mount.join("v")).unwrap_err();
    let output = pool.run(["status"]).ended(7).out;
    let failing = line(&output, "failed on it since");
    assert!(failing.contains("disk d1: "), "{failing}");
    assert!(failing.ends_with("next: vctl disk evacuate d1"), "{failing}");
    image.set_len(64 << 20).unwrap();
    pool.run(["apparatus", "stop", "a"]).ok();
}

/// What lies at the path of a disk without its label is not to be stretched to the disk's length, and is no lost label while the disk itself is in use.
#[test]
fn another_file_at_the_path_of_a_disk_is_no_disk_with_a_fault() {
    let pool = Pool::with_volume();
    let (path, real) = (pool.path("d1.img"), pool.path("real.img"));
    std::fs::rename(&path, &real).unwrap();
    let finding = |content: &[u8], size: u64| {
        crate::support::write(&path, content);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        let report = pool.run(["status"]).ended(7).out;
        line(&report, "disk d1: ").to_owned()
    };
    let short = finding(b"hello", 5);
    assert!(
        short.contains("is 5 bytes long, shorter than the 67108864 recorded"),
        "{short}"
    );
    assert!(
        short.contains("check that the path leads to the right disk"),
        "{short}"
    );
    assert!(!short.contains("truncate"), "{short}");
    let refused = pool
        .run(["disk", "set", "d1", "--path", &pool.file("d1.img")])
        .ended(1);
    assert!(!refused.err.contains("truncate"), "{refused:?}");
    let label = pool.run(["disk", "label", "d1", "--yes"]).ended(1);
    assert!(!label.err.contains("truncate"), "{label:?}");
    let blank = finding(b"", 64 << 20);
    assert!(blank.contains("has no label"), "{blank}");

    std::fs::rename(&real, &path).unwrap();
    let mount = pool.start("a");
    std::fs::rename(&path, &real).unwrap();
    for (content, size) in [(&b"hello"[..], 5), (b"", 64 << 20)] {
        let elsewhere = finding(content, size);
        assert!(
            elsewhere.contains("the path leads to another file than the one that is in use"),
            "{elsewhere}"
        );
    }
    std::fs::rename(&real, &path).unwrap();
    pool.run(["status"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn a_fenced_apparatus_and_its_quarantine_are_named() {
    let pool = Pool::with_volume();
    let mounts = ["a", "b"].map(|name| pool.start(name));
    let stuck = pool.pid_of("b");
    kill_process(stuck, Signal::STOP).unwrap();
    pool.run(["volume", "move", "v", "--to", "d2"]).ended(5);
    let output = pool.run(["status"]).ended(7).out;
    assert!(line(&output, "apparatus b: is fenced").ends_with("next: vctl apparatus rejoin b"));
    let kept = line(&output, "8MiB in quarantine");
    assert!(
        kept.contains("disk d1: ") && kept.ends_with("next: vctl apparatus rejoin b"),
        "{kept}"
    );
    kill_process(stuck, Signal::CONT).unwrap();
    pool.run(["apparatus", "rejoin", "b"]).ok();
    pool.run(["status"]).ok();
    for name in ["a", "b"] {
        pool.run(["apparatus", "stop", name]).ok();
    }
    mounts.iter().for_each(|mount| unmount(mount));
}

/// After `kill -9` and `stop` there is no member, and the mount is still in place.
#[test]
fn a_stale_mount_is_named() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    rustix::process::kill_process(pool.pid_of("a"), rustix::process::Signal::KILL).unwrap();
    crate::support::until("its process has ended", || {
        pool.json(["apparatus", "show", "a"])["apparatus"]["state"] == "dead"
    });
    pool.run(["volume", "rename", "v", "w", "--wait=100s"]).ok();
    let subject = format!("mount point {}", mount.display());
    let next = format!("umount -l {}", mount.display());
    crate::support::until("the mount is named", || {
        let output = pool.run(["status", "--json"]).ended(7).json();
        let findings = output["findings"].as_array().unwrap();
        findings
            .iter()
            .any(|each| each["subject"] == subject.as_str() && each["next"] == next.as_str())
    });
    crate::support::unmount(&mount);
    pool.run(["status"]).ok();
}

/// The part that was cut off answers EIO. When the image has its length again, `disk clear` makes it usable again and resets the error
/// counts.
#[test]
fn an_image_that_has_grown_back_is_taken_back_and_its_errors_forgotten() {
    use std::os::unix::fs::FileExt;
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let image = std::fs::File::options()
        .write(true)
        .open(pool.path("d1.img"))
        .unwrap();
    let volume = std::fs::File::options()
        .write(true)
        .open(mount.join("v"))
        .unwrap();
    image.set_len(2 << 20).unwrap();
    let write = || {
        volume
            .write_all_at(&[7; 4096], 4 << 20)
            .and_then(|()| volume.sync_all())
    };
    assert!(write().is_err());
    image.set_len(64 << 20).unwrap();
    let fault = || {
        pool.run(["disk", "list", "-o", "FAULT", "--no-headings", "--sort", "NAME"])
            .ok()
            .out
    };
    assert!(fault().contains(" failed"), "{}", fault());
    assert!(pool.run(["status"]).ended(7).out.contains("vctl disk clear d1"));

    pool.run(["disk", "clear", "d1", "--dry-run"]).ok();
    assert!(write().is_err());
    pool.run(["disk", "clear", "d1"]).ok();
    assert!(!fault().contains(" failed"), "{}", fault());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while write().is_err() {
        assert!(std::time::Instant::now() < end, "still not used again");
        pool.run(["disk", "list"]).ok();
    }
    pool.run(["disk", "clear", "nosuch"]).ended(3);
    pool.run(["disk", "clear", "d1"]).ok();
    assert!(!pool.run(["status"]).out.contains("have failed on it"));
}
