//! The pool's database behind one small trait, so that etcd can stand in SQLite's place when a pool spans hosts.
//!
//! Every method is one transaction: visible to all processes when it returns, and all or nothing. *Visible* is not
//! *hardened*: only [`Store::harden`] and the methods that say so make what they and all earlier ones wrote survive
//! power loss. No method syncs unless it says so, because some run while host requests are held.
//!
//! A change is a record with one life:
//!
//! ```text
//!            commit (compare-and-set)              harden
//! prepared ----------------------------> committed --------> hardened
//!    |                                       |
//!    | cancel (compare-and-set)              | another boot found it: its memory is gone
//!    v                                       v
//! cancelled                               undone
//! ```

pub mod audit;
#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) use contract::new_job as a_job;
pub mod memory;
pub mod sqlite;

use crate::error::{Error, Result};
use crate::member::Origin;
use crate::pool::holds::Holds;
use crate::pool::model::{Area, Difference, DiskRecord, PoolHeader, Segment, Snapshot, Span, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::options::{Fullness, Options};
use crate::units::{
    BootId, ByteCount, ChangeId, DiskId, Generation, Incarnation, JobId, MembershipVersion, Slot, Term,
    Timestamp, VolumeExtent, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which requests a hold parks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HoldMode {
    /// Writes, punches and zeroing; reads go on.
    Writes,
    /// All requests.
    All,
}

/// Where a change's record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeState {
    /// Announced; the old table is the truth.
    Prepared,
    /// The new table is the truth for this boot; power loss takes it back.
    Committed,
    /// The new table is the truth for good.
    Hardened,
    /// Given up before it was committed.
    Cancelled,
    /// Was committed in an earlier boot and never hardened: taken back.
    Undone,
}

/// What the store is told when a change is prepared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewChange {
    /// For people: the verb that asked for it.
    pub title: String,
    /// The job it is a chunk of.
    pub job: Option<JobId>,
    /// What it changes. Its `from` must be the generation at commit.
    pub difference: Difference,
    /// The address ranges whose requests are held.
    pub spans: Vec<Span>,
    /// Which requests are held.
    pub mode: HoldMode,
}

/// A change as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Its number.
    pub id: ChangeId,
    /// Where it stands.
    pub state: ChangeState,
    /// The term that prepared it.
    pub term: Term,
    /// The boot in which it was committed (or prepared, until then).
    pub boot: BootId,
    /// What was asked for.
    pub change: NewChange,
    /// The edits that lead back; set by commit.
    pub undo: Option<Difference>,
}

/// The answer to a commit. Anything but `Committed` changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Commit {
    /// This generation is the truth now. Also the answer when it already was committed (idempotent).
    Committed(Generation),
    /// An apparatus cancelled it: its hold ran out.
    Cancelled,
    /// An apparatus joined, rejoined, left or was fenced since the holds were asked for: ask again.
    MembershipMoved(MembershipVersion),
    /// The difference does not start from the current generation: plan again.
    GenerationMoved(Generation),
    /// A higher term acts.
    StaleTerm(Term),
}

/// The answer to a cancel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cancel {
    /// The old table stays the truth. Also the answer when it already was cancelled, or undone.
    Cancelled,
    /// Too late: this record is committed.
    Committed(Box<ChangeRecord>),
}

/// An apparatus as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its line in the member table.
    pub slot: Slot,
    /// What people call it.
    pub name: Name,
    /// This life's number.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub state: MemberState,
    /// Its process.
    pub pid: u32,
    /// Absolute path of its mount point.
    pub mount: PathBuf,
    /// The generation it loaded when it last joined.
    pub joined_at: Generation,
    /// When it last joined.
    pub since: Timestamp,
    /// Where its process was started, if that is known.
    pub origin: Option<Origin>,
}

/// Where an apparatus stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// In the control range.
    Joined,
    /// Out of it; may still be alive with an old table.
    Fenced,
    /// Its process ended, or it left in good order.
    Left,
}

