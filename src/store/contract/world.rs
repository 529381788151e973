//! A pool to try things in, and short words for them.

use crate::error::Result;
use crate::pool::dir::PoolDir;
use crate::pool::holds::Holds;
use crate::pool::model::{Area, Difference, DiskRecord, Edit, Instance, PoolHeader, Segment, VolumeRecord};
use crate::pool::names::Name;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{
    ChangeState, Commit, HoldMode, JobKind, JobLimits, JobRecord, JobState, Joined, NewChange, Owner,
    Progress, Step, Store,
};
use crate::units::{
    BootId, ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, JobId, MembershipVersion, Term,
    Timestamp, VolumeExtent, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;

/// Unit of allocation of all pools here.
pub(super) const UNIT: ExtentSize = ExtentSize::MIN;

/// A store, and the machine it is on.
pub(crate) trait Fixture {
    /// Another handle on the same store, in the running boot.
    fn open(&self) -> Box<dyn Store>;
    /// The machine comes up again; all that was visible is there.
    fn reboot(&mut self, boot: BootId);
}

pub(crate) fn boot(n: u128) -> BootId {
    BootId(Uuid::from_u128(n))
}

/// Of SQLite, in a directory of its own.
pub(super) struct Sqlite {
    _scratch: TempDir,
    dir: PoolDir,
    boot: BootId,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        // Nothing here is about durability: memory will do, where there is a file system of it.
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let dir = PoolDir::new(scratch.path().join("pool"));
        drop(SqliteStore::create(&dir, UNIT).unwrap());
        Self {
            _scratch: scratch,
            dir,
            boot: boot(1),
        }
    }
}

impl Fixture for Sqlite {
    fn open(&self) -> Box<dyn Store> {
        Box::new(SqliteStore::open_in_boot(&self.dir, self.boot).unwrap())
    }

    fn reboot(&mut self, boot: BootId) {
        self.boot = boot;
    }
}

/// Of memory.
pub(super) struct Memory(MemoryStore);

impl Memory {
    pub(super) fn new() -> Self {
        Self::with_uuid(Uuid::from_u128(7))
    }

    pub(super) fn with_uuid(uuid: Uuid) -> Self {
        let header = PoolHeader {
            uuid,
            extent_size: UNIT,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        };
        Self(MemoryStore::new(header, boot(1)))
    }
}

impl Fixture for Memory {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.0.clone())
    }

    fn reboot(&mut self, boot: BootId) {
        self.0.power_loss(usize::MAX, boot);
    }
}

/// A fixture with one handle open.
pub(crate) struct World {
    pub(super) fixture: Box<dyn Fixture>,
    pub(super) store: Box<dyn Store>,
    boots: u128,
}

impl World {
    pub(crate) fn new(fixture: Box<dyn Fixture>) -> Self {
        let store = fixture.open();
        Self {
            fixture,
            store,
            boots: 1,
        }
    }

    /// Disks 1 and 2 of 100 extents, volume 1 of 10 extents at the start of disk 1; hardened.
    pub(super) fn furnished(mut self) -> Self {
        let edits = vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddDisk(disk(2, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[seg(0, 1, 1, 10)]),
        ];
        let id = self.change(edits);
        self.store.harden(&[id]).unwrap();
        self
    }

    /// Answers the new boot.
    pub(super) fn reboot(&mut self) -> BootId {
        self.boots += 1;
        self.fixture.reboot(boot(self.boots));
        self.store = self.fixture.open();
        boot(self.boots)
    }

    pub(super) fn term(&mut self) -> Term {
        self.store.header().unwrap().term
    }

    pub(super) fn generation(&mut self) -> Generation {
        self.store.header().unwrap().generation
    }

    pub(super) fn membership(&mut self) -> MembershipVersion {
        self.store.members().unwrap().0
    }

    pub(super) fn new_change(&mut self, job: Option<JobId>, edits: Vec<Edit>) -> NewChange {
        NewChange {
            title: "test".into(),
            job,
            difference: Difference {
                from: self.generation(),
                edits,
            },
            spans: Vec::new(),
            mode: HoldMode::Writes,
        }
    }

    pub(super) fn prepare(&mut self, job: Option<JobId>, edits: Vec<Edit>) -> Result<ChangeId> {
        let (term, change) = (self.term(), self.new_change(job, edits));
        self.store.prepare(term, &change)
    }

    pub(super) fn commit(&mut self, id: ChangeId) -> Result<Commit> {
        let (term, membership) = (self.term(), self.membership());
        self.store.commit(term, id, membership)
    }

    /// Prepares and commits.
    pub(super) fn change_of(&mut self, job: Option<JobId>, edits: Vec<Edit>) -> ChangeId {
        let next = self.generation().next();
        let id = self.prepare(job, edits).unwrap();
        assert_eq!(self.commit(id).unwrap(), Commit::Committed(next));
        id
    }

    pub(super) fn change(&mut self, edits: Vec<Edit>) -> ChangeId {
        self.change_of(None, edits)
    }

