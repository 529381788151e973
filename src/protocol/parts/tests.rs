//! Each list of parts leads, by sound tables, to the table that the whole change leads to, and hosts see the volume as a whole
//! or not at all.

use super::*;
use crate::map::{Reader, Table};
use crate::model::build::{self, segment};
use crate::model::records::{Delta, PoolHeader, Snapshot};
use crate::model::units::{Generation, MembershipVersion, Term};
use uuid::Uuid;

const UNIT: ExtentSize = ExtentSize::MIN;
const VOLUME: VolumeId = VolumeId(7);

fn volume(extents: u64) -> VolumeRecord {
    // The last extent is used in part.
    build::volume(VOLUME.0, extents * UNIT.bytes() - 512)
}

/// Returns segments of one extent, none of which continues the one before.
fn scattered(from: u64, to: u64) -> Vec<Segment> {
    (from..to).map(|at| segment(at, 1, 1 + 2 * at, 1)).collect()
}

fn table(volume: Option<(VolumeRecord, Vec<Segment>)>) -> Table {
    let disk = build::disk(1, 1 << 20);
    let (volumes, segments) = volume.map_or_else(Default::default, |(record, segments)| {
        let segments = segments.into_iter().map(|segment| (record.id, segment)).collect();
        (vec![record], segments)
    });
    let header = PoolHeader {
        uuid: Uuid::nil(),
        extent_size: UNIT,
        access: crate::model::records::DiskAccess::Cached,
        generation: Generation(0),
        layout: 0,
        membership: MembershipVersion(0),
        term: Term(0),
        instance: crate::model::records::Instance::default(),
    };
    let snapshot = Snapshot {
        header,
        disks: vec![disk],
        volumes,
        segments,
    };
    Table::new(&snapshot).unwrap()
}

/// Returns the size of the volume as hosts see it; checks that it has a placement everywhere.
fn seen(table: &Table, reader: &mut Reader) -> Option<ByteCount> {
    let record = table.volume(reader, VOLUME)?;
    let mut pieces = Vec::new();
    table
        .locate(reader, VOLUME, VolumeOffset(0), record.size.0, &mut pieces)
        .unwrap();
    Some(record.size)
}

/// Applies the parts, each of which has to be light, and returns what hosts see after each.
fn steps(
    before: Option<(VolumeRecord, Vec<Segment>)>,
    edits: &[Edit],
    spans: &[Span],
) -> Vec<Option<ByteCount>> {
    let taken = before.clone().map(|(record, segments)| {
        let (_, start, end) = source_of(edits).unwrap_or((VOLUME, VolumeExtent(0), VolumeExtent(0)));
        let kept = segments
            .into_iter()
            .filter(|each| each.start >= start && each.start < end);
        (record, kept.collect())
    });
    let (whole, parted) = (table(before.clone()), table(before));
    let delta = |from: u64, edits: &[Edit]| Delta {
        from: Generation(from),
        edits: edits.to_vec(),
    };
    whole.apply(&delta(0, edits)).unwrap();
    let mut reader = parted.reader();
    let mut sizes = Vec::new();
    for (at, part) in (0..).zip(of(edits, spans, taken.as_ref(), UNIT)) {
        let change = delta(at, &part.edits);
        assert!(change.weight() <= Delta::HEAVIEST);
        let was = seen(&parted, &mut reader);
        parted.apply(&change).unwrap();
        let is = seen(&parted, &mut reader);
        if is.map_or(0, |size| size.0) < was.map_or(0, |size| size.0) {
            let held = part.spans.first().expect("a range that a host loses is held");
            assert!(held.start.0 <= is.map_or(0, |size| size.0));
        }
        sizes.push(is);
    }
    let mut other = whole.reader();
    assert_eq!(parted.volumes(&mut reader), whole.volumes(&mut other));
    assert_eq!(
        parted.segments(&mut reader, VOLUME),
        whole.segments(&mut other, VOLUME)
    );
    assert_eq!(parted.disks(&mut reader), whole.disks(&mut other));
    sizes
}

const MANY: u64 = 3 * LIGHT as u64 + 5;

#[test]
fn a_volume_is_created_and_removed_as_a_whole() {
    let (record, segments) = (volume(MANY), scattered(0, MANY));
    let map = Edit::Map {
        volume: VOLUME,
        segments: segments.clone(),
    };
    let made = steps(None, &[Edit::AddVolume(record.clone()), map], &[]);
    assert_eq!(made, [None, None, None, None, Some(record.size)]);
    let spans = [Span::whole(VOLUME)];
    let removed = steps(Some((record, segments)), &[Edit::RemoveVolume(VOLUME)], &spans);
    assert_eq!(removed, [None; 5]);
}

#[test]
fn the_rest_of_a_volume_that_a_dead_controller_left_is_removed() {
    let record = hidden(&volume(MANY));
    let segments = scattered(0, 2 * LIGHT as u64);
    let parts = removing(&record, &segments);
    assert_eq!(parts.len(), 2);
    let table = table(Some((record, segments)));
    for (at, part) in (0..).zip(parts) {
        assert_eq!(part.spans, []);
        let change = Delta {
            from: Generation(at),
            edits: part.edits,
        };
        table.apply(&change).unwrap();
    }
    assert_eq!(
        removing(&hidden(&volume(1)), &[]).len(),
        1,
        "also without segments"
    );
}

#[test]
fn a_resize_goes_through_sizes_in_between() {
    let (small, large) = (volume(5), volume(MANY));
    let map = Edit::Map {
        volume: VOLUME,
        segments: scattered(5, MANY),
    };
    let grown = steps(
        Some((small.clone(), scattered(0, 5))),
        &[Edit::SetVolume(large.clone()), map],
        &[],
    );
    let sizes: Vec<u64> = grown.iter().flatten().map(|size| size.0).collect();
    assert!(sizes.is_sorted() && sizes.len() == 3, "{sizes:?}");
    let unmap = Edit::Unmap {
        volume: VOLUME,
        start: VolumeExtent(5),
        end: VolumeExtent(MANY),
    };
    let shrunk = steps(
        Some((large, scattered(0, MANY))),
        &[unmap, Edit::SetVolume(small.clone())],
        &[Span {
            start: VolumeOffset(small.size.0),
            ..Span::whole(VOLUME)
        }],
    );
    let sizes: Vec<u64> = shrunk.iter().flatten().map(|size| size.0).collect();
    assert!(sizes.iter().rev().is_sorted() && sizes.len() == 3, "{sizes:?}");
}

#[test]
fn a_light_change_is_not_split() {
    let count = LIGHT as u64;
    let map = Edit::Map {
        volume: VOLUME,
        segments: scattered(0, count),
    };
    let made = steps(None, &[Edit::AddVolume(volume(count)), map], &[]);
    assert_eq!(made.len(), 1);
    let removed = steps(
        Some((volume(count), scattered(0, count))),
        &[Edit::RemoveVolume(VOLUME)],
        &[Span::whole(VOLUME)],
    );
    assert_eq!(removed.len(), 1);
}
