//! An apparatus with a supervisor whose server crashes is a pause for its hosts: the server is killed again and again under writers that verify
//! every block, and no request fails, nothing is lost and nothing is stale. Open files and locks go on. Stopping and fencing end both processes. Where
//! the kernel cannot send requests again, a crash is what it is without a supervisor.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod supervised;
mod support;

use apparatus::admin::apparatus::{Fenced, fence};
use apparatus::model::member::MemberState;
use apparatus::supervisor::supervisor_of;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use supervised::{
    EXTENT, EXTENTS, PATIENCE, crash, member, pool, quantile, restarts, soon, start, under_load,
};
use support::{Daemon, Random, is_mount_point, name_of};

/// Kills of a run, unless the environment says how many (`KILLS`).
const KILLS: u64 = 25;

/// Kills the server under writers that verify. Returns how long hosts waited each time, in milliseconds.
fn kill_under_load(kills: u64, seed: u64) -> Vec<f64> {
    let pool = pool();
    let daemon = start(&pool);
    under_load(&daemon, kills, seed, || crash(&pool, &daemon, Signal::KILL));
    assert_eq!(member(&pool).state, MemberState::Joined);
    let pauses = restarts(&daemon);
    assert_eq!(pauses.len() as u64, kills);
    daemon.stop();
    pauses
}

#[test]
fn a_server_that_is_killed_again_and_again_is_a_pause_for_hosts() {
    let kills: u64 = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut pauses = Vec::new();
    // An apparatus of a test lives no longer than its watchdog allows.
    for done in (0..kills).step_by(100) {
        pauses.extend(kill_under_load((kills - done).min(100), done + 7));
    }
    pauses.sort_by(f64::total_cmp);
    println!(
        "{kills} kills: hosts waited {:.1} ms in the middle, {:.1} ms at 99 %, {:.1} ms at most",
        quantile(&pauses, 0.5),
        quantile(&pauses, 0.99),
        quantile(&pauses, 1.0)
    );
}

#[test]
fn every_way_of_crashing_is_a_restart() {
    let pool = pool();
    let daemon = start(&pool);
    let file = daemon.open("v");
    for signal in [Signal::ABORT, Signal::ILL, Signal::QUIT, Signal::KILL] {
        file.write_all_at(b"before", 5000).unwrap();
        crash(&pool, &daemon, signal);
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 5000).unwrap();
        assert_eq!(&bytes, b"before");
    }
    assert_eq!(
        supervisor_of(
            &apparatus::model::dir::PoolDir::new(pool.dir.path()),
            &name_of("a1")
        )
        .unwrap(),
        Some(daemon.pid())
    );
    drop(file);
    daemon.stop();
}

#[test]
fn locks_of_hosts_go_on_and_end_with_their_file() {
    let pool = pool();
    let (daemon, other) = (start(&pool), pool.start("a2"));
    let (mine, theirs) = (daemon.open("v"), other.open("v"));
    flock(&mine, FlockOperation::LockExclusive).unwrap();
    let is_refused = || flock(&theirs, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN);
    assert!(is_refused());
    for _ in 0..2 {
        crash(&pool, &daemon, Signal::KILL);
        assert!(is_refused(), "it is kept while no server runs, and after");
    }
    flock(&mine, FlockOperation::Unlock).unwrap();
    flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&theirs, FlockOperation::Unlock).unwrap();
    flock(&mine, FlockOperation::LockExclusive).unwrap();
    crash(&pool, &daemon, Signal::KILL);
    drop(mine);
    soon("the end of the file's lock", || (!is_refused()).then_some(()));
    drop(theirs);
    other.stop();
    daemon.stop();
}

#[test]
fn a_fence_ends_both_processes() {
    let pool = pool();
    let mut daemon = start(&pool);
    let member = member(&pool);
    let server = Pid::from_raw(member.pid.try_into().unwrap()).unwrap();
    let server = pidfd_open(server, PidfdFlags::empty()).unwrap();
    let dir = apparatus::model::dir::PoolDir::new(pool.dir.path());
    assert_eq!(
        fence(&dir, &mut *pool.store(), &member, PATIENCE).unwrap(),
        Fenced::Ended
    );
    assert!(!daemon.wait().success());
    let mut ended = [PollFd::new(&server, PollFlags::IN)];
    assert_eq!(
        poll(&mut ended, Some(&Timespec::try_from(PATIENCE).unwrap())),
        Ok(1)
    );
    assert_eq!(supervisor_of(&dir, &name_of("a1")).unwrap(), None);
}