/// What an apparatus gets when it joins: its life and the table it serves by, from one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its record.
    pub member: Member,
    /// The table; without its segments where `since` leads to them.
    pub snapshot: Snapshot,
    /// The differences that lead from the table that the joiner has read before to this one, in order: to read a large table takes
    /// longer than others can wait for the store. `None` when the joiner has read none, or not all of these differences are to be had.
    pub since: Option<Vec<Difference>>,
    /// Changes prepared or committed but not yet known to be finished: the joiner waits for the members to have
    /// reached the snapshot's generation before it acknowledges writes.
    pub unfinished: Vec<ChangeRecord>,
}

/// Who owns a run of extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A volume's segment.
    Volume(VolumeId),
    /// A prepared change that will map it.
    Change(ChangeId),
    /// A job's destination, not yet mapped.
    Job(JobId),
    /// Freed by a change, and possibly still read or written by somebody.
    Quarantine(ChangeId),
}

/// A run of extents and its one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Use {
    /// The extents.
    pub area: Area,
    /// Who has them.
    pub owner: Owner,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobKind {
    /// Moves (part of) a volume.
    Move {
        /// The volume.
        volume: VolumeId,
    },
    /// Empties a disk.
    Evacuate {
        /// The disk.
        disk: DiskId,
        /// Where to, in order of preference; wherever there is room if empty.
        to: Vec<DiskId>,
        /// What the destinations keep free may be taken too.
        #[serde(default)]
        use_reserve: bool,
        /// Things were placed on it before: so they are again once all is moved back.
        #[serde(default)]
        reopen: bool,
    },
}

impl JobKind {
    /// Whether there is nothing left to do once this volume is gone.
    fn is_about_volume(&self, gone: VolumeId) -> bool {
        matches!(self, Self::Move { volume } if *volume == gone)
    }

    /// Whether there is nothing left to do once this disk is gone.
    fn is_about_disk(&self, gone: DiskId) -> bool {
        matches!(self, Self::Evacuate { disk, .. } if *disk == gone)
    }
}

/// Why a job was cancelled whose volume was removed.
const VOLUME_REMOVED: &str = "its volume was removed";
/// Why a job was cancelled whose disk was removed.
const DISK_REMOVED: &str = "its disk was removed";

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Somebody works on it, or died doing so: whoever takes the arbitration goes on.
    Running,
    /// Stopped by the operator until `resume`.
    Paused,
    /// Stopped by the operator; what was moved stays moved.
    Cancelled,
    /// What was moved is being moved back.
    RollingBack,
    /// All done.
    Done,
    /// Gave up; `JobRecord::why` says why.
    Failed,
}

impl JobState {
    /// Whether nothing more is done: the job owns no extents then.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The operator's wishes for a job, changeable while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobLimits {
    /// At most this many bytes a second.
    pub rate: Option<ByteCount>,
    /// Chunks are sized so that holds stay below this many microseconds.
    pub hold_target_us: Option<u64>,
    /// Reads are held too.
    pub hold_all: bool,
    /// Places that cannot be read stay where they are, and what is beside them is moved.
    #[serde(default)]
    pub skip_unreadable: bool,
}

/// One line of a copy progress table: a run of the volume, where it was, where it goes, how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// The volume.
    pub volume: VolumeId,
    /// The run and its old home.
    pub from: Segment,
    /// Its new home; of the same length.
    pub to: Area,
    /// Extents moved so far, from the start of the run.
    pub done: u64,
}

/// How far a copy progress table is, in extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Moved so far.
    pub done: u64,
    /// All together.
    pub total: u64,
}

impl Progress {
    /// Of these steps.
    #[must_use]
    pub fn of(steps: &[Step]) -> Self {
        let add = |sum: Self, step: &Step| Self {
            done: sum.done.saturating_add(step.done),
            total: sum.total.saturating_add(step.to.len),
        };
        steps.iter().fold(Self::default(), add)
    }
}

