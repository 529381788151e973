//! A pool on paper for the tests of this folder.

use crate::pool::model::{Area, DiskRecord, Instance, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent, VolumeId,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The extents of [`pool`].
pub(super) const EXTENT: u64 = 1 << 20;

pub(super) fn name(text: &str) -> Name {
    Name::new("name", text).unwrap()
}

pub(super) fn area(disk: u32, start: u64, len: u64) -> Area {
    Area {
        disk: DiskId(disk),
        start: DiskExtent(start),
        len,
    }
}

pub(super) fn disk(id: u32, tags: &[&str]) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: name(&format!("d{id}")),
        uuid: Uuid::from_u128(id.into()),
        path: format!("/disks/d{id}.img").into(),
        extents: 64,
        tags: tags.iter().map(|tag| name(tag)).collect::<BTreeSet<_>>(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

pub(super) fn volume(id: u32, size: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id.into()),
        name: name(&format!("v{id}")),
        size: ByteCount(size),
        mode: 0o600,
        uid: 7,
        gid: 8,
        read_only: false,
    }
}

/// Disks `d1` (tag `old`) and `d2` (tag `new`) of 64 extents; each of the volumes lies in one piece on `d1`, one after the other.
pub(super) fn pool(volumes: &[VolumeRecord]) -> Snapshot {
    let mut free = 1;
    let segments = volumes.iter().map(|volume| {
        let len = ExtentSize::DEFAULT.count_for(volume.size);
        let home = area(1, free, len);
        free += len;
        (
            volume.id,
            Segment {
                start: VolumeExtent(0),
                home,
            },
        )
    });
    let segments = segments.collect();
    Snapshot {
        header: PoolHeader {
            uuid: Uuid::nil(),
            extent_size: ExtentSize::DEFAULT,
            generation: Generation(5),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        },
        disks: vec![disk(1, &["old"]), disk(2, &["new"])],
        volumes: volumes.to_vec(),
        segments,
    }
}
