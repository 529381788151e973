//! Round trips; every cut and every flipped byte leads to an earlier sound state or is refused; against the slow table of the store in memory.

use super::contents::{Contents, Facts, body_of};
use super::copy::{Copy, Tail, checkpoint, read};
use super::header::{Header, Identity, Position};
use super::{BLOCK, Fault, log};
use crate::model::names::Name;
use crate::model::records::{
    Area, DiskAccess, DiskRecord, Edit, PoolHeader, SECTOR, Segment, Snapshot, VolumeRecord,
};
use crate::model::units::{ByteCount, DiskExtent, DiskId, ExtentSize, Generation, VolumeExtent, VolumeId};
use crate::store::memory::Placements;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;
use uuid::Uuid;

const SLOT: usize = 64 * BLOCK;

fn identity() -> Identity {
    Identity {
        pool: Uuid::from_u128(1),
        disk: Uuid::from_u128(2),
        lineage: Uuid::from_u128(3),
    }
}

fn position(layout: u64) -> Position {
    Position {
        layout,
        generation: Generation(layout + 5),
    }
}

fn facts(last_volume: u64) -> Facts {
    Facts {
        directory: "/pool".into(),
        last_disk: 3,
        last_volume,
        policy: "order".into(),
        nearfull: 85,
        full: 95,
        access: DiskAccess::Direct,
        labels: [(DiskId(1), 4), (DiskId(2), 9)].into(),
        carriers: [DiskId(1)].into(),
    }
}

fn disk(id: u32) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::from_u128(100 + u128::from(id)),
        path: format!("/d{id}").into(),
        extents: 1 << 20,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 4,
    }
}

fn volume(id: u64, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(extents * (1 << 20) - SECTOR),
        mode: 0o600,
        uid: 7,
        gid: 8,
        read_only: false,
    }
}

fn segment(start: u64, disk: u32, at: u64, len: u64) -> Segment {
    Segment {
        start: VolumeExtent(start),
        placement: Area {
            disk: DiskId(disk),
            start: DiskExtent(at),
            len,
        },
    }
}

fn map(id: u64, segments: Vec<Segment>) -> Edit {
    Edit::Map {
        volume: VolumeId(id),
        segments,
    }
}

fn body(facts: &Facts, snapshot: &Snapshot) -> Result<Vec<u8>, Fault> {
    let body = Contents::of(facts.clone(), snapshot.clone()).body();
    assert_eq!(body, body_of(facts, snapshot), "both ways lead to the same bytes");
    body
}

fn empty() -> Snapshot {
    Snapshot {
        header: PoolHeader::before(ExtentSize::DEFAULT),
        disks: vec![disk(1), disk(2)],
        volumes: vec![volume(1, 64)],
        segments: vec![(VolumeId(1), segment(0, 1, 1, 64))],
    }
}

fn slot(number: u64, layout: u64, snapshot: &Snapshot) -> (Vec<u8>, Tail) {
    let body = body(&facts(1), snapshot).unwrap();
    let (header, padded) = checkpoint(identity(), number, position(layout), &body, SLOT as u64).unwrap();
    let mut slot = header.encode().to_vec();
    slot.extend(padded);
    slot.resize(SLOT, 0);
    (slot, Tail::behind(&header).unwrap())
}

fn append(slot: &mut [u8], tail: &mut Tail, edits: &[Edit]) {
    let to = position(tail.position.layout + 1);
    let (record, chain) = log::encode(tail.chain, to, &facts(2), edits.iter()).unwrap();
    let at = usize::try_from(tail.at).unwrap();
    slot[at..at + record.len()].copy_from_slice(&record);
    *tail = Tail {
        at: tail.at + record.len() as u64,
        chain,
        position: to,
    };
}

fn state_of(copy: Copy) -> (u64, Snapshot) {
    let header = PoolHeader::before(ExtentSize::DEFAULT);
    (copy.position.layout, copy.contents.into_snapshot(header))
}

/// The states that the log of a slot leads through, each with the slot's bytes and the tail then.
fn history(edits: &[Vec<Edit>]) -> (Vec<u8>, Vec<(u64, Snapshot)>) {
    let (mut slot, mut tail) = slot(2, 10, &empty());
    let mut states = vec![state_of(read([&slot, &[]]).unwrap())];
    for edits in edits {
        append(&mut slot, &mut tail, edits);
        states.push(state_of(read([&slot, &[]]).unwrap()));
    }
    (slot, states)
}

fn some_history() -> (Vec<u8>, Vec<(u64, Snapshot)>) {
    history(&[
        vec![map(1, vec![segment(4, 2, 100, 8), segment(20, 2, 200, 2)])],
        vec![Edit::AddVolume(volume(2, 3)), map(2, vec![segment(0, 2, 900, 3)])],
        vec![Edit::RemoveVolume(VolumeId(1))],
        vec![Edit::AddDisk(disk(3)), Edit::RemoveDisk(DiskId(1))],
    ])
}

