//! Shared parts of the tests of moves: a pool of two disks with hosts at work, and jobs run here or in a process of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test that has this module uses a part of it"
)]

pub mod devices;

use super::history::load::{BLOCK_BYTES, Load, Plan, Report};
use super::history::{Op, check};
use super::support::{Daemon, TestPool, access};
use apparatus::controller::{Controller, PATIENCE as PATIENT, Wait};
use apparatus::jobs::{self, Observer, Request};
use apparatus::model::alloc::Faults;
use apparatus::model::change::{Owner, UsedArea};
use apparatus::model::error::Result;
use apparatus::model::job::{JobLimits, JobRecord, JobState};
use apparatus::model::records::{DiskAccess, Segment};
use apparatus::model::units::{DiskId, JobId, VolumeExtent, VolumeId};
use apparatus::protocol::controller::Patience;
use apparatus::store::Store;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Bound of every wait for an expected end.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// An observer that ignores progress and never stops a job.
pub struct Quiet;

impl Observer for Quiet {
    fn progress(&mut self, _: &JobRecord, _: u64, _: u64) -> bool {
        true
    }
}

/// Returns the full name of a test of the file that has this module, which may be a module of `direct.rs`.
pub fn beside(test: &str) -> String {
    let path: Vec<&str> = module_path!().split("::").collect();
    let modules = &path[1..path.len() - 1];
    modules
        .iter()
        .chain([&test])
        .copied()
        .collect::<Vec<_>>()
        .join("::")
}

/// A volume on the first of two disks.
pub struct Scene {
    pub pool: TestPool,
    pub disks: [DiskId; 2],
    pub volume: VolumeId,
    pub extents: u64,
}

impl Scene {
    /// Makes a volume of `extents` extents, in two pieces in reverse order on the disk.
    pub fn new(extent_size: u64, extents: u64) -> Self {
        Self::on(TestPool::new(extent_size), extents)
    }

    pub fn on(pool: TestPool, extents: u64) -> Self {
        let disks = ["a", "b"].map(|name| pool.add_disk(name, extents + 8).id);
        Self::with_disks(pool, disks, extents)
    }

    /// Makes it with the first disk's image in that directory.
    pub fn with_first_disk_in(dir: &Path, extent_size: u64, extents: u64) -> Self {
        let pool = TestPool::new(extent_size);
        let image = dir.join("a.img");
        File::create(&image)
            .unwrap()
            .set_len((extents + 8) * extent_size)
            .unwrap();
        std::os::unix::fs::symlink(&image, pool.image("a")).unwrap();
        let disks = [
            pool.adopt_disk("a", extents + 8).id,
            pool.add_disk("b", extents + 8).id,
        ];
        Self::with_disks(pool, disks, extents)
    }

    /// Makes it with this file or device as the second disk.
    pub fn with_second_disk_at(place: &Path, extent_size: u64, extents: u64) -> Self {
        let pool = TestPool::new(extent_size);
        std::os::unix::fs::symlink(place, pool.image("b")).unwrap();
        let disks = [
            pool.add_disk("a", extents + 8).id,
            pool.adopt_disk("b", extents + 8).id,
        ];
        Self::with_disks(pool, disks, extents)
    }

