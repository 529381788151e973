//! P11 of real moves: inside its holds the controller waits for no disk. It flushes, syncs, settles
//! and labels nothing (that would panic here), and the kernel reads nothing for it, though the source
//! is cold. A counter-test shows that the check catches an operation that waits inside a hold.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
mod support;

use apparatus::controller::Controller;
use apparatus::held::figures;
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::error::Error;
use apparatus::model::job::JobLimits;
use apparatus::model::records::{Delta, Span};
use apparatus::model::units::{Generation, JobId};
use apparatus::protocol::controller::Outcome;
use moving::Scene;
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::Random;

const EXTENT: u64 = 64 << 10;
const EXTENTS: u64 = 512;

/// Makes a volume full of data on the first disk, none of it in memory.
fn cold_scene() -> (Scene, support::Daemon) {
    let scene = Scene::new(EXTENT, EXTENTS);
    let daemon = scene.pool.start("x");
    let file = daemon.open("v");
    let bytes = Random::new(5).bytes(scene.bytes() as usize);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    evict(&scene, 0);
    (scene, daemon)
}

/// Takes the image of this disk out of memory.
fn evict(scene: &Scene, disk: usize) {
    let image = File::open(scene.pool.image(["a", "b"][disk])).unwrap();
    image.sync_all().unwrap();
    fadvise(&image, 0, None, Advice::DontNeed).unwrap();
}

/// Reads the program and its libraries into memory: the first run of code of the program must not look like a wait for a disk of
/// the pool. On a machine that has just started, parts of the program are not in memory yet.
fn warm_up_program() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    let files: BTreeSet<&str> = code
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .collect();
    for path in files {
        std::fs::read(path).unwrap();
    }
}

/// Returns the bytes that the kernel has read from disks for this whole process; `None` where it does not report them.
fn read_so_far() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?;
    line.parse().ok()
}

/// Moves the volume to this disk while its source is cold. Returns what the kernel read inside the holds, in bytes, and the page faults
/// that waited for it.
fn reads_inside_holds_of_a_cold_move(scene: &Scene, to: usize) -> (u64, u64) {
    warm_up_program();
    let (before, read) = (figures(), read_so_far());
    scene.move_to(to);
    let (after, read_now) = (figures(), read_so_far());
    println!("{after:?}, and the process read {read:?} to {read_now:?}");
    assert!(after.holds > before.holds);
    match read_now.zip(read) {
        Some((now, before)) if now - before >= scene.bytes() / 2 => {}
        _ => println!("skipped in part: this file system keeps the source in memory"),
    }
    scene.assert_all_on(to);
    (after.read - before.read, after.faults - before.faults)
}

#[test]
fn the_holds_of_a_move_wait_for_no_disk_though_its_source_is_cold() {
    let (scene, daemon) = cold_scene();
    // The kernel may take the program's own code out of memory at any time, which no move can prevent. A wait that a move itself
    // causes would occur in each move.
    let mut moves = Vec::new();
    while moves.last() != Some(&(0, 0)) {
        assert!(moves.len() < 20, "bytes and faults of each move: {moves:?}");
        let to = (moves.len() + 1) % 2;
        evict(&scene, 1 - to);
        moves.push(reads_inside_holds_of_a_cold_move(&scene, to));
    }
    daemon.stop();
}

/// Runs a change of a job without edits, with this work.
fn hold_and(
    scene: &Scene,
    controller: &mut Controller,
    job: JobId,
    work: &mut dyn FnMut(),
) -> Result<Outcome, Error> {
    let change = NewChange {
        title: "test".into(),
        job: Some(job),
        delta: Delta {
            from: Generation(0),
            edits: Vec::new(),
        },
        spans: vec![Span::whole(scene.volume)],
        mode: HoldMode::Writes,
    };
    controller.run(change, false, &mut || {
        work();
        Ok(())
    })
}

#[test]
fn what_waits_inside_a_hold_of_a_move_is_caught() {
    let (scene, daemon) = cold_scene();
    let job = scene.create(&scene.to(1), JobLimits::default());

    let mut controller = scene.pool.controller();
    let (before, image) = (figures(), File::open(scene.pool.image("a")).unwrap());
    let mut buffer = vec![0; 4 << 20];
    // The kernel takes out of memory what it can: what somebody uses at the moment stays, and may be all.
    for round in 1..=20 {
        evict(&scene, 0);
        let mut read_cold = || image.read_exact_at(&mut buffer, 8 << 20).unwrap();
        hold_and(&scene, &mut controller, job, &mut read_cold).unwrap();
        assert_eq!(figures().holds, before.holds + round);
        if figures().read > before.read {
            break;
        }
    }
    match read_so_far() {
        Some(read) if read > 0 => assert!(figures().read > before.read, "{:?}", figures()),
        _ => println!("skipped in part: the kernel does not tell what it reads here"),
    }

    let disk = controller.disks().get(scene.disks[0]).unwrap();
    let ledger = controller.ledger(disk.id());
    let mut flush = || disk.flush_here(&*ledger).unwrap();
    let flushed = catch_unwind(AssertUnwindSafe(|| {
        hold_and(&scene, &mut controller, job, &mut flush)
    }));
    let why = flushed.err().unwrap();
    let why = why.downcast_ref::<String>().unwrap();
    assert!(why.starts_with("P11: a flush inside a hold"), "{why}");
    drop(controller);
    disk.flush_here(&*ledger).unwrap();
    daemon.stop();
}
