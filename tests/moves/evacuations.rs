//! Evacuations of disks.

use super::*;

#[test]
fn an_evacuated_disk_is_free_and_takes_nothing_new() {
    let scene = Scene::new(EXTENT, 64);
    let other = scene.pool.add_volume("w", 4 * EXTENT, &[(scene.disks[0], 66, 4)]);
    let daemon = scene.pool.start("x");
    let bytes = Random::new(3).bytes(4 * EXTENT as usize);
    daemon.open("w").write_all_at(&bytes, 0).unwrap();
    let load = scene.load(&[&daemon], 2, false);
    let request = Request::Evacuate {
        disk: scene.disks[0],
        to: vec![],
        use_reserve: false,
    };
    let job = scene.create(&request, JobLimits::default());
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!(scene.pool.store().uses(scene.disks[0]).unwrap(), vec![]);
    let disks = scene.pool.store().disks().unwrap();
    assert!(
        disks
            .iter()
            .all(|disk| disk.allocate != (disk.id == scene.disks[0]))
    );
    assert_eq!(support::read_up_to(&daemon.open("w"), bytes.len(), 0), bytes);
    // Nothing can be moved there, and the reason is reported.
    let back = Request::Move {
        volume: other.id,
        range: None,
        from: None,
        to: vec![scene.disks[0]],
        policy: None,
    };
    let refused = jobs::plan(&mut *scene.pool.store(), &back, &Faults::new()).unwrap_err();
    assert!(refused.why().contains("a: no-allocate is set"), "{refused}");
    assert_sound(load);
    daemon.stop();
}

#[test]
fn an_evacuation_that_is_rolled_back_leaves_the_disk_open_for_new_things() {
    let scene = Scene::new(EXTENT, 64);
    let request = Request::Evacuate {
        disk: scene.disks[0],
        to: vec![],
        use_reserve: false,
    };
    let daemon = scene.pool.start("x");
    let load = scene.load(&[&daemon], 2, false);
    load.wait_for(1000, PATIENCE);
    let job = scene.create(&request, limits(16 * EXTENT));
    let allocate = || scene.pool.store().disks().unwrap()[0].allocate;
    assert!(!allocate());
    thread::scope(|scope_| {
        let worker = scope_.spawn(|| scene.run(job).unwrap());
        scene.wait_for_progress(job, 5);
        jobs::cancel(&mut *scene.pool.store(), job, true).unwrap();
        assert_eq!(worker.join().unwrap(), JobState::Cancelled);
    });
    assert!(allocate());
    assert_eq!(scene.on_disk(0), 64);
    assert_sound(load);
    daemon.stop();
}

#[test]
fn an_evacuation_looks_again_before_it_says_that_the_disk_is_free() {
    let scene = Scene::new(EXTENT, 64);
    let request = Request::Evacuate {
        disk: scene.disks[0],
        to: vec![],
        use_reserve: false,
    };
    let job = scene.create(&request, JobLimits::default());
    // Data is placed there by a change that names the extents, between the plan and the run.
    scene
        .pool
        .add_volume("late", 4 * EXTENT, &[(scene.disks[0], 66, 4)]);
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!(scene.pool.store().uses(scene.disks[0]).unwrap(), vec![]);
}

/// One range under one of three volumes cannot be read.
#[test]
fn what_can_be_read_leaves_the_disk_and_what_cannot_is_listed() {
    let scene = Scene::new(EXTENT, 32);
    let on_first = |name: &str, at| {
        scene
            .pool
            .add_volume(name, 3 * EXTENT, &[(scene.disks[0], at, 3)])
    };
    let (w, x) = (on_first("w", 33), on_first("x", 36));
    let evacuate = Request::Evacuate {
        disk: scene.disks[0],
        to: vec![],
        use_reserve: false,
    };
    let mut controller = scene.pool.controller();
    // The disk's extents 38 and 39 are lost: the last one of volume x, and one that is free.
    let image = OpenOptions::new()
        .write(true)
        .open(scene.pool.image("a"))
        .unwrap();
    image.set_len(38 * EXTENT).unwrap();
    let mut run = |limits| {
        let job = jobs::create(&mut controller, &evacuate, &Faults::new(), "evacuate a", limits)
            .unwrap()
            .unwrap();
        (job, jobs::run(&mut controller, job, &mut moving::Quiet))
    };
    let (job, failed) = run(JobLimits::default());
    let failed = failed.unwrap_err();
    assert!(
        failed.why().contains("volume x bytes 131072 to 196608"),
        "{failed}"
    );
    assert!(
        failed.way_out().unwrap().contains("--skip-unreadable"),
        "{failed}"
    );
    assert_eq!(scene.job(job).state, JobState::Failed);
    let left = |volume| {
        let uses = scene.pool.store().uses(scene.disks[0]).unwrap();
        let mine = uses.iter().filter(|taken| taken.owner == Owner::Volume(volume));
        mine.map(|taken| taken.area.len).sum::<u64>()
    };
    assert_eq!([scene.volume, w.id, x.id].map(left), [0, 0, 3]);

    let (job, done) = run(JobLimits {
        skip_unreadable: true,
        ..JobLimits::default()
    });
    assert_eq!(done.unwrap(), JobState::Done);
    let why = scene.job(job).why;
    assert!(why.contains("volume x bytes 131072 to 196608"), "{why}");
    assert_eq!([scene.volume, w.id, x.id].map(left), [0, 0, 1]);
    drop(controller);
    scene.assert_nothing_left_over();
}
