//! Readers and a switching thread run at once: a lookup uses one version, that version is never older than what the reader
//! knows of, and the memory of old versions is released.

use super::*;
use std::sync::atomic::AtomicBool;

const PAIRS: u64 = 32;
const CHANGES: u64 = 20_000;

/// Returns a placement that encodes the generation that put the extent there.
fn placement(generation: u64, extent: u64) -> u64 {
    1 + generation * PAIRS * 2 + extent
}

/// Returns a change that moves an extent and its mirror image together.
fn change(from: u64) -> Delta {
    let (extent, generation) = (from * 7 % PAIRS, from + 1);
    let mirror = PAIRS * 2 - 1 - extent;
    let one = |extent| segment(extent, 1, placement(generation, extent), 1);
    delta(from, vec![map(1, &[one(extent), one(mirror)])])
}

/// Looks up the whole volume; returns the generation of the result.
fn look(table: &Table, reader: &mut Reader, pieces: &mut Vec<Piece>) -> u64 {
    let known = table.generation();
    let found = table
        .locate(reader, VolumeId(1), VolumeOffset(0), extents(PAIRS * 2), pieces)
        .unwrap();
    assert!(found >= known, "a reader was sent back");
    let mut put_by = Vec::new();
    for piece in &*pieces {
        let first = piece.at.0 / UNIT.bytes();
        put_by
            .extend((first..first + piece.len / UNIT.bytes()).map(|placement| (placement - 1) / (PAIRS * 2)));
    }
    assert_eq!(put_by.len() as u64, PAIRS * 2);
    assert!(put_by.iter().eq(put_by.iter().rev()), "torn: {put_by:?}");
    assert_eq!(
        put_by.iter().max(),
        Some(&found.0),
        "a lookup used another version than it reported"
    );
    found.0
}

#[test]
fn a_lookup_is_of_one_version() {
    let segments: Vec<_> = (0..PAIRS * 2)
        .map(|extent| (1, segment(extent, 1, placement(0, extent), 1)))
        .collect();
    let disks = vec![disk(1, placement(CHANGES + 1, PAIRS * 2))];
    let table = Table::new(&snapshot(
        0,
        disks,
        vec![volume(1, "v", extents(PAIRS * 2))],
        &segments,
    ))
    .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (mut reader, mut pieces, mut last) = (table.reader(), Vec::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        let found = look(&table, &mut reader, &mut pieces);
                        assert!(found >= last, "a reader went back");
                        last = found;
                    }
                    look(&table, &mut reader, &mut pieces)
                })
            })
            .collect();
        for from in 0..CHANGES {
            table.apply(&change(from)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), CHANGES);
        }
    });
}

#[test]
fn only_versions_in_use_and_the_previous_one_are_kept() {
    let table = small();
    let (mut busy, idle) = (table.reader(), table.reader());
    let versions: Vec<_> = (5..15)
        .map(|from| {
            let version = Arc::downgrade(&table.current.load_full());
            table
                .apply(&delta(from, vec![map(1, &[segment(0, 1, from + 30, 1)])]))
                .unwrap();
            table.volume(&mut busy, VolumeId(1)).unwrap();
            version
        })
        .collect();
    let alive: Vec<_> = (0..versions.len())
        .filter(|at| versions[*at].upgrade().is_some())
        .collect();
    assert_eq!(
        alive,
        [0, 9],
        "the idle reader's and the one before the current one"
    );
    drop(idle);
    assert!(versions[0].upgrade().is_none());
}
