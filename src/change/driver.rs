//! Carries out what the controller machine wants: store, links, fences, timers. One [`Controller`] is one arbitration.
//!
//! Inside a hold it does what the change needs and nothing else: messages, the work, one unsynced store transaction. Whatever may wait
//! (disks, connections, preparing, what the operator is told) comes before or after.

mod acquire;
mod discard;
mod disks;
mod flight;
mod plan;
mod series;
mod settle;
mod whole;

use crate::change::controller::{Outcome, Patience, Reason};
use crate::control::client::Links;
use crate::disk::{Disks, Opening};
use crate::error::{Error, Kind, Result};
use crate::member::{ArbitrationLock, DiskMarks, MemberTable};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{NewChange, Severity, Store};
use crate::units::{DiskId, Generation, Slot, Term};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to do when another controller acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `Kind::Busy` at once, naming the holder.
    No,
    /// Wait at most so long (`None`: as long as it takes).
    For(Option<Duration>),
}

/// The waits that fit most pools: a hold ends by itself well after everything that it may wait for.
pub const PATIENCE: Patience = Patience {
    drain_us: 1_000_000,
    answer_us: 500_000,
    hold_us: 5_000_000,
};

/// How often a change is asked for again when the membership or the table moved meanwhile.
const ATTEMPTS: u32 = 8;
/// For how long a change that holds no requests is asked for again while an apparatus is slow or opens a disk, and how often any other.
const SLOW: Duration = Duration::from_secs(15);
const SLOW_ATTEMPTS: u32 = 3;

/// How often a change has been asked for, and for which reasons.
struct Again {
    since: Instant,
    /// It holds requests, so hosts wait in each attempt.
    holds: bool,
    moved: u32,
    slow: u32,
}

impl Again {
    fn begin(change: &NewChange) -> Self {
        Self {
            since: Instant::now(),
            holds: !change.spans.is_empty(),
            moved: 0,
            slow: 0,
        }
    }

    /// Whether another attempt may end otherwise.
    fn is_worth_it(&mut self, reason: &Reason) -> bool {
        if matches!(reason, Reason::MembershipMoved | Reason::GenerationMoved) {
            self.moved += 1;
            return self.moved < ATTEMPTS;
        }
        self.slow += 1;
        self.since.elapsed() < SLOW && (self.slow < SLOW_ATTEMPTS || !self.holds)
    }
}

/// The holder of the arbitration.
pub struct Controller {
    /// The directory that the arbitration was taken in, whatever it is called by now.
    pool: PoolDir,
    store: Box<dyn Store>,
    members: Arc<MemberTable>,
    disks: Disks,
    /// Those that are not open yet: they have been asked, and are waited for when they are needed.
    opening: BTreeMap<DiskId, Opening>,
    links: Links,
    term: Term,
    patience: Patience,
    /// By slot, as last read.
    names: BTreeMap<Slot, Name>,
    recovered: Vec<String>,
    fenced: Vec<Name>,
    /// A change that this controller could not bring to an end, and why: it makes no other.
    unfinished: Option<String>,
    /// What is to be logged once no hold is in place.
    notes: Vec<(Severity, String, String)>,
    /// Bytes discarded so far, by disk.
    discarded: BTreeMap<DiskId, u64>,
    /// Given back last.
    arbitration: ArbitrationLock,
}

/// A series of changes run as a pipeline: the release of one and the hold of the next travel in one frame.
///
/// Order: `next` of a change may be called before `ended` of the one before it, and then possibly under that one's hold.
/// `work` of a change is called only after `ended` of the one before; when that one was given up, the one after it is too, without `work`.
pub trait Series {
    /// The next change, or `None` when there is none now: the series ends when what was begun has ended. Its `from` is `Prepare::from`.
    /// With a change of its own outstanding, the series answers at once (a hold may be in place); otherwise it may do I/O.
    ///
    /// # Errors
    /// Ends the series.
    fn next(&mut self, controller: &mut Prepare<'_>) -> Result<Option<NewChange>>;
    /// The work under the hold: memory speed only, never a flush or a cold read.
    ///
    /// # Errors
    /// Gives the change up, with this reason.
    fn work(&mut self) -> Result<(), String>;
    /// How the change that `next` gave ended, and how long its hold lasted. Answers whether to go on.
    ///
    /// # Errors
    /// Ends the series.
    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()>;
}

/// What a series may use while it plans its next change.
pub struct Prepare<'a> {
    /// The store.
    pub store: &'a mut dyn Store,
    /// The open disks.
    pub disks: &'a Disks,
    /// The generation that the next change starts from, if those outstanding are committed.
    pub from: Generation,
    /// Some fenced apparatus still lives: changes that copy must hold reads as well.
    pub late_writes: bool,
}