    pub(super) fn segments(&mut self, volume: u64) -> Vec<Segment> {
        let whole = (VolumeExtent(0), VolumeExtent(u64::MAX));
        self.store.segments(VolumeId(volume), whole.0, whole.1).unwrap()
    }

    /// What is owned on a disk: first extent, length, owner.
    pub(super) fn uses(&mut self, disk: u32) -> Vec<(u64, u64, Owner)> {
        let uses = self.store.uses(DiskId(disk)).unwrap();
        uses.iter()
            .map(|owned| (owned.area.start.0, owned.area.len, owned.owner))
            .collect()
    }

    pub(super) fn job(&mut self, steps: &[Step]) -> JobId {
        let term = self.term();
        self.store.create_job(term, &new_job(), steps).unwrap()
    }

    pub(super) fn join(&mut self, name: &str) -> Joined {
        let name = Name::new("apparatus", name).unwrap();
        self.store
            .join(&name, 1, Path::new("/m"), &|_| false, None)
            .unwrap()
    }

    /// The table without its number.
    pub(super) fn table(&mut self) -> (Vec<DiskRecord>, Vec<VolumeRecord>, Vec<(VolumeId, Segment)>) {
        let snapshot = self.store.snapshot().unwrap();
        (snapshot.disks, snapshot.volumes, snapshot.segments)
    }

    /// What is kept ahead of a volume belongs to a change that is prepared, or to a job that has not ended: to somebody who can
    /// still be told to let it go.
    pub(super) fn assert_owners_can_be_told(&mut self) {
        for disk in self.store.disks().unwrap() {
            for owned in self.store.uses(disk.id).unwrap() {
                match owned.owner {
                    Owner::Job(id) => {
                        let job = self.store.job(id).unwrap();
                        assert!(job.is_some_and(|job| !job.state.has_ended()), "{owned:?}");
                    }
                    Owner::Change(id) => {
                        let change = self.store.change(id).unwrap();
                        assert!(
                            change.is_some_and(|change| change.state == ChangeState::Prepared),
                            "{owned:?}"
                        );
                    }
                    Owner::Volume(_) | Owner::Quarantine(_) => {}
                }
            }
        }
    }

    /// Each extent has one owner, and the volumes' are exactly their segments'.
    pub(super) fn assert_one_owner_each(&mut self) {
        let snapshot = self.store.snapshot().unwrap();
        let mut homes: BTreeMap<(DiskId, u64), VolumeId> = BTreeMap::new();
        for (volume, segment) in &snapshot.segments {
            for extent in segment.home.start.0..segment.home.end().0 {
                assert!(
                    homes.insert((segment.home.disk, extent), *volume).is_none(),
                    "mapped twice"
                );
            }
        }
        for disk in &snapshot.disks {
            let mut next = 1;
            for owned in self.store.uses(disk.id).unwrap() {
                assert!(
                    owned.area.start.0 >= next && owned.area.len > 0,
                    "overlap on disk {}",
                    disk.id
                );
                next = owned.area.end().0;
                for extent in owned.area.start.0..next {
                    let mapped = homes.remove(&(disk.id, extent)).map(Owner::Volume);
                    assert_eq!(
                        mapped,
                        Some(owned.owner).filter(|owner| matches!(owner, Owner::Volume(_)))
                    );
                }
            }
            assert!(next <= disk.extents.max(1), "past the end of disk {}", disk.id);
        }
        assert!(homes.is_empty(), "mapped and not in use: {homes:?}");
    }
}

pub(super) fn name(noun: &str, number: u64) -> Name {
    Name::new(noun, &format!("{}{number}", &noun[..1])).unwrap()
}

pub(super) fn disk(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: name("disk", id.into()),
        uuid: Uuid::from_u128(id.into()),
        path: format!("/disks/{id}").into(),
        extents,
        tags: BTreeSet::from([Name::new("tag", "ssd").unwrap()]),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

pub(super) fn volume(id: u64, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        name: name("volume", id),
        size: ByteCount(extents * UNIT.bytes()),
        mode: 0o640,
        uid: 1,
        gid: 2,
        read_only: false,
    }
}

pub(super) fn area(disk: u32, start: u64, len: u64) -> Area {
    Area {
        disk: DiskId(disk),
        start: DiskExtent(start),
        len,
    }
}

pub(super) fn seg(start: u64, disk: u32, home: u64, len: u64) -> Segment {
    Segment {
        start: VolumeExtent(start),
        home: area(disk, home, len),
    }
}

pub(super) fn map(volume: u64, segments: &[Segment]) -> Edit {
    Edit::Map {
        volume: VolumeId(volume),
        segments: segments.to_vec(),
    }
}

pub(super) fn unmap(volume: u64, start: u64, end: u64) -> Edit {
    Edit::Unmap {
        volume: VolumeId(volume),
        start: VolumeExtent(start),
        end: VolumeExtent(end),
    }
}

pub(super) fn step(from: Segment, to: Area, done: u64) -> Step {
    Step {
        volume: VolumeId(1),
        from,
        to,
        done,
    }
}

pub(crate) fn new_job() -> JobRecord {
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
