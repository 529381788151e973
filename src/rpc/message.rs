//! Requests, answers and refusals of the control protocol, each a closed set.
//!
//! A frame carries several requests (the release of one chunk and the hold of the next travel together). Each is answered on its own, by its
//! change id, as soon as possible. All requests are idempotent by change id.

mod memory;

pub use memory::Memory;

use crate::model::change::HoldMode;
use crate::model::names::Name;
use crate::model::records::{Delta, DiskRecord, Span};
use crate::model::units::{ChangeId, DiskId, Generation, Incarnation, JobId, Slot, Term, VolumeId};
use crate::model::words::count;
use crate::rpc::bounded::few;
use crate::rpc::written::Written;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Version of the frames and messages. A peer of another version is refused, and the refusal names the version.
pub const VERSION: u32 = 3;

/// Maximum number of requests or answers in one frame.
pub const MOST: usize = 256;

/// Frame from a controller or any other client to an apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFrame {
    /// Term of the controller that makes the requests; 0 for clients that only read.
    pub term: Term,
    /// The requests, in order; at most [`MOST`].
    #[serde(deserialize_with = "few")]
    pub requests: Vec<Request>,
}

/// Frame from an apparatus to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerFrame {
    /// The answers, in the order in which they became ready; at most [`MOST`].
    #[serde(deserialize_with = "few")]
    pub answers: Vec<Answer>,
}

/// Request to an apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// Opens the dialogue; the first request on every connection.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The pool that the client means.
        pool: Uuid,
    },
    /// Remembers which regions of the spans are written from now on, and reports when the writes in flight are done; nothing is parked. It ends with the
    /// hold of the change, with the connection, or after `deadline_us`. Legal in every state except fenced, once for each change.
    Note {
        /// The change whose ranges are going to be copied before they are held.
        change: ChangeId,
        /// Address ranges.
        spans: Vec<Span>,
        /// Time for the drain before the answer is `StillDraining`, in microseconds.
        drain_us: u64,
        /// Time from now after which the apparatus forgets what was written, in microseconds.
        deadline_us: u64,
        /// The incarnation that the controller expects; another one refuses the request.
        incarnation: Incarnation,
    },
    /// Parks new requests that overlap the spans, and reports when those in flight are done. Legal in every state except fenced.
    Hold {
        /// The change that the hold is for.
        change: ChangeId,
        /// Address ranges to hold.
        spans: Vec<Span>,
        /// Whether only writes are held, or all requests.
        mode: HoldMode,
        /// Time for opening the disks and the drain together before the answer is `StillOpening` or `StillDraining`, in microseconds.
        drain_us: u64,
        /// Time from now after which the apparatus ends the hold itself, in microseconds.
        deadline_us: u64,
        /// The incarnation that the controller expects; another one refuses the request.
        incarnation: Incarnation,
        /// Disks that the change will map to. The apparatus opens them before it places the hold; a refusal names the one that fails.
        disks: Vec<DiskRecord>,
    },
    /// Builds the idle version from the delta and switches to it. Legal after `Held`, or for a change without spans.
    Apply {
        /// The change.
        change: ChangeId,
        /// The generation that it leads to.
        generation: Generation,
        /// The delta.
        #[serde(rename = "difference")]
        delta: Delta,
    },
    /// Ends the hold. After an apply the new version is in use; otherwise the change was given up, and the old version stays in use.
    Release {
        /// The change.
        change: ChangeId,
        /// Whether the controller promises that it will never commit the change. The apparatus relies on that, and does not ask the store, if the
        /// request has the term in which the hold was placed.
        #[serde(default)]
        given_up: bool,
    },
    /// Requests the apparatus's metrics.
    Status,
    /// Reports when no request in flight uses a table older than the current one, or after `wait_us`.
    Quiesce {
        /// Longest wait, in microseconds.
        wait_us: u64,
    },
    /// Runs this job here, in the background.
    RunJob {
        /// The job.
        job: JobId,
    },
    /// Unmounts and ends.
    Stop,
    /// Unmounts and ends if no host has a volume open. Otherwise the request is refused with [`Refusal::InUse`], and nothing changes.
    StopUnused,
    /// Writes a copy of the database, as this apparatus has it open, to a new file with this absolute path, which works even if the database file was
    /// deleted.
    Backup {
        /// The file.
        file: PathBuf,
    },
    /// Clears the error counts of this disk, and uses its whole length again if it is there again.
    ClearDisk {
        /// The disk.
        disk: DiskId,
    },
    /// Sets the fence word of another member of this apparatus's node, which the store has as fenced, and reports whether its process has ended.
    FenceNeighbour {
        /// Its slot.
        slot: Slot,
        /// The incarnation that is fenced; a later one is not concerned.
        incarnation: Incarnation,
        /// Its name.
        name: Name,
    },
    /// Requests the open handles of hosts.
    Opens,
    /// Blocks opens of these volumes until the connection ends or the time is over. The request is refused with [`Refusal::InUse`] when a host has one
    /// of them open. An open that arrives meanwhile waits.
    Vacate {
        /// The volumes.
        volumes: BTreeSet<VolumeId>,
        /// Whether handles that only read are exempt.
        writers_only: bool,
        /// Longest time of the block, in microseconds.
        for_us: u64,
    },
}

/// Answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Answer {
    /// Answers `Hello`.
    Welcome {
        /// [`VERSION`].
        version: u32,
        /// Name of the apparatus.
        name: String,
        /// Its present incarnation.
        incarnation: Incarnation,
        /// Generation of its current table.
        generation: Generation,
    },
    /// Answers `Note`: every write to the spans that is in flight or comes later is remembered.
    Noting {
        /// The change.
        change: ChangeId,
    },
    /// Answers `Hold`: no request that overlaps is in flight, and no new one enters.
    Held {
        /// The change.
        change: ChangeId,
        /// What was written since `Noting`; all of it where that is not known.
        #[serde(default, skip_serializing_if = "Written::is_all")]
        written: Written,
    },
    /// Answers `Hold` and `Note`: requests in flight have not finished within `drain_us`. The hold stays in place until it is released.
    StillDraining {
        /// The change.
        change: ChangeId,
        /// Number of requests in flight.
        in_flight: u64,
        /// Age of the oldest one, in microseconds.
        oldest_us: u64,
        /// The disk that the oldest one waits for.
        disk: String,
    },
    /// Answers `Hold`: a disk of the change has not been opened within `drain_us`. Nothing is held; the request stays pending until it is released.
    StillOpening {
        /// The change.
        change: ChangeId,
        /// The disk.
        disk: String,
        /// How long the opening has taken so far, in microseconds.
        waited_us: u64,
    },
    /// Answers `Apply`: the new version is current.
    Applied {
        /// The change.
        change: ChangeId,
        /// The current generation.
        generation: Generation,
        /// Oldest generation that a request in flight may use.
        oldest: Generation,
    },
    /// Answers `Release`: the hold is over.
    Released {
        /// The change.
        change: ChangeId,
        /// Number of requests that were parked.
        parked: u64,
        /// Longest wait of one of them, in microseconds.
        longest_us: u64,
        /// Oldest generation that a request in flight may use.
        oldest: Generation,
    },
    /// Answers `Status`.
    Status(Box<ApparatusMetrics>),
    /// Answers `Quiesce`.
    Quiesced {
        /// Oldest generation that a request in flight may use.
        oldest: Generation,
    },
    /// Answers `RunJob`, `Stop` and `StopUnused`, which have been started, and `ClearDisk` and `Backup`, which are done.
    Accepted,
    /// Answers `FenceNeighbour`: the word is set, so what that incarnation has acknowledged or will acknowledge is on its disk.
    NeighbourFenced {
        /// The slot.
        slot: Slot,
        /// Whether the process is known to have ended.
        ended: bool,
    },
    /// Answers `Opens`.
    Opens(Box<Opens>),
    /// Answers `Vacate`: no host has the volumes open, and new opens are blocked.
    Vacant,
    /// The request was refused, and nothing has changed.
    Refused {
        /// The change that the request was for, if any.
        change: Option<ChangeId>,
        /// The reason.
        refusal: Refusal,
    },
}

/// Reason why an apparatus refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Refusal {
    /// The apparatus uses this version of the protocol.
    Version(u32),
    /// The apparatus serves this pool.
    Pool(Uuid),
    /// `Hello` has not been sent.
    NoHello,
    /// Only the apparatus's own user and root may control it, not this user.
    User(u32),
    /// The apparatus has seen this higher term.
    StaleTerm(Term),
    /// The apparatus has this incarnation now.
    Incarnation(Incarnation),
    /// The apparatus is fenced, and about to rejoin.
    Fenced,
    /// The table is at this generation, so the delta does not apply. The apparatus will reload its table and rejoin.
    Generation(Generation),
    /// The hold is not in place (it has expired or was never placed), so nothing may be applied under it.
    NotHeld,
    /// There are too many holds, connections or jobs.
    TooMany,
    /// The disk cannot be opened.
    Disk {
        /// Name of the disk.
        name: String,
        /// The reason.
        why: String,
    },
    /// The frame or request is not valid.
    Malformed(String),
    /// Hosts have these handles open.
    InUse(Box<Opens>),
    /// Another error occurred.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(
                f,
                "it uses version {version} of the protocol, and this program version {VERSION}"
            ),
            Self::Pool(pool) => write!(f, "it serves another pool, {pool}"),
            Self::NoHello => write!(f, "the connection has not sent hello"),
            Self::User(user) => write!(f, "user {user} may not control it"),
            Self::StaleTerm(term) => write!(f, "a later controller holds the lock, with term {term}"),
            Self::Incarnation(incarnation) => write!(f, "it has a new incarnation, {incarnation}"),
            Self::Fenced => write!(f, "it is fenced and about to rejoin"),
            Self::Generation(generation) => write!(f, "its table is at generation {generation}"),
            Self::NotHeld => write!(f, "its hold is not in place any more"),
            Self::TooMany => write!(f, "it has too many holds or connections"),
            Self::Disk { name, why } => write!(f, "it cannot open disk {name}: {why}"),
            Self::InUse(opens) => {
                let handles: u64 = opens.volumes.values().map(|volume| volume.handles).sum();
                write!(f, "hosts have {} open", count(handles, "handle"))
            }
            Self::Malformed(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Open handles of hosts at one apparatus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opens {
    /// Major and minor number of the mount's device; none before the mount.
    pub device: Option<(u32, u32)>,
    /// The open volumes.
    pub volumes: BTreeMap<VolumeId, VolumeOpens>,
    /// Number of handles of further volumes, which are too many to list.
    pub left_out: u64,
}

/// Open handles of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeOpens {
    /// Number of handles.
    pub handles: u64,
    /// Number of them that may write.
    pub writers: u64,
    /// Threads that opened them, or some of those where there are many; another process may have a handle by now. 0 stands for threads of another PID
    /// namespace.
    pub pids: BTreeSet<u32>,
}

