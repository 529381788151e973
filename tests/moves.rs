//! Moves under hosts that go on reading and writing through several apparatuses: nothing is lost, each byte is copied once, the
//! operator's commands take effect during the move, and a disk that fails ends the job with the data safe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

#[path = "moves/evacuations.rs"]
mod evacuations;
#[path = "moves/failures.rs"]
mod failures;
#[path = "moves/gaps.rs"]
mod gaps;
mod history;
mod moving;
mod support;

use apparatus::jobs::{self, Request};
use apparatus::model::alloc::Faults;
use apparatus::model::change::Owner;
use apparatus::model::event::Severity;
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::records::Span;
use apparatus::model::units::{ByteCount, VolumeOffset};
use apparatus::rpc::client;
use apparatus::rpc::message::{Answer, Request as ControlRequest};
use moving::{PATIENCE, Scene, Worker, assert_linearizable, assert_sound};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use support::Random;

const EXTENT: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn a_process_that_works_on_a_job() {
    moving::work_on_a_job();
}

fn limits(rate: u64) -> JobLimits {
    JobLimits {
        rate: Some(ByteCount(rate)),
        ..JobLimits::default()
    }
}

#[test]
fn hosts_on_two_apparatuses_lose_nothing_while_a_volume_moves_back_and_forth() {
    let scene = Scene::new(EXTENT, 256);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 3, false);
    load.wait_for(200, PATIENCE);
    for disk in [1, 0, 1, 0] {
        let job = scene.move_to(disk);
        assert!(job.copied.0 <= scene.most_copied(), "{job:?}");
        assert!(job.longest_hold_us > 0);
        scene.assert_all_on(disk);
        load.wait_for(200, PATIENCE);
    }
    let report = assert_sound(load);
    println!("the longest request took {:?}", report.longest);
    daemons.into_iter().for_each(support::Daemon::stop);
}

#[test]
fn holding_reads_too_changes_nothing_for_hosts() {
    let scene = Scene::new(EXTENT, 64);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(100, PATIENCE);
    let job = scene.create(
        &scene.to(1),
        JobLimits {
            hold_all: true,
            ..JobLimits::default()
        },
    );
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    scene.assert_all_on(1);
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
}

/// Hosts overwrite the whole volume as fast as they can; a copy that followed their writes would not end.
#[test]
fn a_move_ends_however_fast_hosts_write_and_copies_each_byte_once() {
    let scene = Scene::new(MIB, 64);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    // The volume has no hole, which would not be copied.
    let full = Random::new(2).bytes(scene.bytes() as usize);
    daemons[0].open("v").write_all_at(&full, 0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers = daemons.each_ref().map(|daemon| {
        let (file, stop, written) = (daemon.open("v"), stop.clone(), written.clone());
        let bytes = scene.bytes();
        thread::spawn(move || {
            let block = Random::new(1).bytes(MIB as usize);
            for at in (0..bytes).step_by(MIB as usize).cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                file.write_all_at(&block, at).unwrap();
                written.fetch_add(MIB, Ordering::Relaxed);
            }
        })
    });
    while written.load(Ordering::Relaxed) < scene.bytes() {
        thread::yield_now();
    }
    let before = written.load(Ordering::Relaxed);
    let job = scene.move_to(1);
    let meanwhile = written.load(Ordering::Relaxed) - before;
    assert!(
        (scene.bytes()..=scene.most_copied()).contains(&job.copied.0),
        "{job:?}"
    );
    assert!(meanwhile > 0, "no host wrote meanwhile");
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    scene.assert_all_on(1);
    daemons.into_iter().for_each(support::Daemon::stop);
}

