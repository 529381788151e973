//! A pool's directory on a file system that is full or frozen: the error names it, volumes are served, and nothing is lost or ended.

use crate::support::{Pool, finish};
use std::fs::{File, OpenOptions};
use std::io::Write;
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
        for command in [["fsfreeze", "-u"], ["umount", "-l"]] {
            let _ = Command::new(command[0])
                .arg(command[1])
                .arg(&self.place)
                .stderr(Stdio::null())
                .status();
        }
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
    let mount = pool.start("a");
    // The first flush of an apparatus reads the database.
    for volume in ["v", "w"] {
        flushing(&mount.join(volume))
            .recv_timeout(PATIENCE)
            .unwrap()
            .unwrap();
    }
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
    pool.run(["volume", "create", "x", "1M"]).ok();
    // It may have left already.
    let stopped = pool.run(["apparatus", "stop", "a"]);
    assert!([0, 3].contains(&stopped.status), "{stopped:?}");
}