/// A job as the store has it. Its copy progress table is read with [`Store::steps`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// The operator's wishes.
    pub limits: JobLimits,
    /// The copy progress table is that of the way back: set once a roll-back is planned.
    pub back: bool,
    /// For people: the command that asked for it.
    pub title: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
    /// Bytes copied (holes not counted).
    pub copied: ByteCount,
    /// Longest hold so far, in microseconds.
    pub longest_hold_us: u64,
    /// Host requests held so far.
    pub held: u64,
    /// How long its holds took.
    pub holds: Holds,
    /// How far it is. The store keeps it from the copy progress table; what a caller gives is passed over.
    pub progress: Progress,
    /// What it waits for, or why it failed; empty while it simply runs.
    pub why: String,
}

/// Something an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// How grave.
    pub severity: Severity,
    /// What it is about: `disk d1`, `job 7`.
    pub subject: String,
    /// One line.
    pub text: String,
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// For the record.
    Info,
    /// Look at it some time.
    Warning,
    /// Look at it now.
    Error,
}

/// The store of one pool, one connection to it. Each thread opens its own.
pub trait Store: Send {
    /// The header alone.
    fn header(&mut self) -> Result<PoolHeader>;
    /// The whole table, from one transaction.
    fn snapshot(&mut self) -> Result<Snapshot>;
    /// The disks, by id.
    fn disks(&mut self) -> Result<Vec<DiskRecord>>;
    /// A disk's label has been written with this sequence number, durably. The record keeps the highest.
    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()>;
    /// The volumes, by id.
    fn volumes(&mut self) -> Result<Vec<VolumeRecord>>;
    /// A volume's segments that touch `[start, end)`, in order, whole (not clipped).
    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>>;
    /// Every run of extents that is not free on `disk`, by start; adjacent runs of one owner are one.
    fn uses(&mut self, disk: DiskId) -> Result<Vec<Use>>;
    /// The number for the next disk. It is taken when a change commits that adds that disk, and never given again; asking
    /// changes nothing (a dry run asks too).
    fn next_disk_id(&mut self) -> Result<DiskId>;
    /// The number for the next volume, in the same way.
    fn next_volume_id(&mut self) -> Result<VolumeId>;

    /// Takes the next term. Only the holder of the arbitration lock calls this.
    fn raise_term(&mut self) -> Result<Term>;

    /// Announces a change. Refused with `Kind::Stale` under a higher term, when an extent that its difference
    /// maps is owned by anything but this change's job or mapped twice (one in the quarantine of a committed, not yet hardened change
    /// may be mapped back to where that took it from, as long as that is not hardened at the commit either), and when it starts from the current generation and
    /// does not fit the table (a name taken, a volume that is not there, a disk in use). What it maps and its job does not own becomes
    /// its own until it is committed or cancelled.
    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId>;
    /// Compare-and-set prepared -> committed: applies the difference, records the undo, puts the extents that lost
    /// their home into quarantine, moves the job's progress on: a segment that a chunk maps at `from.start + done` of one of
    /// its steps adds its length to that step's `done` (and a take-back subtracts it). One generation up. A volume or disk that goes away
    /// ends the jobs that are about it, and takes its part out of the others.
    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit>;
    /// Compare-and-set prepared -> cancelled. Anybody may: an apparatus whose hold ran out, or the next controller.
    fn cancel(&mut self, id: ChangeId) -> Result<Cancel>;
    /// One change, if there is such.
    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>>;
    /// All prepared or committed (not hardened) changes, by id.
    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>>;
    /// Marks these committed changes hardened. The caller has flushed every disk they map. Durable when it returns,
    /// with everything visible before it. Those that are not committed are passed over. Refused when a change with a
    /// lower generation is committed and not among them: a later change cannot outlive an earlier one. The layout number goes
    /// up by one for each.
    fn harden(&mut self, ids: &[ChangeId]) -> Result<()>;
    /// Why nothing can be made durable any more: an earlier sync has lost something, as far as this connection has met that. Every other failure passes.
    fn lost(&self) -> Option<String> {
        None
    }
    /// Takes back every change committed in another boot and not hardened, latest first, one generation up for each; what
    /// they mapped is their job's again, if it goes on (a job that was done goes on again), else free. Cancels those prepared
    /// in another boot, and marks all members of another boot as left. Durable when it returns. Answers those taken back.
    fn recover_boot(&mut self, boot: BootId) -> Result<Vec<ChangeId>>;

