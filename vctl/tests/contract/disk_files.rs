//! Files in the place of disks: missing, without a label, another disk's, or an older copy. What is said of them is the true reason, with a way out that
//! works.

use crate::support::{Pool, unmount};
use std::fs;
use std::path::Path;

fn serves_fuse() -> bool {
    Path::new("/dev/fuse").exists()
}

#[test]
fn a_start_names_the_disks_that_cannot_be_opened() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let mount = pool.path("mount-a");
    let mount = mount.to_str().unwrap();
    let start = |options: &[&str]| {
        let words = [&["apparatus", "start", "a", mount][..], options].concat();
        pool.run(words).ok()
    };
    // A disk that answers late on a busy machine is named too, with another reason.
    let missing = "No such file or directory; volumes on it answer EIO until it can be opened";
    let started = start(&[]);
    assert!(!started.err.contains(missing), "{started:?}");
    pool.run(["apparatus", "stop", "a"]).ok();

    fs::rename(pool.path("d1.img"), pool.path("away.img")).unwrap();
    let started = start(&[]);
    let lines: Vec<&str> = started.err.lines().collect();
    assert!(
        lines.contains(&format!("vctl: warning: disk d1: {missing}").as_str()),
        "{started:?}"
    );
    assert_eq!(lines.last(), Some(&"hint: vctl status"), "{started:?}");
    assert!(started.out.starts_with("apparatus a: serves at "), "{started:?}");
    pool.run(["apparatus", "stop", "a"]).ok();

    fs::remove_file(pool.path("d2.img")).unwrap();
    let started = start(&["--json"]).json();
    let unopened = started["unopened_disks"].as_array().unwrap();
    let named: Vec<(&str, &str)> = unopened
        .iter()
        .map(|each| (each["disk"].as_str().unwrap(), each["why"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [("d1", missing), ("d2", missing)], "{started}");
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(Path::new(mount));
}

#[test]
fn a_path_is_refused_for_what_is_there() {
    let pool = Pool::with_volume();
    let raw = pool.path("raw.img");
    fs::File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    let refused = pool.run(["disk", "set", "d2", "--path", &pool.file("raw.img")]);
    let refused = refused
        .ended(1)
        .complains(&["raw.img", "has no label, so it is not this disk"]);
    assert!(!refused.err.contains("vctl, process"), "{refused:?}");

    let refused = pool.run(["disk", "set", "d2", "--path", &pool.file("d1.img")]);
    refused.ended(1).complains(&["is disk d1 by its label, not d2"]);
}

/// An older copy lies in the place of a disk whose newest file an apparatus still has open. `delete` the newest file, or rename it.
fn older_copy_in_the_place_of_an_open_disk(delete: bool) {
    let pool = Pool::with_volume();
    let (image, newest, old) = (pool.path("d1.img"), pool.path("newest.img"), pool.path("old.img"));
    fs::copy(&image, &old).unwrap();
    pool.run(["volume", "create", "w", "1M", "--on", "d1"]).ok();
    let mount = pool.start("a");
    match delete {
        true => fs::remove_file(&image).unwrap(),
        false => fs::rename(&image, &newest).unwrap(),
    }
    fs::rename(&old, &image).unwrap();

    let status = pool.run(["status"]).ended(7).out;
    let line = status
        .lines()
        .find(|line| line.contains("disk d1: is an older copy"));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    assert!(
        line.contains("the newest copy is still open (apparatus, process "),
        "{line}"
    );
    let label = || pool.run(["disk", "label", "d1", "--accept-older-data", "--yes"]);
    let refused = label().ended(4).complains(&[
        "the newest copy is still open (apparatus, process ",
        "put the newest copy back at",
    ]);
    assert!(!refused.err.contains("vctl, process"), "{refused:?}");

    if !delete {
        fs::rename(&image, &old).unwrap();
        fs::rename(&newest, &image).unwrap();
        pool.run(["status"]).ok();
    }
    if delete {
        pool.run(["apparatus", "stop", "a"])
            .ended(4)
            .complains(&["the only open copy of disk d1"]);
        pool.run(["apparatus", "stop", "a", "--lose-disk", "d1"]).ok();
        label().ok();
    } else {
        pool.run(["apparatus", "stop", "a"]).ok();
    }
    pool.run(["pool", "check"]).ok();
    unmount(&mount);
}

#[test]
fn an_older_copy_is_not_accepted_while_the_renamed_disk_is_in_use() {
    if serves_fuse() {
        older_copy_in_the_place_of_an_open_disk(false);
    }
}

#[test]
fn an_older_copy_is_accepted_once_nothing_has_the_deleted_disk_open() {
    if serves_fuse() {
        older_copy_in_the_place_of_an_open_disk(true);
    }
}

#[test]
fn a_removed_disk_without_a_file_has_no_label_to_erase() {
    let pool = Pool::with_volume();
    fs::remove_file(pool.path("d2.img")).unwrap();
    let removed = pool.run(["disk", "remove", "d2"]).ok();
    assert!(
        removed
            .err
            .contains("nothing is at its path, so there is no label to erase"),
        "{removed:?}"
    );
}

/// `pool check --repair` records why a copy is left behind, and must not quote itself.
#[test]
fn a_copy_that_cannot_be_repaired_has_its_reason_once() {
    let pool = Pool::with_volume();
    fs::rename(pool.path("d2.img"), pool.path("away.img")).unwrap();
    pool.run(["volume", "create", "w", "1M", "--on", "d1"]).ok();
    let behind = |output: &str| {
        let line = output.lines().find(|line| line.contains("left behind"));
        line.unwrap_or_else(|| panic!("{output}")).to_owned()
    };
    let first = behind(&pool.run(["status"]).ended(7).out);
    assert_eq!(first.matches("left behind").count(), 1, "{first}");
    for _ in 0..2 {
        pool.run(["pool", "check", "--repair"]);
        let again = behind(&pool.run(["status"]).ended(7).out);
        assert_eq!(again.matches("left behind").count(), 1, "{again}");
    }
    fs::rename(pool.path("away.img"), pool.path("d2.img")).unwrap();
    pool.run(["pool", "check", "--repair"]).ok();
    pool.run(["status"]).ok();
}

/// A disk that was missing at the start is there again. Apparatuses try it again after a while; until then `status` may not be healthy.
#[test]
fn a_pool_is_not_healthy_while_reads_of_a_disk_that_is_back_still_fail() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let (image, away) = (pool.path("d1.img"), pool.path("away.img"));
    fs::rename(&image, &away).unwrap();
    let mount = pool.start("a");
    let reads = || fs::read(mount.join("v")).is_ok();
    assert!(!reads());
    fs::rename(&away, &image).unwrap();
    let status = pool.run(["status"]);
    let is_named = status.out.contains("disk d1: is not open in apparatus a");
    assert!(is_named || reads(), "{status:?}");
    crate::support::until("status is healthy", || {
        let is_healthy = pool.run(["status"]).status == 0;
        assert!(!is_healthy || reads(), "a read fails though status is healthy");
        is_healthy
    });
    pool.run(["apparatus", "stop", "a"]).ok();
}