    fn with_disks(pool: TestPool, disks: [DiskId; 2], extents: u64) -> Self {
        let half = extents / 2;
        let placements = [
            (disks[0], 1 + extents - half, half),
            (disks[0], 1, extents - half),
        ];
        let volume = pool
            .add_volume("v", extents * pool.extent_size.bytes(), &placements)
            .id;
        Self {
            pool,
            disks,
            volume,
            extents,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.extents * self.pool.extent_size.bytes()
    }

    /// Returns how many bytes a move of the volume copies at most: in a direct pool each once more if hosts write it meanwhile.
    pub fn most_copied(&self) -> u64 {
        match access() {
            DiskAccess::Cached => self.bytes(),
            DiskAccess::Direct => 2 * self.bytes(),
        }
    }

    /// Starts hosts on each of these mounts.
    pub fn load(&self, daemons: &[&Daemon], threads: usize, survive: bool) -> Load {
        let files = daemons.iter().map(|daemon| daemon.path("v")).collect();
        Load::start(Plan {
            files,
            blocks: self.bytes() / BLOCK_BYTES,
            threads,
            writes: 5,
            survive,
        })
    }

    pub fn to(&self, disk: usize) -> Request {
        Request::Move {
            volume: self.volume,
            range: None,
            from: None,
            to: vec![self.disks[disk]],
            policy: None,
        }
    }

    pub fn create(&self, request: &Request, limits: JobLimits) -> JobId {
        let created = jobs::create(
            &mut self.pool.controller(),
            request,
            &Faults::new(),
            "test move",
            limits,
        );
        created.unwrap().expect("there is something to move")
    }

    /// Works on a job in this process.
    pub fn run(&self, job: JobId) -> Result<JobState> {
        jobs::run(&mut self.pool.controller(), job, &mut Quiet)
    }

    /// Moves the whole volume, in this process. Returns the job when it is done.
    pub fn move_to(&self, disk: usize) -> JobRecord {
        let job = self.create(&self.to(disk), JobLimits::default());
        assert_eq!(self.run(job).unwrap(), JobState::Done);
        self.job(job)
    }

    pub fn job(&self, job: JobId) -> JobRecord {
        self.pool.store().job(job).unwrap().unwrap()
    }

    pub fn segments(&self) -> Vec<Segment> {
        self.pool
            .store()
            .segments(self.volume, VolumeExtent(0), VolumeExtent(u64::MAX))
            .unwrap()
    }

    /// Returns the number of the volume's extents that lie on the disk.
    pub fn on_disk(&self, disk: usize) -> u64 {
        let there = |segment: &&Segment| segment.placement.disk == self.disks[disk];
        self.segments()
            .iter()
            .filter(there)
            .map(|segment| segment.placement.len)
            .sum()
    }

    /// Asserts that everything lies on this disk, in one piece, and no extent of any disk has another owner.
    pub fn assert_all_on(&self, disk: usize) {
        assert_eq!(self.on_disk(disk), self.extents);
        assert_eq!(self.segments().len(), 1, "{:?}", self.segments());
        self.assert_nothing_left_over();
    }

    /// Asserts that no extent is reserved for a change or a job, or quarantined.
    pub fn assert_nothing_left_over(&self) {
        assert_eq!(self.left_over(), []);
    }

    /// Frees what no apparatus uses any more until nothing is left over. One that was asked while it was busy is asked again.
    pub fn free_all(&self) {
        self.wait_until("all is freed", |_| {
            self.pool.controller().free().unwrap();
            self.left_over().is_empty()
        });
    }

    fn left_over(&self) -> Vec<UsedArea> {
        let uses = self
            .disks
            .iter()
            .flat_map(|disk| self.pool.store().uses(*disk).unwrap());
        uses.filter(|taken| !matches!(taken.owner, Owner::Volume(_)))
            .collect()
    }

    /// Asserts that `vctl pool check` finds nothing.
    pub fn assert_checked(&self) {
        assert_eq!(apparatus::admin::check::check(&self.pool.dir).unwrap(), vec![]);
    }

    /// Waits until the job has moved `extents` extents.
    pub fn wait_for_progress(&self, job: JobId, extents: u64) {
        self.wait_until("the job goes on", |store| {
            store
                .steps(job)
                .unwrap()
                .iter()
                .map(|step| step.done)
                .sum::<u64>()
                >= extents
        });
    }

    /// Waits until the job is in that state.
    pub fn wait_for_state(&self, job: JobId, state: JobState) {
        self.wait_until("the job changes", |store| {
            store.job(job).unwrap().unwrap().state == state
        });
    }

    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&mut dyn Store) -> bool) {
        let mut store = self.pool.store();
        let end = Instant::now() + PATIENCE;
        while !done(&mut *store) {
            assert!(
                Instant::now() < end,
                "waited in vain until {what}: {:?}",
                store.jobs()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Ends the hosts' work, and asserts that there were no errors and that the history is linearizable.
pub fn assert_sound(load: Load) -> Report {
    let report = load.finish();
    assert_eq!(report.errors, Vec::<String>::new());
    assert_linearizable(&report.history);
    report
}

pub fn assert_linearizable(history: &[Op]) {
    if let Err(violation) = check(history) {
        let of_block = history.iter().filter(|op| op.block == violation.block);
        let mut around: Vec<String> = of_block.map(|op| format!("{op:?}")).collect();
        around.sort_by_key(|line| line.len());
        panic!("{violation}\n{}", around.join("\n"));
    }
}

/// A process of its own that works on a job: this test program, with an environment that makes it run only [`work_on_a_job`].
pub struct Worker {
    child: Child,
}

const POOL: &str = "TEST_WORKER_POOL";
const JOB: &str = "TEST_WORKER_JOB";

impl Worker {
    /// Starts it; `failpoint` as `NAME=kill` or `NAME=stop`.
    pub fn start(scene: &Scene, job: JobId, failpoint: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                &beside("a_process_that_works_on_a_job"),
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(POOL, scene.pool.dir.path())
            .env(JOB, job.to_string())
            .stdout(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env(apparatus::failpoint::VARIABLE, failpoint);
        }
        Self {
            child: command.spawn().unwrap(),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let handle = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&handle, signal).unwrap();
    }

    /// Whether it is stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        stopped(self.child.id())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the worker does not end");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has ended or is stopped; true if it ended.
    pub fn wait_for_point(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            if self.is_stopped() {
                return false;
            }
            assert!(Instant::now() < end, "the worker neither ends nor stops");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is stopped by a signal.
pub fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// The body of the test `a_process_that_works_on_a_job`: nothing in an ordinary run.
pub fn work_on_a_job() {
    let (Ok(pool), Ok(job)) = (std::env::var(POOL), std::env::var(JOB)) else {
        return;
    };
    let pool = apparatus::model::dir::PoolDir::new(pool);
    let mut controller = Controller::acquire(&pool, "test", Wait::For(Some(PATIENCE))).unwrap();
    // A hold that is not released must not take the test's time.
    controller.set_patience(Patience {
        hold_us: 2_000_000,
        ..PATIENT
    });
    jobs::run(&mut controller, JobId(job.parse().unwrap()), &mut Quiet).unwrap();
}
