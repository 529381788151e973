//! Drives the controller's state machine: store, links, fences, timers. A [`Controller`] is one holding of the controller lock.
//!
//! Inside a hold it does what the change needs and nothing else: messages, the work, one unsynced store transaction. Everything that may
//! wait (disks, connections, preparing, log entries for the operator) is done before or after.

mod acquire;
pub mod archive;
pub mod directory;
mod discard;
mod disks;
pub mod elsewhere;
pub mod environment;
pub mod history;
mod in_flight;
mod lead;
pub(crate) mod metadata;
pub mod node;
pub(crate) mod observe;
pub mod persist;
mod pipeline;
mod placing;
mod plan;
pub mod pool;
mod settle;
mod silence;
pub mod space;
mod whole;

use self::elsewhere::Elsewhere;
use crate::blockdev::{Disks, Opening};
use crate::cluster::{Cluster, FlushLedger, FlushLedgers, Leadership, Membership};
use crate::model::change::NewChange;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::names::Name;
use crate::model::units::{DiskId, Generation, Slot, Term};
use crate::protocol::controller::{Outcome, Patience, Reason};
use crate::rpc::client::Links;
use crate::rpc::written::Written;
use crate::store::Store;
use environment::Environment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use lead::GapOutcome;
pub use settle::Persisting;

/// What to do when another controller holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Fails with `ErrorKind::Busy` at once, whatever the other does.
    IfFree,
    /// Fails with `ErrorKind::Busy` at once, naming the holder, unless that is a job: a job yields the lock in its next gap, which is
    /// waited for.
    No,
    /// Waits at most this long (`None`: without limit).
    For(Option<Duration>),
}

impl Wait {
    /// Returns for how long a process may wait that would wait this long in any case.
    #[must_use]
    pub fn or_at_least(self, least: Duration) -> Duration {
        match self {
            Self::IfFree | Self::No => least,
            Self::For(limit) => limit.unwrap_or(UNLIMITED).max(least),
        }
    }
}

/// Stands for a wait without limit, in times that are added to an instant: a year.
const UNLIMITED: Duration = Duration::from_secs(365 * 86_400);

/// Waits that fit most pools: a hold ends by itself well after everything that it may wait for.
pub const PATIENCE: Patience = Patience {
    drain_us: 1_000_000,
    answer_us: 500_000,
    hold_us: 5_000_000,
};

/// How often a change is attempted when the membership or the table moved meanwhile.
const ATTEMPTS: u32 = 8;
/// For how long a change that holds no requests is attempted again while an apparatus is slow or opens a disk, and how often any other
/// change.
const SLOW: Duration = Duration::from_secs(15);
const SLOW_ATTEMPTS: u32 = 3;

/// Counts the attempts of a change, by reason.
struct Retries {
    since: Instant,
    /// The change holds requests, so hosts wait in each attempt.
    holds: bool,
    moved: u32,
    slow: u32,
}

impl Retries {
    fn begin(change: &NewChange, now: Instant) -> Self {
        Self {
            since: now,
            holds: !change.spans.is_empty(),
            moved: 0,
            slow: 0,
        }
    }

    /// Returns whether another attempt may succeed.
    fn may_retry(&mut self, reason: &Reason, now: Instant) -> bool {
        if matches!(
            reason,
            Reason::MembershipMoved | Reason::GenerationMoved | Reason::Silent(_)
        ) {
            self.moved += 1;
            return self.moved < ATTEMPTS;
        }
        self.slow += 1;
        now.saturating_duration_since(self.since) < SLOW && (self.slow < SLOW_ATTEMPTS || !self.holds)
    }
}

/// Writes to the space that a change maps, when the change is prepared and so owns it, and before anything is held.
pub type Claimed<'w> = dyn FnMut(&mut Controller, &NewChange) -> Result<()> + 'w;

