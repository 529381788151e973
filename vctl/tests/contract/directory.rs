//! A pool's directory that is deleted, or on a file system that is full or frozen: the error names it, volumes are served, and nothing is lost or ended.

use crate::support::{Pool, finish};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(100);

/// A file system mounted at the path of the pool's directory. It is unmounted after the pool has ended.
#[derive(Default)]
struct FileSystem {
    place: PathBuf,
    /// Its directory, which can be thawed when its path is gone: of a test that has failed, the pool ends first.
    opened: Option<File>,
}

impl FileSystem {
    fn is_available() -> bool {
        let can = rustix::process::geteuid().is_root()
            && ["/dev/fuse", "/dev/loop-control"]
                .iter()
                .all(|device| Path::new(device).exists());
        if !can {
            println!("skipped: needs root, /dev/fuse and loop devices");
        }
        can
    }

    fn mount(&mut self, pool: &Pool, options: &[&str], what: &Path) {
        self.place = pool.pool_dir();
        std::fs::create_dir(&self.place).unwrap();
        did(Command::new("mount").args(options).arg(what).arg(&self.place));
        self.opened = File::open(&self.place).ok();
    }

    fn frozen(&self, option: &str) {
        did(Command::new("fsfreeze").arg(option).arg(&self.place));
    }

    /// Leaves no free byte.
    fn fill(&self) {
        let mut file = File::create(self.place.join("fill")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.place.join("fill")).unwrap();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let run = |program: &str, option: &str, place: &Path| {
            let mut command = Command::new(program);
            let _ = command.arg(option).arg(place).stderr(Stdio::null()).status();
        };
        if let Some(dir) = self.opened.take() {
            let dir = format!("/proc/{}/fd/{}", std::process::id(), dir.as_raw_fd());
            run("fsfreeze", "-u", Path::new(&dir));
        }
        run("umount", "-l", &self.place);
        self.place
            .parent()
            .into_iter()
            .for_each(|dir| drop(std::fs::remove_dir_all(dir)));
    }
}

