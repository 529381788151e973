//! The copies of the pool's metadata on its disks: one that cannot be written costs hosts nothing and is caught up with; one that grows moves to extents of its own; and
//! what the check finds is what a test has damaged.

use super::faulty::Faults;
use super::*;
use apparatus::admin::import::{self, Accepted};
use apparatus::admin::status::FindingKind;
use apparatus::admin::{check, disk};
use apparatus::blockdev::found::{Found, look_at};
use apparatus::model::dir::PoolDir;
use apparatus::model::records::Snapshot;
use apparatus::model::units::DiskId;
use std::path::PathBuf;

fn is_behind(scene: &Scene) -> bool {
    let findings = status_of(scene);
    let lost = findings
        .iter()
        .find(|finding| finding.kind == FindingKind::DiskLost);
    assert_eq!(lost, None);
    findings
        .iter()
        .any(|finding| finding.kind == FindingKind::CopyBehind && finding.subject == "disk b")
}

fn await_so(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "not so: {what}");
        std::thread::yield_now();
    }
}

/// A host's flush persists a move onto the disk whose copy cannot be written. Once it can, the apparatus writes it without any command.
fn costs_nothing(fault: &str) {
    let scene = Scene::new(EXTENT, EXTENTS);
    let faults = Faults::of(&scene.pool, "b");
    let daemon = faults.start(&scene.pool, "x");
    answered(write_and_sync(&daemon, "v"));
    move_and_leave(&scene, 64);
    faults.set(&format!("(on: Metadata, fault: {fault})"));
    await_so("the fault strikes", || {
        // The first may come before the fault.
        let mut controller = scene.pool.controller();
        let from = controller.store().header().unwrap().generation;
        let mut record = scene.pool.store().volumes().unwrap().remove(0);
        record.mode ^= 0o100;
        let change = NewChange {
            title: "mode".into(),
            job: None,
            delta: Delta {
                from,
                edits: vec![Edit::SetVolume(record)],
            },
            spans: Vec::new(),
            mode: HoldMode::Writes,
        };
        controller.run(change, false, &mut || Ok(())).unwrap();
        drop(controller);
        answered(write_and_sync(&daemon, "v"));
        is_behind(&scene)
    });
    answered(write_and_sync(&daemon, "v"));
    assert_eq!(at_risk(&scene), 0);
    faults.set("");
    await_so("the copy is current again", || !is_behind(&scene));
    assert_eq!(check::check(&scene.pool.dir).unwrap(), []);
    daemon.stop();
}

#[test]
fn a_copy_that_cannot_be_written_costs_hosts_nothing_and_is_caught_up_with() {
    costs_nothing(&format!("Error({})", libc::ENOSPC));
    costs_nothing(&format!("Error({})", libc::EIO));
}

#[test]
fn a_copy_on_a_disk_that_hangs_is_left_behind_and_caught_up_with() {
    costs_nothing("Hang");
}

/// A pool whose table is too long for the space behind the labels.
fn scattered(segments: u64) -> (TestPool, [DiskId; 2]) {
    let pool = TestPool::new(EXTENT);
    let disks = ["a", "b"].map(|name| pool.add_disk(name, 2 * segments).id);
    let place = |n: u64| (disks[(n % 2) as usize], 1 + n - n % 2, 1);
    let placements: Vec<_> = (0..segments).map(place).collect();
    pool.add_volume("v", segments * EXTENT, &placements);
    (pool, disks)
}

fn found(pool: &TestPool, disk: &str) -> Found {
    look_at(&pool.image(disk)).unwrap()
}

fn own_extents(pool: &TestPool, id: DiskId) -> Vec<Area> {
    let owned = pool.store().copy_extents().unwrap();
    owned.into_iter().filter(|area| area.disk == id).collect()
}

fn table(pool: &PoolDir) -> Snapshot {
    let mut store = apparatus::controller::pool::open_store(pool).unwrap();
    store.snapshot().unwrap()
}