/// The holder of the controller lock, and all that it needs to run changes.
pub struct Controller {
    /// The directory in which the controller lock was taken, even if it has been renamed since.
    pool: PoolDir,
    store: Box<dyn Store>,
    cluster: Arc<dyn Cluster>,
    environment: Arc<dyn Environment>,
    members: Arc<dyn Membership>,
    ledgers: Arc<dyn FlushLedgers>,
    disks: Disks,
    /// Disks that are not open yet: opening them has begun, and is waited for when they are needed.
    opening: BTreeMap<DiskId, Opening>,
    links: Links,
    /// Members on other nodes.
    elsewhere: Elsewhere,
    term: Term,
    patience: Patience,
    /// Names of the members by slot, as last read.
    names: BTreeMap<Slot, Name>,
    recovered: Vec<String>,
    fenced: Vec<Name>,
    /// Why a change could not be brought to an end by this controller, which then runs no other.
    unfinished: Option<String>,
    /// Entries to be logged once no hold is in place.
    notes: Vec<(Severity, String, String)>,
    /// Disks on which a copy of the metadata could not be placed: each is tried once.
    failed_copies: BTreeSet<DiskId>,
    /// How many disks carry a copy.
    copies: usize,
    /// Whether later parts of the operation in progress need extents that are still free.
    more_parts: bool,
    /// Bytes discarded so far, by disk.
    discarded: BTreeMap<DiskId, discard::DiscardCount>,
    /// Dropped last.
    leadership: Box<dyn Leadership>,
}

/// Supplies the changes of a pipeline: the release of one and the hold of the next travel in one frame.
///
/// Order: `next` of a change may be called before `ended` of the one before it, and then possibly under that one's hold.
/// `copy_ahead` and `work` of a change are called only after `ended` of the one before; when that one was given up, the one after it is too, without them.
pub trait ChangePipeline {
    /// Returns the next change, or `None` when there is none now: the pipeline ends when what was begun has ended. Its `from` is
    /// `Prepare::from`. While a change of its own is outstanding, this returns at once (a hold may be in place); otherwise it may do I/O.
    ///
    /// # Errors
    /// An error ends the pipeline.
    fn next(&mut self, controller: &mut Prepare<'_>) -> Result<Option<NewChange>>;
    /// Called when a batch of changes is announced, before their holds begin: ends whatever must not run beside them.
    fn before_holds(&mut self) {}
    /// Called when no hold of the batch is in place any more.
    fn after_holds(&mut self) {}
    /// Returns whether the ranges of the batch that has just been planned are copied before they are held.
    fn copies_ahead(&self) -> bool {
        false
    }
    /// Copies the ranges of a change while nothing is held and hosts write to them; when this returns, the copy is durable. Called before `work` of that
    /// change and after `ended` of the one before.
    ///
    /// # Errors
    /// An error gives the change up, with this reason.
    fn copy_ahead(&mut self) -> Result<(), String> {
        Ok(())
    }
    /// Does the work under the hold: at memory speed, never a flush or a cold read. `written` is what hosts have written to the ranges since
    /// `copy_ahead`: all, where they were not copied ahead or that is not known.
    ///
    /// # Errors
    /// An error gives the change up, with this reason.
    fn work(&mut self, written: &Written) -> Result<(), String>;
    /// Receives the outcome of the change that `next` returned, and how long its hold lasted.
    ///
    /// # Errors
    /// An error ends the pipeline.
    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()>;
}

/// What a pipeline may use while it plans its next change.
pub struct Prepare<'a> {
    /// The store.
    pub store: &'a mut dyn Store,
    /// The open disks.
    pub disks: &'a Disks,
    /// The generation that the next change starts from, if those outstanding are committed.
    pub from: Generation,
    /// Whether a fenced apparatus still lives: then changes that copy must hold reads as well.
    pub late_writes: bool,
}

impl Controller {
    /// Returns what `acquire` found and did, one line each, for the operator.
    #[must_use]
    pub fn recovered(&self) -> &[String] {
        &self.recovered
    }

    /// Records what the controller lock is held for, as `job 7`.
    ///
    /// # Errors
    /// Fails when the purpose cannot be written.
    pub fn set_purpose(&mut self, purpose: &str) -> Result<()> {
        self.leadership.set_purpose(purpose)
    }

    /// Returns the term of this controller.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the pool's directory.
    #[must_use]
    pub fn pool(&self) -> &PoolDir {
        &self.pool
    }

    /// Returns the store.
    pub fn store(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    /// Returns the open disks: those of the pool that answered at once, and those that a change has needed since.
    #[must_use]
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    /// Returns a disk's ledger of write errors, which every flush of that disk needs.
    #[must_use]
    pub fn ledger(&self, disk: DiskId) -> Arc<dyn FlushLedger> {
        self.ledgers.ledger(disk)
    }

    /// Returns the member table, which has the ledgers of all disks.
    #[must_use]
    pub fn ledgers(&self) -> &Arc<dyn FlushLedgers> {
        &self.ledgers
    }

    /// The processes of the pool.
    #[must_use]
    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.cluster
    }