    /// Gives extents to a job ahead of its changes. Refused when one is not free, and when the job has ended: an extent that a job
    /// owns always belongs to one that somebody can go on with or cancel.
    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()>;
    /// What [`Store::free_quarantine`] would free, and has not.
    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>>;
    /// As [`Store::free_quarantine`], without what lies on these disks.
    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>>;
    /// Frees quarantined extents of hardened (or undone) changes whose generation is at most `oldest`: no living
    /// apparatus uses an older table. Answers what became free. Many areas take several transactions.
    fn free_quarantine(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        self.free_quarantine_except(oldest, &BTreeSet::new())
    }

    /// Joins the control range, under the same name's slot or the lowest free one, in a new incarnation. First does what
    /// [`Store::recover_boot`] does, so that nobody serves by a table that a power loss took back. When no slot is free, members
    /// whose process is dead leave. Refused when `name` is joined or fenced by a process that `alive` says still lives. `known` is the
    /// generation of the table that the joiner has read before: see [`Joined::since`].
    fn join(
        &mut self,
        name: &Name,
        pid: u32,
        mount: &std::path::Path,
        alive: &dyn Fn(&Member) -> bool,
        known: Option<Generation>,
    ) -> Result<Joined>;
    /// Compare-and-set fenced -> joined in a new incarnation. `Kind::Stale` when this incarnation is not the one
    /// that was fenced. `known` as for [`Store::join`].
    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined>;
    /// Compare-and-set joined -> fenced for this incarnation. Answers the version after it, or `None` when this
    /// incarnation was not joined any more (it left, rejoined, or is fenced already).
    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>>;
    /// The process has ended or is about to, with nothing in flight.
    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()>;
    /// Everybody who has not left, with the version that a commit names, from one transaction.
    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)>;

    /// Records a job with its steps and reserves their destinations (for what is not `done`). Durable when it returns.
    /// The id in the record is passed over.
    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId>;
    /// All jobs, by id.
    fn jobs(&mut self) -> Result<Vec<JobRecord>>;
    /// One job, if there is such.
    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>>;
    /// The job's copy progress table, in order.
    fn steps(&mut self, id: JobId) -> Result<Vec<Step>>;
    /// Replaces the copy progress table, its reservations (for what is not `done` of each step) and `JobRecord::back`.
    /// What the job had reserved and the new table does not ask for becomes free. A job that has ended reserves nothing.
    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()>;
    /// The operator's wish or the worker's finding, compare-and-set on the state; false when it was another. A job that ends
    /// frees what it has reserved in the same transaction.
    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool>;
    /// Changes a job's limits.
    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()>;
    /// The worker's running figures.
    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()>;

    /// What the operator has chosen for the pool.
    fn options(&mut self) -> Result<Options>;
    /// Chooses anew. Durable when it returns.
    fn set_options(&mut self, options: &Options) -> Result<()>;
    /// How full the pool was when somebody last looked.
    fn fullness(&mut self) -> Result<Fullness>;
    /// The holder of the arbitration has looked.
    fn set_fullness(&mut self, fullness: Fullness) -> Result<()>;

    /// Appends an event.
    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()>;
    /// Events after `seq`, oldest first, at most `most`.
    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>>;

    /// Writes an entry of the audit log, or the end of one that is there without. Only the newest [`audit::KEPT`] are kept.
    fn record(&mut self, entry: &audit::Entry) -> Result<()>;
    /// Entries written after the mark `after`, in the order of their marks, at most `most`.
    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<audit::Recorded>>;

    /// Writes the whole database, as it is now, to one new file. Durable when it returns.
    ///
    /// # Errors
    /// When the file is there already or cannot be written, or the store has no such copies.
    fn back_up(&mut self, file: &Path) -> Result<()> {
        Err(Error::failed(
            file.display().to_string(),
            "this store has no backups",
        ))
    }

    /// Copies what is in the write-ahead log back into the database if it has grown, so that it stays small. Cheap when
    /// it has not, and syncs when it has: outside holds only. To be called now and then by whoever commits much.
    fn checkpoint(&mut self) -> Result<()>;
}
