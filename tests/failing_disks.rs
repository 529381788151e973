//! Disks that fail while something moves: nothing is taken for durable that is not, no old home is given away for it, and
//! there is a way out that keeps all that hosts were told is written.
//!
//! Needs root and loop devices for disks that fail at writing back; says so and passes where they are missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
#[path = "failing_disks/hung.rs"]
mod hung;
mod moving;
mod support;

use apparatus::change::jobs::{self, Request};
use apparatus::error::Error;
use apparatus::ops::status::Finding;
use apparatus::ops::{self, hold, revert};
use apparatus::pool::model::{Area, Difference, Edit, Segment, Span};
use apparatus::store::{ChangeState, HoldMode, JobLimits, JobState, NewChange, Owner, Severity, Store};
use apparatus::units::{ByteCount, DiskExtent, DiskOffset, Generation, VolumeExtent};
use moving::Scene;
use moving::devices::{Loop, Mount, run};
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

/// A device of 32 MiB that has room for far less: the page cache takes what is written, and writing back fails.
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

    /// With a volume full of data on a disk that is sound.
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

/// Changes that are committed and not hardened.
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

/// Moves the first extents of `v` to the second disk, and hardens nothing.
fn move_and_leave(scene: &Scene, extents: u64) {
    let mut controller = scene.pool.controller();
    let size = scene.pool.extent_size.bytes();
    let [source, target] = scene.disks.map(|id| controller.disks().get(id).unwrap());
    let mut homes = Vec::new();
    let moved = |segment: Segment| segment.clip(VolumeExtent(0), VolumeExtent(extents));
    for segment in scene.segments().into_iter().filter_map(moved) {
        let home = Area {
            disk: scene.disks[1],
            start: DiskExtent(1 + segment.start.0),
            len: segment.home.len,
        };
        homes.push((segment.home, Segment { home, ..segment }));
    }
    let segments = homes.iter().map(|(_, new)| *new).collect();
    let edits = vec![Edit::Map {
        volume: scene.volume,
        segments,
    }];
    let change = NewChange {
        title: "test move".into(),
        job: None,
        difference: Difference {
            from: Generation(0),
            edits,
        },
        spans: vec![Span::whole(scene.volume)],
        mode: HoldMode::Writes,
    };
    let at = |start: DiskExtent| DiskOffset(start.0 * size);
    let mut copy = || {
        for (old, new) in &homes {
            let copied = source.copy_to(at(old.start), &target, at(new.home.start), old.len * size);
            copied.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    controller.run(change, false, &mut copy).unwrap();
    assert_eq!((at_risk(scene), scene.on_disk(1)), (1, extents));
}

fn hold_and_flush(scene: &Scene) -> Result<hold::Held, Error> {
    let (stop, _nobody) = UnixStream::pair().unwrap();
    let work = hold::Work {
        time: Duration::from_millis(1),
        flush: true,
        command: None,
        stop: stop.into(),
    };
    let wish = hold::Wish {
        volumes: vec!["v".into()],
        range: None,
        writes_only: false,
    };
    hold::hold(&mut scene.pool.controller(), "volume hold", &wish, &work)
}

impl Thin {
    /// Has a stranger write back what is in memory, in vain; then the disk is as good as any.
    fn loses_what_was_written(&self) {
        run("blockdev", &["--flushbufs", self.device.path.to_str().unwrap()]);
        let at = self.place.at.path().to_str().unwrap();
        run("mount", &["-o", "remount,size=64m", at]).unwrap();
    }
}

/// The one who is told may be somebody who does not harden: a hold that flushes, a disk that is resized. All the same nothing is hardened after that.
#[test]
fn a_loss_that_a_hold_or_a_resize_is_told_of_is_remembered() {
    let told: [fn(&Scene); 2] = [
        |scene| assert!(hold_and_flush(scene).is_err()),
        |scene| {
            let size = Some(ByteCount((EXTENTS + 16) * EXTENT));
            assert!(ops::disk::resize(&mut scene.pool.controller(), "disk resize", "b", size).is_err());
        },
    ];
    for told in told {
        let Some(thin) = Thin::new() else { return };
        let (scene, daemon, _) = thin.scene();
        move_and_leave(&scene, EXTENTS);
        thin.loses_what_was_written();
        told(&scene);
        for _ in 0..2 {
            let refused = hold_and_flush(&scene).unwrap_err();
            assert!(refused.to_string().contains("disk b"), "{refused}");
            let refused = scene.pool.controller().harden().unwrap_err();
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
    ops::status::status(&pool.dir, &mut pool.store())
        .unwrap()
        .findings
}

/// A disk loses what was moved to it, memory forgets it, and hosts get back what they had made durable.
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

/// The pool's database, kept locked by another process.
struct Locked(Child);

impl Locked {
    fn new(scene: &Scene) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(scene.pool.dir.database())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = b"BEGIN IMMEDIATE;\nSELECT 'locked';\n";
        child.stdin.as_mut().unwrap().write_all(words).unwrap();
        let mut said = [0; 7];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"locked\n");
        Self(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `dd` of one block with an `fsync` at its end, in a process of its own.
fn write_and_sync(daemon: &Daemon, volume: &str) -> Child {
    Command::new("dd")
        .arg(format!("of={}", daemon.path(volume).display()))
        .args([
            "if=/dev/zero",
            "conv=notrunc,fsync",
            "bs=4096",
            "count=1",
            "status=none",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// No disk has failed: a flush waits (the kernel lets one of each file through) for the database, by number and time in the status, and those that need it not do not.
#[test]
fn a_flush_waits_for_the_pools_database_as_long_as_it_takes() {
    let scene = Scene::new(EXTENT, EXTENTS);
    let new = [(scene.disks[0], 1 + EXTENTS, 4)];
    scene.pool.add_volume("w", 4 * EXTENT, &new);
    let daemon = scene.pool.start("x");
    move_and_leave(&scene, EXTENTS);
    let locked = Locked::new(&scene);
    let mut kept: Vec<Child> = (0..8).map(|_| write_and_sync(&daemon, "v")).collect();
    answered(write_and_sync(&daemon, "w"));
    let since = Instant::now();
    let of_the_database = |finding: &Finding| {
        finding.subject == "volume v" && finding.text.contains("pool's database (1 requests")
    };
    while !status_of(&scene).iter().any(of_the_database) {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{:?}",
            status_of(&scene)
        );
    }
    answered(write_and_sync(&daemon, "w"));
    assert!(kept.iter_mut().all(|child| child.try_wait().unwrap().is_none()));
    drop(locked);
    kept.into_iter().for_each(|child| drop(answered(child)));
    assert_eq!(at_risk(&scene), 0);
    daemon.stop();
}

/// The kernel tells of a lost write once. Whoever asks next hears that all is well; the old homes must be kept all the same.
#[test]
fn what_a_destination_has_lost_is_never_hardened_and_its_old_home_is_kept() {
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

    // Others, and later ones, are not told by the kernel any more.
    for _ in 0..3 {
        let mut controller = scene.pool.controller();
        let refused = controller.harden().unwrap_err();
        assert!(refused.to_string().contains("disk b"), "{refused}");
        controller.free().unwrap();
    }
    let file = daemon.open("v");
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    assert_eq!((at_risk(&scene), quarantined(&scene, 0)), (left, moved));

    // Another volume has nothing to do with it, nor have reads.
    let other = daemon.open("w");
    other.write_all_at(&bytes[..4096], 0).unwrap();
    other.sync_all().unwrap();
    // What b has lost is in memory for as long as the kernel keeps it there, so the bytes themselves are not compared.
    assert_eq!(read_up_to(&file, bytes.len(), 0).len(), bytes.len());

    // The way out: off that disk.
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

/// Whoever flushes first is told by the kernel; the hosts of the other volumes, and those of the other apparatus, have lost as much.
#[test]
fn the_hosts_of_each_volume_are_told_once_at_each_apparatus() {
    let Some(thin) = Thin::new() else { return };
    let scene = Scene::with_second_disk_at(&thin.device.path, EXTENT, EXTENTS);
    for (name, at) in [("p", 1), ("q", 181)] {
        scene
            .pool
            .add_volume(name, 180 * EXTENT, &[(scene.disks[1], at, 180)]);
    }
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
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
    // Nothing more was lost since.
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
    jobs::resume(&mut scene.pool.store(), job).unwrap();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    scene.assert_all_on(1);
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

/// A process that does not get on while this lives.
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

/// Requests at a mount that have not been answered. `connections` is where the kernel tells of them.
fn unanswered(connections: &Mount, daemon: &Daemon) -> u64 {
    let device = rustix::fs::stat(daemon.mount()).unwrap().st_dev;
    let connection = rustix::fs::minor(device).to_string();
    let waiting = connections.at.path().join(connection).join("waiting");
    let waiting = std::fs::read_to_string(waiting).unwrap();
    waiting.trim().parse().unwrap()
}

/// A volume `v` on a disk that answers, and `hanging` on one that does not while a server is stopped; their first MiB are random bytes and cold.
struct Hanging {
    daemon: Daemon,
    connections: Mount,
    scene: Scene,
    _place: Mount,
    server: Daemon,
    _below: TestPool,
    bytes: Vec<u8>,
}

const PART: usize = 512 << 10;
const PARTS: u64 = 8;

impl Hanging {
    fn new() -> Option<Self> {
        let below = TestPool::new(EXTENT);
        let disk = below.add_disk("a", 520).id;
        below.add_volume("v", 32 * MIB, &[(disk, 1, 512)]);
        let server = below.start("below");
        let device = Loop::over(&server.path("v"))?;
        let place = Mount::made_on(device, &["mkfs.ext4", "-q"])?;
        let connections = Mount::of_kind("fusectl", "ro")?;
        let image = place.at.path().join("b.img");
        File::create(&image).unwrap().set_len(28 * MIB).unwrap();
        let scene = Scene::with_second_disk_at(&image, EXTENT, EXTENTS);
        let hanging = [(scene.disks[1], 200, 128)];
        scene.pool.add_volume("hanging", 128 * EXTENT, &hanging);
        let daemon = scene.pool.start("x");
        let bytes = Random::new(5).bytes(PART);
        for (volume, disk) in [("v", "a"), ("hanging", "b")] {
            let file = daemon.open(volume);
            for index in 0..PARTS {
                file.write_all_at(&bytes, index * PART as u64).unwrap();
            }
            file.sync_all().unwrap();
            let image = File::open(scene.pool.image(disk)).unwrap();
            rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        Some(Self {
            daemon,
            connections,
            scene,
            _place: place,
            server,
            _below: below,
            bytes,
        })
    }

    /// `dd` with one block of so many bytes, the first of this part of the volume, in a process of its own.
    fn begin(&self, volume: &str, write: bool, block: usize, part: usize) -> Child {
        let path = self.daemon.path(volume).display().to_string();
        let (which, place) = match write {
            true => (
                vec![
                    format!("of={path}"),
                    "if=/dev/zero".into(),
                    "conv=notrunc,fsync".into(),
                ],
                "seek",
            ),
            false => (vec![format!("if={path}")], "skip"),
        };
        Command::new("dd")
            .args(which)
            .args(["count=1", "status=none"])
            .args([format!("bs={block}"), format!("{place}={}", part * PART / block)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Requests for each part of the disk that hangs wait for it; those for the other are answered all the same.
    fn keeps(self, write: bool, block: usize) {
        let stopped = Stopped::new(&self.server);
        let kept: Vec<Child> = (0..PARTS as usize)
            .map(|part| self.begin("hanging", write, block, part))
            .collect();
        let since = Instant::now();
        while unanswered(&self.connections, &self.daemon) < PARTS {
            assert!(since.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        let read = answered(self.begin("v", false, PART, 0));
        assert_eq!(read, self.bytes);
        answered(self.begin("v", true, 4096, 1));
        assert_eq!(answered(self.begin("v", false, 4096, 1)), [0; 4096]);
        let findings = self.told(|findings| findings.iter().any(is_of_the_volume));
        for finding in &findings {
            // Its label is read where that is in memory no longer.
            let is_of_the_disk = finding.subject == "disk b" && finding.text == "does not answer";
            assert!(is_of_the_volume(finding) || is_of_the_disk, "{finding:?}");
        }
        let scene = &self.scene;
        let new = [(scene.disks[0], 1 + EXTENTS, 4)];
        scene.pool.add_volume("new", 4 * EXTENT, &new);
        answered(self.begin("new", true, 4096, 0));
        // Those who close the file may be among them.
        assert!(unanswered(&self.connections, &self.daemon) >= PARTS);
        drop(stopped);
        for child in kept {
            let read = answered(child);
            assert!(write || read == self.bytes[..block]);
        }
        let begin = match write {
            true => vec![0; block],
            false => self.bytes[..block].to_vec(),
        };
        for part in 0..PARTS as usize {
            assert_eq!(answered(self.begin("hanging", false, block, part)), begin);
        }
        self.told(<[_]>::is_empty);
        self.daemon.stop();
    }

    /// What the status of the pool says, once it is so.
    fn told(&self, is_so: impl Fn(&[Finding]) -> bool) -> Vec<Finding> {
        let pool = &self.scene.pool;
        let since = Instant::now();
        loop {
            let mut findings = apparatus::ops::status::status(&pool.dir, &mut pool.store())
                .unwrap()
                .findings;
            // How much room the image's file system has is not what these tests are about.
            findings.retain(|finding| finding.severity > Severity::Info);
            if is_so(&findings) {
                return findings;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{findings:?}");
        }
    }
}

fn is_of_the_volume(finding: &Finding) -> bool {
    finding.subject == "volume hanging" && finding.text.contains("disk b (")
}

/// What a process has said, which ended soon and well.
fn answered(child: Child) -> Vec<u8> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let waiting = std::thread::spawn(move || tell.send(child.wait_with_output().unwrap()));
    let output = told.recv_timeout(Duration::from_secs(20)).unwrap();
    waiting.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Only a move of `v` needs the disk that hangs: flushes of others go on, and the status names the disk and the volume.
#[test]
fn a_flush_does_not_wait_for_a_disk_that_only_another_volumes_move_needs() {
    let Some(hanging) = Hanging::new() else { return };
    let scene = &hanging.scene;
    scene
        .pool
        .add_volume("w", 4 * EXTENT, &[(scene.disks[0], 1 + EXTENTS, 4)]);
    move_and_leave(scene, 64);
    let stopped = Stopped::new(&hanging.server);
    let kept = write_and_sync(&hanging.daemon, "v");
    let is_of_v = |finding: &Finding| finding.subject == "volume v" && finding.text.contains("disk b (");
    hanging.told(|findings| findings.iter().any(is_of_v));
    for _ in 0..4 {
        answered(write_and_sync(&hanging.daemon, "w"));
    }
    hanging.told(|findings| !findings.iter().any(|finding| finding.subject == "volume w"));
    drop(stopped);
    answered(kept);
    hanging.told(<[_]>::is_empty);
    hanging.daemon.stop();
}

#[test]
fn cold_reads_of_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(false, PART);
}

/// Readers do not ask whether small ones would wait.
#[test]
fn small_cold_reads_of_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(false, 4096);
}

/// The kernel reads the rest of the block first.
#[test]
fn writes_to_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(true, 512);
}