fn did(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn populate(pool: &Pool) {
    pool.run(["pool", "create"]).ok();
    for disk in ["d1", "d2"] {
        pool.run([
            "disk",
            "add",
            &pool.file(&format!("{disk}.img")),
            "--create",
            "64M",
        ])
        .ok();
    }
    for volume in ["v", "w"] {
        pool.run(["volume", "create", volume, "16M", "--on", "d1"]).ok();
    }
}

/// Writes and flushes in a thread; the receiver gets the result.
fn flushing(volume: &Path) -> Receiver<std::io::Result<()>> {
    let (sender, output) = channel();
    let file = OpenOptions::new().write(true).open(volume).unwrap();
    thread::spawn(move || {
        let written = file.write_all_at(&[7; 64 << 10], 15 << 20);
        sender.send(written.and_then(|()| file.sync_all())).unwrap();
    });
    output
}

#[test]
fn a_full_pool_directory_is_named_and_a_flush_that_needs_it_waits_for_room() {
    if !FileSystem::is_available() {
        return;
    }
    let mut system = FileSystem::default();
    let pool = Pool::absent();
    system.mount(&pool, &["-t", "tmpfs", "-o", "size=2M"], Path::new("tmpfs"));
    populate(&pool);

    // This file is one that SQLite needs for reading.
    let _ = std::fs::remove_file(pool.pool_dir().join("pool.db-shm"));
    system.fill();
    let mount = pool.file("mount-a");
    for verb in [
        &["status"][..],
        &["apparatus", "start", "a", &mount],
        &["history"],
    ] {
        pool.run(verb)
            .ended(1)
            .complains(&["pool directory", "No space left on device", "df -h"]);
    }
    system.make_room();

    let mount = pool.start("a");
    let all = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    all.write_all_at(&vec![1; 16 << 20], 0).unwrap();
    all.sync_all().unwrap();
    drop(all);
    let mut mover = pool
        .command(["volume", "move", "v", "--to", "d2", "--rate", "256K"])
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while pool.json(["volume", "map", "v"])["segments"]
        .as_array()
        .is_none_or(|all| all.len() < 2)
    {
        assert!(Instant::now() < end, "the move does not begin");
    }
    mover.kill().unwrap();
    mover.wait().unwrap();
    system.fill();
    flushing(&mount.join("w"))
        .recv_timeout(PATIENCE)
        .unwrap()
        .unwrap();
    let moved = flushing(&mount.join("v"));
    let status = pool.run(["status"]).ended(7);
    assert!(status.out.contains("No space left on device"), "{status:#?}");
    pool.run(["history"]).ok();
    if status.out.contains("left by a controller") {
        assert!(moved.try_recv().is_err(), "it rests on what is not durable yet");
    }
    system.make_room();
    moved.recv_timeout(PATIENCE).unwrap().unwrap();

    // A job that ends does not wait for free space.
    pool.run(["job", "cancel", "1"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
}

/// Fences apparatus `b` while the database cannot be read.
fn fences_by_its_lock(pool: &Pool, mount: &Path) {
    let fence = |options: &[&str]| {
        let words = [&["apparatus", "fence", "b"][..], options].concat();
        finish(pool.command(words).spawn().unwrap())
    };
    let file = File::open(mount.join("w")).unwrap();
    let me = format!("process {}", std::process::id());
    fence(&[])
        .ended(4)
        .complains(&["in use by", &me, "--cut-off-users"]);
    let would = fence(&["--cut-off-users", "--dry-run"]).ok().out;
    assert!(would.starts_with("would kill apparatus b, process "), "{would}");
    drop(file);
    let fenced = fence(&["--cut-off-users"]).ok();
    assert!(
        fenced
            .out
            .contains("its process has ended; its record stays in the database"),
        "{fenced:?}"
    );
    assert!(fenced.err.contains("vctl apparatus fence b"), "{fenced:?}");
    let unserved = File::open(mount.join("w")).unwrap_err();
    assert_eq!(unserved.kind(), std::io::ErrorKind::NotConnected);
    crate::support::unmount(mount);
    fence(&[])
        .ended(6)
        .complains(&["pool directory", "does not answer"]);
}

#[test]
fn a_frozen_pool_directory_keeps_no_command_and_no_host() {
    if !FileSystem::is_available() {
        return;
    }
    let mut system = FileSystem::default();
    let pool = Pool::absent();
    let image = pool.path("fs.img");
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    did(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    system.mount(&pool, &["-o", "loop"], &image);
    populate(&pool);
    let (mount, other) = (pool.start("a"), pool.start("b"));
    system.frozen("-f");
    flushing(&mount.join("w"))
        .recv_timeout(PATIENCE)
        .unwrap()
        .unwrap();
    for verb in [&["status"][..], &["volume", "create", "x", "1M"], &["history"]] {
        // The process must end, not only print its output.
        finish(pool.command(verb).spawn().unwrap())
            .ended(6)
            .complains(&["pool directory", "does not answer"]);
    }
    flushing(&mount.join("v"))
        .recv_timeout(PATIENCE)
        .unwrap()
        .unwrap();
    fences_by_its_lock(&pool, &other);
    // It is asked to stop, and cannot leave the database yet.
    finish(
        pool.command(["apparatus", "stop", "a", "--timeout", "1s"])
            .spawn()
            .unwrap(),
    )
    .ended(6)
    .complains(&[
        "apparatus a: has not ended",
        "pool directory",
        "does not answer",
        "thaws it",
    ]);
    system.frozen("-u");
    let status = pool.run(["status"]).ended(7);
    assert!(status.out.contains("apparatus b: its process, "), "{status:?}");
    pool.run(["apparatus", "fence", "b"]).ok();
    pool.run(["volume", "create", "x", "1M"]).ok();
    // It may have left already.
    let stopped = pool.run(["apparatus", "stop", "a"]);
    assert!([0, 3].contains(&stopped.status), "{stopped:?}");
}

/// Asserts that a volume has what [`flushing`] writes.
fn has_what_was_flushed(volume: &Path) {
    let mut found = vec![0; 64 << 10];
    File::open(volume)
        .unwrap()
        .read_exact_at(&mut found, 15 << 20)
        .unwrap();
    assert!(found.iter().all(|byte| *byte == 7), "{volume:?}");
}

/// Serves volumes whose data was written and flushed through a mount, whose pool's directory is deleted then.
#[test]
fn a_deleted_pool_directory_keeps_no_host_and_the_pool_is_made_again_from_its_disks() {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::absent();
    populate(&pool);
    let (mount, supervised) = (pool.start("a"), pool.path("mount-b"));
    let words = [
        "apparatus",
        "start",
        "b",
        supervised.to_str().unwrap(),
        "--supervisor",
    ];
    pool.run(words).ok();
    let flush = |mount: &Path, volume: &str| {
        flushing(&mount.join(volume))
            .recv_timeout(PATIENCE)
            .unwrap()
            .unwrap()
    };
    flush(&mount, "v");
    let file = OpenOptions::new().write(true).open(mount.join("w")).unwrap();
    std::fs::remove_dir_all(pool.pool_dir()).unwrap();
    flush(&mount, "w");
    flush(&supervised, "v");

    let disks = ["d1.img", "d2.img"].map(|disk| pool.file(disk));
    let import = format!("vctl pool import {} {}", disks[0], disks[1]);
    for (words, status) in [
        (&["status"][..], 3),
        (&["volume", "list"], 3),
        (&["pool", "create"], 4),
        (&["pool", "import", &disks[0], &disks[1]], 4),
    ] {
        let refused = pool.run(words).ended(status);
        refused.complains(&[
            "its directory was deleted",
            "apparatus a, process ",
            "apparatus b, process ",
            &import,
        ]);
    }
    let listed = pool.run(["pool", "list"]).ok();
    assert!(
        listed.out.contains(pool.pool_dir().to_str().unwrap()),
        "{listed:?}"
    );

    let me = format!("process {}", std::process::id());
    pool.run(["apparatus", "stop", "a"])
        .ended(4)
        .complains(&["in use by", &me, "--cut-off-users"]);
    drop(file);
    let would = pool.run(["apparatus", "stop", "a", "--dry-run"]).ok();
    assert!(
        would.out.starts_with("would stop apparatus a, process "),
        "{would:?}"
    );
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["apparatus", "fence", "b"]).ok();
    crate::support::unmount(&supervised);
    pool.run(["pool", "import", &disks[0], &disks[1]]).ok();
    let mount = pool.start("a");
    ["v", "w"]
        .iter()
        .for_each(|volume| has_what_was_flushed(&mount.join(volume)));
    pool.run(["status"]).ok();
    pool.run(["pool", "check"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
}

/// The directory and one image are deleted: that image can be copied from the mount alone.
#[test]
fn an_image_that_is_deleted_with_the_pool_directory_is_named_and_to_be_copied_first() {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: needs /dev/fuse");
    }
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "w", "1M", "--on", "d2"]).ok();
    let mount = pool.start("a");
    std::fs::write(mount.join("w"), "the only copy").unwrap();
    std::fs::remove_dir_all(pool.pool_dir()).unwrap();
    std::fs::remove_file(pool.path("d2.img")).unwrap();
    let (lost, left) = (pool.file("d2.img"), pool.file("d1.img"));
    let from = format!("first copy the volumes on it from {}", mount.display());
    let import = format!("vctl pool import {left} --accept-missing-disks");
    let refused = pool.run(["status"]).ended(3);
    let refused = refused.complains(&[&format!("{lost} was deleted too"), &from, &import]);
    assert!(
        !refused.err.contains(&format!("import {left} {lost}")),
        "{refused:?}"
    );
    for verb in ["stop", "fence"] {
        for option in [&[][..], &["--dry-run"]] {
            pool.run(["apparatus", verb, "a"].iter().chain(option))
                .ended(4)
                .complains(&[&lost, "the only open copy", "--lose-disk"]);
        }
    }
    assert!(
        std::fs::read(mount.join("w"))
            .unwrap()
            .starts_with(b"the only copy")
    );
    pool.run(["apparatus", "stop", "a", "--lose-disk", &lost]).ok();
    pool.run(["pool", "import", &left, "--accept-missing-disks"]).ok();
}
