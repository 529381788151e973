//! Builders for unit tests: areas, segments, edits and records, with plain values where a test names none.

use super::alloc::{Space, free_runs};
use super::change::{ChangeRecord, ChangeState, HoldMode, NewChange};
use super::holds::Holds;
use super::job::{JobKind, JobLimits, JobRecord, JobState, Progress};
use super::names::Name;
use super::records::{Area, Delta, DiskRecord, Edit, Segment, VolumeRecord};
use super::units::{
    ByteCount, CacheEpoch, ChangeId, DiskExtent, DiskId, Generation, JobId, Term, Timestamp, VolumeExtent,
    VolumeId,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Returns `len` extents of a disk, from `start` on.
pub(crate) fn area(disk: u32, start: u64, len: u64) -> Area {
    Area {
        disk: DiskId(disk),
        start: DiskExtent(start),
        len,
    }
}

/// Returns `len` extents of a volume, from `start` on, that lie on a disk from `at` on.
pub(crate) fn segment(start: u64, disk: u32, at: u64, len: u64) -> Segment {
    Segment {
        start: VolumeExtent(start),
        placement: area(disk, at, len),
    }
}

/// Returns the edit that maps these segments.
pub(crate) fn map(volume: u64, segments: &[Segment]) -> Edit {
    Edit::Map {
        volume: VolumeId(volume),
        segments: segments.to_vec(),
    }
}

/// Returns the edit that unmaps the extents from `start` to `end`.
pub(crate) fn unmap(volume: u64, start: u64, end: u64) -> Edit {
    Edit::Unmap {
        volume: VolumeId(volume),
        start: VolumeExtent(start),
        end: VolumeExtent(end),
    }
}

/// Returns the record of disk `d1`, `d2` and so on.
pub(crate) fn disk(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::from_u128(id.into()),
        path: format!("/disks/{id}").into(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

/// Returns the record of volume `v1`, `v2` and so on, of `size` bytes.
pub(crate) fn volume(id: u64, size: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(size),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    }
}

/// Returns the free space of a disk of which these runs, by start and length, are taken.
pub(crate) fn space(disk: u32, extents: u64, taken: &[(u64, u64)]) -> Space {
    let taken = taken.iter().map(|&(start, len)| area(disk, start, len));
    Space {
        disk: DiskId(disk),
        name: Name::new("disk", &format!("d{disk}")).unwrap(),
        allocate: true,
        fault: None,
        free: free_runs(DiskId(disk), extents, taken),
        reserve: 0,
        quarantined: 0,
        reserved: 0,
        kept: Vec::new(),
    }
}

/// Returns a change that was committed with these edits, from the generation of its number.
pub(crate) fn committed(id: u64, edits: Vec<Edit>, undo: Option<Vec<Edit>>) -> ChangeRecord {
    let delta = |from, edits| Delta {
        from: Generation(from),
        edits,
    };
    ChangeRecord {
        id: ChangeId(id),
        state: ChangeState::Committed,
        term: Term(1),
        epoch: CacheEpoch(Uuid::nil()),
        change: NewChange {
            title: String::new(),
            job: None,
            delta: delta(id, edits),
            spans: Vec::new(),
            mode: HoldMode::Writes,
        },
        undo: undo.map(|edits| delta(id + 1, edits)),
    }
}

/// Returns the record of a new job that moves volume 1.
pub(crate) fn job() -> JobRecord {
    JobRecord {
        id: JobId(0),
        kind: JobKind::Move { volume: VolumeId(1) },
        state: JobState::Running,
        limits: JobLimits::default(),
        back: false,
        title: "volume move v1".into(),
        created: Timestamp(5),
        ended: None,
        copied: ByteCount(0),
        longest_hold_us: 0,
        held: 0,
        holds: Holds::default(),
        progress: Progress::default(),
        why: String::new(),
    }
}
