//! Damage that periodic checks notice before a request meets it: an image that was cut short, and files of the run directory that were
//! deleted or replaced, and a database; and that no change is made meanwhile that a serving apparatus might miss.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use apparatus::admin;
use apparatus::controller::{Controller, Wait};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, ErrorKind};
use apparatus::model::event::Severity;
use apparatus::model::member::MemberState;
use apparatus::model::records::{Delta, Edit};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::{TestPool, read_up_to};

const EXTENT: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(100);

fn pool() -> TestPool {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 40).id;
    pool.add_volume("v", 16 * EXTENT, &[(a, 1, 16)]);
    pool
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_truncated_image_is_reported_before_any_access() {
    let pool = pool();
    let daemon = pool.start("x");
    let image = OpenOptions::new().write(true).open(pool.image("a")).unwrap();
    image.set_len(9 * EXTENT).unwrap();
    let mut store = pool.store();
    let mut reports = || {
        let events = store.events(0, 1000).unwrap();
        let left = format!("{} bytes are left", 9 * EXTENT);
        let about = |event: &&apparatus::model::event::Event| {
            event.subject == "disk a" && event.severity == Severity::Error && event.text.contains(&left)
        };
        events.iter().filter(about).count()
    };
    until("the loss is told", || reports() > 0);
    daemon.stop();
    assert_eq!(reports(), 1, "once");
}

fn acquire(pool: &TestPool) -> Result<Controller, Error> {
    Controller::acquire(&pool.dir, "test", Wait::For(Some(PATIENCE)))
}

/// The run directory is deleted, as cleaners of temporary files do, while no process can restore anything. No change is made while
/// an apparatus that may serve cannot be reached; then everything is created again, and neither hosts nor controllers notice.
#[test]
fn nothing_changes_while_the_run_directory_is_gone_and_then_all_is_as_before() {
    let pool = pool();
    let daemon = pool.start("x");
    let file = daemon.open("v");
    write(&file, b"before");
    daemon.signal(Signal::STOP);
    fs::remove_dir_all(pool.dir.run()).unwrap();
    let refused = acquire(&pool).err().unwrap();
    assert!(
        refused.kind() == ErrorKind::Busy && refused.why().contains("in use"),
        "{refused}"
    );
    let (_, members) = pool.store().members().unwrap();
    assert_eq!(members[0].state, MemberState::Joined, "nobody took it for dead");
    let refused = pool.refused(&mut pool.command("x", &pool.mount_point("other")));
    assert!(refused.contains("runs already"), "{refused}");

    daemon.signal(Signal::CONT);
    let socket = pool.dir.socket(&members[0].name);
    until("the control socket is back", || socket.exists());
    let mut controller = acquire(&pool).unwrap();
    controller.run(nothing_much(), false, &mut || Ok(())).unwrap();
    assert_eq!(controller.fenced(), []);
    drop(controller);
    write(&file, b"after.");
    let mut store = pool.store();
    let is_reported = |event: &apparatus::model::event::Event| event.text.contains("were deleted");
    until("it is told", || {
        store.events(0, 1000).unwrap().iter().any(is_reported)
    });
    let again = pool.start("y");
    assert_eq!(read_up_to(&again.open("v"), 6, 0), b"after.");
    drop(file);
    for daemon in [daemon, again] {
        daemon.stop();
    }
}

/// Each file of the run directory by itself is replaced by another one while a controller holds the lock: it goes on, and no other one
/// gets the lock.
#[test]
fn what_is_replaced_in_the_run_directory_is_put_back() {
    let pool = pool();
    let daemon = pool.start("x");
    let mut acting = acquire(&pool).unwrap();
    for name in ["members", "x.sock", "x.life", "arbitration"] {
        let path = pool.dir.run().join(name);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "something else").unwrap();
        let second = Controller::acquire(&pool.dir, "second", Wait::No).err().unwrap();
        assert_eq!(second.kind(), ErrorKind::Busy, "{name}: {second}");
        // A life lock and the controller lock work with any file.
        if ["members", "x.sock"].contains(&name) {
            let ours = || fs::symlink_metadata(&path).is_ok_and(|found| found.len() != 14);
            until(name, ours);
        }
        acting.run(nothing_much(), false, &mut || Ok(())).unwrap();
    }
    assert_eq!(acting.fenced(), []);
    drop(acting);
    acquire(&pool)
        .unwrap()
        .run(nothing_much(), false, &mut || Ok(()))
        .unwrap();
    daemon.stop();
}

