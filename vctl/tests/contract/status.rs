//! `vctl status`: one line for each thing worth saying, with the command to type next, and an exit status to go by.

use crate::support::{Pool, unmount};
use rustix::process::{Signal, kill_process};

/// What it says of a subject, in one line.
fn line<'a>(told: &'a str, subject: &str) -> &'a str {
    let found = told.lines().find(|line| line.contains(subject));
    found.unwrap_or_else(|| panic!("{subject:?} in {told}"))
}

#[test]
fn healthy_is_0_and_says_what_could_come_next() {
    let pool = Pool::with_volume();
    let told = pool.run(["status"]).ok().out;
    assert!(told.starts_with("healthy: 2 disks with "), "{told}");
    assert!(line(&told, "apparatuses: none runs").ends_with("next: vctl apparatus start NAME MOUNTPOINT"));

    let mount = pool.start("a");
    let told = pool.run(["status"]).ok().out;
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("1 of 1 apparatuses serve"), "{told}");
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn a_database_that_could_not_be_made_durable_is_told_with_the_way_out() {
    let pool = Pool::with_volume();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mark = pool.path("pool/run/log-failed");
    std::fs::write(&mark, format!("{}\nInput/output error\n", boot.trim())).unwrap();
    let told = pool.run(["status"]).ended(7).out;
    let database = line(&told, "database: could not be made durable (Input/output error)");
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

#[test]
fn a_disk_that_takes_nothing_new_is_not_forgotten() {
    let pool = Pool::with_volume();
    pool.run(["disk", "set", "d1", "--no-allocate"]).ok();
    pool.run(["disk", "set", "d2", "--no-allocate"]).ok();
    let told = pool.run(["status"]).ok().out;
    assert!(line(&told, "disk d1: takes nothing new").ends_with("next: vctl disk set d1 --allocate"));
    assert!(line(&told, "disk d2: takes nothing new and is empty").ends_with("next: vctl disk remove d2"));
}

#[test]
fn what_asks_for_somebody_is_7_and_names_the_way_out() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "big", "110M"]).ok();
    let told = pool.run(["status"]).ended(7).out;
    assert!(told.starts_with("look at this: "), "{told}");
    let space = line(&told, "space: ");
    assert!(
        space.starts_with("warning") || space.starts_with("error"),
        "{space}"
    );
    assert!(space.ends_with("next: vctl disk add PATH"), "{space}");
    pool.run(["volume", "remove", "big", "--yes"]).ok();
    pool.run(["status"]).ok();

    std::fs::rename(pool.path("d2.img"), pool.path("gone.img")).unwrap();
    let told = pool.run(["status"]).ended(7).out;
    assert!(line(&told, "disk d2").contains("; next: "), "{told}");
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
    // What is cut off is gone: the volume's bytes lie past the end now.
    let image = std::fs::OpenOptions::new()
        .write(true)
        .open(pool.path("d1.img"))
        .unwrap();
    image.set_len(1 << 20).unwrap();
    std::fs::read(mount.join("v")).unwrap_err();
    let told = pool.run(["status"]).ended(7).out;
    let failing = line(&told, "requests have failed on it");
    assert!(failing.contains("disk d1: "), "{failing}");
    assert!(failing.ends_with("next: vctl disk evacuate d1"), "{failing}");
    image.set_len(64 << 20).unwrap();
    pool.run(["apparatus", "stop", "a"]).ok();
}

#[test]
fn who_is_fenced_and_what_is_kept_for_it_is_named() {
    let pool = Pool::with_volume();
    let mounts = ["a", "b"].map(|name| pool.start(name));
    let stuck = pool.pid_of("b");
    kill_process(stuck, Signal::STOP).unwrap();
    pool.run(["volume", "move", "v", "--to", "d2"]).ended(5);
    let told = pool.run(["status"]).ended(7).out;
    assert!(line(&told, "apparatus b: is fenced").ends_with("next: vctl apparatus rejoin b"));
    let kept = line(&told, "8MiB in quarantine");
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

/// After `kill -9` and `stop` nobody is a member any more, and the mount is still in place.
#[test]
fn a_mount_that_nobody_serves_is_named() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    rustix::process::kill_process(pool.pid_of("a"), rustix::process::Signal::KILL).unwrap();
    pool.run(["volume", "rename", "v", "w", "--wait=30s"]).ok();
    let told = pool.run(["status", "--json"]).ended(7).json();
    let findings = told["findings"].as_array().unwrap();
    let subject = format!("mount point {}", mount.display());
    let found = findings.iter().find(|each| each["subject"] == subject.as_str());
    let next = format!("umount -l {}", mount.display());
    assert_eq!(found.unwrap()["next"], next.as_str(), "{told}");
    crate::support::unmount(&mount);
    pool.run(["status"]).ok();
}

/// The part that was cut off answers EIO; when the image has its length again, `disk clear` has it used again, and forgets what failed.
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
    assert!(fault().contains("requests have failed"), "{}", fault());
    assert!(pool.run(["status"]).ended(7).out.contains("vctl disk clear d1"));

    pool.run(["disk", "clear", "d1", "--dry-run"]).ok();
    assert!(write().is_err());
    pool.run(["disk", "clear", "d1"]).ok();
    assert!(!fault().contains("requests have failed"), "{}", fault());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while write().is_err() {
        assert!(std::time::Instant::now() < end, "still not used again");
        pool.run(["disk", "list"]).ok();
    }
    pool.run(["disk", "clear", "nosuch"]).ended(3);
    pool.run(["disk", "clear", "d1"]).ok();
    assert!(!pool.run(["status"]).out.contains("have failed on it"));
}
