//! Mounts when something goes wrong or changes under them: processes killed, images cut short, disks missing, mount points taken,
//! volumes that come, grow and go, and two apparatuses that must never disagree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "mount_failures/owners.rs"]
mod owners;
mod support;

use apparatus::model::event::Severity;
use apparatus::model::member::MemberState;
use apparatus::model::records::{Edit, Span};
use apparatus::model::units::{ByteCount, VolumeExtent};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};
use support::{Daemon, Random, TestPool, is_mount_point, name_of, read_up_to, segments};

const EXTENT: u64 = 64 << 10;
const BLOCK: u64 = 4096;
const NOBODY: u32 = 65534;

fn errno(result: io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

/// A pool with a volume of 32 extents over two disks.
fn pool_of_two_disks() -> TestPool {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 40).id;
    let b = pool.add_disk("b", 40).id;
    pool.add_volume("v", 32 * EXTENT, &[(a, 1, 16), (b, 3, 16)]);
    pool
}

#[test]
fn two_apparatuses_never_disagree() {
    let pool = pool_of_two_disks();
    let daemons = [pool.start_with("x", &["--threads", "3"]), pool.start("y")];
    let blocks: Vec<AtomicU64> = (0..32).map(|_| AtomicU64::new(0)).collect();
    let blocks = &blocks;
    thread::scope(|scope| {
        for index in 0..4_usize {
            let (writer, reader) = (daemons[index % 2].open("v"), daemons[1 - index % 2].open("v"));
            // Each thread writes some blocks through one apparatus and reads all through the other.
            scope.spawn(move || {
                let mut random = Random::new(index as u64);
                for version in 1..=1500_u64 {
                    let mine = random.below(8) * 4 + index as u64;
                    writer
                        .write_all_at(&version.to_ne_bytes().repeat(512), place(mine))
                        .unwrap();
                    blocks[mine as usize].store(version, SeqCst);
                    let other = random.below(32);
                    let before = blocks[other as usize].load(SeqCst);
                    let seen = read_up_to(&reader, BLOCK as usize, place(other));
                    // A read during a write may return a part of it: one block lies on two disks.
                    for word in seen.chunks_exact(8) {
                        let version = u64::from_ne_bytes(word.try_into().unwrap());
                        assert!(
                            (before..=1500).contains(&version),
                            "block {other}: {version} after {before} was acknowledged"
                        );
                    }
                }
            });
        }
    });
}

