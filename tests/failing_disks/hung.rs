//! One disk hangs: it is a loop device over a volume of another pool, whose apparatus is stopped. All that does not need it goes on, and
//! what needs it is refused by its name in bounded time.

use super::moving::devices::Loop;
use super::support::{Daemon, TestPool};
use super::{EXTENT, Stopped};
use apparatus::admin::disk::NewDisk;
use apparatus::admin::plan::DiskChange;
use apparatus::admin::send::send;
use apparatus::admin::{check, disk, status};
use apparatus::controller::{Controller, Wait};
use apparatus::jobs::{self, Observer, Request};
use apparatus::model::alloc::Faults;
use apparatus::model::error::ErrorKind;
use apparatus::model::job::{JobLimits, JobRecord, JobState};
use apparatus::model::member::{Member, MemberState};
use apparatus::model::records::DiskRecord;
use apparatus::model::units::{ByteCount, JobId, VolumeId};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const EXTENTS: u64 = 64;
/// Longer than all bounded waits of one command together.
const BOUND: Duration = Duration::from_secs(150);

/// A pool with a disk `a` that answers, and `b` that does not while the server is stopped. Volume `v` is on `a`.
struct Scene {
    pool: TestPool,
    a: DiskRecord,
    b: DiskRecord,
    _device: Loop,
    server: Daemon,
    _below: TestPool,
}

impl Scene {
    fn new() -> Option<Self> {
        let below = TestPool::new(EXTENT);
        let under = below.add_disk("under", EXTENTS + 8).id;
        below.add_volume("image", EXTENTS * EXTENT, &[(under, 1, EXTENTS)]);
        let server = below.start("below");
        let device = Loop::over(&server.path("image"))?;
        let pool = TestPool::new(EXTENT);
        let a = pool.add_disk("a", EXTENTS);
        std::os::unix::fs::symlink(&device.path, pool.image("b")).unwrap();
        let b = pool.adopt_disk("b", EXTENTS);
        pool.add_volume("v", 8 * EXTENT, &[(a.id, 1, 8)]);
        Some(Self {
            pool,
            a,
            b,
            _device: device,
            server,
            _below: below,
        })
    }

    /// Creates a job that moves the volume to the disk that answers.
    fn job_to_a(&self, controller: &mut Controller, volume: VolumeId) -> JobId {
        let request = Request::Move {
            volume,
            range: None,
            from: None,
            to: vec![self.a.id],
            policy: None,
        };
        let created = jobs::create(controller, &request, &Faults::new(), "test", JobLimits::default());
        created.unwrap().unwrap()
    }

    fn controller(&self) -> Controller {
        Controller::acquire(&self.pool.dir, "test", Wait::For(Some(BOUND))).unwrap()
    }

    fn member(&self, name: &str) -> Member {
        let (_, members) = self.pool.store().members().unwrap();
        members
            .into_iter()
            .find(|member| member.name.as_str() == name)
            .unwrap()
    }

    fn new_disk(&self, name: &str) -> NewDisk {
        NewDisk {
            path: self.pool.image(name),
            name: None,
            create: Some(ByteCount(16 * EXTENT)),
            preallocate: false,
            tags: BTreeSet::new(),
            allocate: true,
            reserve: ByteCount(0),
        }
    }
}

/// Ends by itself within [`BOUND`]. A call that hangs is ended by the watchdogs of the apparatuses.
fn bounded<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = call();
    assert!(began.elapsed() < BOUND, "{what} took {:?}", began.elapsed());
    answer
}

#[test]
fn changes_of_other_disks_go_on_and_no_apparatus_is_fenced() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.pool.start("x");
    let life = scene.member("x").incarnation;
    let stopped = Stopped::new(&scene.server);
    bounded("resize of a", || {
        let mut controller = scene.controller();
        let size = Some(ByteCount((EXTENTS + 8) * EXTENT));
        let sent = disk::resize(&mut controller, "test", "a", size).unwrap();
        assert!(sent.is_some() && controller.fenced().is_empty());
    });
    bounded("adding another disk", || {
        let mut controller = scene.controller();
        disk::add(&mut controller, "test", &scene.new_disk("c")).unwrap();
        assert!(controller.fenced().is_empty());
    });
    bounded("no more on b", || {
        let mut controller = scene.controller();
        let closed = DiskChange {
            allocate: Some(false),
            ..DiskChange::default()
        };
        let planned = disk::plan_set(controller.store(), "b", &closed).unwrap().unwrap();
        send(&mut controller, "test", &planned).unwrap();
        assert!(controller.fenced().is_empty());
    });
    let problems = bounded("check", || check::check(&scene.pool.dir).unwrap());
    assert!(
        problems.iter().any(|problem| problem.subject.contains("disk b")),
        "{problems:?}"
    );
    let seen = bounded("status", || {
        status::status(&scene.pool.dir, &mut *scene.pool.store()).unwrap()
    });
    assert!(!seen.healthy());
    bounded("removing b", || {
        let mut controller = scene.controller();
        let (_, left) = disk::remove(&mut controller, "test", "b").unwrap();
        assert_eq!(
            left.unwrap().kind(),
            ErrorKind::TimedOut,
            "its label cannot be erased"
        );
        assert!(controller.fenced().is_empty());
    });
    let file = daemon.open("v");
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    let member = scene.member("x");
    assert_eq!((member.incarnation, member.state), (life, MemberState::Joined));
    drop((file, stopped));
    daemon.stop();
}

