//! Carries out what the controller machine wants: store, links, fences, timers. One [`Controller`] is one arbitration.

use crate::change::controller::{Outcome, Patience};
use crate::disk::Disks;
use crate::error::Result;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{NewChange, Store};
use crate::units::{Generation, Term};
use std::time::Duration;

/// What to do when another controller acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// `Kind::Busy` at once, naming the holder.
    No,
    /// Wait at most so long (`None`: as long as it takes).
    For(Option<Duration>),
}

/// The holder of the arbitration.
pub struct Controller {
    _private: (),
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
    /// Takes the arbitration lock and the next term, then finishes or rolls back what the last holder left (sets fence words
    /// that the store has, cancels prepared changes, has committed ones applied everywhere, takes back those of another boot). `purpose` is for those
    /// who find it busy: `job 7`, `volume create`.
    ///
    /// # Errors
    /// `Kind::Busy` with the holder's name; the store's.
    pub fn acquire(_pool: &PoolDir, _purpose: &str, _wait: Wait) -> Result<Self> {
        todo!()
    }

    /// What `acquire` found and did, a line each, for the operator.
    #[must_use]
    pub fn recovered(&self) -> &[String] {
        todo!()
    }

    /// This arbitration.
    #[must_use]
    pub fn term(&self) -> Term {
        todo!()
    }

    /// The store.
    pub fn store(&mut self) -> &mut dyn Store {
        todo!()
    }

    /// All disks of the pool that could be opened.
    #[must_use]
    pub fn disks(&self) -> &Disks {
        todo!()
    }

    /// Bounds of the waits.
    pub fn set_patience(&mut self, _patience: Patience) {
        todo!()
    }

    /// Runs one change through all apparatuses: asks again when the membership moved. Hardened when it returns, if
    /// `harden`. With no apparatus running it is only the store's.
    ///
    /// # Errors
    /// When it was given up: `TimedOut` with the reason, or what the store or the work said.
    pub fn run(
        &mut self,
        _change: NewChange,
        _harden: bool,
        _work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        todo!()
    }

    /// Runs a series as a pipeline until it has no next change.
    ///
    /// # Errors
    /// Those of the series, and the store's.
    pub fn run_series(&mut self, _series: &mut dyn Series) -> Result<()> {
        todo!()
    }

    /// Flushes the disks that committed changes map, and hardens those changes.
    ///
    /// # Errors
    /// A disk's or the store's; nothing was hardened then.
    pub fn harden(&mut self) -> Result<()> {
        todo!()
    }

    /// Frees quarantined extents that nobody can use any more, after asking the apparatuses for the oldest table in use.
    ///
    /// # Errors
    /// The store's.
    pub fn free(&mut self) -> Result<()> {
        todo!()
    }

    /// Those fenced by this controller, for exit status 5.
    #[must_use]
    pub fn fenced(&self) -> &[Name] {
        todo!()
    }
}
