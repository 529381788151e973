//! The plans: edits, held requests, and bytes that are zeroed before.

use super::*;
use crate::admin::testing::{EXTENT, area, disk, name, pool, volume};
use proptest::prelude::*;

fn map(volume: VolumeId, planned: &Planned) -> Vec<(u64, Area)> {
    let mut mapped = Vec::new();
    for edit in &planned.delta.edits {
        if let Edit::Map { volume: of, segments } = edit {
            assert_eq!(*of, volume);
            mapped.extend(
                segments
                    .iter()
                    .map(|segment| (segment.start.0, segment.placement)),
            );
        }
    }
    mapped
}

fn zeroed(planned: &Planned) -> Vec<(u32, u64, u64)> {
    let runs = planned.zero.iter();
    runs.map(|run| (run.disk.0, run.at.0, run.len)).collect()
}

#[test]
fn a_new_volume_lies_in_its_areas_one_after_the_other_and_reads_as_zeroes() {
    let new = NewVolume {
        name: name("w"),
        size: ByteCount(5 * EXTENT - SECTOR),
        mode: 0o640,
        uid: 1,
        gid: 2,
        read_only: true,
    };
    let areas = [area(2, 9, 2), area(1, 30, 3)];
    let planned = create_volume(&pool(&[]), VolumeId(4), &new, &areas);
    assert_eq!(map(VolumeId(4), &planned), [(0, areas[0]), (2, areas[1])]);
    assert_eq!(
        zeroed(&planned),
        [(2, 9 * EXTENT, 2 * EXTENT), (1, 30 * EXTENT, 3 * EXTENT)]
    );
    assert_eq!(planned.spans, [], "it is not in use yet");
    assert_eq!(planned.delta.from.0, 5);
    let Edit::AddVolume(record) = &planned.delta.edits[0] else {
        panic!("{planned:?}");
    };
    assert_eq!(
        (record.size, record.mode, record.read_only),
        (new.size, 0o640, true)
    );
    let taken = pool(&[volume(1, EXTENT)]);
    let new = NewVolume {
        name: name("v1"),
        ..new
    };
    assert!(
        check_new_volume(&taken, &new)
            .unwrap_err()
            .why()
            .contains("exists")
    );
}

#[test]
fn sizes_are_whole_sectors_that_a_file_can_have() {
    for good in [SECTOR, EXTENT + SECTOR, LARGEST] {
        check_size(ByteCount(good)).unwrap();
    }
    for (bad, way_out) in [
        (0, "512 is the least"),
        (1, "nearest: 512"),
        (1300, "nearest: 1024 or 1536"),
        (LARGEST + SECTOR, "is the most"),
        (u64::MAX, "is the most"),
    ] {
        let error = check_size(ByteCount(bad)).unwrap_err();
        assert!(error.way_out().unwrap().contains(way_out), "{bad}: {error}");
    }
}

#[test]
fn what_a_smaller_volume_had_behind_it_is_zeroed_when_it_grows() {
    let old = volume(1, 3 * EXTENT - 2 * SECTOR);
    let snapshot = pool(std::slice::from_ref(&old));
    let within = grow_volume(&snapshot, &old, ByteCount(3 * EXTENT), &[]);
    assert_eq!(map(old.id, &within), []);
    assert_eq!(zeroed(&within), [(1, 4 * EXTENT - 2 * SECTOR, 2 * SECTOR)]);
    let more = [area(2, 5, 2)];
    let beyond = grow_volume(&snapshot, &old, ByteCount(5 * EXTENT), &more);
    assert_eq!(map(old.id, &beyond), [(3, more[0])]);
    assert_eq!(beyond.zero.len(), 2);
    assert_eq!(beyond.spans, [], "growing takes nothing from a user");
    let full = volume(2, 2 * EXTENT);
    let snapshot = pool(std::slice::from_ref(&full));
    assert_eq!(
        zeroed(&grow_volume(&snapshot, &full, ByteCount(3 * EXTENT), &more)).len(),
        1
    );
}

#[test]
fn a_volume_shrinks_under_a_hold_of_what_goes() {
    let old = volume(1, 5 * EXTENT);
    let snapshot = pool(std::slice::from_ref(&old));
    let unmapped = |planned: &Planned| {
        planned.delta.edits.iter().find_map(|edit| match edit {
            Edit::Unmap { start, end, .. } => Some((start.0, end.0)),
            _ => None,
        })
    };
    for (size, gone) in [
        (2 * EXTENT, Some((2, 5))),
        (EXTENT + SECTOR, Some((2, 5))),
        (5 * EXTENT - SECTOR, None),
    ] {
        let planned = shrink_volume(&snapshot, &old, ByteCount(size));
        assert_eq!(unmapped(&planned), gone, "{size}");
        assert_eq!(planned.mode, HoldMode::All);
        assert_eq!(
            (planned.spans.len(), planned.spans[0].start),
            (1, VolumeOffset(size))
        );
        assert_eq!(planned.spans[0].end, Span::whole(old.id).end);
    }
    let removed = remove_volume(&snapshot, old.id);
    assert_eq!(removed.spans, [Span::whole(old.id)]);
}

