//! Changes of many segments: they are split into parts, or refused.

use super::*;

/// Makes a new volume of `count` segments, none of which continues the one before.
fn scattered(controller: &mut Controller, disk: DiskId, count: u64) -> NewChange {
    let id = controller.store().next_volume_id().unwrap();
    let record = VolumeRecord {
        id,
        name: name("many"),
        size: ByteCount(count * EXTENT.bytes()),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    };
    let segment = |at: u64| Segment {
        start: VolumeExtent(at),
        placement: Area {
            disk,
            start: DiskExtent(1 + 2 * at),
            len: 1,
        },
    };
    let segments = (0..count).map(segment).collect();
    let map = Edit::Map { volume: id, segments };
    change("volume create many", vec![Edit::AddVolume(record), map])
}

/// Returns how many areas have an owner other than the disk's copy of the metadata, which has grown with the table.
fn used_by_volumes(controller: &mut Controller, disk: DiskId) -> usize {
    let uses = controller.store().uses(disk).unwrap();
    let others = uses
        .iter()
        .filter(|used| used.owner != apparatus::model::change::Owner::Metadata);
    others.count()
}

const MANY: u64 = Delta::HEAVIEST as u64 + 1;

/// A pool with one disk, and an apparatus.
fn with_room() -> (Pool, DiskId, crate::rig::Apparatus) {
    let pool = Pool::new();
    let disk = pool.add_disk(&mut pool.controller(), "d1", 2 * MANY + 2);
    let serving = pool.apparatus("a");
    (pool, disk, serving)
}

#[test]
fn a_volume_of_many_segments_is_created_and_removed_in_parts_and_fences_no_apparatus() {
    let (pool, disk, serving) = with_room();
    let mut controller = pool.controller();
    let change = scattered(&mut controller, disk, MANY);
    let [Edit::AddVolume(record), _] = &change.delta.edits[..] else {
        panic!("another change")
    };
    let record = record.clone();
    controller.run_whole(change, &mut || Ok(())).unwrap();
    assert_eq!(controller.fenced(), []);
    assert_eq!(
        controller.store().volumes().unwrap(),
        std::slice::from_ref(&record)
    );
    let segments = |controller: &mut Controller| {
        let all = (VolumeExtent(0), VolumeExtent(u64::MAX));
        controller
            .store()
            .segments(record.id, all.0, all.1)
            .unwrap()
            .len() as u64
    };
    assert_eq!(segments(&mut controller), MANY);
    assert_eq!(pool.store().check().unwrap(), [] as [String; 0]);

    let remove = held(record.id, vec![Edit::RemoveVolume(record.id)]);
    controller.run_whole(remove, &mut || Ok(())).unwrap();
    assert_eq!(controller.fenced(), []);
    assert_eq!(controller.store().volumes().unwrap(), []);
    assert_eq!(used_by_volumes(&mut controller, disk), 0, "free again");
    let applied = serving.path.applied.lock().unwrap();
    assert!(applied.iter().all(|each| each.weight() <= Delta::HEAVIEST));
    assert!(applied.len() > 8);
}

#[test]
fn what_is_too_heavy_for_one_change_is_refused_before_anything_is_held() {
    let (pool, disk, serving) = with_room();
    let mut controller = pool.controller();
    let change = scattered(&mut controller, disk, MANY);
    let error = controller.run(change, true, &mut || Ok(())).unwrap_err();
    assert!(error.why().contains("nothing has changed"), "{error}");
    assert_eq!(controller.fenced(), []);
    assert!(controller.store().unfinished().unwrap().is_empty());
    assert!(serving.path.applied.lock().unwrap().is_empty());
}

#[test]
fn the_next_controller_removes_a_volume_that_is_half_made() {
    let (pool, disk, serving) = with_room();
    let mut controller = pool.controller();
    let change = scattered(&mut controller, disk, MANY);
    let halves = parts::of(&change.delta.edits, &[], None, EXTENT);
    for part in halves.into_iter().take(2) {
        let part = self::change("volume create many", part.edits);
        controller.run(part, true, &mut || Ok(())).unwrap();
    }
    let left: Vec<Name> = controller
        .store()
        .volumes()
        .unwrap()
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    assert!(left.len() == 1 && left[0].is_hidden(), "{left:?}");
    assert_eq!(pool.store().check().unwrap(), [] as [String; 0]);
    drop(controller);
    let mut controller = pool.controller();
    assert!(
        controller
            .recovered()
            .iter()
            .any(|line| line.contains("partly created"))
    );
    assert_eq!(controller.store().volumes().unwrap(), []);
    assert_eq!(used_by_volumes(&mut controller, disk), 0);
    assert_eq!(controller.fenced(), []);
    drop(serving);
}
