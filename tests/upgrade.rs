//! The server of an apparatus with a supervisor is replaced while hosts use it: no request fails, nothing is lost, and open files, locks, loop devices and
//! moves go on. What does not come up replaces nothing, and the error says why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
mod supervised;
mod support;

use apparatus::admin::apparatus::upgrade;
use apparatus::model::error::{Error, ErrorKind};
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::member::MemberState;
use apparatus::model::units::ByteCount;
use apparatus::rpc::client;
use apparatus::rpc::message::{Answer, Request};
use moving::{Scene, assert_sound};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use supervised::{
    PATIENCE, crash, kill_server, member, own_program, pool, quantile, replace_by_script, restarts,
    server_of, soon, start, start_from, under_load,
};
use support::{Daemon, TestPool, name_of};

/// Upgrades of a run, unless the environment says how many (`UPGRADES`).
const UPGRADES: u64 = 10;
/// How long the program that never is prepared may take.
const SHORT: Duration = Duration::from_millis(500);

fn replace(pool: &TestPool, program: Option<&Path>, within: Duration) -> Result<Duration, Error> {
    upgrade(
        &pool.dir,
        &mut *pool.store(),
        &name_of("a1"),
        program,
        &[],
        within,
    )
}

/// Replaces the server, and waits until the next one has reported that it goes on. Requests in flight that wait for a disk put it off.
fn replaced(pool: &TestPool, daemon: &Daemon, program: Option<&Path>) -> Duration {
    let before = restarts(daemon).len();
    let waited = soon("an upgrade", || match replace(pool, program, PATIENCE) {
        Err(error) if error.to_string().contains("wait for a disk") => None,
        other => Some(other.unwrap()),
    });
    soon("the report of the next server", || {
        (restarts(daemon).len() > before).then_some(())
    });
    waited
}

/// Returns the program that the server runs.
fn program_of(pool: &TestPool) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", member(pool).pid)).unwrap()
}

#[test]
fn a_server_that_is_replaced_again_and_again_is_a_pause_for_hosts() {
    let upgrades: u64 = std::env::var("UPGRADES").map_or(UPGRADES, |upgrades| upgrades.parse().unwrap());
    let pool = pool();
    let daemon = start(&pool);
    let mut pauses = Vec::new();
    under_load(&daemon, upgrades, 5, || {
        let before = server_of(&pool);
        let waited = replaced(&pool, &daemon, None);
        pauses.push(waited.as_secs_f64() * 1e3);
        assert_ne!(server_of(&pool), before);
    });
    assert_eq!(member(&pool).state, MemberState::Joined);
    assert_eq!(restarts(&daemon).len() as u64, upgrades);
    pauses.sort_by(f64::total_cmp);
    println!(
        "{upgrades} upgrades: hosts waited {:.1} ms in the middle, {:.1} ms at 99 %, {:.1} ms at most",
        quantile(&pauses, 0.5),
        quantile(&pauses, 0.99),
        quantile(&pauses, 1.0)
    );
    daemon.stop();
}

#[test]
fn open_files_and_locks_go_on_and_later_servers_are_of_the_new_program() {
    let pool = pool();
    let daemon = start(&pool);
    let other = pool.start("a2");
    let (mine, theirs) = (daemon.open("v"), other.open("v"));
    flock(&mine, FlockOperation::LockExclusive).unwrap();
    mine.write_all_at(b"before", 5000).unwrap();
    let program = own_program(&pool);
    replaced(&pool, &daemon, Some(&program));
    assert_eq!(program_of(&pool), program);
    let is_refused = || flock(&theirs, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN);
    assert!(is_refused());
    let mut bytes = [0; 6];
    mine.read_exact_at(&mut bytes, 5000).unwrap();
    assert_eq!(&bytes, b"before");
    crash(&pool, &daemon, Signal::KILL);
    assert_eq!(program_of(&pool), program);
    assert!(is_refused());
    drop(mine);
    soon("the end of the file's lock", || (!is_refused()).then_some(()));
    drop(theirs);
    other.stop();
    daemon.stop();
}

