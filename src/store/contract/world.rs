//! A pool for tests, and short functions to use it.

use crate::model::build;
pub(super) use crate::model::build::{area, job as new_job, map, segment as seg, unmap};
use crate::model::change::{ChangeState, Commit, HoldMode, NewChange, Owner};
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::job::Step;
use crate::model::member::{Joined, Joiner};
use crate::model::names::Name;
use crate::model::records::{Area, Delta, DiskRecord, Edit, Instance, PoolHeader, Segment, VolumeRecord};
use crate::model::units::{
    CacheEpoch, ChangeId, DiskId, ExtentSize, Generation, JobId, MembershipVersion, Term, VolumeExtent,
    VolumeId,
};
#[cfg(feature = "etcd")]
use crate::store::etcd::testing::EtcdCluster;
use crate::store::journal::Journal;
use crate::store::journal::shared::SharedLog;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, TableStore};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;
use uuid::Uuid;

/// Unit of allocation of all these pools.
pub(super) const UNIT: ExtentSize = ExtentSize::MIN;

/// A store and the machine that it is on.
pub(crate) trait Fixture {
    /// Opens another handle on the same store, in the running epoch.
    fn open(&self) -> Box<dyn Store>;
    /// Reboots the machine; everything that was visible stays.
    fn reboot(&mut self, boot: CacheEpoch);
}

pub(crate) fn boot(n: u128) -> CacheEpoch {
    CacheEpoch(Uuid::from_u128(n))
}

/// A fixture with SQLite, in a directory of its own.
pub(super) struct Sqlite {
    _scratch: TempDir,
    dir: PoolDir,
    boot: CacheEpoch,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        // These tests do not depend on durability, so a file system in memory is used where there is one.
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let dir = PoolDir::new(scratch.path().join("pool"));
        SqliteStore::create(&dir, UNIT).unwrap();
        Self {
            _scratch: scratch,
            dir,
            boot: boot(1),
        }
    }
}

impl Fixture for Sqlite {
    fn open(&self) -> Box<dyn Store> {
        Box::new(SqliteStore::open(&self.dir, self.boot).unwrap())
    }

    fn reboot(&mut self, boot: CacheEpoch) {
        self.boot = boot;
    }
}

/// Returns a handle on the log of a pool.
pub(super) type OpenLog = Box<dyn Fn(Uuid) -> Box<dyn Journal>>;

/// A fixture with two machines that mirror one log; each handle is on the other machine than the one before.
pub(super) struct Mirrored {
    _scratch: TempDir,
    dirs: [PoolDir; 2],
    pool: Uuid,
    log: OpenLog,
    boot: CacheEpoch,
    opened: Cell<usize>,
}

impl Mirrored {
    pub(super) fn new(log: OpenLog) -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let dirs = ["here", "there"].map(|name| PoolDir::new(scratch.path().join(name)));
        SqliteStore::create(&dirs[0], UNIT).unwrap();
        let pool = SqliteStore::open(&dirs[0], boot(1))
            .unwrap()
            .header()
            .unwrap()
            .uuid;
        let mut first = SqliteStore::open_mirror(&dirs[0], boot(1), log(pool)).unwrap();
        first.begin_log().unwrap();
        SqliteStore::join(&dirs[1], log(pool)).unwrap();
        Self {
            _scratch: scratch,
            dirs,
            pool,
            log,
            boot: boot(1),
            opened: Cell::new(0),
        }
    }

    pub(super) fn in_memory() -> Self {
        let log = SharedLog::default();
        Self::new(Box::new(move |_| Box::new(log.clone())))
    }

    /// Uses a real etcd with this number of members, which all tests share. `None` where there is none.
    #[cfg(feature = "etcd")]
    pub(super) fn in_etcd(members: usize) -> Option<Self> {
        let cluster = EtcdCluster::shared(members)?;
        Some(Self::new(Box::new(|pool| Box::new(cluster.log(pool)))))
    }
}

