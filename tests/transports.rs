//! Both ways on which requests of the kernel come do the same: by the device, and over io_uring. Where the kernel does not offer the second one, or this
//! process may not use it, its half is passed over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
mod support;

use apparatus::frontend::fuse::Transport;
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::records::{Delta, Edit, Span};
use apparatus::model::units::{ByteCount, VolumeOffset};
use moving::{PATIENCE, Scene, Worker};
use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use support::{Daemon, Random, TestPool, is_mount_point, read_up_to};

const EXTENT: u64 = 64 << 10;
/// More requests that wait than a ring has entries at its beginning.
const MANY: usize = 40;

/// Returns the transports that can be tried here. `what` is passed over for the others.
fn transports(what: &str) -> Vec<&'static str> {
    match Transport::Uring.resolve() {
        Ok(_) => vec!["dev", "uring"],
        Err(why) => {
            eprintln!("passed over for uring: {what}: {why}");
            vec!["dev"]
        }
    }
}

fn start(pool: &TestPool, name: &str, transport: &str) -> Daemon {
    let daemon = pool.start_with(name, &["--transport", transport]);
    assert_eq!(has_rings(&daemon), transport == "uring");
    daemon
}

/// Returns whether it has threads that serve rings.
fn has_rings(daemon: &Daemon) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    names.any(|name| name.is_ok_and(|name| name.starts_with("ring-")))
}

fn errno(result: io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn a_process_that_works_on_a_job() {
    moving::work_on_a_job();
}

#[test]
fn bytes_written_are_read_at_any_place_and_length() {
    for transport in transports("reads and writes") {
        let pool = TestPool::new(EXTENT);
        let (a, b) = (pool.add_disk("a", 80).id, pool.add_disk("b", 80).id);
        let size = 60 * EXTENT + 512 * 77;
        pool.add_volume("v", size, &[(a, 5, 3), (b, 9, 20), (a, 20, 30), (b, 40, 8)]);
        let daemons = [start(&pool, "x", transport), start(&pool, "y", "dev")];
        let files = daemons.each_ref().map(|daemon| daemon.open("v"));
        let mut array = vec![0; size as usize];
        let mut random = Random::new(42);
        for step in 0..800 {
            let at = random.below(size);
            // Some are larger than a request can be.
            let longest = [600, 9000, 5 * EXTENT, 3 << 20][random.below(4) as usize];
            let len = ((1 + random.below(longest)).min(size - at)) as usize;
            let place = &mut array[at as usize..][..len];
            let file = &files[usize::from(step % 7 == 0)];
            if random.below(2) == 0 {
                let bytes = random.bytes(len);
                file.write_all_at(&bytes, at).unwrap();
                place.copy_from_slice(&bytes);
            } else {
                assert!(
                    read_up_to(file, len, at) == place,
                    "{transport}: step {step}: {len} at {at}"
                );
            }
            if step % 100 == 0 {
                file.sync_all().unwrap();
            }
        }
        assert_eq!(read_up_to(&files[0], 9000, size - 100).len(), 100);
        assert_eq!(read_up_to(&files[0], 9000, size).len(), 0);
        assert_eq!(
            errno(files[0].write_all_at(b"x", size + EXTENT)),
            Some(Errno::NOSPC)
        );
        drop(files);
        let [x, _y] = daemons;
        x.stop();
    }
}

/// What a host sees of a mount beside the bytes.
fn picture(daemon: &Daemon) -> Vec<String> {
    let mut seen: Vec<String> = fs::read_dir(daemon.mount())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            format!(
                "{:?} {} {} {:o}",
                entry.file_name(),
                meta.ino(),
                meta.size(),
                meta.mode()
            )
        })
        .collect();
    seen.sort();
    let space = statvfs(daemon.mount()).unwrap();
    seen.push(format!("{} {} {}", space.f_blocks, space.f_bfree, space.f_files));
    let file = daemon.open("v7");
    for result in [
        errno(File::open(daemon.path("nobody"))),
        errno(File::create(daemon.path("another"))),
        errno(fs::create_dir(daemon.path("directory"))),
        errno(fs::remove_file(daemon.path("v1"))),
        errno(fs::rename(daemon.path("v1"), daemon.path("w1"))),
        errno(file.set_len(1 << 40)),
        errno(File::open(daemon.path(&"n".repeat(200)))),
    ] {
        seen.push(format!("{result:?}"));
    }
    seen
}

#[test]
fn names_attributes_space_and_refusals_are_the_same() {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("a", 400).id;
    for number in 0..60 {
        pool.add_volume(&format!("v{number}"), 4 * EXTENT, &[(disk, 1 + 4 * number, 4)]);
    }
    let mut pictures: Vec<_> = transports("names and attributes")
        .into_iter()
        .map(|transport| {
            let daemon = start(&pool, transport, transport);
            let picture = picture(&daemon);
            daemon.stop();
            picture
        })
        .collect();
    let first = pictures.remove(0);
    assert_eq!(first.len(), 60 + 1 + 7);
    for other in pictures {
        assert_eq!(other, first);
    }
}

