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
    pool.run(["apparatus", "stop", "a"]).ok();
    if delete {
        label().ok();
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
