//! What the control thread commands: the data path of one apparatus, seen from above.

use crate::disk::Disks;
use crate::error::Result;
use crate::pool::model::{Difference, DiskRecord, Span};
use crate::store::HoldMode;
use crate::table::Draft;
use crate::units::{ChangeId, DiskId, Generation, VolumeId};
use crate::wire::message::{Figures, Opens};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a drain still waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Requests in flight that overlap.
    pub in_flight: u64,
    /// Age of the oldest.
    pub age: Duration,
    /// The disk that it waits for, by name; empty when that cannot be told.
    pub disk: String,
}

/// What the end of a hold let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Requests that this hold had parked.
    pub parked: u64,
    /// The longest that one of them waited.
    pub longest: Duration,
}

/// The data path of one apparatus. All methods are called by the control thread alone, return at once (no disk I/O, no lock that
/// disk I/O is done under, no notice to the kernel that waits for requests), and are idempotent.
pub trait Runtime: Send + Sync + 'static {
    /// From the return on nothing new that overlaps `spans` goes in. False when there are too many holds.
    fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool;
    /// What the drain of this hold waits for; `None` when it is done. While it is not, the bell rings as lanes are left.
    fn lag(&self, change: ChangeId) -> Option<Lag>;
    /// Takes the hold away and has what it parked run, on other threads than this.
    fn release(&self, change: ChangeId) -> Resumed;
    /// Patches the table and switches faces; a difference that leads to the current generation is passed over. Has the
    /// kernel told what changed (names, sizes), later and elsewhere.
    ///
    /// # Errors
    /// When the difference does not fit; nothing has changed then.
    fn apply(&self, difference: &Difference) -> Result<Generation>;
    /// The generation of the current face.
    fn generation(&self) -> Generation;
    /// No request in flight uses a table older than this.
    fn oldest(&self) -> Generation;
    /// Fenced: parks every request from now on, those that find out before their acknowledgement too. Holds are gone.
    fn close(&self);
    /// Requests in flight, whatever their range. While the gate is closed the bell rings as lanes are left.
    fn in_flight(&self) -> u64;
    /// Replaces the table. Called while closed and with nothing in flight; the disks it names (`disks`) are open.
    ///
    /// # Errors
    /// When it is another pool's; the old table stays then.
    fn reload(&self, table: Draft, disks: &[DiskRecord]) -> Result<()>;
    /// The end of [`Runtime::close`]: what was parked is finished by the rule of rejoining, on other threads than this.
    fn open(&self);
    /// The open disks, to add to and to take from.
    fn disks(&self) -> &Disks;
    /// Notes what is in flight: since when that is so is known as exactly as this is called often.
    fn note(&self);
    /// Something that flushes waited for has ended: they are tried again, on other threads than this. May be called by any thread.
    fn flush_again(&self) {}
    /// Counts what failed on a disk from zero, and has it used again in its whole length, once a look finds that it has that again.
    fn clear_disk(&self, _disk: DiskId) {}
    /// Its counters. What the control thread knows better (incarnation, term, jobs) is overwritten.
    fn figures(&self) -> Figures;
    /// Asks the program to leave in good order: unmount and end. Does not wait for it.
    fn stop(&self);
    /// What hosts have open.
    fn opens(&self) -> Opens;
    /// Keeps these volumes (all when there is none) from being opened until [`Runtime::let_in`], on behalf of `who`.
    ///
    /// # Errors
    /// What hosts have open of them; with `writers_only`, for writing. Nothing is kept closed then.
    fn keep_closed(&self, who: u64, volumes: BTreeSet<VolumeId>, writers_only: bool) -> Result<(), Opens>;
    /// The end of [`Runtime::keep_closed`]: who has waited for it gets his answer.
    fn let_in(&self, who: u64);
}