#[test]
fn a_copy_that_grows_gets_extents_of_its_own_and_makes_way() {
    let (pool, disks) = scattered(6000);
    for (name, id) in [("a", disks[0]), ("b", disks[1])] {
        let place = found(&pool, name).label.copy.unwrap();
        let own = own_extents(&pool, id);
        assert_eq!(own, [place.extents(pool.extent_size, id).unwrap()]);
        let uses = pool.store().uses(id).unwrap();
        let its = uses.iter().filter(|used| used.owner == Owner::Metadata);
        assert_eq!(its.map(|used| used.area).collect::<Vec<_>>(), own);
    }
    assert_eq!(check::check(&pool.dir).unwrap(), []);
    // A disk that ends before its copy takes it elsewhere.
    let size = Some(ByteCount(6100 * EXTENT));
    assert!(own_extents(&pool, disks[1])[0].start.0 > 6100);
    disk::resize(&mut pool.controller(), "disk resize", "b", size).unwrap();
    assert!(
        own_extents(&pool, disks[1])
            .iter()
            .all(|area| area.end().0 <= 6100)
    );
    assert_eq!(check::check(&pool.dir).unwrap(), []);
    // And the disks alone make the pool again.
    let before = table(&pool.dir);
    std::fs::remove_dir_all(pool.dir.path()).unwrap();
    let other = PoolDir::new(pool.scratch().join("other"));
    let paths: Vec<PathBuf> = ["a", "b"].map(|name| pool.image(name)).into();
    import::import(&other, &paths, Accepted::default(), None).unwrap();
    let after = table(&other);
    assert_eq!((after.volumes, after.segments), (before.volumes, before.segments));
    assert_eq!(check::check(&other).unwrap(), []);
}

#[test]
fn extents_that_a_dead_controller_left_over_are_used_or_freed() {
    let (pool, disks) = scattered(200);
    let area = |start: u64| Area {
        disk: disks[0],
        start: DiskExtent(start),
        len: 8,
    };
    pool.store().claim_for_copy(area(300)).unwrap();
    let refused = pool.store().claim_for_copy(area(304)).unwrap_err();
    assert!(refused.to_string().contains("owned by"), "{refused}");
    pool.controller().persist().unwrap();
    assert_eq!(own_extents(&pool, disks[0]), []);
    assert_eq!(check::check(&pool.dir).unwrap(), []);
}

#[test]
fn the_check_finds_copies_that_are_damaged_behind_or_of_another_table() {
    let (pool, _) = scattered(20);
    let problems = || -> Vec<String> {
        let found = check::check(&pool.dir).unwrap();
        found.into_iter().map(|problem| problem.why).collect()
    };
    assert_eq!(problems(), Vec::<String>::new());
    let image = pool.image("b");
    let before = std::fs::read(&image).unwrap();
    pool.add_volume("w", EXTENT, &[(pool.store().disks().unwrap()[0].id, 30, 1)]);
    let file = File::options().write(true).open(&image).unwrap();
    // The labels stay, what lies behind them is as it was.
    file.write_all_at(&before[8192..EXTENT as usize], 8192).unwrap();
    let found = problems();
    assert!(found[0].contains("was written up to layout"), "{found:?}");
    let repaired = |pool: &TestPool| check::repair(&mut pool.controller()).unwrap();
    let lines = repaired(&pool);
    assert!(
        lines.iter().any(|line| line.contains("was written again")),
        "{lines:?}"
    );
    assert_eq!(problems(), Vec::<String>::new());
    let zeroes = vec![0; EXTENT as usize - 8192];
    file.write_all_at(&zeroes, 8192).unwrap();
    let found = problems();
    assert!(found[0].contains("cannot be used"), "{found:?}");
    repaired(&pool);
    assert_eq!(problems(), Vec::<String>::new());
}