#[test]
fn holes_stay_holes_and_a_range_alone_is_moved() {
    let scene = Scene::new(EXTENT, 64);
    let daemon = scene.pool.start("x");
    let file = daemon.open("v");
    let bytes = Random::new(5).bytes(3 * EXTENT as usize);
    file.write_all_at(&bytes, 30 * EXTENT).unwrap();
    let range = Span {
        volume: scene.volume,
        start: VolumeOffset(29 * EXTENT + 1),
        end: VolumeOffset(40 * EXTENT),
    };
    let request = Request::Move {
        volume: scene.volume,
        range: Some(range),
        from: None,
        to: vec![scene.disks[1]],
        policy: None,
    };
    let job = scene.create(&request, JobLimits::default());
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!(scene.on_disk(1), 11);
    assert_eq!(scene.job(job).copied.0, 3 * EXTENT);
    assert_eq!(
        support::read_up_to(&file, 3 * EXTENT as usize, 30 * EXTENT),
        bytes
    );
    // The rest follows; data that is there already is left alone, and all becomes one segment.
    assert_eq!(scene.move_to(1).copied.0, 0);
    assert_eq!(scene.on_disk(1), 64);
    assert_eq!(
        support::read_up_to(&file, 3 * EXTENT as usize, 30 * EXTENT),
        bytes
    );
    drop(file);
    daemon.stop();
}

/// Holes are moved in one piece up to the first data on either side.
#[test]
fn data_among_long_holes_arrives_and_long_holes_stay_holes() {
    let scene = Scene::new(MIB, 200);
    let daemon = scene.pool.start("x");
    let file = daemon.open("v");
    let places = [3 * MIB + 4096, 37 * MIB, 150 * MIB + 65536, 199 * MIB];
    let bytes = Random::new(6).bytes(65536);
    for place in places {
        file.write_all_at(&bytes, place).unwrap();
    }
    // The second time the destination still has the old data.
    for disk in [1, 0, 1] {
        let job = scene.move_to(disk);
        assert!(job.copied.0 <= 2 * 65536 * places.len() as u64, "{job:?}");
        scene.assert_all_on(disk);
        for place in places {
            assert_eq!(support::read_up_to(&file, bytes.len(), place), bytes);
            assert_eq!(support::read_up_to(&file, 4096, place - 4096), vec![0; 4096]);
        }
    }
    drop(file);
    daemon.stop();
}

#[test]
fn a_job_is_paused_resumed_sped_up_and_ends() {
    let scene = Scene::new(EXTENT, 128);
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(2000, PATIENCE);
    let job = scene.create(&scene.to(1), limits(8 * EXTENT));
    let mut store = scene.pool.store();
    thread::scope(|scope| {
        let worker = scope.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, 1);
        jobs::pause(&mut *store, job).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Paused);
    });
    let so_far = scene.on_disk(1);
    assert!((1..128).contains(&so_far), "{so_far} extents were moved");
    // A paused job does not move anything.
    assert_eq!(scene.run(job).unwrap(), JobState::Paused);
    assert_eq!(scene.on_disk(1), so_far);
    jobs::resume(&mut *store, job).unwrap();
    thread::scope(|scope| {
        let worker = scope.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, so_far + 1);
        jobs::set_limits(&mut *store, job, JobLimits::default()).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Done);
    });
    assert!(scene.job(job).copied.0 <= scene.most_copied());
    scene.assert_all_on(1);
    assert_sound(load);
    daemon.stop();
}

#[test]
fn a_rate_is_kept() {
    let scene = Scene::new(EXTENT, 64);
    let daemon = scene.pool.start("x");
    daemon
        .open("v")
        .write_all_at(&Random::new(2).bytes(64 * EXTENT as usize), 0)
        .unwrap();
    let job = scene.create(&scene.to(1), limits(2 * MIB));
    let start = Instant::now();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    let took = start.elapsed().as_secs_f64();
    // 4 MiB; the last chunk is not waited for.
    assert!(took >= 1.8, "{took} s");
    daemon.stop();
}

#[test]
fn a_cancelled_job_leaves_what_was_moved_where_it_is() {
    let scene = Scene::new(EXTENT, 64);
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(1000, PATIENCE);
    let job = scene.create(&scene.to(1), limits(8 * EXTENT));
    let mut store = scene.pool.store();
    thread::scope(|scope| {
        let worker = scope.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, 3);
        jobs::cancel(&mut *store, job, false).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Cancelled);
    });
    assert!(scene.on_disk(1) >= 3 && scene.on_disk(0) > 0);
    scene.assert_nothing_left_over();
    assert_sound(load);
    daemon.stop();
}