/// Blocks lie in all extents, one over the border of the two disks.
fn place(block: u64) -> u64 {
    match block {
        15 => 16 * EXTENT - BLOCK / 2,
        _ => block * EXTENT + BLOCK,
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_under_load() {
    let pool = pool_of_two_disks();
    let mut random = Random::new(7);
    let versions: Vec<AtomicU64> = (0..32).map(|_| AtomicU64::new(0)).collect();
    for round in 0..3 {
        let daemon = pool.start("x");
        check_blocks(&daemon, &versions);
        let (progress, seen) = channel();
        let enough = 100 + random.below(400);
        thread::scope(|scope| {
            for index in 0..4_u64 {
                let (file, versions, progress) = (daemon.open("v"), &versions, progress.clone());
                let mut random = Random::new(round * 4 + index);
                scope.spawn(move || {
                    loop {
                        let block = random.below(8) * 4 + index;
                        let version = versions[block as usize].load(SeqCst) + 1;
                        let bytes = version.to_ne_bytes().repeat(512);
                        let written = file.write_all_at(&bytes, place(block));
                        let synced = written.and_then(|()| match random.below(4) {
                            0 => file.sync_data(),
                            _ => Ok(()),
                        });
                        if synced.is_err() {
                            return;
                        }
                        versions[block as usize].store(version, SeqCst);
                        let _ = progress.send(());
                    }
                });
            }
            for _ in 0..enough {
                seen.recv().unwrap();
            }
            daemon.kill();
        });
        assert!(
            is_mount_point(&pool.mount_point("x")),
            "the dead mount is still there"
        );
    }
    let daemon = pool.start("x");
    check_blocks(&daemon, &versions);
    daemon.stop();
}

/// Asserts that each block has at least the acknowledged version; a later one was under way.
fn check_blocks(daemon: &Daemon, versions: &[AtomicU64]) {
    let file = daemon.open("v");
    for (block, version) in (0..).zip(versions) {
        let seen = read_up_to(&file, BLOCK as usize, place(block));
        let found = u64::from_ne_bytes(seen[..8].try_into().unwrap());
        let known = version.swap(found, SeqCst);
        assert!(
            found == known || found == known + 1,
            "block {block}: {found}, not {known}"
        );
    }
}

#[test]
fn a_truncated_image_is_an_io_error_and_no_more() {
    truncate_an_image(&[]);
}

/// The server of a supervisor copies small reads out of the mapping.
#[test]
fn a_truncated_image_is_an_io_error_and_no_more_of_a_supervised_server() {
    truncate_an_image(&["--supervisor"]);
}

fn truncate_an_image(arguments: &[&str]) {
    let pool = pool_of_two_disks();
    let daemon = pool.start_with("x", arguments);
    let file = daemon.open("v");
    let bytes = Random::new(2).bytes(32 * EXTENT as usize);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let image = OpenOptions::new().write(true).open(pool.image("a")).unwrap();
    image.set_len(9 * EXTENT).unwrap();
    // A disk notices by the time of the last change, which the kernel keeps in ticks of some milliseconds.
    let changed = image.metadata().unwrap().modified().unwrap();
    while SystemTime::now() < changed + Duration::from_millis(50) {
        thread::yield_now();
    }
    let mut buffer = vec![0; 4096];
    for at in [8 * EXTENT, 10 * EXTENT, 16 * EXTENT - 4096] {
        assert_eq!(errno(file.read_at(&mut buffer, at)), Some(Errno::IO), "at {at}");
        assert_eq!(errno(file.write_at(&buffer, at)), Some(Errno::IO), "at {at}");
    }
    assert_eq!(
        errno(file.read_at(&mut vec![0; 4 * EXTENT as usize], 14 * EXTENT)),
        Some(Errno::IO)
    );
    assert_eq!(
        read_up_to(&file, 4096, 0),
        bytes[..4096],
        "what is left is served"
    );
    let whole = 16 * EXTENT as usize;
    assert_eq!(
        read_up_to(&file, whole, 16 * EXTENT),
        bytes[whole..],
        "and the other disk"
    );
    assert_eq!(
        image.metadata().unwrap().len(),
        9 * EXTENT,
        "nothing has made it longer"
    );
    drop(file);
    daemon.stop();
    let events = pool.store().events(0, 1000).unwrap();
    let recorded = |text: &str| {
        events.iter().any(|event| {
            event.subject == "disk a" && event.severity == Severity::Error && event.text.contains(text)
        })
    };
    assert!(recorded("read failed"), "{events:?}");
}

#[test]
fn a_missing_disk_fails_its_volumes_alone() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let b = pool.add_disk("b", 9).id;
    pool.add_volume("on-a", EXTENT, &[(a, 1, 1)]);
    pool.add_volume("on-b", EXTENT, &[(b, 1, 1)]);
    fs::rename(pool.image("b"), pool.scratch().join("away")).unwrap();
    let daemon = pool.start("x");
    daemon.open("on-a").write_all_at(b"x", 0).unwrap();
    daemon.open("on-a").sync_all().unwrap();
    let file = daemon.open("on-b");
    assert_eq!(errno(file.read_at(&mut [0], 0)), Some(Errno::IO));
    assert_eq!(errno(file.write_at(&[0], 0)), Some(Errno::IO));
    assert_eq!(errno(file.sync_all()), Some(Errno::IO));
    drop(file);
    daemon.stop();
    let events = pool.store().events(0, 1000).unwrap();
    assert!(events.iter().any(|event| event.subject == "disk b"), "{events:?}");
}

#[test]
fn volumes_come_grow_change_names_and_go_while_mounted() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 20).id;
    let daemons = [pool.start("x"), pool.start("y")];
    let mut record = pool.add_volume("new", 2 * EXTENT, &[(a, 1, 2)]);
    let files = daemons.each_ref().map(|daemon| daemon.open("new"));
    files[0].write_all_at(b"hello", 0).unwrap();
    assert_eq!(read_up_to(&files[1], 5, 0), b"hello");

    record.size = ByteCount(4 * EXTENT);
    let map = Edit::Map {
        volume: record.id,
        segments: segments(2, &[(a, 9, 2)]),
    };
    pool.change(vec![Edit::SetVolume(record.clone()), map], vec![]);
    for (daemon, file) in daemons.iter().zip(&files) {
        assert_eq!(fs::metadata(daemon.path("new")).unwrap().len(), 4 * EXTENT);
        file.write_all_at(b"end", 4 * EXTENT - 3).unwrap();
    }

    record.size = ByteCount(EXTENT);
    let unmap = Edit::Unmap {
        volume: record.id,
        start: VolumeExtent(1),
        end: VolumeExtent(4),
    };
    pool.change(
        vec![unmap, Edit::SetVolume(record.clone())],
        vec![Span::whole(record.id)],
    );
    for (daemon, file) in daemons.iter().zip(&files) {
        assert_eq!(fs::metadata(daemon.path("new")).unwrap().len(), EXTENT);
        assert_eq!(errno(file.write_at(b"x", EXTENT)), Some(Errno::NOSPC));
    }

    record.name = name_of("other");
    pool.change(vec![Edit::SetVolume(record.clone())], vec![]);
    for (daemon, file) in daemons.iter().zip(&files) {
        assert_eq!(errno(fs::metadata(daemon.path("new"))), Some(Errno::NOENT));
        assert_eq!(&fs::read(daemon.path("other")).unwrap()[..5], b"hello");
        file.write_all_at(b"hello", 0).unwrap();
    }

    let gone = vec![Edit::RemoveVolume(record.id)];
    pool.change(gone, vec![Span::whole(record.id)]);
    for (daemon, file) in daemons.iter().zip(&files) {
        assert_eq!(errno(fs::metadata(daemon.path("other"))), Some(Errno::NOENT));
        assert_eq!(errno(file.read_at(&mut [0], 0)), Some(Errno::STALE));
        assert_eq!(fs::read_dir(daemon.mount()).unwrap().count(), 0);
    }
}