#[test]
fn what_needs_the_disk_is_refused_by_its_name() {
    let Some(scene) = Scene::new() else { return };
    let stopped = Stopped::new(&scene.server);
    let mut controller = bounded("acquiring", || scene.controller());
    assert!(controller.disks().get(scene.a.id).is_some());
    let refused = bounded("opening", || controller.open_disks([scene.b.id]).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert!(refused.what().contains("disk b"), "{refused}");
    drop(stopped);
    controller.open_disks([scene.b.id]).unwrap();
}

#[test]
fn an_apparatus_starts_without_it_and_takes_it_in_when_it_answers() {
    let Some(scene) = Scene::new() else { return };
    scene.pool.add_volume("on-b", 8 * EXTENT, &[(scene.b.id, 1, 8)]);
    let stopped = Stopped::new(&scene.server);
    let daemon = scene.pool.start("x");
    let read = |volume: &str| daemon.open(volume).read_exact_at(&mut [0; 4096], 0);
    read("v").unwrap();
    assert_eq!(read("on-b").unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(stopped);
    let since = Instant::now();
    while read("on-b").is_err() {
        assert!(since.elapsed() < BOUND, "{}", daemon.log_text());
        std::thread::yield_now();
    }
    daemon.stop();
}

/// Pauses the job after this number of rounds, as an operator does: through the store.
struct Pauses<'a>(&'a Scene, u32);

impl Observer for Pauses<'_> {
    fn progress(&mut self, job: &JobRecord, _: u64, _: u64) -> bool {
        self.1 = self.1.saturating_sub(1);
        if self.1 == 0 {
            jobs::pause(&mut *self.0.pool.store(), job.id).unwrap();
        }
        true
    }
}

#[test]
fn a_job_whose_source_hangs_lets_others_have_their_turn_when_it_is_paused() {
    let Some(scene) = Scene::new() else { return };
    let volume = scene.pool.add_volume("on-b", 32 * EXTENT, &[(scene.b.id, 1, 32)]);
    let mut controller = scene.controller();
    let job = scene.job_to_a(&mut controller, volume.id);
    let stopped = Stopped::new(&scene.server);
    let state = bounded("the job", || {
        jobs::run(&mut controller, job, &mut Pauses(&scene, 3))
    });
    assert_eq!(state.unwrap(), JobState::Paused);
    drop(controller);
    // Another operation uses the job's destination: the hung thread does not write to it any more.
    bounded("another change", || {
        let mut controller = scene.controller();
        controller.open_disks([scene.a.id]).unwrap();
    });
    drop(stopped);
    jobs::resume(&mut *scene.pool.store(), job).unwrap();
    let mut controller = scene.controller();
    let state = jobs::run(&mut controller, job, &mut Pauses(&scene, u32::MAX));
    assert_eq!(state.unwrap(), JobState::Done);
}

/// A job that cannot begin fails with its number and the way to continue it, and continues when the disk answers.
#[test]
fn a_job_whose_source_does_not_answer_fails_before_it_begins_and_goes_on_when_it_does() {
    let Some(scene) = Scene::new() else { return };
    let volume = scene.pool.add_volume("on-b", 8 * EXTENT, &[(scene.b.id, 1, 8)]);
    let mut controller = scene.controller();
    let job = scene.job_to_a(&mut controller, volume.id);
    drop(controller);
    let stopped = Stopped::new(&scene.server);
    let refused = bounded("the job", || {
        jobs::run(&mut scene.controller(), job, &mut Pauses(&scene, u32::MAX)).unwrap_err()
    });
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    let named = format!("job {job}: disk b");
    assert!(refused.to_string().starts_with(&named), "{refused}");
    assert!(
        refused
            .way_out()
            .unwrap()
            .contains(&format!("vctl job resume {job}"))
    );
    let record = scene.pool.store().job(job).unwrap().unwrap();
    assert_eq!(record.state, JobState::Failed);
    assert!(record.why.contains("does not answer"), "{}", record.why);
    drop(stopped);
    // The disk counts as hung until the thread that waited for it has returned.
    const MOST: Duration = Duration::from_secs(60);
    let since = Instant::now();
    let state = loop {
        jobs::resume(&mut *scene.pool.store(), job).unwrap();
        match jobs::run(&mut scene.controller(), job, &mut Pauses(&scene, u32::MAX)) {
            Err(why) if why.kind() == ErrorKind::TimedOut && since.elapsed() < MOST => {}
            ended => break ended,
        }
    };
    assert_eq!(state.unwrap(), JobState::Done);
}

/// The kernel accesses the backing file of a loop device when it is asked for it.
/// Where the file is a volume whose mount is detached, its path does not show that.
#[test]
fn a_loop_device_over_a_hung_detached_volume_does_not_prevent_adding_a_disk() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mount = scene.server.mount().to_owned();
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    let _stopped = Stopped::new(&scene.server);
    bounded("adding another disk", || {
        disk::add(&mut scene.controller(), "test", &scene.new_disk("c")).unwrap();
    });
}
