//! Jobs that run at the same time, and commands beside them: they hold the lock in each other's gaps, and hosts notice nothing.

use super::moving::{PATIENCE, Scene, assert_sound};
use super::support;
use super::{EXTENT, limits};
use apparatus::jobs::{self, Request};
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::records::{Edit, Span};
use apparatus::model::units::{DiskId, VolumeExtent, VolumeOffset};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn part(scene: &Scene, extents: std::ops::Range<u64>, to: DiskId) -> Request {
    Request::Move {
        volume: scene.volume,
        range: Some(Span {
            volume: scene.volume,
            start: VolumeOffset(extents.start * EXTENT),
            end: VolumeOffset(extents.end * EXTENT),
        }),
        from: None,
        to: vec![to],
        policy: None,
    }
}

/// Two jobs move the halves of a volume back and forth, each as fast as it can, and no write is lost.
#[test]
fn two_jobs_share_the_controller_lock_under_hosts() {
    let scene = Scene::new(EXTENT, 256);
    let c = scene.pool.add_disk("c", 264).id;
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(200, PATIENCE);
    let [a, b] = scene.disks;
    for there in [[b, c], [a, a], [c, b]] {
        let halves = [0..128, 128..256];
        let created = [0, 1].map(|half| {
            let request = part(&scene, halves[half].clone(), there[half]);
            scene.create(&request, JobLimits::default())
        });
        thread::scope(|scope| {
            for job in created {
                let scene = &scene;
                scope.spawn(move || assert_eq!(scene.run(job).unwrap(), JobState::Done));
            }
        });
        load.wait_for(100, PATIENCE);
    }
    assert_eq!((scene.on_disk(0), scene.on_disk(1)), (0, 128));
    scene.assert_nothing_left_over();
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
}

/// A stream of commands does not starve a job, nor the job them; and a range that they cut off and add again is moved as it is then.
#[test]
fn a_job_and_a_stream_of_commands_get_on_with_each_other() {
    let scene = Scene::new(EXTENT, 128);
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(1000, PATIENCE);
    let job = scene.create(&scene.to(1), limits(40 * EXTENT));
    let over = AtomicBool::new(false);
    let commands = thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut commands = 0;
            while !over.load(Ordering::Relaxed) {
                let record = scene.pool.store().volumes().unwrap().remove(0);
                scene.pool.change(vec![Edit::SetVolume(record)], Vec::new());
                commands += 1;
            }
            commands
        });
        assert_eq!(scene.run(job).unwrap(), JobState::Done);
        over.store(true, Ordering::Relaxed);
        stream.join().unwrap()
    });
    assert!(commands > 10, "{commands}");
    scene.assert_all_on(1);
    assert_sound(load);
    daemon.stop();
}

/// In a gap the range is cut off, and added again at another place: the job moves the present data, or nothing.
#[test]
fn a_job_looks_at_what_has_become_of_its_range_in_a_gap() {
    let scene = Scene::new(EXTENT, 64);
    let mut store = scene.pool.store();
    let image = OpenOptions::new()
        .write(true)
        .open(scene.pool.image("a"))
        .unwrap();
    image
        .write_all_at(&vec![0x5a; scene.bytes() as usize], EXTENT)
        .unwrap();
    let job = scene.create(&scene.to(1), limits(8 * EXTENT));
    thread::scope(|scope| {
        let worker = scope.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, 1);
        let last = VolumeExtent(63);
        let segments = store.segments(scene.volume, last, VolumeExtent(64)).unwrap();
        let mut moved = segments[0].clip(last, VolumeExtent(64)).unwrap();
        moved.placement.start.0 = 65;
        let edit = Edit::Map {
            volume: scene.volume,
            segments: vec![moved],
        };
        scene.pool.change(vec![edit], vec![Span::whole(scene.volume)]);
        jobs::set_limits(&mut *store, job, JobLimits::default()).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Done);
    });
    assert_eq!((scene.on_disk(0), scene.on_disk(1)), (1, 63));
    scene.assert_nothing_left_over();
}