impl Fixture for Mirrored {
    fn open(&self) -> Box<dyn Store> {
        let dir = &self.dirs[self.opened.replace(self.opened.get() + 1) % 2];
        Box::new(SqliteStore::open_mirror(dir, self.boot, (self.log)(self.pool)).unwrap())
    }

    fn reboot(&mut self, boot: CacheEpoch) {
        self.boot = boot;
    }
}

/// A fixture with the store in memory.
pub(super) struct Memory(MemoryStore);

impl Memory {
    pub(super) fn new() -> Self {
        Self::with_uuid(Uuid::from_u128(7))
    }

    pub(super) fn with_uuid(uuid: Uuid) -> Self {
        let header = PoolHeader {
            uuid,
            extent_size: UNIT,
            access: crate::model::records::DiskAccess::Cached,
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

    fn reboot(&mut self, boot: CacheEpoch) {
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

    /// Adds disks 1 and 2 of 100 extents, and volume 1 of 10 extents at the start of disk 1; persists them.
    pub(super) fn with_pool_contents(mut self) -> Self {
        let edits = vec![
            Edit::AddDisk(disk(1, 100)),
            Edit::AddDisk(disk(2, 100)),
            Edit::AddVolume(volume(1, 10)),
            map(1, &[seg(0, 1, 1, 10)]),
        ];
        let id = self.change(edits);
        self.store.persist(&[id]).unwrap();
        self
    }

    /// Reboots and returns the new epoch.
    pub(super) fn reboot(&mut self) -> CacheEpoch {
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
            delta: Delta {
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

    /// Prepares and commits a change.
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

    /// Returns the owned runs of a disk: first extent, length, owner.
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
        self.store.join(&Joiner::new(&name, 1, "/m"), &|_| false).unwrap()
    }

    /// Returns the table without its number.
    pub(super) fn table(&mut self) -> (Vec<DiskRecord>, Vec<VolumeRecord>, Vec<(VolumeId, Segment)>) {
        let snapshot = self.store.snapshot().unwrap();
        (snapshot.disks, snapshot.volumes, snapshot.segments)
    }

    /// Checks that claimed extents belong to a prepared change, or to a job that has not ended: to an owner that can still
    /// release them.
    pub(super) fn assert_owners_can_release(&mut self) {
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
                    Owner::Volume(_) | Owner::Quarantine(_) | Owner::Metadata => {}
                }
            }
        }
    }

    /// Checks that each extent has one owner, and that the volumes' extents are exactly those of their segments.
    pub(super) fn assert_one_owner_each(&mut self) {
        let snapshot = self.store.snapshot().unwrap();
        let mut placements: BTreeMap<(DiskId, u64), VolumeId> = BTreeMap::new();
        for (volume, segment) in &snapshot.segments {
            for extent in segment.placement.start.0..segment.placement.end().0 {
                assert!(
                    placements
                        .insert((segment.placement.disk, extent), *volume)
                        .is_none(),
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
                    let mapped = placements.remove(&(disk.id, extent)).map(Owner::Volume);
                    assert_eq!(
                        mapped,
                        Some(owned.owner).filter(|owner| matches!(owner, Owner::Volume(_)))
                    );
                }
            }
            assert!(next <= disk.extents.max(1), "past the end of disk {}", disk.id);
        }
        assert!(placements.is_empty(), "mapped but not in use: {placements:?}");
    }
}

pub(super) fn name(noun: &str, number: u64) -> Name {
    Name::new(noun, &format!("{}{number}", &noun[..1])).unwrap()
}

pub(super) fn disk(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        tags: BTreeSet::from([Name::new("tag", "ssd").unwrap()]),
        ..build::disk(id, extents)
    }
}

pub(super) fn volume(id: u64, extents: u64) -> VolumeRecord {
    VolumeRecord {
        mode: 0o640,
        uid: 1,
        gid: 2,
        ..build::volume(id, extents * UNIT.bytes())
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