#[test]
fn an_apparatus_with_a_supervisor_is_not_started_twice() {
    let pool = pool();
    let daemon = start(&pool);
    for arguments in [&["--supervisor"][..], &[]] {
        let mut command = pool.command("a1", &pool.mount_point("a1"));
        assert!(pool.refused(command.args(arguments)).contains("runs already"));
    }
    daemon.stop();
}

#[test]
fn without_a_kernel_that_sends_requests_again_a_crash_is_the_end() {
    let pool = pool();
    let mut daemon = pool.start_with("a1", &["--supervisor", "--hide-resend"]);
    // The log comes through a thread of the supervisor.
    soon("the warning is in the log", || {
        daemon
            .log_text()
            .contains("cannot send requests again")
            .then_some(())
    });
    let file = daemon.open("v");
    let server = Pid::from_raw(member(&pool).pid.try_into().unwrap()).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    assert!(!daemon.wait().success());
    let error = file.read_exact_at(&mut [0; 4], 0).unwrap_err();
    assert!(
        [Errno::NOTCONN, Errno::CONNABORTED].contains(&Errno::from_io_error(&error).unwrap()),
        "{error}"
    );
}

#[test]
fn a_file_system_on_a_loop_device_survives_crashes() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: loop devices need root");
    }
    let pool = pool();
    let daemon = start(&pool);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let volume = daemon.path("v");
    let device = run(
        "losetup",
        &["--find", "--show", "--direct-io=on", volume.to_str().unwrap()],
    );
    run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", &device]);
    let place = pool.scratch().join("ext4");
    fs::create_dir(&place).unwrap();
    run("mount", &[&device, place.to_str().unwrap()]);
    let mut random = Random::new(3);
    for number in 0..8 {
        let bytes = random.bytes(200_000);
        let path = place.join(number.to_string());
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let file = File::create(&path).unwrap();
                for part in bytes.chunks(8192) {
                    std::io::Write::write_all(&mut &file, part).unwrap();
                    file.sync_all().unwrap();
                }
            });
            crash(&pool, &daemon, Signal::KILL);
            writer.join().unwrap();
        });
        assert!(fs::read(&path).unwrap() == bytes, "file {number}");
    }
    run("umount", &[place.to_str().unwrap()]);
    run("fsck.ext4", &["-fn", &device]);
    run("losetup", &["--detach", &device]);
    assert!(is_mount_point(daemon.mount()));
    daemon.stop();
}

/// Returns the child processes of the supervisor, the oldest first.
fn children(daemon: &Daemon) -> Vec<u32> {
    let supervisor = daemon.pid();
    let list = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until another server stands by, and returns its process.
fn standby(daemon: &Daemon) -> u32 {
    soon("a server that stands by", || children(daemon).get(1).copied())
}

#[test]
fn the_server_that_stands_by_takes_over_with_a_table_that_has_changed_since() {
    let pool = pool();
    let daemon = start(&pool);
    for name in ["w", "x"] {
        let next = standby(&daemon);
        let disk = pool.store().disks().unwrap().remove(0);
        let free = EXTENTS + 1 + u64::from(name == "x");
        pool.add_volume(name, EXTENT, &[(disk.id, free, 1)]);
        crash(&pool, &daemon, Signal::KILL);
        assert_eq!(member(&pool).pid, next);
        daemon.open(name).write_all_at(b"new", 0).unwrap();
    }
    daemon.stop();
}

#[test]
fn a_server_that_stands_by_can_end_without_harm() {
    let pool = pool();
    let daemon = start(&pool);
    let next = standby(&daemon);
    let server = member(&pool).pid;
    let process = |pid: u32| Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(process(next), Signal::KILL).unwrap();
    crash(&pool, &daemon, Signal::KILL);
    assert!(![server, next].contains(&member(&pool).pid));
    // It ends with the others.
    let next = standby(&daemon);
    let next = pidfd_open(process(next), PidfdFlags::empty()).unwrap();
    daemon.stop();
    let mut ended = [PollFd::new(&next, PollFlags::IN)];
    assert_eq!(
        poll(&mut ended, Some(&Timespec::try_from(PATIENCE).unwrap())),
        Ok(1)
    );
}