#[test]
fn a_volume_becomes_read_only_when_its_writes_have_ended() {
    let old = volume(1, EXTENT);
    let snapshot = pool(&[old.clone(), volume(2, EXTENT)]);
    let set = |change: &VolumeChange| set_volume(&snapshot, "v1", change);
    let same = VolumeChange {
        name: Some(name("v1")),
        mode: Some(old.mode),
        read_only: Some(false),
        ..VolumeChange::default()
    };
    assert_eq!(set(&same).unwrap(), None);
    let off = VolumeChange {
        read_only: Some(true),
        ..VolumeChange::default()
    };
    let planned = set(&off).unwrap().unwrap();
    assert_eq!(
        (planned.mode, planned.spans),
        (HoldMode::Writes, vec![Span::whole(old.id)])
    );
    let renamed = |to: &str| VolumeChange {
        name: Some(name(to)),
        ..VolumeChange::default()
    };
    assert_eq!(set(&renamed("w")).unwrap().unwrap().spans, []);
    assert!(set(&renamed("v2")).unwrap_err().why().contains("exists"));
    assert!(set_volume(&snapshot, "none", &off).is_err());
}

#[test]
fn a_disks_record_changes_only_where_requested() {
    let snapshot = pool(&[]);
    let set = |change: &DiskChange| set_disk(&snapshot, "d1", change);
    assert_eq!(set(&DiskChange::default()).unwrap(), None);
    let both = DiskChange {
        tag: [name("x"), name("y")].into(),
        untag: [name("y"), name("old")].into(),
        reserve: Some(ByteCount(EXTENT + 1)),
        ..DiskChange::default()
    };
    let planned = set(&both).unwrap().unwrap();
    let expected = DiskRecord {
        reserve: 2,
        ..disk(1, &["x"])
    };
    assert_eq!(planned.delta.edits, [Edit::SetDisk(expected)]);
    for (change, why) in [
        (
            DiskChange {
                name: Some(name("d2")),
                ..DiskChange::default()
            },
            "exists",
        ),
        (
            DiskChange {
                reserve: Some(ByteCount(64 * EXTENT)),
                ..DiskChange::default()
            },
            "cannot keep 64M",
        ),
        (
            // The new size of the disk limits the reserve.
            DiskChange {
                reserve: Some(ByteCount(20 * EXTENT)),
                extents: Some(20),
                ..DiskChange::default()
            },
            "cannot keep 20M",
        ),
    ] {
        let error = set(&change).unwrap_err();
        assert!(error.why().contains(why), "{error}");
    }
}

#[test]
fn a_disk_does_not_become_smaller_than_what_it_keeps_free() {
    let mut snapshot = pool(&[]);
    snapshot.disks[0].reserve = 30;
    let to = |extents| DiskChange {
        extents: Some(extents),
        ..DiskChange::default()
    };
    assert!(set_disk(&snapshot, "d1", &to(31)).unwrap().is_some());
    let error = set_disk(&snapshot, "d1", &to(30)).unwrap_err();
    assert_eq!(
        (error.why(), error.way_out()),
        ("cannot keep 30MiB free", Some("29MiB is all it has"))
    );
}

#[test]
fn a_disk_leaves_when_it_has_no_owner_left() {
    let snapshot = pool(&[]);
    let leaves = remove_disk(&snapshot, &snapshot.disks[0], &[]).unwrap();
    assert_eq!(leaves.delta.edits, [Edit::RemoveDisk(DiskId(1))]);
    let users = ["volume v".to_owned(), "job 3".to_owned()];
    let error = remove_disk(&snapshot, &snapshot.disks[0], &users).unwrap_err();
    assert_eq!(error.why(), "is in use by volume v, job 3");
    assert!(error.way_out().unwrap().ends_with("vctl disk evacuate d1"));
    let size = ExtentSize::DEFAULT;
    assert_eq!(whole_extents("d", ByteCount(3 * EXTENT - 1), size).unwrap(), 2);
    assert!(whole_extents("d", ByteCount(2 * EXTENT - 1), size).is_err());
}

#[test]
fn a_delta_is_written_down_as_it_is_read() {
    let old = volume(1, 3 * EXTENT);
    let planned = grow_volume(
        &pool(std::slice::from_ref(&old)),
        &old,
        ByteCount(4 * EXTENT),
        &[area(2, 7, 1)],
    );
    let text = as_ron(&planned.delta).unwrap();
    assert_eq!(ron::from_str::<Delta>(&text).unwrap(), planned.delta);
}

proptest! {
    /// However a volume shrinks and grows, a byte that was never written since is zero: everything from the old end to that of the last
    /// extent is zeroed.
    #[test]
    fn growing_zeroes_every_byte_that_becomes_visible(old in 1..20_000_u64, more in 0..20_000_u64) {
        let record = volume(1, old * SECTOR);
        let size = ByteCount((old + more) * SECTOR);
        let snapshot = pool(std::slice::from_ref(&record));
        let lacking = extents_lacking(&snapshot, &record, size);
        let areas: Vec<Area> = (lacking > 0).then(|| area(2, 1, lacking)).into_iter().collect();
        let planned = grow_volume(&snapshot, &record, size, &areas);
        let zero: u64 = planned.zero.iter().map(|run| run.len).sum();
        let end = (ExtentSize::DEFAULT.count_for(record.size) + lacking) * EXTENT;
        prop_assert_eq!(zero, end - record.size.0);
        prop_assert!(end >= size.0);
    }
}
