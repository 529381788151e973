//! The cluster of one kernel, implemented by the member table and by locks on the pool's directory.

use super::job::JobLock;
use super::leadership::ControllerLock;
use super::left::LeftWrite;
use super::lock::{AttachLock, DiscardLock, LifeLock};
use super::place::{link_of, lost_table};
use super::table::MemberTable;
use super::times::TimesDirectory;
use super::{boot, life};
use crate::cluster::{
    Claimed, Claims, Cluster, Guard, JobClaim, Leadership, NameClaim, Presence, Role, SharedState,
    SharedTimes,
};
use crate::model::audit::Process;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::member::{Member, Origin};
use crate::model::names::Name;
use crate::model::records::DiskRecord;
use crate::model::units::{CacheEpoch, DiskId, JobId};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Cluster of a pool whose processes run on one kernel.
pub struct LocalCluster {
    pool: PoolDir,
}

impl LocalCluster {
    /// Makes the cluster of this pool, which need not exist yet.
    #[must_use]
    pub fn new(pool: &PoolDir) -> Self {
        Self { pool: pool.clone() }
    }
}

impl Cluster for LocalCluster {
    fn epoch(&self) -> Result<CacheEpoch> {
        boot::boot_epoch()
    }

    fn share(&self, pool: Uuid) -> Result<SharedState> {
        let table = Arc::new(MemberTable::open(&self.pool, pool, boot::boot_epoch()?)?);
        Ok(SharedState {
            members: Arc::clone(&table) as _,
            ledgers: table,
        })
    }

    fn share_existing(&self, pool: Uuid) -> Result<Option<SharedState>> {
        let exists = link_of(&self.pool).exists();
        exists.then(|| self.share(pool)).transpose()
    }

    fn lost_state(&self) -> Result<Option<Error>> {
        lost_table(&self.pool)
    }

    fn leadership(&self, role: Role, purpose: &str) -> Result<Box<dyn Leadership>> {
        Ok(Box::new(ControllerLock::request(&self.pool, role, purpose)?))
    }

    fn leader(&self) -> Result<Option<String>> {
        ControllerLock::holder(&self.pool)
    }

    fn times(&self, apparatus: &Name, pool: Uuid) -> Box<dyn SharedTimes> {
        Box::new(TimesDirectory::new(&self.pool, apparatus, pool))
    }
}

impl Presence for LocalCluster {
    fn claim(&self, name: &str) -> Result<Option<Arc<dyn NameClaim>>> {
        let claim = LifeLock::take(&self.pool, name)?;
        Ok(claim.map(|claim| Arc::new(claim) as _))
    }

    fn is_claimed(&self, name: &str) -> Result<bool> {
        LifeLock::alive(&self.pool, name)
    }

    fn await_end(&self, name: &str, within: Duration) -> Result<bool> {
        LifeLock::await_end(&self.pool, name, within)
    }

    fn any_claimed(&self) -> Result<Option<Claimed>> {
        life::any_claimed(&self.pool)
    }

    fn has_ended(&self, member: &Member) -> Result<bool> {
        life::has_ended(&self.pool, member)
    }

    fn origin(&self) -> Option<Origin> {
        life::origin_here(&self.pool)
    }

    fn this_process(&self) -> io::Result<Process> {
        life::this_process()
    }

    fn process_lives(&self, process: Process, pid: u32) -> io::Result<Option<bool>> {
        life::process_lives(process, pid)
    }
}

impl Claims for LocalCluster {
    fn claim_job(&self, job: JobId, within: Duration) -> Result<Option<JobClaim>> {
        let lock = JobLock::take(&self.pool, job, within)?;
        Ok(lock.map(|lock| JobClaim::new(job, Guard::new(lock))))
    }

    fn worker_of(&self, job: JobId) -> Result<Option<String>> {
        JobLock::holder(&self.pool, job)
    }

    fn any_job_claimed(&self) -> Result<bool> {
        JobLock::any(&self.pool)
    }

    fn claim_attaching(&self, within: Duration) -> Result<Guard> {
        AttachLock::take(&self.pool, within).map(Guard::new)
    }

    fn claim_discards(&self, disk: DiskId) -> Result<Option<Guard>> {
        Ok(DiscardLock::take(&self.pool, disk)?.map(Guard::new))
    }

    fn mark_left_write(&self, disk: DiskId) -> Result<Guard> {
        LeftWrite::mark(&self.pool, disk).map(Guard::new)
    }

    fn refuse_left_write(&self, disk: &DiskRecord) -> Result<()> {
        LeftWrite::refuse(&self.pool, disk)
    }
}
