//! An apparatus whose disks have faults set by a test: the errors that hosts get, and that other volumes go on.

use super::*;
use apparatus::cluster;
use apparatus::model::event::Event;
use apparatus::model::member::{Member, MemberState};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// Fault rules for the disks of a pool, in the file from which the apparatus reads them.
pub(crate) struct Faults {
    file: PathBuf,
    disk: PathBuf,
}

impl Faults {
    pub(crate) fn of(pool: &TestPool, disk: &str) -> Self {
        let faults = Self {
            file: pool.scratch().join("faults.ron"),
            disk: pool.image(disk),
        };
        faults.set("");
        faults
    }

    /// Writes the rules, each in RON; no rule is no fault.
    pub(crate) fn set(&self, rules: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{{ {:?}: [{rules}] }}", self.disk)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    pub(crate) fn start(&self, pool: &TestPool, name: &str) -> Daemon {
        let mount = pool.mount_point(name);
        let mut command = pool.command(name, &mount);
        command.env("APPARATUS_FAULTS", &self.file);
        Daemon::start(command, pool.scratch(), name, mount)
    }
}

/// Repeats until the condition holds: the apparatus reads the file a hundred times a second.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "not so: {what}");
        thread::yield_now();
    }
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().and_then(|why| why.raw_os_error())
}

