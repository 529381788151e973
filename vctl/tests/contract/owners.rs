//! One database owns the disks of a pool: a copy of its directory changes and serves nothing until it adopts them; from then on the former
//! owner changes and serves nothing. A renamed directory is no copy.

use crate::support::{CommandOutput, Pool, finish, vctl};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

fn at(dir: &Path, words: &[&str]) -> CommandOutput {
    finish(vctl().arg("--pool").arg(dir).args(words).spawn().unwrap())
}

#[test]
fn a_copy_of_the_directory_is_refused_whatever_it_would_change() {
    let pool = Pool::with_volume();
    let twin = pool.path("twin");
    copy(&pool.pool_dir(), &twin);
    let mount = pool.file("m");
    let verbs: &[&[&str]] = &[
        &["volume", "create", "w", "1M"],
        &["volume", "create", "w", "1M", "--dry-run"],
        &["volume", "move", "v", "--to", "d2"],
        &["volume", "hold", "v"],
        &["disk", "set", "d1", "--no-allocate"],
        &["disk", "label", "d1"],
        &["pool", "set", "--policy", "pack"],
        &["apparatus", "start", "b", &mount],
    ];
    for words in verbs {
        let output = at(&twin, words).ended(1);
        assert!(
            output.err.contains("is a copy of the pool at"),
            "{words:?}: {output:#?}"
        );
    }
    let output = at(&twin, &["volume", "create", "w", "1M"]).complains(&["which owns the disks"]);
    assert!(output.err.contains("pool adopt"), "{output:#?}");
    let status = at(&twin, &["status"]);
    assert!(
        status.status != 0 && status.out.contains("is a copy of the pool"),
        "{status:#?}"
    );
    assert!(
        at(&twin, &["pool", "check"])
            .ended(7)
            .out
            .contains("is a copy of the pool")
    );
    at(&twin, &["volume", "list"]).ok();
    pool.run(["volume", "create", "w", "1M"]).ok();
}

#[test]
fn adopting_takes_the_disks_from_the_former_owner() {
    let pool = Pool::with_volume();
    let twin = pool.path("twin");
    copy(&pool.pool_dir(), &twin);
    at(&twin, &["pool", "adopt", "--dry-run"]).ok();
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["volume", "remove", "w", "--yes"]).ok();
    // The copy does not know this change.
    at(&twin, &["pool", "adopt"])
        .ended(1)
        .complains(&["newer database"]);

    std::fs::remove_dir_all(&twin).unwrap();
    copy(&pool.pool_dir(), &twin);
    assert!(at(&twin, &["pool", "adopt"]).ok().out.contains("d1, d2"));
    at(&twin, &["pool", "adopt"]).ok();
    at(&twin, &["volume", "move", "v", "--to", "d2"]).ok();
    let output = pool.run(["volume", "create", "w", "1M"]).ended(1);
    assert!(
        output.err.contains("belongs to another copy") || output.err.contains("newer database"),
        "{output:#?}"
    );
    at(&twin, &["pool", "check"]).ok();

    let moved = pool.path("moved");
    std::fs::rename(&twin, &moved).unwrap();
    at(&moved, &["volume", "create", "w", "1M"]).ok();
    at(&moved, &["pool", "check"]).ok();
}

#[test]
fn a_restore_in_place_is_the_pool_and_elsewhere_a_copy() {
    let pool = Pool::with_volume();
    let (dir, backup) = (pool.pool_dir(), pool.file("backup"));
    pool.run(["pool", "backup", &backup]).ok();
    let elsewhere = pool.path("elsewhere");
    at(&elsewhere, &["pool", "restore", &backup]).ok();
    at(&elsewhere, &["volume", "create", "w", "1M"])
        .ended(1)
        .complains(&["is a copy"]);

    let archive = pool.path("archive");
    copy(&dir, &archive);
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&archive, &dir);
    pool.run(["volume", "create", "w", "1M"]).ok();
    at(&archive, &["volume", "create", "x", "1M"])
        .ended(1)
        .complains(&["is a copy"]);

    std::fs::remove_dir_all(&dir).unwrap();
    pool.run(["pool", "restore", &backup, "--accept-older-layout"])
        .ok();
    // The labels name the directory that was restored before; this backup cannot know whether it still exists.
    pool.run(["volume", "create", "y", "1M"])
        .ended(1)
        .complains(&["vctl pool adopt"]);
    pool.run(["pool", "adopt"]).ok();
    pool.run(["volume", "create", "y", "1M"]).ok();
}

