//! Every process is killed, and stopped for a while, at every step of the protocol, while hosts work on two apparatuses and a
//! volume moves. Afterwards the next controller completes the move, every host goes on, what hosts read is linearizable, nothing
//! is lost, and no extent is leaked. Only hosts of an apparatus that was killed get errors. `pool check` finds nothing then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
#[path = "kill/slow.rs"]
mod slow;
#[path = "kill/stopped.rs"]
mod stopped;
mod support;

use apparatus::controller::pool::open_store;
use apparatus::controller::{Controller, PATIENCE as PATIENT, Wait};
use apparatus::failpoint::{Point, VARIABLE};
use apparatus::jobs;
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::member::MemberState;
use apparatus::model::records::{Delta, DiskAccess, Span};
use apparatus::model::units::{ByteCount, JobId};
use apparatus::protocol::controller::Patience;
use history::load::{Load, Report};
use moving::{PATIENCE, Scene, Worker, assert_linearizable, stopped};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::Daemon;

const EXTENT: u64 = 64 << 10;
const EXTENTS: u64 = 96;
/// The longest wait for something that an apparatus does every few seconds.
const LONG: Duration = Duration::from_secs(100);

#[test]
fn a_process_that_works_on_a_job() {
    moving::work_on_a_job();
}

/// What is needed to reach a point, beyond a move under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// Nothing.
    Move,
    /// An apparatus is stopped until it is fenced, and then continued.
    Fence,
    /// The controller dies in the middle of a hold.
    DeadController,
    /// A host flushes while a change is committed and not persisted: it does nothing else.
    HostFlush,
    /// Requests in flight do not finish, because a disk is slow: see `a_slow_disk…`.
    SlowDisk,
    /// A chunk is copied before its hold, as in direct pools alone.
    CopyAhead,
    /// The controller dies after a commit, and another apparatus is stopped: the others do not follow.
    DeadControllerAndSilence,
}

fn occasion(point: Point) -> Occasion {
    match point {
        Point::ControllerCancelled => Occasion::SlowDisk,
        Point::ControllerFenceRecorded
        | Point::ControllerFenced
        | Point::ApparatusFenced
        | Point::ApparatusDrainedForRejoin
        | Point::ApparatusRejoined
        | Point::ApparatusReloaded => Occasion::Fence,
        Point::ApparatusCancelling | Point::ApparatusCancelAnswered | Point::ApparatusAwaiting => {
            Occasion::DeadController
        }
        Point::ApparatusTakingOver => Occasion::DeadControllerAndSilence,
        Point::ControllerNoted
        | Point::ControllerCopied
        | Point::ApparatusNoteAsked
        | Point::ApparatusNotingSent => Occasion::CopyAhead,
        Point::ApparatusFlushed | Point::ApparatusRecorded | Point::ApparatusPersisted => Occasion::HostFlush,
        _ => Occasion::Move,
    }
}

/// How often the point is passed before it takes effect: an apparatus that starts waits for the others once.
fn armed(point: Point, name: &str, action: &str) -> String {
    let time = if point == Point::ApparatusAwaiting { 2 } else { 1 };
    format!("{name}={action}@{time}")
}

fn points(of: &'static str) -> impl Iterator<Item = (Point, &'static str)> {
    let is_wanted = |point| match occasion(point) {
        Occasion::SlowDisk => false,
        Occasion::CopyAhead => support::access() == DiskAccess::Direct,
        _ => true,
    };
    let wanted = move |(point, name): &(Point, &str)| name.starts_with(of) && is_wanted(*point);
    Point::ALL.into_iter().filter(wanted)
}

/// A rate so low that several changes are still to come when something happens, with some flushes in between.
fn limits() -> JobLimits {
    JobLimits {
        rate: Some(ByteCount(64 * EXTENT)),
        ..JobLimits::default()
    }
}