#[test]
fn a_job_that_is_rolled_back_leaves_all_where_it_was() {
    let scene = Scene::new(EXTENT, 64);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(1000, PATIENCE);
    let job = scene.create(&scene.to(1), limits(16 * EXTENT));
    let mut store = scene.pool.store();
    thread::scope(|scope| {
        let worker = scope.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, 9);
        jobs::cancel(&mut *store, job, true).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Cancelled);
    });
    assert!(scene.job(job).back);
    assert_eq!(scene.on_disk(0), 64);
    scene.assert_nothing_left_over();
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
}

#[test]
fn an_apparatus_works_on_a_job_in_the_background() {
    let scene = Scene::new(EXTENT, 128);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(200, PATIENCE);
    let job = scene.create(&scene.to(1), JobLimits::default());
    let header = scene.pool.store().header().unwrap();
    let accepted = client::ask(
        &scene.pool.dir,
        header.uuid,
        &support::name_of("y"),
        ControlRequest::RunJob { job },
        PATIENCE,
    );
    assert!(matches!(accepted, Ok(Answer::Accepted)), "{accepted:?}");
    scene.wait_for_state(job, JobState::Done);
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
    scene.assert_all_on(1);
}

/// Data that another job has moved meanwhile is not copied from its old place.
#[test]
fn a_job_that_is_resumed_leaves_alone_what_others_have_moved() {
    let scene = Scene::new(EXTENT, 64);
    let c = scene.pool.add_disk("c", 72).id;
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(1000, PATIENCE);
    let job = scene.create(&scene.to(1), JobLimits::default());
    jobs::pause(&mut *scene.pool.store(), job).unwrap();
    let other = Request::Move {
        volume: scene.volume,
        range: Some(Span {
            volume: scene.volume,
            start: VolumeOffset(8 * EXTENT),
            end: VolumeOffset(40 * EXTENT),
        }),
        from: None,
        to: vec![c],
        policy: None,
    };
    let between = scene.create(&other, JobLimits::default());
    assert_eq!(scene.run(between).unwrap(), JobState::Done);
    load.wait_for(500, PATIENCE);
    jobs::resume(&mut *scene.pool.store(), job).unwrap();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!((scene.on_disk(0), scene.on_disk(1)), (0, 32));
    scene.assert_nothing_left_over();
    assert_sound(load);
    daemon.stop();
}

#[test]
fn a_volume_that_goes_away_or_shrinks_takes_its_part_of_the_job_along() {
    use apparatus::model::records::Edit;
    use apparatus::model::units::VolumeExtent;
    let scene = Scene::new(EXTENT, 64);
    let job = scene.create(&scene.to(1), JobLimits::default());
    let mut store = scene.pool.store();
    jobs::pause(&mut *store, job).unwrap();
    let unmap = Edit::Unmap {
        volume: scene.volume,
        start: VolumeExtent(40),
        end: VolumeExtent(64),
    };
    let mut record = store.volumes().unwrap().remove(0);
    record.size = ByteCount(40 * EXTENT);
    scene.pool.change(
        vec![Edit::SetVolume(record), unmap],
        vec![Span::whole(scene.volume)],
    );
    jobs::resume(&mut *store, job).unwrap();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!((scene.on_disk(0), scene.on_disk(1)), (0, 40));
    scene.assert_nothing_left_over();
    let job = scene.create(&scene.to(0), JobLimits::default());
    scene.pool.change(
        vec![Edit::RemoveVolume(scene.volume)],
        vec![Span::whole(scene.volume)],
    );
    assert_eq!(store.job(job).unwrap().unwrap().state, JobState::Cancelled);
    scene.pool.controller().free().unwrap();
    assert!(
        scene
            .disks
            .iter()
            .all(|disk| store.uses(*disk).unwrap().is_empty())
    );
}

#[test]
fn linearizability_is_checked_at_all() {
    // This checks the harness itself: a misplaced write below is found.
    let scene = Scene::new(EXTENT, 16);
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 1, false);
    load.wait_for(500, PATIENCE);
    let image = OpenOptions::new()
        .write(true)
        .open(scene.pool.image("a"))
        .unwrap();
    let report = load.finish();
    assert_linearizable(&report.history);
    let again = scene.load(&[&daemon], 1, false);
    image
        .write_all_at(&vec![0x55; 17 * EXTENT as usize - 4096], EXTENT)
        .unwrap();
    assert!(!again.finish().errors.is_empty());
    daemon.stop();
}
