//! Servers of an apparatus with a supervisor that do not come up: the mount stays held, commands say so and do not wait for it, and hosts go on once a
//! server comes up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod supervised;
mod support;

use apparatus::admin::apparatus::{kill_supervisor_of, stop};
use apparatus::admin::status::{FindingKind, status};
use apparatus::admin::{check, destroy};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::ErrorKind;
use rustix::process::{Signal, kill_process};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::thread;
use supervised::{
    PATIENCE, kill_server, own_program, pool, replace_by_script, server_of, soon, start, start_from,
};
use support::{Daemon, TestPool, is_mount_point};

/// Makes the server of a new apparatus crash again and again, and has a controller remove its record.
fn crash_for_good(pool: &TestPool) -> Daemon {
    let program = own_program(pool);
    let daemon = start_from(pool, &program);
    replace_by_script(&program, "exit 7");
    kill_server(pool);
    soon("a loop of crashes", || {
        daemon.log_text().contains("The mount is held").then_some(())
    });
    check::repair(&mut pool.controller()).unwrap();
    assert!(pool.store().members().unwrap().1.is_empty());
    daemon
}

/// Runs this in a thread, because it may wait for the mount, and returns its result.
fn in_time<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    thread::spawn(move || sender.send(run()));
    done.recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{what} has not ended"))
}

#[test]
fn an_apparatus_without_a_server_and_without_a_record_is_named_and_can_be_given_up() {
    let pool = pool();
    let mut daemon = crash_for_good(&pool);
    let dir = PoolDir::new(pool.dir.path());
    let of_thread = dir.clone();
    let status = in_time("status", move || {
        status(
            &of_thread,
            &mut *apparatus::controller::pool::open_store(&of_thread).unwrap(),
        )
        .unwrap()
    });
    let about: Vec<_> = status
        .findings
        .iter()
        .filter(|finding| finding.subject == "apparatus a1")
        .collect();
    assert_eq!(about.len(), 1, "{:?}", status.findings);
    assert_eq!(about[0].kind, FindingKind::ApparatusDead);
    assert!(
        about[0]
            .text
            .contains(&format!("process {}, holds the mount", daemon.pid())),
        "{}",
        about[0].text
    );
    assert!(
        status
            .findings
            .iter()
            .all(|finding| finding.kind != FindingKind::DeadMount)
    );
    let problems = check::check(&dir).unwrap();
    assert!(
        problems
            .iter()
            .any(|problem| problem.subject == "apparatus a1" && !problem.repairable),
        "{problems:?}"
    );
    let mut store = pool.store();
    let refused = destroy::check(&dir, &mut *store).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    assert!(refused.to_string().contains("supervisor"), "{refused}");
    let refused = stop(&dir, &mut *store, "a1", false, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    assert!(daemon.is_alive());
    assert!(stop(&dir, &mut *store, "a1", true, PATIENCE).unwrap());
    assert!(!daemon.wait().success());
    destroy::check(&dir, &mut *store).unwrap();
}

#[test]
fn another_apparatus_does_not_wait_for_the_mount_that_a_supervisor_holds() {
    let pool = pool();
    let mut daemon = crash_for_good(&pool);
    let mut command = pool.command("a2", &pool.mount_point("a1"));
    let refused = pool.refused(&mut command);
    assert!(refused.contains("is in use"), "{refused}");
    let dir = PoolDir::new(pool.dir.path());
    assert!(kill_supervisor_of(&dir, "a1", PATIENCE).unwrap());
    assert!(!daemon.wait().success());
    assert!(!kill_supervisor_of(&dir, "a1", PATIENCE).unwrap());
}

#[test]
fn a_server_that_does_not_come_up_leaves_the_mount_and_hosts_go_on_once_it_does() {
    let pool = pool();
    let daemon = start(&pool);
    let file = daemon.open("v");
    file.write_all_at(b"kept", 0).unwrap();
    let (database, away) = (pool.dir.path().join("pool.db"), pool.dir.path().join("away"));
    let dir = PoolDir::new(pool.dir.path());
    let mut store = pool.store();
    let server = server_of(&pool);
    fs::rename(&database, &away).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    soon("a loop of crashes", || {
        daemon.log_text().contains("The mount is held").then_some(())
    });
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        let refused = stop(&dir, &mut *store, "a1", false, PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(!waiting.is_finished() && daemon.is_alive());
        fs::rename(&away, &database).unwrap();
        assert_eq!(&waiting.join().unwrap().unwrap(), b"kept");
    });
    drop((file, store));
    daemon.stop();
}

/// Before it was asked, while it was asked, and before its supervisor knew of it: the order is up to the machine.
#[test]
fn a_stop_succeeds_though_the_server_crashes_at_that_moment() {
    let pool = pool();
    let (dir, mut store) = (PoolDir::new(pool.dir.path()), pool.store());
    for _ in 0..4 {
        let mut daemon = pool.start_with("a1", &["--supervisor"]);
        let stopped = thread::scope(|scope| {
            let stopping = scope.spawn(|| stop(&dir, &mut *store, "a1", true, PATIENCE));
            kill_server(&pool);
            stopping.join().unwrap()
        });
        stopped.unwrap();
        daemon.wait();
        assert!(!is_mount_point(daemon.mount()));
    }
}

#[test]
fn a_server_that_crashes_while_it_stops_is_not_started_again() {
    let pool = pool();
    let config = pool.scratch().join("a1.ron");
    fs::write(&config, "(stop_grace_s: 1000)").unwrap();
    let mut daemon = pool.start_with("a1", &["--supervisor", "--config", config.to_str().unwrap()]);
    let file = daemon.open("v");
    let (dir, mut store) = (PoolDir::new(pool.dir.path()), pool.store());
    let stopped = thread::scope(|scope| {
        let stopping = scope.spawn(|| stop(&dir, &mut *store, "a1", true, PATIENCE));
        soon("the wait for open files", || {
            daemon.log_text().contains("are waited for").then_some(())
        });
        kill_server(&pool);
        stopping.join().unwrap()
    });
    assert!(stopped.unwrap());
    assert!(daemon.wait().success());
    assert!(!is_mount_point(daemon.mount()));
    drop(file);
}