#[test]
fn a_checkpoint_and_its_log_lead_through_each_state() {
    let (_, states) = some_history();
    let layouts: Vec<u64> = states.iter().map(|(layout, _)| *layout).collect();
    assert_eq!(layouts, [10, 11, 12, 13, 14]);
    assert_eq!(states[0].1, empty());
    let pieces: Vec<Segment> = states[1].1.segments.iter().map(|(_, segment)| *segment).collect();
    let expected = [
        segment(0, 1, 1, 4),
        segment(4, 2, 100, 8),
        segment(12, 1, 13, 8),
        segment(20, 2, 200, 2),
        segment(22, 1, 23, 42),
    ];
    assert_eq!(pieces, expected);
    let last = &states[4].1;
    assert_eq!(last.disks, [disk(2), disk(3)]);
    assert_eq!(last.volumes, [volume(2, 3)]);
    assert_eq!(last.segments, [(VolumeId(2), segment(0, 2, 900, 3))]);
}

#[test]
fn the_header_lies_where_the_table_says() {
    let header = Header {
        identity: identity(),
        number: 0x0102_0304_0506_0708,
        position: position(9),
        body: 77,
        checksum: 0xdead_beef,
    };
    let bytes = header.encode();
    assert_eq!(&bytes[..8], b"APPARMET");
    assert_eq!(bytes[8..12], 1_u32.to_le_bytes());
    assert_eq!(bytes[16..32], *Uuid::from_u128(1).as_bytes());
    assert_eq!(bytes[32..48], *Uuid::from_u128(2).as_bytes());
    assert_eq!(bytes[48..64], *Uuid::from_u128(3).as_bytes());
    assert_eq!(bytes[64..72], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[72..80], 9_u64.to_le_bytes());
    assert_eq!(bytes[80..88], 14_u64.to_le_bytes());
    assert_eq!(bytes[88..96], 77_u64.to_le_bytes());
    assert_eq!(bytes[96..100], 0xdead_beef_u32.to_le_bytes());
    assert_eq!(Header::decode(&bytes), Ok(header));
    assert_eq!(header.log(), Some(2 * BLOCK as u64));
}

#[test]
fn a_later_format_is_refused_even_beside_a_slot_that_could_be_read() {
    let (first, _) = slot(1, 3, &empty());
    let mut later = slot(2, 4, &empty()).0;
    later[8] = 2;
    let checksum = crc32c::crc32c(&later[..BLOCK - 4]);
    later[BLOCK - 4..BLOCK].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(read([&first, &later]), Err(Fault::Version(2)));
    assert_eq!(read([&later, &first]), Err(Fault::Version(2)));
}

#[test]
fn the_slot_with_the_higher_number_counts_unless_it_is_not_whole() {
    let (old, _) = slot(1, 3, &empty());
    let (new, _) = slot(2, 9, &empty());
    let layout = |a: &[u8], b: &[u8]| read([a, b]).map(|copy| copy.position.layout);
    assert_eq!(layout(&old, &new), Ok(9));
    assert_eq!(layout(&new, &old), Ok(9));
    let mut body_torn = new.clone();
    body_torn[BLOCK + 20..BLOCK + 40].fill(0);
    assert_eq!(layout(&old, &body_torn), Ok(3));
    assert_eq!(layout(&body_torn, &[0; SLOT]), Err(Fault::Checksum));
    assert_eq!(layout(&[0; SLOT], &[]), Err(Fault::Absent));
}

/// A stale record that happens to stand where the log goes on is not taken for one of it.
#[test]
fn a_record_of_another_past_does_not_go_on_with_the_log() {
    let (mut slot, start) = slot(1, 3, &empty());
    let mut tail = start;
    let moves = |at| [map(1, vec![segment(0, 2, at, 1)])];
    append(&mut slot, &mut tail, &moves(10));
    append(&mut slot, &mut tail, &moves(20));
    // The first of the two was never durable, and another one took its place.
    let mut tail = start;
    append(&mut slot, &mut tail, &moves(30));
    let copy = read([&slot, &[]]).unwrap();
    assert_eq!(copy.position.layout, 4);
    let (_, table) = state_of(copy);
    assert_eq!(table.segments[0].1, segment(0, 2, 30, 1));
}

