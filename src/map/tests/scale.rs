//! Tables with one, a thousand and a million segments: they give the same answers, and a change costs the same.

use super::*;

const SIZES: [u64; 3] = [1, 1_000, 1_000_000];

/// Returns a table with a volume of `n` extents, each a separate segment.
fn scattered(n: u64) -> Table {
    let segments: Vec<_> = (0..n)
        .map(|extent| (1, segment(extent, 1, 2 * (n - extent), 1)))
        .collect();
    let disks = vec![disk(1, 2 * n + 1), disk(2, 2 * n + 1)];
    Table::new(&snapshot(0, disks, vec![volume(1, "v", extents(n))], &segments)).unwrap()
}

fn roll(state: &mut u64, below: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[test]
fn one_segment_changes_are_right_at_any_size() {
    for n in SIZES {
        let table = scattered(n);
        let mut placements: Vec<(u32, u64)> = (0..n).map(|extent| (1, 2 * (n - extent))).collect();
        let (mut reader, mut pieces, mut dice) = (table.reader(), Vec::new(), n);
        for from in 0..300 {
            let extent = roll(&mut dice, n);
            let to = (
                1 + u32::try_from(roll(&mut dice, 2)).unwrap(),
                1 + roll(&mut dice, 2 * n),
            );
            table
                .apply(&delta(from, vec![map(1, &[segment(extent, to.0, to.1, 1)])]))
                .unwrap();
            placements[usize::try_from(extent).unwrap()] = to;
            for extent in [extent, roll(&mut dice, n)] {
                table
                    .locate(
                        &mut reader,
                        VolumeId(1),
                        VolumeOffset(extents(extent) + 9),
                        1,
                        &mut pieces,
                    )
                    .unwrap();
                let (disk, placement) = placements[usize::try_from(extent).unwrap()];
                assert_eq!(
                    pieces,
                    [Piece {
                        disk: DiskId(disk),
                        at: DiskOffset(extents(placement) + 9),
                        len: 1
                    }]
                );
            }
        }
        let mut all = Vec::new();
        for Segment { placement, .. } in table.segments(&mut reader, VolumeId(1)).unwrap() {
            all.extend((0..placement.len).map(|i| (placement.disk.0, placement.start.0 + i)));
        }
        assert!(all == placements, "{n} segments");
    }
}

#[test]
fn a_change_makes_few_nodes_and_shares_the_others() {
    for n in SIZES {
        let table = scattered(n);
        let before = table.current.load_full();
        let mut most = 0;
        for from in 0..50 {
            let old = table.current.load_full();
            let change = map(1, &[segment(from * 7919 % n, 2, 1 + from % (2 * n), 1)]);
            table.apply(&delta(from, vec![change])).unwrap();
            let new = table.current.load_full();
            let nodes = |version: &TableVersion| version.volume(VolumeId(1)).unwrap().map.nodes();
            let (old, new) = (nodes(&old), nodes(&new));
            most = most.max(new.keys().filter(|node| !old.contains_key(node)).count());
        }
        assert!(most <= 16, "{most} new nodes for one of {n} segments");
        drop(before);
    }
}

fn bytes(table: &Table) -> usize {
    let version = table.current.load_full();
    let map = &version.volume(VolumeId(1)).unwrap().map;
    assert_eq!(map.check(), Ok(()));
    map.nodes().values().sum()
}

#[test]
fn a_million_segments_take_less_than_thirteen_mebibytes() {
    let bytes = bytes(&scattered(1_000_000));
    assert!(bytes < 13 << 20, "{bytes} bytes");
}

/// Memory use is highest where an inner node has slightly too many runs for a list, as with 31 and 500.
#[test]
fn a_million_longer_segments_take_less_than_forty_mebibytes() {
    const N: u64 = 1_000_000;
    for len in [2, 3, 17, 31, 100, 500, 1000] {
        let segments: Vec<_> = (0..N)
            .map(|i| (1, segment(i * len, 1, 1 + (N - 1 - i) * len, len)))
            .collect();
        let volumes = vec![volume(1, "v", extents(N * len))];
        let table = Table::new(&snapshot(0, vec![disk(1, N * len + 1)], volumes, &segments)).unwrap();
        let bytes = bytes(&table);
        assert!(bytes < 40 << 20, "{bytes} bytes for segments of {len} extents");
    }
}
