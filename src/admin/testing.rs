//! A pool's snapshot in memory, for the tests of this folder.

use crate::model::build;
pub(super) use crate::model::build::area;
use crate::model::names::Name;
use crate::model::records::{DiskRecord, Instance, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::model::units::{ExtentSize, Generation, MembershipVersion, Term, VolumeExtent};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Size of the extents of [`pool`], in bytes.
pub(super) const EXTENT: u64 = 1 << 20;

pub(super) fn name(text: &str) -> Name {
    Name::new("name", text).unwrap()
}

pub(super) fn disk(id: u32, tags: &[&str]) -> DiskRecord {
    DiskRecord {
        path: format!("/disks/d{id}.img").into(),
        tags: tags.iter().map(|tag| name(tag)).collect::<BTreeSet<_>>(),
        ..build::disk(id, 64)
    }
}

pub(super) fn volume(id: u32, size: u64) -> VolumeRecord {
    VolumeRecord {
        uid: 7,
        gid: 8,
        ..build::volume(id.into(), size)
    }
}

/// Returns a pool with disks `d1` (tag `old`) and `d2` (tag `new`) of 64 extents; each of the volumes lies in one piece on `d1`, one
/// after the other.
pub(super) fn pool(volumes: &[VolumeRecord]) -> Snapshot {
    let mut free = 1;
    let segments = volumes.iter().map(|volume| {
        let len = ExtentSize::DEFAULT.count_for(volume.size);
        let placement = area(1, free, len);
        free += len;
        (
            volume.id,
            Segment {
                start: VolumeExtent(0),
                placement,
            },
        )
    });
    let segments = segments.collect();
    Snapshot {
        header: PoolHeader {
            uuid: Uuid::nil(),
            extent_size: ExtentSize::DEFAULT,
            access: crate::model::records::DiskAccess::Cached,
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
