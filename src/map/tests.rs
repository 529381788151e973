//! The table as its users see it. `model` compares it with a slow oracle, `switch` uses many threads.

mod model;
mod scale;
mod switch;

use super::*;
use crate::model::build::{self, disk, map, segment};
use crate::model::records::{Edit, Instance, PoolHeader};
use crate::model::units::{MembershipVersion, Term};
use uuid::Uuid;

const UNIT: ExtentSize = ExtentSize::MIN;

fn extents(n: u64) -> u64 {
    n * UNIT.bytes()
}

fn volume(id: u64, name: &str, size: u64) -> VolumeRecord {
    VolumeRecord {
        name: Name::new("volume", name).unwrap(),
        ..build::volume(id, size)
    }
}

fn snapshot(
    generation: u64,
    disks: Vec<DiskRecord>,
    volumes: Vec<VolumeRecord>,
    segments: &[(u64, Segment)],
) -> Snapshot {
    let header = PoolHeader {
        uuid: Uuid::nil(),
        extent_size: UNIT,
        access: crate::model::records::DiskAccess::Cached,
        generation: Generation(generation),
        layout: 0,
        membership: MembershipVersion(0),
        term: Term(0),
        instance: Instance::default(),
    };
    let segments = segments
        .iter()
        .map(|(volume, segment)| (VolumeId(*volume), *segment))
        .collect();
    Snapshot {
        header,
        disks,
        volumes,
        segments,
    }
}

fn delta(from: u64, edits: Vec<Edit>) -> Delta {
    Delta {
        from: Generation(from),
        edits,
    }
}

/// Returns a table with volume 1, `v`, of 8.5 extents: 4 on disk 1 and the rest on disk 2.
fn small() -> Table {
    let segments = [(1, segment(0, 1, 10, 4)), (1, segment(4, 2, 20, 5))];
    Table::new(&snapshot(
        5,
        vec![disk(1, 100), disk(2, 100)],
        vec![volume(1, "v", extents(9) - 512)],
        &segments,
    ))
    .unwrap()
}

fn pieces(table: &Table, at: u64, len: u64) -> Result<Vec<(u32, u64, u64)>, Missing> {
    let mut pieces = Vec::new();
    table.locate(
        &mut table.reader(),
        VolumeId(1),
        VolumeOffset(at),
        len,
        &mut pieces,
    )?;
    Ok(pieces
        .iter()
        .map(|piece| (piece.disk.0, piece.at.0, piece.len))
        .collect())
}

#[test]
fn a_range_is_located_piece_by_piece() {
    let table = small();
    assert_eq!(pieces(&table, 5, 10), Ok(vec![(1, extents(10) + 5, 10)]));
    assert_eq!(
        pieces(&table, extents(4) - 1, 3),
        Ok(vec![(1, extents(14) - 1, 1), (2, extents(20), 2)])
    );
    assert_eq!(pieces(&table, 0, 0), Ok(vec![]));
    let size = extents(9) - 512;
    assert_eq!(pieces(&table, size - 1, 1), Ok(vec![(2, extents(25) - 513, 1)]));
    for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (1, u64::MAX)] {
        assert_eq!(
            pieces(&table, at, len),
            Err(Missing::PastEnd(ByteCount(size))),
            "{at}+{len}"
        );
    }
    let mut reader = table.reader();
    assert_eq!(
        table.locate(&mut reader, VolumeId(2), VolumeOffset(0), 1, &mut Vec::new()),
        Err(Missing::NoVolume)
    );
    let mut disks = Vec::new();
    assert_eq!(
        table.disks_of(&mut reader, VolumeId(1), &mut disks),
        Ok(Generation(5))
    );
    assert_eq!(disks, [DiskId(1), DiskId(2)]);
}

#[test]
fn a_hole_differs_from_the_end() {
    let table = small();
    let hole = Edit::Unmap {
        volume: VolumeId(1),
        start: VolumeExtent(2),
        end: VolumeExtent(3),
    };
    table.apply(&delta(5, vec![hole])).unwrap();
    assert_eq!(
        pieces(&table, 0, extents(3)),
        Err(Missing::Unmapped(VolumeOffset(extents(2))))
    );
    assert_eq!(
        pieces(&table, extents(2) + 7, 1),
        Err(Missing::Unmapped(VolumeOffset(extents(2) + 7)))
    );
    assert_eq!(pieces(&table, extents(3), 1).map(|pieces| pieces.len()), Ok(1));
}

