//! Disks that fail under a move, and a worker that dies.

use super::*;

#[test]
fn a_destination_that_fails_ends_the_job_with_the_data_safe() {
    let scene = Scene::new(EXTENT, 64);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(2000, PATIENCE);
    let job = scene.create(&scene.to(1), JobLimits::default());
    let image = OpenOptions::new()
        .write(true)
        .open(scene.pool.image("b"))
        .unwrap();
    image.set_len(EXTENT * 20).unwrap();
    let failed = scene.run(job).unwrap_err();
    assert!(failed.to_string().contains("disk b"), "{failed}");
    assert!(failed.way_out().is_some());
    let record = scene.job(job);
    assert_eq!(record.state, JobState::Failed);
    assert!(
        record.why.contains("disk b") && record.ended.is_some(),
        "{record:?}"
    );
    let events = scene.pool.store().events(0, 1000).unwrap();
    assert!(
        events
            .iter()
            .any(|event| event.severity == Severity::Error && event.text.contains("disk b")),
        "{events:?}"
    );
    image.set_len(EXTENT * (64 + 8)).unwrap();
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
}

#[test]
fn a_source_that_fails_is_named_with_its_range() {
    let scene = Scene::new(EXTENT, 64);
    let daemon = scene.pool.start("x");
    let bytes = Random::new(7).bytes(64 * EXTENT as usize);
    daemon.open("v").write_all_at(&bytes, 0).unwrap();
    daemon.open("v").sync_all().unwrap();
    daemon.stop();
    // The second half of the volume comes first on the disk; the end of the first half is lost.
    let image = OpenOptions::new()
        .write(true)
        .open(scene.pool.image("a"))
        .unwrap();
    let job = scene.create(&scene.to(1), JobLimits::default());
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut controller = scene.pool.controller();
            image.set_len(EXTENT * 60).unwrap();
            jobs::run(&mut controller, job, &mut moving::Quiet)
        });
        let failed = worker.join().unwrap().unwrap_err();
        assert!(
            failed
                .why()
                .contains("disk a, bytes 1769472 to 2097152 of volume v"),
            "{failed}"
        );
        assert!(failed.way_out().is_some_and(|hint| hint.contains("--roll-back")));
    });
    assert_eq!(scene.job(job).state, JobState::Failed);
    scene.assert_nothing_left_over();
}

#[test]
fn a_worker_that_was_killed_is_followed_by_another_that_goes_on() {
    let scene = Scene::new(EXTENT, 128);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let load = scene.load(&daemons.each_ref(), 2, false);
    load.wait_for(2000, PATIENCE);
    let job = scene.create(&scene.to(1), limits(32 * EXTENT));
    let mut worker = Worker::start(&scene, job, None);
    scene.wait_for_progress(job, 5);
    worker.signal(rustix::process::Signal::KILL);
    worker.wait();
    let so_far = scene.on_disk(1);
    let mut store = scene.pool.store();
    jobs::set_limits(&mut *store, job, JobLimits::default()).unwrap();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert!(so_far >= 5 && scene.job(job).copied.0 <= scene.most_copied());
    scene.assert_all_on(1);
    assert_sound(load);
    daemons.into_iter().for_each(support::Daemon::stop);
}