#[test]
fn a_copy_cannot_adopt_disks_in_use() {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let twin = pool.path("twin");
    copy(&pool.pool_dir(), &twin);
    pool.start("a");
    at(&twin, &["pool", "adopt"])
        .ended(4)
        .complains(&["disk d1", "is in use (apparatus, process "]);
    pool.run(["apparatus", "stop", "a"]).ok();
    at(&twin, &["pool", "adopt"]).ok();
}

/// Returns the higher number of the label's two copies.
fn label_number(image: &str) -> u64 {
    let bytes = std::fs::read(image).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at + 64..at + 72].try_into().unwrap());
    number(0).max(number(4096))
}

/// Only hosts have changed the disk after the copy was made.
#[test]
fn a_copy_made_while_the_disk_was_served_is_refused_after_the_apparatus_has_stopped() {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    let (image, old) = (pool.file("d1.img"), pool.path("old.img"));
    let before = label_number(&image);
    pool.start("a");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(100);
    while label_number(&image) == before {
        assert!(
            std::time::Instant::now() < end,
            "no label is written at the start"
        );
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    copy(Path::new(&image), &old);
    pool.run(["apparatus", "stop", "a"]).ok();
    copy(&old, Path::new(&image));
    assert!(pool.run(["status"]).out.contains("is an older copy"));
    pool.run(["volume", "create", "w", "1M", "--on", "d1"])
        .ended(1)
        .complains(&["older copy"]);
}

#[test]
fn an_older_copy_of_an_image_and_a_lost_label_have_a_way_out() {
    let pool = Pool::with_volume();
    let (image, old) = (pool.file("d1.img"), pool.path("old.img"));
    copy(Path::new(&image), &old);
    pool.run(["volume", "create", "w", "1M", "--on", "d1"]).ok();
    pool.run(["volume", "create", "x", "1M", "--on", "d2"]).ok();
    copy(&old, Path::new(&image));
    assert!(pool.run(["status"]).out.contains("is an older copy"));
    assert!(
        pool.run(["pool", "check"])
            .ended(7)
            .out
            .contains("is an older copy")
    );
    pool.run(["volume", "create", "y", "1M", "--on", "d1"])
        .ended(1)
        .complains(&["older copy", "--accept-older-data"]);
    pool.run(["disk", "label", "d1"])
        .ended(1)
        .complains(&["older copy"]);
    let dry = pool
        .run(["disk", "label", "d1", "--accept-older-data", "--dry-run"])
        .ok();
    assert!(
        dry.out.contains("would write the label of disk d1") && dry.out.contains("is lost"),
        "{dry:?}"
    );
    pool.run(["disk", "label", "d1", "--accept-older-data"]).ok();
    pool.run(["disk", "label", "d1"]).ok();
    pool.run(["volume", "create", "y", "1M", "--on", "d1"]).ok();

    let file = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 8192], 0).unwrap();
    let status = pool.run(["status"]);
    assert!(status.out.contains("vctl disk label d1"), "{status:#?}");
    pool.run(["disk", "label", "d1"]).ok();
    pool.run(["pool", "check"]).ok();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 65536], 0).unwrap();
    pool.run(["disk", "label", "d1"])
        .ended(2)
        .complains(&["there is no terminal to confirm it at"]);
    pool.run(["disk", "label", "d1", "--yes"]).ok();
    pool.run(["pool", "check"]).ok();
}

/// Files that root creates in a pool of another user would keep that user out.
#[test]
fn root_does_not_work_on_the_pool_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let pool = Pool::with_volume();
    let files = || {
        let all = walk(&pool.pool_dir());
        all.into_iter()
            .map(|path| (fs::symlink_metadata(&path).unwrap().uid(), path))
            .collect::<Vec<_>>()
    };
    for path in walk(&pool.pool_dir()) {
        std::os::unix::fs::lchown(&path, Some(65534), Some(65534)).unwrap();
    }
    let before = files();
    let mount = pool.file("mount");
    for words in [
        &["volume", "create", "w", "1M"][..],
        &["apparatus", "start", "a", &mount],
        &["pool", "destroy", "--yes"],
    ] {
        pool.run(words)
            .ended(1)
            .complains(&["belongs to user", "sudo -u"]);
    }
    let foreign: Vec<_> = files()
        .into_iter()
        .filter(|file| file.0 == 0 && !before.contains(file))
        .collect();
    assert_eq!(foreign, []);
    pool.run(["status"]).ok();
}

