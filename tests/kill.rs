//! Every process dies, and stops for a while, at every step of the protocol, while hosts work on two apparatuses and a volume moves.
//! Afterwards: the move is ended by whoever comes next, every host goes on, what hosts saw is linearizable, nothing is lost, no extent is
//! left over. Only hosts of an apparatus that was killed see errors. `pool check` finds nothing then.
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

use apparatus::change::controller::Patience;
use apparatus::change::driver::{Controller, PATIENCE as PATIENT, Wait};
use apparatus::change::failpoint::{Point, VARIABLE};
use apparatus::change::jobs;
use apparatus::pool::dir::PoolDir;
use apparatus::pool::model::{Difference, Span};
use apparatus::store::sqlite::SqliteStore;
use apparatus::store::{HoldMode, JobLimits, JobState, MemberState, NewChange, Store};
use apparatus::units::{ByteCount, JobId};
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

#[test]
fn a_process_that_works_on_a_job() {
    moving::work_on_a_job();
}

/// What has to happen for a point to be reached, beyond a move under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// Nothing.
    Move,
    /// An apparatus is stopped until it is fenced, and goes on then.
    Fence,
    /// The controller dies in the middle of a hold.
    DeadController,
    /// A host flushes while something is committed and not hardened: it does nothing else.
    HostFlush,
    /// Requests in flight do not finish, because a disk is slow: see `a_slow_disk…`.
    SlowDisk,
    /// The controller dies after a commit, and another apparatus is stopped: the others are waited for in vain.
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
        Point::ApparatusFlushed | Point::ApparatusHardened => Occasion::HostFlush,
        _ => Occasion::Move,
    }
}

/// How often the point is passed before it counts: an apparatus that starts waits for the others once.
fn armed(point: Point, name: &str, action: &str) -> String {
    let time = if point == Point::ApparatusAwaiting { 2 } else { 1 };
    format!("{name}={action}@{time}")
}

fn points(of: &'static str) -> impl Iterator<Item = (Point, &'static str)> {
    let wanted =
        move |(point, name): &(Point, &str)| name.starts_with(of) && occasion(*point) != Occasion::SlowDisk;
    Point::ALL.into_iter().filter(wanted)
}

/// Slow enough that several changes are still to come when something happens, with some flushes in between.
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
    /// `failpoint` is armed in apparatus y.
    fn new(failpoint: Option<&str>) -> Self {
        let scene = Scene::new(EXTENT, EXTENTS);
        let x = scene.pool.start("x");
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

    /// Hosts get on.
    fn alive(&self) {
        self.load.wait_for(50, PATIENCE);
    }

    /// No limit on the job any more, unless it has ended.
    fn hurry(&self) {
        let ended = jobs::set_limits(&mut self.scene.pool.store(), self.job, JobLimits::default());
        assert!(
            ended.is_ok() || self.scene.job(self.job).state == JobState::Done,
            "{ended:?}"
        );
    }

    /// The move is ended at full speed by this process, whatever was left.
    fn end_job(&self) {
        self.hurry();
        assert_eq!(self.scene.run(self.job).unwrap(), JobState::Done);
    }

    fn restart_y(&mut self) {
        self.y.take().unwrap().kill();
        self.y = Some(start(&self.scene, "y", None));
    }

    /// All apparatuses are in the control range.
    fn wait_for_all_joined(&self) {
        self.scene.wait_until("all have joined", |store| {
            let (_, members) = store.members().unwrap();
            members.len() == 2 && members.iter().all(|member| member.state == MemberState::Joined)
        });
    }

    /// Everything is as it should be. Writes through y that were under way in `pause` may have had their effect twice.
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
        // What was kept because an apparatus might use it is free once it cannot.
        scene.pool.controller().free().unwrap();
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
            daemon.said()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs the job in a process of its own until it dies or stops there. Silences apparatus y if that is what it takes.
fn worker_reaches(trial: &Trial, point: Point, name: &str, action: &str) -> (Worker, bool) {
    if matches!(point, Point::ControllerFlushed | Point::ControllerHardened) {
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
        // No hold outlives its time: the hosts get on while the controller does not.
        trial.alive();
        trial.hurry();
        worker.signal(Signal::CONT);
        assert!(worker.wait().success(), "{name}: the worker went on and failed");
        assert_eq!(trial.scene.job(trial.job).state, JobState::Done);
        let pause = (occasion(point) == Occasion::Fence).then(|| (from, trial.load.now()));
        trial.finish(pause, false);
    }
}

/// Brings apparatus y to its failpoint. The job may have ended by then, or be nobody's.
fn bring_to_point(trial: &Trial, point: Point) -> bool {
    let (x, y) = (trial.x.as_ref().unwrap(), trial.y.as_ref().unwrap());
    match occasion(point) {
        Occasion::Move => {
            let worker = Worker::start(&trial.scene, trial.job, None);
            let died = reached(y);
            drop(worker);
            died
        }
        Occasion::HostFlush => {
            let file = File::open(y.path("v")).unwrap();
            // Ends when y dies, or goes on and hears that it is enough.
            let enough = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&enough);
            thread::spawn(move || while !told.load(Ordering::Relaxed) && file.sync_data().is_ok() {});
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
            // x is stopped before it can apply, so y waits for it in vain.
            let mut worker = Worker::start(&trial.scene, trial.job, Some("controller.committed=stop"));
            assert!(!worker.wait_for_point());
            x.signal(Signal::STOP);
            worker.signal(Signal::KILL);
            worker.wait();
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
        let mut trial = Trial::new(Some(&armed(point, name, "kill")));
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
        let trial = Trial::new(Some(&armed(point, name, "stop")));
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
