//! Changes of the table, from prepare until the extents that they replaced are free.

use crate::model::change::{Cancel, ChangeRecord, Commit, NewChange};
use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::units::{CacheEpoch, ChangeId, DiskId, Generation, MembershipVersion, Term};
use std::collections::BTreeSet;

/// Changes the table.
pub trait ChangeStore: Send {
    /// Takes the next term. Only the holder of the controller lock calls this.
    fn raise_term(&mut self) -> Result<Term>;
    /// Prepares a change. Fails with `Stale` under a higher term. Fails if an extent that its delta maps is mapped twice or
    /// owned by anything but this change's job (an extent in the quarantine of a committed but not persisted change may be
    /// mapped back to where that change took it from, as long as that is not persisted at the commit either). Fails if the
    /// delta starts from the current generation and does not fit the table (a name in use, an unknown volume, a disk in use).
    /// Extents that it maps and that its job does not own belong to the change until it is committed or cancelled.
    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId>;
    /// Compare-and-set prepared -> committed: applies the delta, records the undo, puts the extents that lost their placement
    /// into quarantine, and advances the job: a segment that a chunk maps at `from.start + done` of one of the job's steps adds
    /// its length to that step's `done` (and a take-back subtracts it). The generation goes up by one. Removing a volume or
    /// disk ends the jobs about it, and removes its steps from the others.
    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit>;
    /// Compare-and-set prepared -> cancelled. Any process may call it: an apparatus whose hold ran out, or the next controller.
    fn cancel(&mut self, id: ChangeId) -> Result<Cancel>;
    /// Returns one change, if it exists.
    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>>;
    /// Returns all prepared or committed (not persisted) changes, by id.
    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>>;
    /// Marks these committed changes persisted. The caller has flushed every disk that they map. It is durable when it returns,
    /// with everything visible before it. Changes that are not committed are ignored. Fails if a change with a lower generation
    /// is committed and not among them: a later change cannot outlive an earlier one. The layout number goes up by one for each
    /// change.
    fn persist(&mut self, ids: &[ChangeId]) -> Result<()>;
    /// Returns why nothing can be made durable any more, because an earlier sync lost something, as far as this connection
    /// knows. Other failures are temporary.
    fn lost(&self) -> Option<String> {
        None
    }
    /// Takes back every change that was committed in another epoch and not persisted, latest first; each raises the generation by
    /// one. The extents that they mapped belong to their job again, if it goes on (a job that was done goes on again), else they
    /// are free. Cancels changes prepared in another epoch, and marks all members of another epoch as left. It is durable when it
    /// returns. Returns the changes taken back.
    fn recover_epoch(&mut self, boot: CacheEpoch) -> Result<Vec<ChangeId>>;
    /// Returns the areas that [`ChangeStore::free_quarantine`] would free.
    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>>;
    /// Frees as [`ChangeStore::free_quarantine`] does, except on these disks.
    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>>;
    /// Frees quarantined extents of persisted (or undone) changes whose generation is at most `oldest`: no living apparatus
    /// uses an older table. Returns the freed areas. Many areas take several transactions.
    fn free_quarantine(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        self.free_quarantine_except(oldest, &BTreeSet::new())
    }
}