/// Two apparatuses under load, and a job.
struct Trial {
    scene: Scene,
    x: Option<Daemon>,
    y: Option<Daemon>,
    load: Load,
    job: JobId,
}

impl Trial {
    fn new(failpoint: Option<&str>) -> Self {
        Self::with([None, failpoint])
    }

    /// Arms this point in apparatus y. Where y is to wait for a silent x, x stops by itself when it has answered the first hold.
    fn of(point: Point, failpoint: &str) -> Self {
        let silent = occasion(point) == Occasion::DeadControllerAndSilence;
        Self::with([silent.then_some("apparatus.held-sent=stop@1"), Some(failpoint)])
    }

    /// The points are armed in apparatuses x and y.
    fn with([of_x, failpoint]: [Option<&str>; 2]) -> Self {
        let scene = Scene::new(EXTENT, EXTENTS);
        let x = start(&scene, "x", of_x);
        let y = start(&scene, "y", failpoint);
        let load = scene.load(&[&x, &y], 2, true);
        load.wait_for(300, PATIENCE);
        let job = scene.create(&scene.to(1), limits());
        Self {
            scene,
            x: Some(x),
            y: Some(y),
            load,
            job,
        }
    }

    /// Asserts that hosts go on.
    fn alive(&self) {
        self.load.wait_for(50, PATIENCE);
    }

    /// Removes the job's limits, unless it has ended.
    fn hurry(&self) {
        let ended = jobs::set_limits(&mut *self.scene.pool.store(), self.job, JobLimits::default());
        assert!(
            ended.is_ok() || self.scene.job(self.job).state == JobState::Done,
            "{ended:?}"
        );
    }

    /// Completes the move at full speed in this process, whatever was left.
    fn end_job(&self) {
        self.hurry();
        assert_eq!(self.scene.run(self.job).unwrap(), JobState::Done);
    }

    fn restart_y(&mut self) {
        self.y.take().unwrap().kill();
        self.y = Some(start(&self.scene, "y", None));
    }

    /// Waits until all apparatuses are in the control range.
    fn wait_for_all_joined(&self) {
        self.scene.wait_until("all have joined", |store| {
            let (_, members) = store.members().unwrap();
            members.len() == 2 && members.iter().all(|member| member.state == MemberState::Joined)
        });
    }

    /// Asserts that everything is correct. Writes through y that were under way in `pause` may have had their effect twice.
    fn finish(self, pause: Option<(u64, u64)>, y_was_killed: bool) -> Report {
        self.alive();
        self.wait_for_all_joined();
        let Self {
            scene, x, y, load, ..
        } = self;
        let mut report = load.finish();
        if let Some((from, to)) = pause {
            for op in report.history.iter_mut().filter(|op| op.through == 1) {
                op.twice = op.start < to && op.end.is_none_or(|end| end > from);
            }
        }
        let strange = report
            .errors
            .iter()
            .filter(|error| !(y_was_killed && error.contains("/y/")));
        assert_eq!(strange.collect::<Vec<_>>(), Vec::<&String>::new());
        assert_linearizable(&report.history);
        // Extents that were kept because an apparatus might use them are free once it cannot.
        scene.free_all();
        scene.assert_all_on(1);
        scene.assert_checked();
        x.unwrap().stop();
        y.unwrap().stop();
        scene.assert_checked();
        report
    }
}

fn start(scene: &Scene, name: &str, failpoint: Option<&str>) -> Daemon {
    let mut command = scene.pool.command(name, &scene.pool.mount_point(name));
    if let Some(failpoint) = failpoint {
        command.env(VARIABLE, failpoint);
    }
    Daemon::start(command, scene.pool.scratch(), name, scene.pool.mount_point(name))
}

