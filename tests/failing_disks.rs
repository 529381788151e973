//! Disks that fail during moves: nothing is persisted that is not on its disk, no old placement is freed for it, and
//! there is a way out that keeps all data whose flush was confirmed to hosts.
//!
//! Disks that fail at write-back need root and loop devices; where those are missing the tests print that and pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

#[path = "failing_disks/copies.rs"]
mod copies;
#[path = "failing_disks/faulty.rs"]
mod faulty;
#[path = "failing_disks/hanging.rs"]
mod hanging;
mod history;
#[path = "failing_disks/hung.rs"]
mod hung;
#[path = "failing_disks/locked.rs"]
mod locked;
mod moving;
mod support;

use apparatus::admin::status::Finding;
use apparatus::admin::{self, hold, revert};
use apparatus::jobs::{self, Request};
use apparatus::model::alloc::Faults;
use apparatus::model::change::{ChangeState, HoldMode, NewChange, Owner};
use apparatus::model::error::Error;
use apparatus::model::event::Severity;
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::records::{Area, Delta, Edit, Segment, Span};
use apparatus::model::units::{ByteCount, DiskExtent, DiskOffset, Generation, VolumeExtent};
use apparatus::store::Store;
use locked::{answered, write_and_sync};
use moving::Scene;
use moving::devices::{Loop, Mount, run};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Daemon, Random, TestPool, read_up_to};

const EXTENT: u64 = 64 << 10;
const EXTENTS: u64 = 384;
const MIB: u64 = 1 << 20;
/// The longest wait for anything, also on a machine that has much else to do.
const LONG: Duration = Duration::from_secs(100);

/// A device of 32 MiB with far less space: the page cache accepts writes, and write-back fails.
struct Thin {
    device: Loop,
    place: Mount,
}

impl Thin {
    fn new() -> Option<Self> {
        let place = Mount::tmpfs(8 * MIB)?;
        let image = place.at.path().join("thin.img");
        File::create(&image).unwrap().set_len(32 * MIB).unwrap();
        Some(Self {
            device: Loop::over(&image)?,
            place,
        })
    }

    /// Makes a pool with a volume full of data on a sound disk.
    fn scene(&self) -> (Scene, Daemon, Vec<u8>) {
        let scene = Scene::with_second_disk_at(&self.device.path, EXTENT, EXTENTS);
        let daemon = scene.pool.start("x");
        let bytes = Random::new(11).bytes(scene.bytes() as usize);
        let file = daemon.open("v");
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        (scene, daemon, bytes)
    }
}

/// Returns the changes that are committed and not persisted.
fn at_risk(scene: &Scene) -> usize {
    let changes = scene.pool.store().unfinished().unwrap();
    changes
        .iter()
        .filter(|change| change.state == ChangeState::Committed)
        .count()
}

fn quarantined(scene: &Scene, disk: usize) -> u64 {
    let uses = scene.pool.store().uses(scene.disks[disk]).unwrap();
    let kept = uses
        .iter()
        .filter(|taken| matches!(taken.owner, Owner::Quarantine(_)));
    kept.map(|taken| taken.area.len).sum()
}