/// Metrics of one apparatus since it started; times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApparatusMetrics {
    /// Name of the apparatus.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Time since it started.
    pub uptime_us: u64,
    /// Its present incarnation.
    pub incarnation: Incarnation,
    /// The highest term that it has accepted.
    pub term: Term,
    /// Generation of its current table.
    pub generation: Generation,
    /// Oldest generation that a request in flight may use.
    pub oldest: Generation,
    /// Number of requests in flight.
    pub in_flight: u64,
    /// Number of parked requests.
    pub parked: u64,
    /// Bytes of parked writes.
    pub parked_bytes: u64,
    /// Number of holds in place.
    pub holds: u64,
    /// Number of requests that were ever parked.
    pub ever_parked: u64,
    /// Longest time that a request was parked.
    pub longest_parked_us: u64,
    /// Number of active FUSE reader threads.
    pub threads: u64,
    /// The jobs that it runs.
    pub jobs: Vec<JobId>,
    /// I/O by volume name. If there are more than [`ApparatusMetrics::ALL_VOLUMES`] volumes, those without I/O are omitted.
    pub volumes: BTreeMap<String, IoFigures>,
    /// Number of parked requests by volume name; volumes without any are omitted.
    pub parked_by_volume: BTreeMap<String, u64>,
    /// I/O by disk name.
    pub disks: BTreeMap<String, IoFigures>,
    /// Requests that have been in flight for long, by volume name; volumes without any are omitted.
    pub waiting: BTreeMap<String, LongRequests>,
    /// Memory limits of the process.
    pub memory: Memory,
    /// Disks of the table that it has not open, so that requests for them fail; mostly none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub closed_disks: BTreeSet<String>,
    /// The upper limit of the FUSE reader threads that it was started with; `None` where the default applies, and from an older program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_limit: Option<u16>,
    /// Why it ends, or can be given no new hosts, though it runs; `None` where neither is so, and from an older program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// Why an apparatus that runs serves no new hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It was asked to stop, and hosts still have files open.
    Stopping,
    /// Its mount was detached while hosts had files open there.
    Detached,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopping => "was asked to stop, and waits until hosts have closed their files or its time for that is over",
            Self::Detached => "its mount was detached by another process: hosts go on with what they have open there, and nothing else can be opened",
        })
    }
}

impl ApparatusMetrics {
    /// Number of volumes up to which the metrics list all volumes.
    pub const ALL_VOLUMES: usize = 256;
}

/// Requests to one volume that have been in flight for [`LongRequests::LONG`] or longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongRequests {
    /// Number of requests.
    pub requests: u64,
    /// Age of the oldest one, in microseconds.
    pub longest_us: u64,
    /// Names of the disks that they wait for, as far as known.
    pub disks: BTreeSet<String>,
    /// Reason why flushes among them wait for the pool's database.
    #[serde(default)]
    pub database: Option<String>,
}

impl LongRequests {
    /// Age from which a request counts as long: more than a working disk takes.
    pub const LONG: Duration = Duration::from_secs(2);
}

/// I/O counters of a volume or disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoFigures {
    /// Number of finished reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Number of finished writes, punched holes and zeroings.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Number of finished flushes.
    pub flushes: u64,
    /// Number of requests that failed with an I/O error.
    pub errors: u64,
    /// Latency of reads.
    pub read_latency: Latency,
    /// Latency of writes, punched holes and zeroings.
    pub write_latency: Latency,
    /// Latency of flushes.
    pub flush_latency: Latency,
}

/// Latency of requests of one kind: a histogram with power-of-two buckets in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Sum of all latencies, in microseconds.
    pub sum_us: u64,
    /// Number of requests by bucket: bucket i counts those that took at least 2^(i-1) and less than 2^i microseconds.
    pub counts: Vec<u64>,
}