/// Waits until a process has ended (true) or is stopped (false).
fn reached(daemon: &Daemon) -> bool {
    let end = Instant::now() + PATIENCE;
    loop {
        if !daemon.is_alive() {
            return true;
        }
        if stopped(daemon.pid()) {
            return false;
        }
        assert!(
            Instant::now() < end,
            "neither ended nor stopped\n{}",
            daemon.log_text()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs the job in a process of its own until it dies or stops there. Silences apparatus y if that is needed.
fn worker_reaches(trial: &Trial, point: Point, name: &str, action: &str) -> (Worker, bool) {
    if matches!(
        point,
        Point::ControllerFlushed | Point::ControllerRecorded | Point::ControllerPersisted
    ) {
        trial.load.without_flushes();
    }
    let mut worker = Worker::start(&trial.scene, trial.job, Some(&format!("{name}={action}")));
    if occasion(point) == Occasion::Fence {
        trial.y.as_ref().unwrap().signal(Signal::STOP);
    }
    let died = worker.wait_for_point();
    (worker, died)
}

#[test]
fn the_controller_dies_at_every_step() {
    for (point, name) in points("controller.") {
        println!("{name}");
        let trial = Trial::new(None);
        let from = trial.load.now();
        let (mut worker, died) = worker_reaches(&trial, point, name, "kill");
        assert!(died && !worker.wait().success(), "{name} was not reached");
        trial.y.as_ref().unwrap().signal(Signal::CONT);
        trial.alive();
        trial.end_job();
        let pause = (occasion(point) == Occasion::Fence).then(|| (from, trial.load.now()));
        trial.finish(pause, false);
    }
}

#[test]
fn the_controller_stops_for_a_while_at_every_step() {
    for (point, name) in points("controller.") {
        println!("{name}");
        let trial = Trial::new(None);
        let from = trial.load.now();
        let (mut worker, died) = worker_reaches(&trial, point, name, "stop");
        assert!(!died, "{name} was not reached");
        trial.y.as_ref().unwrap().signal(Signal::CONT);
        // No hold outlives its deadline: the hosts go on while the controller does not.
        trial.alive();
        trial.hurry();
        worker.signal(Signal::CONT);
        assert!(worker.wait().success(), "{name}: the worker went on and failed");
        assert_eq!(trial.scene.job(trial.job).state, JobState::Done);
        let pause = (occasion(point) == Occasion::Fence).then(|| (from, trial.load.now()));
        trial.finish(pause, false);
    }
}

/// Brings apparatus y to its failpoint. The job may have ended by then, or be abandoned.
fn bring_to_point(trial: &Trial, point: Point) -> bool {
    let (x, y) = (trial.x.as_ref().unwrap(), trial.y.as_ref().unwrap());
    match occasion(point) {
        Occasion::Move | Occasion::CopyAhead => {
            let worker = Worker::start(&trial.scene, trial.job, None);
            let died = reached(y);
            drop(worker);
            died
        }
        Occasion::HostFlush => {
            let file = File::open(y.path("v")).unwrap();
            // This ends when y dies, or goes on and receives the request to stop.
            let enough = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&enough);
            thread::spawn(move || while !stop.load(Ordering::Relaxed) && file.sync_data().is_ok() {});
            let worker = Worker::start(&trial.scene, trial.job, None);
            let died = reached(y);
            enough.store(true, Ordering::Relaxed);
            drop(worker);
            died
        }
        Occasion::Fence => {
            y.signal(Signal::STOP);
            let mut worker = Worker::start(&trial.scene, trial.job, None);
            trial.scene.wait_until("y is fenced", |store| {
                let (_, members) = store.members().unwrap();
                members.iter().any(|member| member.state == MemberState::Fenced)
            });
            y.signal(Signal::CONT);
            let died = reached(y);
            trial.hurry();
            worker.wait();
            died
        }
        Occasion::SlowDisk => unreachable!("has a test of its own"),
        Occasion::DeadController => {
            let at = if point == Point::ApparatusAwaiting {
                "controller.committed=kill"
            } else {
                "controller.held=kill"
            };
            Worker::start(&trial.scene, trial.job, Some(at)).wait();
            reached(y)
        }
        Occasion::DeadControllerAndSilence => {
            // x has stopped before it could apply, so y waits until its limit.
            Worker::start(&trial.scene, trial.job, Some("controller.committed=kill")).wait();
            let died = reached(y);
            x.signal(Signal::CONT);
            died
        }
    }
}

#[test]
fn an_apparatus_dies_at_every_step() {
    for (point, name) in points("apparatus.") {
        println!("{name}");
        let mut trial = Trial::of(point, &armed(point, name, "kill"));
        let from = trial.load.now();
        assert!(bring_to_point(&trial, point), "{name} was not reached");
        trial.restart_y();
        trial.alive();
        trial.end_job();
        let pause = Some((from, trial.load.now()));
        trial.finish(pause, true);
    }
}

#[test]
fn an_apparatus_stops_for_a_while_at_every_step() {
    for (point, name) in points("apparatus.") {
        println!("{name}");
        let trial = Trial::of(point, &armed(point, name, "stop"));
        let from = trial.load.now();
        assert!(!bring_to_point(&trial, point), "{name} was not reached");
        // Without it the move goes on.
        trial.end_job();
        trial.y.as_ref().unwrap().signal(Signal::CONT);
        trial.wait_for_all_joined();
        let pause = Some((from, trial.load.now()));
        trial.finish(pause, false);
    }
}

#[test]
fn everybody_is_killed_at_once_and_all_that_was_acknowledged_is_there() {
    let mut trial = Trial::new(None);
    let mut worker = Worker::start(&trial.scene, trial.job, None);
    trial.scene.wait_for_progress(trial.job, 10);
    for signalled in [&trial.x, &trial.y] {
        signalled.as_ref().unwrap().signal(Signal::KILL);
    }
    worker.signal(Signal::KILL);
    worker.wait();
    trial.x.take().unwrap().kill();
    trial.y.take().unwrap().kill();
    trial.x = Some(start(&trial.scene, "x", None));
    trial.y = Some(start(&trial.scene, "y", None));
    trial.alive();
    trial.end_job();
    let Trial {
        scene, x, y, load, ..
    } = trial;
    let report = load.finish();
    assert_linearizable(&report.history);
    scene.assert_all_on(1);
    scene.assert_checked();
    x.unwrap().stop();
    y.unwrap().stop();
}

/// The label's number rises while hosts write, so a copy that lacks their writes is refused, although the apparatus had no chance to say that it ended.
#[test]
fn a_copy_of_a_disk_from_before_a_kill_is_refused_after_it() {
    let pool = support::TestPool::new(EXTENT);
    let disk = pool.add_disk("a", 16).id;
    pool.add_volume("v", 4 * EXTENT, &[(disk, 1, 4)]);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    let (image, copy, newest) = (pool.image("a"), pool.image("copy"), pool.image("newest"));
    let label = || pool.store().disks().unwrap()[0].label;
    std::fs::copy(&image, &copy).unwrap();
    // A label is written before it is recorded, so the copy may be one ahead.
    let copied = label() + 1;
    let end = Instant::now() + LONG;
    while label() <= copied {
        assert!(Instant::now() < end, "the label stays at {}", label());
        file.write_all_at(&[7; 4096], 0).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    file.sync_all().unwrap();
    daemon.kill();
    std::fs::rename(&image, &newest).unwrap();
    std::fs::rename(&copy, &image).unwrap();
    let daemon = pool.start("x");
    assert!(std::fs::read(daemon.path("v")).is_err());
    assert!(
        daemon.log_text().contains("is an older copy"),
        "{}",
        daemon.log_text()
    );
    daemon.stop();
    std::fs::rename(&newest, &image).unwrap();
    let daemon = pool.start("x");
    assert_eq!(support::read_up_to(&daemon.open("v"), 4096, 0), [7; 4096]);
    daemon.stop();
}
