//! What is noticed by those who keep house, before anybody asks for it: an image that was cut short, and a member table that was removed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use apparatus::change::driver::{Controller, Wait};
use apparatus::error::Error;
use apparatus::member::MemberTable;
use apparatus::pool::model::{Difference, Edit};
use apparatus::store::{HoldMode, NewChange, Severity, Store};
use apparatus::sys::boot_id;
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::thread;
use std::time::{Duration, Instant};
use support::{Daemon, TestPool};

const EXTENT: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

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
fn a_truncated_image_is_told_before_anybody_touches_it() {
    let pool = pool();
    let daemon = pool.start("x");
    let image = OpenOptions::new().write(true).open(pool.image("a")).unwrap();
    image.set_len(9 * EXTENT).unwrap();
    let mut store = pool.store();
    let mut told = || {
        let events = store.events(0, 1000).unwrap();
        let left = format!("{} bytes are left", 9 * EXTENT);
        let about = |event: &&apparatus::store::Event| {
            event.subject == "disk a" && event.severity == Severity::Error && event.text.contains(&left)
        };
        events.iter().filter(about).count()
    };
    until("the loss is told", || told() > 0);
    daemon.stop();
    assert_eq!(told(), 1, "once");
}

fn acquire(pool: &TestPool) -> Result<Controller, Error> {
    Controller::acquire(&pool.dir, "test", Wait::For(Some(PATIENCE)))
}

/// Someone who looks, like `vctl status`, makes the table anew; nobody who comes later may take it for the one that all look at.
#[test]
fn a_removed_member_table_is_noticed_by_every_apparatus_and_every_controller() {
    let pool = pool();
    let [mut x, mut y] = ["x", "y"].map(|name| pool.start(name));
    let mut acting = acquire(&pool).unwrap();
    y.signal(Signal::STOP);
    fs::remove_file(pool.dir.run().join("members")).unwrap();
    let uuid = pool.store().header().unwrap().uuid;
    let anew = MemberTable::open(&pool.dir.run(), uuid, boot_id().unwrap()).unwrap();
    assert!(anew.made_anew());

    let refused = acting.run(nothing_much(), false, &mut || Ok(())).unwrap_err();
    assert!(refused.to_string().contains("was taken away"), "{refused}");
    drop(acting);
    leaves(&mut x);
    for _ in 0..2 {
        let refused = acquire(&pool).err().unwrap();
        let told = refused.to_string();
        assert!(
            told.contains("was removed") && told.contains("apparatus y"),
            "{told}"
        );
    }
    y.signal(Signal::CONT);
    leaves(&mut y);
    acquire(&pool).unwrap();
    let again = pool.start("x");
    acquire(&pool).unwrap();
    again.stop();
}

fn leaves(daemon: &mut Daemon) {
    daemon.wait();
    assert!(
        daemon.said().contains("the member table was taken away"),
        "{}",
        daemon.said()
    );
}

fn nothing_much() -> NewChange {
    NewChange {
        title: "test".into(),
        job: None,
        difference: Difference {
            from: apparatus::units::Generation(0),
            edits: Vec::<Edit>::new(),
        },
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}
