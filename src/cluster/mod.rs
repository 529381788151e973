//! Shared state of the processes of one pool: members, fences, leadership, and the flush ledgers of the disks.
//!
//! The traits here state what the rest of the program relies on, and not how it is implemented:
//!
//! - [`Presence`]: which processes have claimed a name, and which members are known to have ended.
//! - [`Membership`] and [`OwnEntry`]: a member publishes its incarnation and the generation that it serves by; others observe and fence it, and
//!   it checks whether it is fenced.
//! - [`Leadership`]: one controller at a time; a job yields in its gaps.
//! - [`FlushLedgers`] and [`FlushLedger`]: for each disk, whether there are unflushed writes, and whether writes were lost.
//! - [`Claims`]: exclusive claims on jobs, on discards of a disk and on attaching, and marks for left writes.
//! - [`SharedTimes`]: the last times of writing of volumes.
//!
//! [`open`] is the only place that chooses an implementation. [`local`] is the one for one kernel.

mod claims;
mod flush_ledger;
mod leadership;
pub mod local;
mod membership;
mod presence;
mod times;

pub use claims::{Claims, Guard, JobClaim};
pub use flush_ledger::{FlushLedger, FlushLedgers};
pub use leadership::{Leadership, Role, WaitLimit};
pub use local::{OpenDisk, Owner, open_disks, owners, pools_in_use};
pub use membership::{Membership, OwnEntry};
pub use presence::{Claimed, NameClaim, Presence};
pub use times::{ModificationTimes, SharedTimes, Times};

use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::units::CacheEpoch;
use std::sync::Arc;
use uuid::Uuid;

/// Opens the cluster that a pool's processes belong to. The pool need not exist yet.
///
/// # Errors
/// Fails when that cluster cannot be determined.
pub fn open(pool: &PoolDir) -> Result<Arc<dyn Cluster>> {
    Ok(Arc::new(local::LocalCluster::new(pool)))
}

/// State that the members of a pool share, once its identity is known.
#[derive(Clone)]
pub struct SharedState {
    /// The members.
    pub members: Arc<dyn Membership>,
    /// The flush ledgers of the disks.
    pub ledgers: Arc<dyn FlushLedgers>,
}

/// Cluster of the processes of one pool, as one of them uses it.
pub trait Cluster: Presence + Claims + Send + Sync {
    /// Returns the epoch that this process runs in, which opening the store needs.
    ///
    /// # Errors
    /// Fails when the epoch cannot be determined.
    fn epoch(&self) -> Result<CacheEpoch>;

    /// Opens the shared state of this pool, and creates it where there is none. While one process has it open, all others use the same.
    ///
    /// # Errors
    /// Fails when the state cannot be created or understood, or when other processes use one that this process cannot find.
    fn share(&self, pool: Uuid) -> Result<SharedState>;

    /// Opens the shared state if it exists, for callers that only read.
    ///
    /// # Errors
    /// Fails as [`Cluster::share`] does.
    fn share_existing(&self, pool: Uuid) -> Result<Option<SharedState>>;

    /// Returns what there is to say if processes use a shared state that no other process can find: nothing can be changed until all of them have
    /// ended.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn lost_state(&self) -> Result<Option<Error>>;

    /// Returns a leadership that is not held yet. Refusals of other controllers name its purpose: `job 7`, `volume create`.
    ///
    /// # Errors
    /// Fails when the leadership cannot be requested.
    fn leadership(&self, role: Role, purpose: &str) -> Result<Box<dyn Leadership>>;

    /// Describes the leader for messages: `job 7 by pid 123 since 2026-01-31T10:02:00Z`. Returns `None` when there is none.
    ///
    /// # Errors
    /// Fails when that cannot be determined.
    fn leader(&self) -> Result<Option<String>>;

    /// Returns the modification times, for this apparatus to publish and observe.
    fn times(&self, apparatus: &Name, pool: Uuid) -> Box<dyn SharedTimes>;

    /// Acquires the leadership for a purpose.
    ///
    /// # Errors
    /// Fails with `ErrorKind::Busy`, which names the leader, or when the leadership cannot be requested.
    fn lead(&self, role: Role, purpose: &str, wait: WaitLimit) -> Result<Box<dyn Leadership>> {
        let mut leadership = self.leadership(role, purpose)?;
        if leadership.acquire(wait)? {
            return Ok(leadership);
        }
        let leader = self.leader()?.unwrap_or_else(|| "another controller".into());
        Err(Error::new(ErrorKind::Busy, "busy", leader).hint("wait for it with --wait"))
    }
}