/// `disk set --path` names a copy while the disk itself is in its place: of the two only the operator can know which is to be used.
#[test]
fn a_disk_is_exchanged_for_its_copy_only_once_it_is_moved_away() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let (image, copy) = (pool.path("d1.img"), pool.path("copy.img"));
    let mount = pool.start("a");
    fs::write(mount.join("v"), "before the copy").unwrap();
    let set = |path: &Path, extra: &[&str]| {
        let words = ["disk", "set", "d1", "--path", path.to_str().unwrap()];
        pool.run([&words[..], extra].concat())
    };
    let refused = |hint: &str| {
        fs::copy(&image, &copy).unwrap();
        for extra in [&[][..], &["--dry-run"]] {
            set(&copy, extra).ended(4).complains(&[
                "copy.img",
                "another file than the one that is in use",
                hint,
            ]);
        }
        let shown = pool.json(["disk", "show", "d1"]);
        assert_eq!(shown["disk"]["path"], pool.file("d1.img"), "{shown}");
        pool.run(["status"]).ok();
    };
    refused("stop the processes that use it");
    pool.run(["apparatus", "stop", "a"]).ok();
    refused("move away the file that is not to be used any more");

    fs::rename(&image, pool.path("left.img")).unwrap();
    set(&copy, &[]).ok();
    let mount = pool.start("a");
    assert!(fs::read(mount.join("v")).unwrap().starts_with(b"before the copy"));
    fs::write(mount.join("v"), "after the copy").unwrap();
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["status"]).ok();
    // The file that was left behind is an older copy now.
    set(&pool.path("left.img"), &[])
        .ended(1)
        .complains(&["left.img", "older copy"]);
}