/// A mount lets in only the user who has made it, and loop devices need root.
#[test]
fn root_attaches_a_volume_of_another_users_pool() {
    let needed = [
        "/dev/fuse",
        "/dev/loop-control",
        "/usr/bin/fusermount3",
        "/usr/bin/setpriv",
    ];
    if !rustix::process::geteuid().is_root() || needed.iter().any(|path| !Path::new(path).exists()) {
        return eprintln!("skipped: needs root, fuse, loop devices, fusermount3 and setpriv");
    }
    if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
        return eprintln!("skipped: users may not open /dev/fuse");
    }
    let pool = Pool::absent();
    let program = pool.path("vctl");
    fs::copy(env!("CARGO_BIN_EXE_vctl"), &program).unwrap();
    std::os::unix::fs::chown(pool.path(""), Some(65534), Some(65534)).unwrap();
    let as_user = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .args(words)
            .env("VCTL_POOL", pool.pool_dir())
            .current_dir(pool.path(""));
        let piped = [std::process::Stdio::piped(), std::process::Stdio::piped()];
        let [out, err] = piped;
        finish(command.stdout(out).stderr(err).spawn().unwrap())
    };
    for line in [
        "pool create",
        "disk add d1.img --create 64M",
        "volume create v 8M",
        "apparatus start a m",
    ] {
        let words: Vec<&str> = ["./vctl"].into_iter().chain(line.split(' ')).collect();
        as_user(&words).ok();
    }
    let roots = || {
        walk(&pool.pool_dir())
            .into_iter()
            .filter(|path| fs::symlink_metadata(path).unwrap().uid() == 0)
    };
    // The user's apparatus serves, and its member table is one that root does not use.
    for words in [
        &["volume", "create", "w", "1M"][..],
        &["volume", "create", "w", "1M", "--dry-run"],
        &["volume", "resize", "v", "+1M"],
        &["volume", "move", "v", "--to", "d1"],
        &["disk", "evacuate", "d1"],
    ] {
        let refused = pool.run(words).ended(1);
        refused.complains(&["belongs to user", "sudo -u"]);
    }
    let attached = pool.run(["volume", "attach", "v"]).ok();
    let device = attached.out.trim().to_owned();
    fs::write(&device, "by root").unwrap();
    fs::File::open(&device).unwrap().sync_all().unwrap();
    assert_eq!(as_user(&["head", "-c7", "m/v"]).ok().out, "by root");
    assert_eq!(
        pool.run(["volume", "attach", "v"]).ok().out.trim(),
        device,
        "the same device"
    );
    pool.run(["volume", "detach", "v"]).ok();
    assert_eq!(roots().collect::<Vec<_>>(), Vec::<PathBuf>::new());
    as_user(&["./vctl", "apparatus", "stop", "a"]).ok();
}

/// Returns a directory and everything in it.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(walk(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

#[test]
fn a_resize_that_fails_leaves_the_image_as_long_as_it_was() {
    let pool = Pool::with_volume();
    let length = || fs::metadata(pool.path("d2.img")).unwrap().len();
    pool.run(["disk", "resize", "d2", "100P"]).ended(1);
    assert_eq!(length(), 64 << 20);
    pool.run(["disk", "resize", "d2", "96M"]).ok();
    assert_eq!(length(), 96 << 20);
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_disk_that_another_pool_serves_is_in_use_and_its_label_is_not_to_be_cleared() {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: needs /dev/fuse");
    }
    let (pool, other) = (Pool::with_volume(), Pool::with_volume());
    other.start("a");
    let refused = pool.run(["disk", "add", &other.file("d1.img")]).ended(4);
    assert!(refused.err.contains("is in use"), "{refused:?}");
    assert!(!refused.err.contains("dd if="), "{refused:?}");
}
