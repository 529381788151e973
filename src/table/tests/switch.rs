//! Readers and a switching thread at once: a lookup is of one face, the face is never older than what the reader knows of, and the
//! memory of old faces is given back.

use super::*;
use std::sync::atomic::AtomicBool;

const PAIRS: u64 = 32;
const CHANGES: u64 = 20_000;

/// The home of an extent tells the generation that put it there.
fn home(generation: u64, extent: u64) -> u64 {
    1 + generation * PAIRS * 2 + extent
}

/// Each change moves an extent and its mirror image together.
fn change(from: u64) -> Difference {
    let (extent, generation) = (from * 7 % PAIRS, from + 1);
    let mirror = PAIRS * 2 - 1 - extent;
    let one = |extent| segment(extent, 1, home(generation, extent), 1);
    difference(from, vec![map(1, &[one(extent), one(mirror)])])
}

/// Looks the whole volume up; answers the generation it was of.
fn look(table: &Table, reader: &mut Reader, pieces: &mut Vec<Piece>) -> u64 {
    let known = table.generation();
    let found = table
        .locate(reader, VolumeId(1), VolumeOffset(0), extents(PAIRS * 2), pieces)
        .unwrap();
    assert!(found >= known, "a reader was sent back");
    let mut put_by = Vec::new();
    for piece in &*pieces {
        let first = piece.at.0 / UNIT.bytes();
        put_by.extend((first..first + piece.len / UNIT.bytes()).map(|home| (home - 1) / (PAIRS * 2)));
    }
    assert_eq!(put_by.len() as u64, PAIRS * 2);
    assert!(put_by.iter().eq(put_by.iter().rev()), "torn: {put_by:?}");
    assert_eq!(
        put_by.iter().max(),
        Some(&found.0),
        "a lookup is of another face than it says"
    );
    found.0
}

#[test]
fn a_lookup_is_of_one_face() {
    let segments: Vec<_> = (0..PAIRS * 2)
        .map(|extent| (1, segment(extent, 1, home(0, extent), 1)))
        .collect();
    let disks = vec![disk(1, home(CHANGES + 1, PAIRS * 2))];
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
fn at_most_the_faces_somebody_looks_at_are_kept() {
    let table = small();
    let (mut busy, idle) = (table.reader(), table.reader());
    let faces: Vec<_> = (5..15)
        .map(|from| {
            let face = Arc::downgrade(&table.current.load_full());
            table
                .apply(&difference(from, vec![map(1, &[segment(0, 1, from + 30, 1)])]))
                .unwrap();
            table.volume(&mut busy, VolumeId(1)).unwrap();
            face
        })
        .collect();
    let alive: Vec<_> = (0..faces.len())
        .filter(|at| faces[*at].upgrade().is_some())
        .collect();
    assert_eq!(
        alive,
        [0, 9],
        "the idle reader's and the one before the current one"
    );
    drop(idle);
    assert!(faces[0].upgrade().is_none());
}