/// Moves the first extents of `v` to the second disk, and persists nothing.
fn move_and_leave(scene: &Scene, extents: u64) {
    let mut controller = scene.pool.controller();
    let size = scene.pool.extent_size.bytes();
    let [source, target] = scene.disks.map(|id| controller.disks().get(id).unwrap());
    let mut placements = Vec::new();
    let moved = |segment: Segment| segment.clip(VolumeExtent(0), VolumeExtent(extents));
    for segment in scene.segments().into_iter().filter_map(moved) {
        let placement = Area {
            disk: scene.disks[1],
            start: DiskExtent(1 + segment.start.0),
            len: segment.placement.len,
        };
        placements.push((segment.placement, Segment { placement, ..segment }));
    }
    let segments = placements.iter().map(|(_, new)| *new).collect();
    let edits = vec![Edit::Map {
        volume: scene.volume,
        segments,
    }];
    let change = NewChange {
        title: "test move".into(),
        job: None,
        delta: Delta {
            from: Generation(0),
            edits,
        },
        spans: vec![Span::whole(scene.volume)],
        mode: HoldMode::Writes,
    };
    let at = |start: DiskExtent| DiskOffset(start.0 * size);
    let mut copy = || {
        for (old, new) in &placements {
            let copied = source.copy_to(at(old.start), &target, at(new.placement.start), old.len * size);
            copied.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    controller.run(change, false, &mut copy).unwrap();
    assert_eq!((at_risk(scene), scene.on_disk(1)), (1, extents));
}

fn hold_and_flush(scene: &Scene) -> Result<hold::HoldOutcome, Error> {
    let (stop, _nobody) = UnixStream::pair().unwrap();
    let work = hold::Work {
        time: Duration::from_millis(1),
        flush: true,
        command: None,
        stop: stop.into(),
    };
    let request = hold::HoldRequest {
        volumes: vec!["v".into()],
        range: None,
        writes_only: false,
    };
    hold::hold(&mut scene.pool.controller(), "volume hold", &request, &work)
}

impl Thin {
    /// Has another process write back the page cache, which fails; after that the disk works.
    fn loses_what_was_written(&self) {
        run("blockdev", &["--flushbufs", self.device.path.to_str().unwrap()]);
        let at = self.place.at.path().to_str().unwrap();
        run("mount", &["-o", "remount,size=64m", at]).unwrap();
    }
}

/// The error may be reported to an operation that does not persist: a hold that flushes, a resize of a disk. Nothing is persisted after
/// that all the same.
#[test]
fn a_loss_that_is_reported_to_a_hold_or_a_resize_is_recorded() {
    let operations: [fn(&Scene); 2] = [
        |scene| assert!(hold_and_flush(scene).is_err()),
        |scene| {
            let size = Some(ByteCount((EXTENTS + 16) * EXTENT));
            assert!(admin::disk::resize(&mut scene.pool.controller(), "disk resize", "b", size).is_err());
        },
    ];
    for operation in operations {
        let Some(thin) = Thin::new() else { return };
        let (scene, daemon, _) = thin.scene();
        move_and_leave(&scene, EXTENTS);
        thin.loses_what_was_written();
        operation(&scene);
        for _ in 0..2 {
            let refused = hold_and_flush(&scene).unwrap_err();
            assert!(refused.to_string().contains("disk b"), "{refused}");
            let refused = scene.pool.controller().persist().unwrap_err();
            assert!(refused.to_string().contains("disk b"), "{refused}");
        }
        let file = daemon.open("v");
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(quarantined(&scene, 0), EXTENTS);
        drop(file);
        daemon.stop();
    }
}

fn status_of(scene: &Scene) -> Vec<Finding> {
    let pool = &scene.pool;
    admin::status::status(&pool.dir, &mut *pool.store())
        .unwrap()
        .findings
}

/// A disk loses data that was moved to it, the page cache drops it, and hosts get back what they had flushed.
#[test]
fn a_move_to_a_disk_that_loses_it_is_taken_back_to_the_kept_places() {
    let Some(thin) = Thin::new() else { return };
    let (scene, daemon, bytes) = thin.scene();
    let revert = || {
        revert::revert(
            &scene.pool.dir,
            &mut scene.pool.controller(),
            "disk revert b",
            "b",
        )
    };
    let refused = revert().unwrap_err();
    assert!(refused.to_string().contains("no old place is kept"), "{refused}");
    move_and_leave(&scene, EXTENTS);
    let file = daemon.open("v");
    file.write_all_at(&[9; 4096], 0).unwrap();
    thin.loses_what_was_written();
    assert!(hold_and_flush(&scene).is_err());
    let found = status_of(&scene)
        .into_iter()
        .find(|finding| finding.subject == "disk b");
    let next = found.and_then(|finding| finding.next);
    assert_eq!(next.as_deref(), Some("vctl disk revert b"));
    let (outline, _) = revert().unwrap();
    assert_eq!(outline.bytes.0, scene.bytes());
    assert_eq!((at_risk(&scene), scene.on_disk(0)), (0, EXTENTS));
    let gone = file.sync_all().unwrap_err();
    assert_eq!(
        gone.raw_os_error(),
        Some(libc::EIO),
        "what was written since is gone"
    );
    file.sync_all().unwrap();
    assert_eq!(read_up_to(&file, bytes.len(), 0), bytes);
    scene.pool.controller().free().unwrap();
    scene.assert_nothing_left_over();
    scene.assert_checked();
    assert!(revert().is_err());
    drop(file);
    daemon.stop();
}

/// An ordinary move is many changes, each of which keeps a part of the old place.
#[test]
fn a_move_by_a_job_to_a_disk_that_loses_it_is_taken_back() {
    let Some(thin) = Thin::new() else { return };
    let (scene, daemon, bytes) = thin.scene();
    let job = scene.create(&scene.to(1), JobLimits::default());
    scene.run(job).unwrap_err();
    assert!(at_risk(&scene) > 1);
    let mut controller = scene.pool.controller();
    let (outline, _) = revert::revert(&scene.pool.dir, &mut controller, "disk revert b", "b").unwrap();
    drop(controller);
    assert!(outline.in_runs.weight() < outline.planned.delta.weight());
    assert_eq!((at_risk(&scene), scene.on_disk(1)), (0, 0));
    assert_eq!(scene.job(job).state, JobState::Cancelled);
    let file = daemon.open("v");
    assert_eq!(read_up_to(&file, bytes.len(), 0), bytes);
    drop(file);
    scene.pool.controller().free().unwrap();
    scene.assert_checked();
    daemon.stop();
}

/// The kernel reports a lost write once. The next sync succeeds; the old placements must be kept all the same.
#[test]
fn what_a_destination_has_lost_is_never_persisted_and_its_old_placement_is_kept() {
    let Some(thin) = Thin::new() else { return };
    let (scene, daemon, bytes) = thin.scene();
    let c = scene.pool.add_disk("c", EXTENTS + 8);
    scene
        .pool
        .add_volume("w", 4 * EXTENT, &[(scene.disks[0], 1 + EXTENTS, 4)]);
    let job = scene.create(&scene.to(1), JobLimits::default());
    let failed = scene.run(job).unwrap_err();
    assert!(failed.to_string().contains("disk b"), "{failed}");
    assert_eq!(scene.job(job).state, JobState::Failed);
    let (moved, left) = (scene.on_disk(1), at_risk(&scene));
    assert!(
        moved > 0 && left > 0,
        "{moved} extents are on b, {left} changes at risk"
    );
    assert_eq!(quarantined(&scene, 0), moved);

    // The kernel reports nothing to other and later syncs.
    for _ in 0..3 {
        let mut controller = scene.pool.controller();
        let refused = controller.persist().unwrap_err();
        assert!(refused.to_string().contains("disk b"), "{refused}");
        controller.free().unwrap();
    }
    let file = daemon.open("v");
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    assert_eq!((at_risk(&scene), quarantined(&scene, 0)), (left, moved));

    // Another volume is not affected, nor are reads.
    let other = daemon.open("w");
    other.write_all_at(&bytes[..4096], 0).unwrap();
    other.sync_all().unwrap();
    // The data that b has lost stays in memory as long as the kernel keeps it, so the bytes themselves are not compared.
    assert_eq!(read_up_to(&file, bytes.len(), 0).len(), bytes.len());

    // Nothing else is moved to that disk: it could not be persisted there.
    let volumes = scene.pool.store().volumes().unwrap();
    let volume = volumes.iter().find(|volume| volume.name.as_str() == "w").unwrap();
    let more = Request::Move {
        volume: volume.id,
        range: None,
        from: None,
        to: vec![scene.disks[1]],
        policy: None,
    };
    let limits = JobLimits::default();
    let refused = jobs::create(
        &mut scene.pool.controller(),
        &more,
        &Faults::new(),
        "volume move w",
        limits,
    );
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("disk b"), "{refused}");
    assert!(
        refused.way_out().unwrap().contains("vctl disk revert b"),
        "{refused:?}"
    );

    // The way out: the data moves off that disk.
    let away = Request::Move {
        volume: scene.volume,
        range: None,
        from: Some(scene.disks[1]),
        to: vec![c.id],
        policy: None,
    };
    let job = scene.create(&away, JobLimits::default());
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!((at_risk(&scene), scene.on_disk(1)), (0, 0));
    file.sync_all().unwrap();
    scene.pool.controller().free().unwrap();
    assert_eq!(quarantined(&scene, 0), 0);
    assert_eq!(read_up_to(&file, bytes.len(), 0).len(), bytes.len());
    drop((file, other));
    daemon.stop();
}

/// The kernel reports the error to the first flush; the hosts of the other volumes, and those of the other apparatus, have lost as much.
#[test]
fn the_hosts_of_each_volume_get_the_error_once_at_each_apparatus() {
    let Some(thin) = Thin::new() else { return };
    let scene = Scene::with_second_disk_at(&thin.device.path, EXTENT, EXTENTS);
    for (name, at) in [("p", 1), ("q", 181)] {
        scene
            .pool
            .add_volume(name, 180 * EXTENT, &[(scene.disks[1], at, 180)]);
    }
    // Each renews the label when it serves: later that would be another write that fails.
    let daemons = ["x", "y"].map(|name| {
        let label = |store: &mut dyn Store| {
            let disks = store.disks().unwrap();
            disks
                .iter()
                .find(|disk| disk.id == scene.disks[1])
                .map(|disk| disk.label)
        };
        let before = label(&mut *scene.pool.store());
        let daemon = scene.pool.start(name);
        scene.wait_until("it has renewed the label", |store| label(store) > before);
        daemon
    });
    let files = daemons
        .each_ref()
        .map(|daemon| ["p", "q"].map(|name| daemon.open(name)));
    let bytes = Random::new(3).bytes(180 * EXTENT as usize);
    files[0]
        .iter()
        .for_each(|file| file.write_all_at(&bytes, 0).unwrap());
    for file in files.iter().flatten() {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    // Nothing more has been lost since.
    files.iter().flatten().for_each(|file| file.sync_all().unwrap());
    drop(files);
    daemons.into_iter().for_each(Daemon::stop);
}

/// A file system that is full below an image: the job fails where it stands, hosts go on, and it is resumed once there is room.
#[test]
fn a_destination_without_room_fails_the_job_which_goes_on_when_there_is_room() {
    let Some(place) = Mount::tmpfs(8 * MIB) else {
        return;
    };
    let image = place.at.path().join("b.img");
    let created = File::create(&image).unwrap();
    created.set_len((EXTENTS + 8) * EXTENT).unwrap();
    drop(created);
    let scene = Scene::with_second_disk_at(&image, EXTENT, EXTENTS);
    let daemon = scene.pool.start("x");
    let file = daemon.open("v");
    let mut bytes = Random::new(4).bytes(scene.bytes() as usize);
    file.write_all_at(&bytes, 0).unwrap();
    let job = scene.create(&scene.to(1), JobLimits::default());
    let failed = scene.run(job).unwrap_err();
    assert!(
        failed.to_string().contains("disk b") && failed.to_string().contains("No space left"),
        "{failed}"
    );
    assert_eq!(scene.job(job).state, JobState::Failed);
    let moved = scene.on_disk(1);
    assert!((1..EXTENTS).contains(&moved), "{moved} extents were moved");
    scene.assert_nothing_left_over();
    scene.assert_checked();
    for at in [0, scene.bytes() - 4096] {
        file.write_all_at(&[9; 4096], at).unwrap();
        bytes[at as usize..][..4096].fill(9);
    }
    file.sync_all().unwrap();
    assert_eq!(read_up_to(&file, bytes.len(), 0), bytes);

    let at = place.at.path().to_str().unwrap();
    run("mount", &["-o", "remount,size=64m", at]).unwrap();
    jobs::resume(&mut *scene.pool.store(), job).unwrap();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    scene.assert_all_on(1);
    assert_eq!(read_up_to(&file, bytes.len(), 0), bytes);

    // Holes are read where nothing more has room, and take none.
    let hole = 0..4 * EXTENT as usize;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, hole.len() as u64).unwrap();
    let mut filler = File::create(place.at.path().join("filler")).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    bytes[hole].fill(0);
    assert_eq!(read_up_to(&file, bytes.len(), 0), bytes);
    drop(file);
    daemon.stop();
}

/// The storage's own copy: an extent is shared, not written again.
#[test]
fn a_move_within_a_file_system_that_shares_storage_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(place) = Mount::made_by(&["mkfs.xfs", "-q"], 400 * MIB, dir.path()) else {
        return;
    };
    let scratch = tempfile::tempdir_in(place.at.path()).unwrap();
    let scene = Scene::on(support::TestPool::in_dir(scratch, EXTENT), 2 * EXTENTS);
    let daemon = scene.pool.start("x");
    let file = daemon.open("v");
    let bytes = Random::new(4).bytes(scene.bytes() as usize);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let free = || {
        let seen = rustix::fs::statvfs(place.at.path()).unwrap();
        seen.f_bfree * seen.f_frsize
    };
    let before = free();
    let job = scene.create(&scene.to(1), JobLimits::default());
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    let taken = before.saturating_sub(free());
    assert!(taken < scene.bytes() / 4, "{taken} of {} bytes", scene.bytes());
    file.write_all_at(&[9; 4096], 0).unwrap();
    assert_eq!(read_up_to(&file, bytes.len(), 4096), bytes[4096..]);
    assert_eq!(read_up_to(&file, 4096, 0), [9; 4096]);
    drop(file);
    daemon.stop();
    drop(scene);
}

/// A process that is stopped while this lives.
struct Stopped<'a>(&'a Daemon);

impl<'a> Stopped<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        daemon.signal(Signal::STOP);
        Self(daemon)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}