    /// Sets how many disks carry a copy of the pool's metadata from now on; copies that there are already stay.
    pub fn set_copies(&mut self, copies: usize) {
        self.copies = copies;
    }

    /// Sets the bounds of the waits.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Returns the apparatuses fenced by this controller, for exit status 5.
    #[must_use]
    pub fn fenced(&self) -> &[Name] {
        &self.fenced
    }

    /// Runs one change through all apparatuses, and tries again when the membership moved. The change is persisted when this returns, if
    /// `persist`. With no apparatus running it is a change of the store alone. The generation that it starts from is filled in.
    ///
    /// # Errors
    /// Fails when the change was given up: with `TimedOut` and the reason, or with the error of the store or the work.
    pub fn run(
        &mut self,
        change: NewChange,
        persist: bool,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        self.run_claimed(change, persist, &mut |_, _| Ok(()), work)
    }

    /// Runs a change as [`Controller::run`] does. `claimed` is called in each attempt.
    fn run_claimed(
        &mut self,
        change: NewChange,
        persist: bool,
        claimed: &mut Claimed<'_>,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        self.check_finished()?;
        let mut again = Retries::begin(&change, self.environment.now());
        loop {
            match self.attempt(&change, claimed, work)? {
                Ok(outcome) => return self.finished(outcome, persist),
                Err(reason) if again.may_retry(&reason, self.environment.now()) => {}
                Err(Reason::MembershipMoved | Reason::GenerationMoved | Reason::Silent(_)) => {
                    let why = format!("apparatuses came and went during {ATTEMPTS} attempts");
                    return Err(Error::new(ErrorKind::TimedOut, change.title, why));
                }
                Err(reason) => {
                    return Err(settle::given_up(&change.title, &reason, &|slot| {
                        self.title_of(slot)
                    }));
                }
            }
        }
    }

    /// Makes one attempt. Returns the reason where the change was given up for a temporary one.
    fn attempt(
        &mut self,
        change: &NewChange,
        claimed: &mut Claimed<'_>,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Result<Outcome, Reason>> {
        let mut change = change.clone();
        change.delta.from = self.store.header()?.generation;
        let title = change.title.clone();
        let ran = self.run_one(change, claimed, work);
        self.log_notes();
        let (outcome, error) = ran?;
        match &outcome {
            Outcome::Finished { .. } => Ok(Ok(outcome)),
            Outcome::GaveUp {
                reason: reason @ Reason::Silent(slot),
                ..
            } => {
                self.fence_silent(*slot)?;
                Ok(Err(reason.clone()))
            }
            Outcome::GaveUp {
                reason:
                    reason @ (Reason::MembershipMoved
                    | Reason::GenerationMoved
                    | Reason::Opening { .. }
                    | Reason::Slow(_)),
                ..
            } => Ok(Err(reason.clone())),
            Outcome::GaveUp { reason, .. } => {
                Err(error.unwrap_or_else(|| settle::given_up(&title, reason, &|slot| self.title_of(slot))))
            }
            Outcome::Unfinished { why, .. } => Err(error
                .unwrap_or_else(|| Error::failed(title, why.clone()))
                .hint("the next command that changes something finishes the change or takes it back")),
        }
    }

    /// Refuses a new change after one that could not be brought to an end, which the next holder of the controller lock repairs; and
    /// refuses it in a gap.
    fn check_finished(&self) -> Result<()> {
        if !self.leads() {
            return Err(Error::failed(
                "change",
                "requested in a gap, in which this controller does not have the lock",
            ));
        }
        match &self.unfinished {
            None => Ok(()),
            Some(why) => Err(Error::failed(
                "change",
                format!("an earlier change could not be brought to an end: {why}"),
            )
            .hint("the next command finishes it or takes it back: try again")),
        }
    }

    fn finished(&mut self, outcome: Outcome, persist: bool) -> Result<Outcome> {
        if persist && let Err(error) = self.persist() {
            let why = format!(
                "the change is done, but a power loss would undo it: {}",
                error.why()
            );
            let reported = Error::new(error.kind(), error.what(), why);
            return Err(match error.way_out() {
                Some(hint) => reported.hint(hint),
                None => reported,
            });
        }
        Ok(outcome)
    }
}