#[test]
fn what_does_not_come_up_replaces_nothing_and_the_error_says_why() {
    let pool = pool();
    let daemon = start(&pool);
    let file = daemon.open("v");
    file.write_all_at(b"kept", 0).unwrap();
    let server = server_of(&pool);
    let program = pool.scratch().join("program");
    let refused = |script: &str, within: Duration, why: &str| {
        replace_by_script(&program, script);
        let error = replace(&pool, Some(&program), within).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(server_of(&pool), server);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"kept");
    };
    refused("exit 0", PATIENCE, "ended with status 0 before it was prepared");
    refused("exit 7", PATIENCE, "ended with status 7 before it was prepared");
    refused(
        "kill -KILL $$",
        PATIENCE,
        "was killed by signal 9 before it was prepared",
    );
    refused("exec cat", SHORT, "was not prepared in its time");
    refused("exec sleep 1000", SHORT, "was not prepared in its time");
    // It says itself why it cannot.
    let real = env!("CARGO_BIN_EXE_apparatus");
    refused(
        &format!("exec {real} \"$@\" --pool /nowhere"),
        PATIENCE,
        "before it was prepared",
    );
    fs::write(&program, "no program").unwrap();
    let error = replace(&pool, Some(&program), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("cannot be started"), "{error}");
    let error = replace(&pool, Some(Path::new("/nowhere")), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    replace(&pool, None, PATIENCE).unwrap();
    drop(file);
    daemon.stop();
}

#[test]
fn a_database_of_another_format_is_not_converted_by_a_new_server() {
    let pool = pool();
    let daemon = start(&pool);
    let server = server_of(&pool);
    let mut store = pool.store();
    let database = rusqlite::Connection::open(pool.dir.path().join("pool.db")).unwrap();
    let present: i64 = database
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    database.pragma_update(None, "user_version", present + 1).unwrap();
    let error = upgrade(&pool.dir, &mut *store, &name_of("a1"), None, &[], PATIENCE).unwrap_err();
    database.pragma_update(None, "user_version", present).unwrap();
    assert!(error.to_string().contains("has another format"), "{error}");
    drop((database, store));
    assert_eq!(server_of(&pool), server);
    daemon.stop();
}

#[test]
fn a_database_of_an_older_format_is_not_converted_while_an_apparatus_serves() {
    let pool = pool();
    let daemon = pool.start("a1");
    let database = rusqlite::Connection::open(pool.dir.path().join("pool.db")).unwrap();
    let format = || -> i64 {
        let read = database.query_row("PRAGMA user_version", [], |row| row.get(0));
        read.unwrap()
    };
    let present = format();
    database.pragma_update(None, "user_version", present - 1).unwrap();
    let refused = apparatus::controller::pool::open_store(&pool.dir)
        .map(drop)
        .unwrap_err();
    assert_eq!(format(), present - 1);
    database.pragma_update(None, "user_version", present).unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    let text = refused.to_string();
    let serves = format!("apparatus a1, process {}", daemon.pid());
    assert!(
        text.contains("an older format") && text.contains(&serves),
        "{text}"
    );
    drop(database);
    daemon.stop();
}

#[test]
fn an_apparatus_without_a_supervisor_cannot_be_replaced() {
    let pool = pool();
    let daemon = pool.start("a1");
    let error = replace(&pool, None, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("has no supervisor"), "{error}");
    assert!(error.way_out().unwrap().contains("--supervisor"));
    let error = upgrade(&pool.dir, &mut *pool.store(), &name_of("x"), None, &[], PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    daemon.stop();
}

#[test]
fn a_working_program_ends_a_loop_of_crashes() {
    let pool = pool();
    let program = own_program(&pool);
    let daemon = start_from(&pool, &program);
    let file = daemon.open("v");
    file.write_all_at(b"kept", 0).unwrap();
    replace_by_script(&program, "exit 7");
    kill_server(&pool);
    soon("a loop of crashes", || {
        daemon.log_text().contains("The mount is held").then_some(())
    });
    replace(&pool, Some(Path::new(env!("CARGO_BIN_EXE_apparatus"))), PATIENCE).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
    drop(file);
    daemon.stop();
}

/// A move that the apparatus works on goes on with the next server, after an upgrade and after a crash.
#[test]
fn a_move_goes_on_with_the_next_server() {
    let scene = Scene::new(supervised::EXTENT, 128);
    let daemon = scene.pool.start_with("a1", &["--supervisor"]);
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(200, PATIENCE);
    let limits = JobLimits {
        rate: Some(ByteCount(512 << 10)),
        ..JobLimits::default()
    };
    let job = scene.create(&scene.to(1), limits);
    let uuid = scene.pool.store().header().unwrap().uuid;
    let run = Request::RunJob { job };
    let accepted = client::ask(&scene.pool.dir, uuid, &name_of("a1"), run, PATIENCE);
    assert!(matches!(accepted, Ok(Answer::Accepted)), "{accepted:?}");
    let copied = || scene.job(job).copied.0;
    soon("a part of the move", || (copied() > 0).then_some(()));
    replaced(&scene.pool, &daemon, None);
    let before = copied();
    soon("another part of the move", || (copied() > before).then_some(()));
    crash(&scene.pool, &daemon, Signal::KILL);
    scene.wait_for_state(job, JobState::Done);
    assert_sound(load);
    scene.assert_all_on(1);
    daemon.stop();
}