#[test]
fn applying_twice_is_applying_once_and_a_stale_one_is_refused() {
    let table = small();
    let moved = delta(5, vec![map(1, &[segment(0, 2, 50, 4)])]);
    assert_eq!(table.apply(&moved).unwrap(), Generation(6));
    assert_eq!(table.apply(&moved).unwrap(), Generation(6));
    assert_eq!(table.generation(), Generation(6));
    for from in [0, 4, 7, u64::MAX] {
        let error = table.apply(&delta(from, vec![])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    }
}

#[test]
fn a_rename_moves_the_name_and_a_removed_volume_has_none() {
    let table = small();
    let mut reader = table.reader();
    let old = table.lookup(&mut reader, "v").unwrap();
    let rename = Edit::SetVolume(VolumeRecord {
        name: Name::new("volume", "w").unwrap(),
        ..old
    });
    table.apply(&delta(5, vec![rename])).unwrap();
    assert_eq!(table.lookup(&mut reader, "v"), None);
    assert_eq!(table.lookup(&mut reader, "w").unwrap().id, VolumeId(1));
    table
        .apply(&delta(6, vec![Edit::AddVolume(volume(2, "v", 0))]))
        .unwrap();
    table
        .apply(&delta(7, vec![Edit::RemoveVolume(VolumeId(1))]))
        .unwrap();
    assert_eq!(table.lookup(&mut reader, "w"), None);
    assert_eq!(table.volume(&mut reader, VolumeId(1)), None);
    assert_eq!(table.volumes(&mut reader), [volume(2, "v", 0)]);
    assert_eq!(table.lookup(&mut reader, "../etc"), None);
}

fn wrong_segments() -> Vec<(Edit, &'static str)> {
    let far = u64::MAX;
    let order = "the segment of volume v at extent 0 is empty, or is not after the one before it";
    vec![
        (map(2, &[]), "there is no volume 2"),
        (map(1, &[segment(0, 3, 1, 1)]), "there is no disk 3"),
        (
            map(1, &[segment(0, 1, 0, 1)]),
            "disk d1 has extents 1 to 99, not 0..1",
        ),
        (
            map(1, &[segment(0, 1, 99, 2)]),
            "disk d1 has extents 1 to 99, not 99..101",
        ),
        (
            map(1, &[segment(9, 1, 1, 1)]),
            "volume v would have segments up to extent 10, but has 9 extents",
        ),
        (map(1, &[segment(0, 1, 1, 0)]), order),
        (map(1, &[segment(0, 1, far, 2)]), order),
        (
            map(1, &[segment(0, 1, 1, 2), segment(1, 1, 5, 1)]),
            "the segment of volume v at extent 1 is empty, or is not after the one before it",
        ),
        (
            Edit::Unmap {
                volume: VolumeId(2),
                start: VolumeExtent(0),
                end: VolumeExtent(1),
            },
            "there is no volume 2",
        ),
    ]
}

/// Returns edits that do not fit [`small`], with the reasons.
fn wrong_edits() -> Vec<(Edit, &'static str)> {
    let far = u64::MAX;
    let mut wrong = wrong_segments();
    wrong.extend([
        (Edit::AddDisk(disk(1, 5)), "disk 1 is in the pool already"),
        (
            Edit::AddDisk(disk(3, far)),
            "disk d3 is too large: 18446744073709551615 extents",
        ),
        (Edit::SetDisk(disk(9, 5)), "there is no disk 9"),
        (
            Edit::SetDisk(disk(2, 24)),
            "disk d2 has segments beyond its new size, 24 extents",
        ),
        (
            Edit::RemoveDisk(DiskId(1)),
            "disk 1 still has segments of volume v",
        ),
        (
            Edit::AddVolume(volume(1, "w", 0)),
            "volume 1 is in the pool already",
        ),
        (
            Edit::AddVolume(volume(2, "v", 0)),
            "the name v belongs to volume 1",
        ),
        (Edit::AddVolume(volume(2, "w", 1)), "volume w cannot have 1 bytes"),
        (
            Edit::AddVolume(volume(2, "w", far - 511)),
            "volume w cannot have 18446744073709551104 bytes",
        ),
        (Edit::SetVolume(volume(2, "w", 0)), "there is no volume 2"),
        (
            Edit::SetVolume(volume(1, "v", 512)),
            "volume v would have segments up to extent 9, but has 1 extent",
        ),
        (Edit::RemoveVolume(VolumeId(2)), "there is no volume 2"),
    ]);
    wrong
}

#[test]
fn an_edit_that_does_not_fit_names_the_reason_and_changes_nothing() {
    let table = small();
    let before = table.segments(&mut table.reader(), VolumeId(1));
    for (edit, why) in wrong_edits() {
        let good = map(1, &[segment(0, 2, 60, 1)]);
        let error = table.apply(&delta(5, vec![good, edit])).unwrap_err();
        assert_eq!((error.what(), error.why()), ("delta from generation 5", why));
    }
    assert_eq!(table.generation(), Generation(5));
    assert_eq!(table.segments(&mut table.reader(), VolumeId(1)), before);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let of = |volumes: Vec<VolumeRecord>, segments: &[(u64, Segment)]| {
        Table::new(&snapshot(1, vec![disk(1, 10)], volumes, segments))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let one = || vec![volume(1, "v", extents(4))];
    assert_eq!(of(one(), &[(1, segment(0, 1, 1, 4))]), Ok(()));
    for (volumes, segments) in [
        (one(), vec![(1, segment(0, 1, 1, 5))]),
        (one(), vec![(1, segment(0, 1, 8, 4))]),
        (one(), vec![(2, segment(0, 1, 1, 4))]),
        (one(), vec![(1, segment(2, 1, 1, 1)), (1, segment(1, 1, 5, 1))]),
        (
            vec![volume(1, "v", 512), volume(2, "w", 512)],
            vec![
                (1, segment(0, 1, 1, 1)),
                (2, segment(0, 1, 2, 1)),
                (1, segment(0, 1, 3, 1)),
            ],
        ),
        (vec![volume(1, "v", 512), volume(2, "v", 512)], vec![]),
    ] {
        let error = of(volumes, &segments).unwrap_err();
        assert!(error.starts_with("table of generation 1: "), "{error}");
    }
}

#[test]
fn moved_ranges_are_remembered() {
    let table = small();
    let unmoved = |extent: u64, since| {
        table.unmoved(
            VolumeId(1),
            VolumeOffset(extents(extent)),
            extents(1),
            Generation(since),
        )
    };
    assert!(unmoved(0, 5));
    assert!(!unmoved(0, 4), "that is not known");
    assert!(!unmoved(0, 6), "there is no such table yet");
    table
        .apply(&delta(5, vec![map(1, &[segment(2, 1, 50, 1)])]))
        .unwrap();
    table
        .apply(&delta(6, vec![map(1, &[segment(6, 1, 60, 1)])]))
        .unwrap();
    assert!(unmoved(1, 5) && !unmoved(2, 5) && unmoved(3, 5));
    assert!(unmoved(2, 6) && !unmoved(6, 6) && unmoved(6, 7));
    assert!(
        !table.unmoved(
            VolumeId(1),
            VolumeOffset(extents(1)),
            extents(1) + 1,
            Generation(5)
        ),
        "one byte of it"
    );
    for g in 7..7 + 5000 {
        table
            .apply(&delta(g, vec![map(1, &[segment(8, 1, 40 + g % 2, 1)])]))
            .unwrap();
    }
    assert!(!unmoved(0, 7), "that is too long ago");
    assert!(unmoved(0, 5000));
}

#[test]
fn a_reloaded_table_knows_what_differs() {
    let table = small();
    let reloaded = [
        (1, segment(0, 1, 10, 3)),
        (1, segment(3, 2, 70, 1)),
        (1, segment(4, 2, 20, 5)),
    ];
    let records = || {
        (
            vec![disk(1, 100), disk(2, 100)],
            vec![volume(1, "v", extents(9) - 512)],
        )
    };
    let (disks, volumes) = records();
    table
        .replace(Draft::new(&snapshot(9, disks, volumes, &reloaded)).unwrap())
        .unwrap();
    assert_eq!(table.generation(), Generation(9));
    for extent in 0..9 {
        let unmoved = table.unmoved(
            VolumeId(1),
            VolumeOffset(extents(extent)),
            extents(1),
            Generation(5),
        );
        assert_eq!(unmoved, extent != 3, "{extent}");
    }
    let (disks, volumes) = records();
    table
        .replace(Draft::new(&snapshot(9, disks, volumes, &[(1, segment(0, 1, 10, 4))])).unwrap())
        .unwrap();
    assert!(
        !table.unmoved(VolumeId(1), VolumeOffset(0), 1, Generation(9)),
        "two tables of one generation"
    );
    let (disks, volumes) = records();
    let mut other_unit = snapshot(10, disks, volumes, &[]);
    other_unit.header.extent_size = ExtentSize::DEFAULT;
    assert!(table.replace(Draft::new(&other_unit).unwrap()).is_err());
    assert_eq!(table.generation(), Generation(9));
}