#[test]
fn every_cut_leaves_an_earlier_state() {
    let (slot, states) = some_history();
    for sectors in 0..SLOT / 512 {
        for rest in [0_u8, 0xff] {
            let mut cut = slot.clone();
            cut[sectors * 512..].fill(rest);
            match read([&cut, &[]]) {
                Ok(copy) => assert!(states.contains(&state_of(copy)), "cut at sector {sectors}"),
                Err(_) => assert!(sectors * 512 < 2 * BLOCK, "cut at sector {sectors}"),
            }
        }
        let short = &slot[..sectors * 512];
        if let Ok(copy) = read([short, &[]]) {
            assert!(states.contains(&state_of(copy)), "ends at sector {sectors}");
        }
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (slot, states) = some_history();
    let (old, _) = super::tests::slot(1, 3, &empty());
    let last = states.last().unwrap().clone();
    let end = 6 * BLOCK;
    for at in 0..end {
        let mut bad = slot.clone();
        bad[at] ^= 0x10;
        let alone = read([&bad, &[]]);
        match alone {
            Ok(copy) => {
                let state = state_of(copy);
                assert!(states.contains(&state), "byte {at}");
                // What is between the body and its end is nobody's.
                assert!(state != last || (BLOCK..2 * BLOCK).contains(&at), "byte {at}");
            }
            Err(_) => {
                assert!(at < 2 * BLOCK, "byte {at}");
                let beside = read([&bad, &old]);
                let is_older = |copy: Copy| copy.position.layout == 3;
                assert!(
                    beside.map_or_else(|fault| matches!(fault, Fault::Version(_)), is_older),
                    "byte {at}"
                );
            }
        }
    }
}

#[test]
fn an_edit_that_does_not_fit_is_refused() {
    for edit in [
        Edit::RemoveVolume(VolumeId(9)),
        Edit::RemoveDisk(DiskId(9)),
        Edit::AddDisk(disk(1)),
        Edit::SetVolume(volume(9, 1)),
        map(9, vec![segment(0, 1, 1, 1)]),
    ] {
        let mut contents = Contents::decode(&body(&facts(1), &empty()).unwrap()).unwrap();
        assert!(contents.edit(edit.clone()).is_err(), "{edit:?}");
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_its_slot_is_refused() {
    let body = body(&facts(1), &empty()).unwrap();
    let fits = |slot: u64| checkpoint(identity(), 1, position(1), &body, slot).is_ok();
    assert!(fits(2 * BLOCK as u64));
    assert!(!fits(2 * BLOCK as u64 - 1));
}

/// So many that a pool of a million segments is read in a moment. The time is printed, not asserted.
#[test]
fn a_million_segments_are_read() {
    let spread = |n: u64| {
        (
            VolumeId(1),
            segment(n, 1 + u32::try_from(n % 2).unwrap(), 1 + n, 1),
        )
    };
    let snapshot = Snapshot {
        volumes: vec![volume(1, 1_000_000)],
        segments: (0..1_000_000).map(spread).collect(),
        ..empty()
    };
    let body = body(&facts(1), &snapshot).unwrap();
    assert!(body.len() < 8_000_000, "{} bytes", body.len());
    let began = Instant::now();
    let contents = Contents::decode(&body).unwrap();
    let read = contents.into_snapshot(snapshot.header.clone());
    println!("{} bytes, read in {:?}", body.len(), began.elapsed());
    assert!(read == snapshot);
}

fn edits() -> impl Strategy<Value = Edit> {
    let mapped = (1_u64..3, 0_u64..60, 1_u64..5, 1_u32..3, 1_u64..10_000)
        .prop_map(|(of, start, len, on, at)| map(of, vec![segment(start, on, at * 8, len)]));
    let unmapped = (1_u64..3, 0_u64..60, 0_u64..8).prop_map(|(of, start, len)| Edit::Unmap {
        volume: VolumeId(of),
        start: VolumeExtent(start),
        end: VolumeExtent(start + len),
    });
    prop_oneof![4 => mapped, 1 => unmapped]
}

proptest! {
    #[test]
    fn what_was_written_is_read(edits in proptest::collection::vec(edits(), 0..40)) {
        let snapshot = Snapshot { volumes: vec![volume(1, 64), volume(2, 64)], ..empty() };
        let (mut slot, mut tail) = slot(1, 0, &snapshot);
        let mut slow = Placements::new(&snapshot.disks, &snapshot.volumes, &snapshot.segments);
        let mut layout = 0;
        for edit in edits {
            // What the slow table refuses (an extent placed twice) no change does.
            let mut next = slow.clone();
            if next.apply(ExtentSize::DEFAULT, std::slice::from_ref(&edit)).is_err() {
                continue;
            }
            slow = next;
            append(&mut slot, &mut tail, &[edit]);
            layout += 1;
        }
        let (at, table) = state_of(read([&[], &slot]).unwrap());
        prop_assert_eq!(at, layout);
        for id in [VolumeId(1), VolumeId(2)] {
            let found: Vec<Segment> =
                table.segments.iter().filter(|(of, _)| *of == id).map(|(_, segment)| *segment).collect();
            prop_assert_eq!(found, slow.segments(id));
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Contents::decode(&bytes);
        let (header, padded) = checkpoint(identity(), 1, position(1), &bytes, SLOT as u64).unwrap();
        let mut slot = header.encode().to_vec();
        slot.extend(padded);
        let _ = read([&slot, &bytes]);
    }

    #[test]
    fn sealed_records_of_any_kind_are_read_or_refused(
        kept in 0_usize..200,
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let whole = body(&facts(1), &empty()).unwrap();
        let mut bytes = whole[..kept.min(whole.len())].to_vec();
        bytes.extend(noise);
        let _ = Contents::decode(&bytes);
    }
}