#[test]
fn one_name_and_one_mount_point_each() {
    let pool = TestPool::new(EXTENT);
    let daemon = pool.start("x");
    let error = pool.refused(&mut pool.command("x", &pool.mount_point("elsewhere")));
    assert!(
        error.contains("apparatus x") && error.contains("runs already"),
        "{error}"
    );
    let error = pool.refused(&mut pool.command("y", daemon.mount()));
    assert!(
        error.contains("in use") && error.contains("apparatus x is mounted there"),
        "{error}"
    );
    let full = pool.scratch().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "").unwrap();
    let error = pool.refused(&mut pool.command("y", &full));
    assert!(error.contains("not empty"), "{error}");
    let error = pool.refused(&mut pool.command("a/b", &pool.mount_point("z")));
    assert!(error.contains("a/b") && error.contains('\''), "{error}");
    let error = pool.refused(pool.command("y", &pool.mount_point("z")).args(["--threads", "0"]));
    assert!(error.contains("threads is 0"), "{error}");
    let error = pool.refused(Command::new(env!("CARGO_BIN_EXE_apparatus")).args([
        "--pool",
        "/nonexistent",
        "--name",
        "y",
        "--mount",
        "/nonexistent",
    ]));
    assert!(error.contains("/nonexistent"), "{error}");
    let (_, members) = pool.store().members().unwrap();
    assert_eq!(members.len(), 1, "those refused have left: {members:?}");
    daemon.stop();
}

#[test]
fn a_mount_that_is_removed_from_outside_stops_its_apparatus_properly() {
    let pool = pool_of_two_disks();
    let mut daemon = pool.start("x");
    let unmounted = if rustix::process::geteuid().is_root() {
        Command::new("umount").arg(daemon.mount()).status()
    } else {
        Command::new("fusermount3").arg("-u").arg(daemon.mount()).status()
    };
    assert!(unmounted.unwrap().success());
    assert!(daemon.wait().success());
    let (_, members) = pool.store().members().unwrap();
    assert!(
        members.iter().all(|member| member.state == MemberState::Left),
        "{members:?}"
    );
}

#[test]
fn files_still_open_are_served_for_a_while_and_then_cut_off() {
    let pool = pool_of_two_disks();
    let config = pool.scratch().join("config.ron");
    fs::write(&config, "(stop_grace_s: 1)").unwrap();
    let mut daemon = pool.start_with("x", &["--config", config.to_str().unwrap()]);
    let file = daemon.open("v");
    file.write_all_at(b"x", 0).unwrap();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success(), "{}", daemon.log_text());
    assert!(errno(file.read_at(&mut [0], 0)).is_some());
    assert!(!is_mount_point(daemon.mount()));
}

/// Of many requests at once, those of other ranges are served while some wait for a hold, also by a single reader thread.
#[test]
fn a_hold_delays_only_what_overlaps() {
    let pool = pool_of_two_disks();
    let daemon = pool.start_with("x", &["--threads", "1"]);
    let file = daemon.open("v");
    let record = pool.store().volumes().unwrap().remove(0);
    let span = Span {
        end: apparatus::model::units::VolumeOffset(EXTENT),
        ..Span::whole(record.id)
    };
    let served = Mutex::new(0);
    thread::scope(|scope| {
        let held = daemon.open("v");
        let mut controller = pool.controller();
        let from = controller.store().header().unwrap().generation;
        let change = apparatus::model::change::NewChange {
            title: "test".into(),
            job: None,
            delta: apparatus::model::records::Delta { from, edits: vec![] },
            spans: vec![span],
            mode: apparatus::model::change::HoldMode::All,
        };
        let waiting = &mut None;
        let mut work = || {
            let held = held.try_clone().unwrap();
            *waiting = Some(scope.spawn(move || held.write_all_at(b"late", 0).unwrap()));
            for at in 1..20 {
                file.write_all_at(b"now", at * EXTENT).unwrap();
                *served.lock().unwrap() += 1;
            }
            Ok(())
        };
        controller.run(change, true, &mut work).unwrap();
        waiting.take().unwrap().join().unwrap();
    });
    assert_eq!(*served.lock().unwrap(), 19);
    assert_eq!(read_up_to(&file, 4, 0), b"late");
}