#[test]
fn hosts_that_wait_for_a_lock_leave_room_for_the_one_that_has_it() {
    for transport in transports("locks") {
        let pool = TestPool::new(EXTENT);
        let disk = pool.add_disk("d", 16);
        pool.add_volume("v", 4 * EXTENT, &[(disk.id, 1, 4)]);
        let daemon = start(&pool, "x", transport);
        let mine = daemon.open("v");
        flock(&mine, FlockOperation::NonBlockingLockExclusive).unwrap();
        let (sender, locked) = channel();
        for _ in 0..MANY {
            let (file, sender) = (daemon.open("v"), sender.clone());
            thread::spawn(move || {
                flock(&file, FlockOperation::LockExclusive).unwrap();
                let _ = sender.send(());
            });
        }
        // Whenever they arrive, these requests are served, and none has the lock.
        for round in 0..100 {
            let file = daemon.open("v");
            file.write_all_at(&[round; 512], 0).unwrap();
            let mut found = [0; 512];
            file.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, [round; 512]);
        }
        assert!(locked.try_recv().is_err());
        flock(&mine, FlockOperation::Unlock).unwrap();
        for _ in 0..MANY {
            locked.recv_timeout(PATIENCE).unwrap();
        }
        drop(mine);
        daemon.stop();
    }
}

#[test]
fn requests_that_a_hold_parks_leave_room_for_others_and_run_when_it_ends() {
    for transport in transports("holds") {
        let pool = TestPool::new(EXTENT);
        let disk = pool.add_disk("d", 16);
        let record = pool.add_volume("v", 8 * EXTENT, &[(disk.id, 1, 8)]);
        let volume = record.id;
        let daemon = start(&pool, "x", transport);
        let (file, other) = (daemon.open("v"), daemon.open("v"));
        let done = AtomicUsize::new(0);
        let mut controller = pool.controller();
        let from = controller.store().header().unwrap().generation;
        let change = NewChange {
            title: "test".into(),
            job: None,
            delta: Delta {
                from,
                edits: vec![Edit::SetVolume(record)],
            },
            spans: vec![Span {
                volume,
                start: VolumeOffset(0),
                end: VolumeOffset(4 * EXTENT),
            }],
            mode: HoldMode::All,
        };
        thread::scope(|scope| {
            let under_the_hold = || {
                for number in 0..MANY as u64 {
                    let (file, done) = (&file, &done);
                    scope.spawn(move || {
                        file.write_all_at(&number.to_ne_bytes().repeat(64), number * 512)
                            .unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                }
                for round in 0..50 {
                    other.write_all_at(&[round; 4096], 5 * EXTENT).unwrap();
                    let mut found = [0; 4096];
                    other.read_exact_at(&mut found, 5 * EXTENT).unwrap();
                    assert_eq!(found, [round; 4096]);
                }
                assert_eq!(done.load(Ordering::SeqCst), 0, "{transport}: held");
                Ok(())
            };
            let mut under_the_hold = under_the_hold;
            controller.run(change, true, &mut under_the_hold).unwrap();
        });
        assert_eq!(done.load(Ordering::SeqCst), MANY);
        for number in 0..MANY as u64 {
            let bytes = number.to_ne_bytes().repeat(64);
            assert_eq!(read_up_to(&file, 512, number * 512), bytes);
        }
        drop((file, other));
        daemon.stop();
    }
}

#[test]
fn a_move_whose_controller_is_killed_loses_nothing() {
    for transport in transports("a killed controller") {
        let scene = Scene::new(EXTENT, 96);
        let (x, y) = (start(&scene.pool, "x", transport), start(&scene.pool, "y", "dev"));
        let load = scene.load(&[&x, &y], 2, true);
        load.wait_for(300, PATIENCE);
        let limits = JobLimits {
            rate: Some(ByteCount(64 * EXTENT)),
            ..JobLimits::default()
        };
        let job = scene.create(&scene.to(1), limits);
        let mut worker = Worker::start(&scene, job, Some("controller.committed=kill@3"));
        assert!(worker.wait_for_point() && !worker.wait().success());
        load.wait_for(100, PATIENCE);
        assert_eq!(
            apparatus::jobs::set_limits(&mut *scene.pool.store(), job, JobLimits::default()).ok(),
            Some(())
        );
        assert_eq!(scene.run(job).unwrap(), JobState::Done);
        load.wait_for(100, PATIENCE);
        moving::assert_sound(load);
        scene.pool.controller().free().unwrap();
        scene.assert_all_on(1);
        x.stop();
        y.stop();
        scene.assert_checked();
    }
}

/// Hosts that write through the mount until they get an error, each from a thread of its own.
fn writers(daemon: &Daemon) -> Vec<thread::JoinHandle<io::Error>> {
    let write = |number: u64| {
        let file = daemon.open("v");
        thread::spawn(move || {
            loop {
                if let Err(error) = file.write_all_at(&[7; 4096], number * 4096) {
                    return error;
                }
            }
        })
    };
    (0..4).map(write).collect()
}

#[test]
fn hosts_at_work_get_errors_when_the_mount_is_ended_or_its_process_is() {
    for transport in transports("ends") {
        let pool = TestPool::new(EXTENT);
        let disk = pool.add_disk("d", 16);
        pool.add_volume("v", 4 * EXTENT, &[(disk.id, 1, 4)]);
        let mut daemon = start(&pool, "stopped", transport);
        let hosts = writers(&daemon);
        // Their files are cut off after the grace.
        daemon.signal(rustix::process::Signal::TERM);
        assert!(daemon.wait().success(), "{}", daemon.log_text());
        assert!(!is_mount_point(daemon.mount()));
        hosts.into_iter().for_each(|host| drop(host.join().unwrap()));
        drop(daemon);

        let daemon = start(&pool, "killed", transport);
        let hosts = writers(&daemon);
        daemon.kill();
        hosts.into_iter().for_each(|host| drop(host.join().unwrap()));

        let mut daemon = start(&pool, "aborted", transport);
        let hosts = writers(&daemon);
        if abort(&daemon) {
            hosts.into_iter().for_each(|host| drop(host.join().unwrap()));
            assert!(daemon.wait().success(), "{}", daemon.log_text());
        } else {
            eprintln!(
                "passed over: the end of a connection by its control file, which this user may not write"
            );
            daemon.kill();
            hosts.into_iter().for_each(|host| drop(host.join().unwrap()));
        }
    }
}

/// Has the kernel end the mount's connection. Returns whether it could.
fn abort(daemon: &Daemon) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = daemon.mount().to_string_lossy().into_owned();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&place));
    let device = line.and_then(|line| line.split(' ').nth(2)?.split_once(':')?.1.parse::<u32>().ok());
    device.is_some_and(|number| fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1").is_ok())
}