impl Controller {
    /// What `acquire` found and did, a line each, for the operator.
    #[must_use]
    pub fn recovered(&self) -> &[String] {
        &self.recovered
    }

    /// Says anew what the arbitration is held for: `job 7`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_purpose(&self, purpose: &str) -> Result<()> {
        self.arbitration
            .set_purpose(purpose)
            .map_err(|why| Error::because("arbitration", why))
    }

    /// This arbitration.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &PoolDir {
        &self.pool
    }

    /// The store.
    pub fn store(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    /// The disks that are open: those of the pool that answered at once, and those that a change has needed since.
    #[must_use]
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    /// A disk's ledger of write errors, which whoever makes something durable there needs.
    #[must_use]
    pub fn ledger(&self, disk: DiskId) -> DiskMarks {
        self.members.marks(disk)
    }

    /// The ledgers of all disks.
    #[must_use]
    pub fn members(&self) -> &Arc<MemberTable> {
        &self.members
    }

    /// Bounds of the waits.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Those fenced by this controller, for exit status 5.
    #[must_use]
    pub fn fenced(&self) -> &[Name] {
        &self.fenced
    }

    /// Runs one change through all apparatuses: asks again when the membership moved. Hardened when it returns, if
    /// `harden`. With no apparatus running it is only the store's. The generation that it starts from is filled in.
    ///
    /// # Errors
    /// When it was given up: `TimedOut` with the reason, or what the store or the work said.
    pub fn run(
        &mut self,
        change: NewChange,
        harden: bool,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        self.check_finished()?;
        let mut again = Again::begin(&change);
        loop {
            match self.attempt(&change, work)? {
                Ok(outcome) => return self.finished(outcome, harden),
                Err(reason) if again.is_worth_it(&reason) => {}
                Err(Reason::MembershipMoved | Reason::GenerationMoved) => {
                    let why = format!("apparatuses came and went during {ATTEMPTS} attempts");
                    return Err(Error::new(Kind::TimedOut, change.title, why));
                }
                Err(reason) => return Err(settle::given_up(&change.title, &reason, &self.names)),
            }
        }
    }

    /// The reason where it was given up for one that passes.
    fn attempt(
        &mut self,
        change: &NewChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Result<Outcome, Reason>> {
        let mut change = change.clone();
        change.difference.from = self.store.header()?.generation;
        let title = change.title.clone();
        let flown = self.fly_one(change, work);
        self.tell();
        let (outcome, error) = flown?;
        match &outcome {
            Outcome::Finished { .. } => Ok(Ok(outcome)),
            Outcome::GaveUp {
                reason:
                    reason @ (Reason::MembershipMoved
                    | Reason::GenerationMoved
                    | Reason::Opening { .. }
                    | Reason::Slow(_)),
                ..
            } => Ok(Err(reason.clone())),
            Outcome::GaveUp { reason, .. } => {
                Err(error.unwrap_or_else(|| settle::given_up(&title, reason, &self.names)))
            }
            Outcome::Unfinished { why, .. } => Err(error
                .unwrap_or_else(|| Error::failed(title, why.clone()))
                .hint("the next command that changes something finishes the change or takes it back")),
        }
    }

    /// The next holder of the arbitration sets right what this one could not; nothing may be built on it before.
    fn check_finished(&self) -> Result<()> {
        match &self.unfinished {
            None => Ok(()),
            Some(why) => Err(Error::failed(
                "change",
                format!("an earlier one could not be brought to an end: {why}"),
            )
            .hint("the next command finishes it or takes it back: try again")),
        }
    }

    fn finished(&mut self, outcome: Outcome, harden: bool) -> Result<Outcome> {
        if harden && let Err(error) = self.harden() {
            let why = format!("it is done, but a power loss would undo it: {}", error.why());
            let told = Error::new(error.kind(), error.what(), why);
            return Err(match error.way_out() {
                Some(hint) => told.hint(hint),
                None => told,
            });
        }
        Ok(outcome)
    }
}