/// The directory is renamed, or its files are moved to another one: serving apparatuses are found, or no change is made.
#[test]
fn a_pool_directory_that_is_renamed_or_replaced_hides_no_member() {
    let pool = pool();
    let daemon = pool.start("x");
    let renamed = PoolDir::new(pool.scratch().join("renamed"));
    fs::rename(pool.dir.path(), renamed.path()).unwrap();
    let mut controller = Controller::acquire(&renamed, "test", Wait::No).unwrap();
    controller.run(nothing_much(), false, &mut || Ok(())).unwrap();
    assert_eq!(controller.fenced(), []);
    drop(controller);
    let mut pool = pool;
    let called = std::mem::replace(&mut pool.dir, renamed.clone());
    serves_in_a_renamed_directory(&pool, &daemon, &called);
    pool.dir = called;

    move_all(renamed.path(), pool.dir.path());
    fs::remove_dir_all(pool.dir.run()).unwrap();
    let refused = acquire(&pool).err().unwrap();
    assert!(refused.why().contains("is a copy of the pool"), "{refused}");
    move_all(pool.dir.path(), renamed.path());
    fs::remove_dir(pool.dir.path()).unwrap();
    fs::rename(renamed.path(), pool.dir.path()).unwrap();
    until("the control socket is back", || {
        pool.dir.run().join("x.sock").exists()
    });
    acquire(&pool)
        .unwrap()
        .run(nothing_much(), false, &mut || Ok(()))
        .unwrap();
    daemon.stop();
}

/// A disk is added, a volume moved there by a change that is not persisted, and a host's flush rests on that.
fn serves_in_a_renamed_directory(pool: &TestPool, daemon: &support::Daemon, called: &PoolDir) {
    let b = pool.add_disk("b", 40).id;
    let volume = pool.store().volumes().unwrap()[0].id;
    let change = NewChange {
        delta: Delta {
            from: pool.store().header().unwrap().generation,
            edits: vec![Edit::Map {
                volume,
                segments: support::segments(0, &[(b, 1, 16)]),
            }],
        },
        ..nothing_much()
    };
    let mut controller = acquire(pool).unwrap();
    controller.run(change, false, &mut || Ok(())).unwrap();
    assert_eq!(controller.fenced(), []);
    let file = daemon.open("v");
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        file.write_all_at(b"after the rename", 0).unwrap();
        sender.send(file.sync_all().map(|()| file)).unwrap();
    });
    let Ok(flushed) = receiver.recv_timeout(PATIENCE) else {
        fs::rename(pool.dir.path(), called.path()).unwrap();
        panic!("a flush waits for the directory to be called as before");
    };
    drop(flushed.unwrap());
    drop(controller);
    let mut store = pool.store();
    assert_eq!(store.unfinished().unwrap(), []);
}

fn move_all(from: &Path, to: &Path) {
    let _ = fs::create_dir(to);
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        let _ = fs::remove_dir_all(&to);
        fs::rename(entry.path(), to).unwrap();
    }
}

fn write(file: &File, bytes: &[u8]) {
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
}

fn nothing_much() -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        delta: Delta {
            from: apparatus::model::units::Generation(0),
            edits: Vec::<Edit>::new(),
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

/// The database is deleted while an apparatus uses it. No second pool is created beside it;
/// the apparatus writes a copy, is stopped without a database, and the copy is restored.
#[test]
fn a_database_that_is_deleted_under_an_apparatus_is_restored_from_it() {
    let pool = pool();
    let daemon = pool.start("x");
    let file = daemon.open("v");
    write(&file, b"before");
    let generation = pool.store().header().unwrap().generation;
    for end in ["", "-wal", "-shm"] {
        fs::remove_file(pool.dir.path().join(format!("pool.db{end}"))).unwrap();
    }
    let refused = admin::pool::create(&pool.dir, pool.extent_size, None).unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Busy && refused.why().contains("deleted"),
        "{refused}"
    );
    let refused = admin::open(&pool.dir).err().unwrap();
    assert!(
        refused.way_out().unwrap().contains("vctl pool backup"),
        "{refused}"
    );

    let copy = pool.scratch().join("copy");
    let header = admin::backup::backup(&pool.dir, &copy).unwrap();
    assert_eq!(header.generation, generation);
    let found = admin::backup::inspect(&pool.dir, &copy, false).unwrap();
    let refused = admin::backup::restore(&pool.dir, &copy, &found, None).unwrap_err();
    assert!(refused.to_string().contains("apparatus x: runs"), "{refused}");
    let name = support::name_of("x");
    let refused = admin::apparatus::stop_unlisted(&pool.dir, &name, false, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "a host has it open: {refused}");
    drop(file);
    until("nobody has it open", || {
        admin::apparatus::stop_unlisted(&pool.dir, &name, false, PATIENCE).is_ok()
    });
    drop(daemon);
    admin::backup::restore(&pool.dir, &copy, &found, None).unwrap();
    let again = pool.start("x");
    assert_eq!(read_up_to(&again.open("v"), 6, 0), b"before");
    again.stop();
}