/// Runs the rest of its arguments as a program that may not set up an io_uring.
const WITHOUT_URING: &str = r#"
import ctypes, os, struct, sys
# Load the number of the system call; io_uring_setup (425) fails with EPERM, all others go on.
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Returns the command of an apparatus that may not set up an io_uring; `None` where there is no Python.
fn without_uring(pool: &TestPool, name: &str, transport: &str) -> Option<Command> {
    let python = Command::new("python3")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !python.is_ok_and(|status| status.success()) {
        eprintln!("passed over: a process that may not use io_uring: there is no python3");
        return None;
    }
    let wanted = pool.command(name, &pool.mount_point(name));
    let mut command = Command::new("python3");
    command
        .args(["-c", WITHOUT_URING])
        .arg(wanted.get_program())
        .args(wanted.get_args())
        .args(["--transport", transport]);
    Some(command)
}

#[test]
fn where_io_uring_is_forbidden_the_device_is_taken_or_the_start_is_refused_in_words() {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", 16);
    pool.add_volume("v", 4 * EXTENT, &[(disk.id, 1, 4)]);
    let Some(mut command) = without_uring(&pool, "u", "uring") else {
        return;
    };
    let why = pool.refused(&mut command);
    assert!(why.contains("transport uring: "), "{why}");
    assert!(why.contains("--transport dev"), "{why}");
    assert!(!is_mount_point(&pool.mount_point("u")));
    let command = without_uring(&pool, "a", "auto").unwrap();
    let daemon = Daemon::start(command, pool.scratch(), "a", pool.mount_point("a"));
    assert!(
        daemon.log_text().contains("requests come by the device"),
        "{}",
        daemon.log_text()
    );
    daemon.open("v").write_all_at(b"bytes", 0).unwrap();
    daemon.stop();
}

#[test]
fn a_supervisor_is_refused_over_io_uring_and_has_the_device_where_that_is_left_open() {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", 16);
    pool.add_volume("v", 4 * EXTENT, &[(disk.id, 1, 4)]);
    let mut command = pool.command("u", &pool.mount_point("u"));
    let why = pool.refused(command.args(["--transport", "uring", "--supervisor"]));
    assert!(why.contains("cannot have a supervisor"), "{why}");
    let daemon = pool.start_with("a", &["--transport", "auto", "--supervisor"]);
    let mut bytes = [1; 5];
    daemon.open("v").read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0; 5]);
    daemon.stop();
}