fn opened(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn hosts_get_the_errors_of_the_disk_and_go_on_when_it_works() {
    let pool = TestPool::new(EXTENT);
    let (a, b) = (pool.add_disk("a", 64).id, pool.add_disk("b", 64).id);
    pool.add_volume("v", 8 * EXTENT, &[(a, 1, 8)]);
    pool.add_volume("w", 8 * EXTENT, &[(b, 1, 8)]);
    let faults = Faults::of(&pool, "a");
    let daemon = faults.start(&pool, "x");
    let (v, w) = (opened(&daemon.path("v")), opened(&daemon.path("w")));
    let bytes = Random::new(5).bytes(3 * EXTENT as usize);

    faults.set("(on: Any, fault: Short(5000))");
    v.write_all_at(&bytes, 100).unwrap();
    v.sync_all().unwrap();
    assert_eq!(read_up_to(&v, bytes.len(), 100), bytes);

    faults.set(&format!("(on: Write, fault: Error({}))", libc::ENOSPC));
    until("no space", || {
        errno(v.write_all_at(&[1], 0)) == Some(libc::ENOSPC)
    });
    w.write_all_at(&[1], 0).unwrap();

    faults.set("(on: Write, fault: Hang)");
    let hung = thread::spawn({
        let v = opened(&daemon.path("v"));
        // Before the apparatus has seen the new rule a write fails as before, or reaches the disk.
        move || until("written", || v.write_all_at(&[9; 4096], EXTENT).is_ok())
    });
    w.write_all_at(&bytes, 0).unwrap();
    w.sync_all().unwrap();
    faults.set("");
    hung.join().unwrap();
    assert_eq!(read_up_to(&v, 4096, EXTENT), [9; 4096]);

    faults.set(&format!("(on: Flush, fault: Error({}))", libc::EIO));
    until("a lost flush", || {
        v.write_all_at(&[2], 0).unwrap();
        errno(v.sync_all()) == Some(libc::EIO)
    });
    w.write_all_at(&[3], 0).unwrap();
    w.sync_all().unwrap();
    faults.set("");
    daemon.stop();
}

/// Volume `v` on disk `a`, `w` on disk `b`, and the faults of disk `b`.
fn scene_with_faults_of_b() -> (Scene, Faults) {
    let scene = Scene::new(EXTENT, 16);
    let w = [(scene.disks[1], 18, 4)];
    scene.pool.add_volume("w", 4 * EXTENT, &w);
    let faults = Faults::of(&scene.pool, "b");
    (scene, faults)
}

/// Has flushes of the file fail until one has, and then succeed again.
fn lose_a_flush(faults: &Faults, file: &File) {
    let flushed = || {
        file.write_all_at(&[7; 4096], 0).unwrap();
        errno(file.sync_all())
    };
    faults.set(&format!("(on: Flush, fault: Error({}))", libc::EIO));
    until("a flush fails", || flushed() == Some(libc::EIO));
    faults.set("");
    until("flushes succeed", || flushed().is_none());
}

fn member(scene: &Scene, name: &str) -> Member {
    let (_, members) = scene.pool.store().members().unwrap();
    let mut named = members.into_iter().filter(|member| member.name.as_str() == name);
    named.next().unwrap()
}

/// Waits until the control thread has done all that it does regularly.
fn await_heartbeats(scene: &Scene, name: &str) {
    let uuid = scene.pool.store().header().unwrap().uuid;
    let shared = cluster::open(&scene.pool.dir).unwrap().share(uuid).unwrap();
    let slot = member(scene, name).slot;
    for _ in 0..2 {
        let before = shared.members.entry(slot).heartbeat_us;
        until("a heartbeat", || {
            shared.members.entry(slot).heartbeat_us != before
        });
    }
}

/// Moves `v` to disk `b` while the apparatus is stopped, which gets it fenced, and runs `meanwhile` before it continues and rejoins.
fn move_unseen_by(scene: &Scene, daemon: &Daemon, name: &str, meanwhile: impl FnOnce()) {
    let life = member(scene, name).incarnation;
    daemon.signal(Signal::STOP);
    scene.move_to(1);
    meanwhile();
    daemon.signal(Signal::CONT);
    until("the apparatus has rejoined", || {
        let member = member(scene, name);
        member.state == MemberState::Joined && member.incarnation > life
    });
}

#[test]
fn failures_before_a_volume_came_are_not_reported_after_a_rejoin() {
    let (scene, faults) = scene_with_faults_of_b();
    let daemon = faults.start(&scene.pool, "x");
    let (v, w) = (daemon.open("v"), daemon.open("w"));
    lose_a_flush(&faults, &w);
    await_heartbeats(&scene, "x");
    move_unseen_by(&scene, &daemon, "x", || ());
    v.write_all_at(&[1; 4096], 0).unwrap();
    v.sync_all().unwrap();
    w.sync_all().unwrap();
    lose_a_flush(&faults, &w);
    assert_eq!(errno(v.sync_all()), Some(libc::EIO), "this one is of now");
    v.sync_all().unwrap();
    daemon.stop();
}

#[test]
fn failures_since_a_volume_came_are_reported_once_after_a_rejoin() {
    let (scene, faults) = scene_with_faults_of_b();
    let (x, y) = (faults.start(&scene.pool, "x"), faults.start(&scene.pool, "y"));
    let (seen_by_x, seen_by_y) = (x.open("v"), y.open("v"));
    move_unseen_by(&scene, &x, "x", || lose_a_flush(&faults, &seen_by_y));
    assert_eq!(errno(seen_by_x.sync_all()), Some(libc::EIO));
    seen_by_x.sync_all().unwrap();
    x.stop();
    y.stop();
}

#[test]
fn a_disk_that_hangs_is_in_the_events_when_it_begins_and_when_it_answers_again() {
    let (scene, faults) = scene_with_faults_of_b();
    let daemon = faults.start(&scene.pool, "x");
    let w = daemon.open("w");
    faults.set("(on: Write, fault: Hang)");
    let hung = thread::spawn(move || until("written", || w.write_all_at(&[9; 4096], 0).is_err()));
    let event = |severity, words: &str| {
        scene.wait_until(words, |store| {
            let events = store.events(0, 1000).unwrap();
            let is_it = |event: &Event| event.subject == "disk b" && event.text.contains(words);
            events
                .iter()
                .any(|event| is_it(event) && event.severity == severity)
        });
    };
    event(Severity::Warning, "does not answer");
    faults.set(&format!("(on: Write, fault: Error({}))", libc::EIO));
    hung.join().unwrap();
    event(Severity::Info, "answers again");
    let log = daemon.log_text();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap();
    assert!(line("does not answer: requests").contains("[WARN]"), "{log}");
    assert!(line("answers again: requests").contains("[INFO]"), "{log}");
    daemon.stop();
}