/// A smaller disk gives up the tail of its image, whose length stays, as that of a device does. It may be cut by hand while the rest is served.
#[test]
fn the_image_of_a_disk_that_shrinks_keeps_its_length_until_it_is_cut_by_hand() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    pool.run(["disk", "resize", "d1", "32M"]).ok();
    let image = fs::File::options().write(true).open(pool.path("d1.img")).unwrap();
    assert_eq!(image.metadata().unwrap().len(), 64 << 20);
    image.set_len(32 << 20).unwrap();
    assert!(fs::read(mount.join("v")).is_ok());
    pool.run(["disk", "resize", "d1", "48M"]).ok();
    assert_eq!(image.metadata().unwrap().len(), 48 << 20);
    pool.run(["volume", "create", "w", "30M", "--on", "d1"]).ok();
    let file = fs::File::options().write(true).open(mount.join("w")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 30 << 20], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    pool.run(["status"]).ok();
    pool.run(["pool", "check"]).ok();
    let events = pool.run(["events"]).ok().out;
    assert!(!events.contains("truncated"), "{events}");
    pool.run(["apparatus", "stop", "a"]).ok();
}

/// The file of a disk is deleted while apparatuses serve it: nothing takes the last copy away unasked, and the way out says how to save it.
#[test]
fn the_last_copy_of_a_deleted_image_is_not_given_up_unasked() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let (first, second) = (pool.path("mount-a"), pool.start("b"));
    let start = ["apparatus", "start", "a", first.to_str().unwrap(), "--supervisor"];
    pool.run(start).ok();
    fs::write(first.join("v"), "the only copy").unwrap();
    fs::remove_file(pool.path("d1.img")).unwrap();

    let status = pool.run(["status"]).ended(7).out;
    let names = "apparatus a and b still have the deleted file open";
    let turned = "apparatus b and a still have the deleted file open";
    assert!(status.contains(names) || status.contains(turned), "{status}");
    let refused = |words: &[&str]| {
        for option in [&[][..], &["--dry-run"]] {
            pool.run(words.iter().chain(option)).ended(4).complains(&[
                "disk d1",
                "was deleted",
                "first copy the volumes on it from the mount",
                "--lose-disk d1",
            ]);
        }
    };
    // The other apparatus has the file too, but a new server could not open it.
    refused(&["apparatus", "upgrade", "a"]);
    for words in [
        &["volume", "move", "v", "--to", "d2"][..],
        &["disk", "evacuate", "d1"],
    ] {
        let failed = pool.run(words);
        assert_ne!(failed.status, 0, "{failed:?}");
        let hint = failed.err.lines().last().unwrap_or_default();
        assert!(
            hint.contains("copy the volumes on it from the mount"),
            "{failed:?}"
        );
    }
    pool.run(["apparatus", "stop", "b"]).ok();
    refused(&["apparatus", "stop", "a"]);
    refused(&["apparatus", "fence", "a"]);
    refused(&["apparatus", "stop", "a", "--lose-disk", "d2"]);
    assert!(fs::read(first.join("v")).unwrap().starts_with(b"the only copy"));
    pool.run(["apparatus", "upgrade", "a", "--lose-disk", "d1"]).ok();
    assert!(fs::read(first.join("v")).is_err());
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&second);
    unmount(&first);
}

/// Another file is put in the place of a disk that is served under another name by now.
#[test]
fn a_server_is_not_replaced_while_the_path_of_a_disk_leads_to_another_file() {
    if !serves_fuse() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let mount = pool.path("mount-a");
    pool.run(["apparatus", "start", "a", mount.to_str().unwrap(), "--supervisor"])
        .ok();
    let (image, away) = (pool.path("d1.img"), pool.path("away.img"));
    fs::rename(&image, &away).unwrap();
    fs::copy(&away, &image).unwrap();
    for option in [&[][..], &["--dry-run"]] {
        pool.run(["apparatus", "upgrade", "a"].iter().chain(option))
            .ended(4)
            .complains(&["disk d1", &pool.file("away.img"), "--lose-disk d1"]);
    }
    assert!(fs::read(mount.join("v")).is_ok());
    fs::rename(&away, &image).unwrap();
    pool.run(["apparatus", "upgrade", "a"]).ok();
    assert!(fs::read(mount.join("v")).is_ok());
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn an_image_that_cannot_be_made_is_refused_without_a_warning_before_and_one_that_has_its_space_needs_none() {
    let pool = Pool::with_volume();
    let image = pool.file("d3.img");
    let add = |size: &str, more: &[&str]| {
        let words = [&["disk", "add", &image, "--create", size][..], more].concat();
        pool.run(words)
    };
    add("8000P", &[]).ended(1).complains(&["d3.img", "hint"]);
    add("8000P", &["--preallocate"])
        .ended(1)
        .complains(&["allocating all its space", "left"]);
    assert!(!pool.path("d3.img").exists());
    assert_eq!(add("8M", &["--preallocate"]).ok().err, "");
    pool.run(["volume", "move", "v", "--to", "d2,d3"])
        .ended(3)
        .complains(&["disk d2,d3", "--to d1 --to d2"]);
}
