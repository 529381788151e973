//! The closed sets of requests, answers and refusals.
//!
//! A frame carries several requests (the release of one chunk and the hold of the next travel together); each is
//! answered on its own, by its change id, as soon as it can be. All requests are idempotent by change id.

use crate::pool::model::{Difference, DiskRecord, Span};
use crate::store::HoldMode;
use crate::units::{ChangeId, DiskId, Generation, Incarnation, JobId, Term, VolumeId};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Version of the frames and messages. A peer of another version is refused by name.
pub const VERSION: u32 = 2;

/// Requests or answers in one frame.
pub const MOST: usize = 256;

/// From a controller or any client to an apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFrame {
    /// The arbitration under which the requests are made; 0 for those that only read.
    pub term: Term,
    /// In order; at most [`MOST`].
    #[serde(deserialize_with = "few")]
    pub requests: Vec<Request>,
}

/// From an apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerFrame {
    /// As they become ready; at most [`MOST`].
    #[serde(deserialize_with = "few")]
    pub answers: Vec<Answer>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// First on every connection.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The pool that the client means.
        pool: Uuid,
    },
    /// Park new requests that overlap, report when those in flight are done. Legal in every state but fenced.
    Hold {
        /// The change it is for.
        change: ChangeId,
        /// Address ranges.
        spans: Vec<Span>,
        /// Writes only, or all.
        mode: HoldMode,
        /// How long opening the disks and the drain may take together before `StillOpening` or `StillDraining` is answered, in microseconds.
        drain_us: u64,
        /// How long the hold may last from now before the apparatus ends it itself, in microseconds.
        deadline_us: u64,
        /// The incarnation that the controller counts on; another one is refused.
        incarnation: Incarnation,
        /// Disks that the change will map onto: opened before the hold is placed, refused by name if that fails.
        disks: Vec<DiskRecord>,
    },
    /// Build the idle face from the difference and switch to it. Legal after `Held`, or for a change without spans.
    Apply {
        /// The change.
        change: ChangeId,
        /// The generation it leads to.
        generation: Generation,
        /// What changes.
        difference: Difference,
    },
    /// End the hold: after an apply the new face serves, otherwise the change was given up and the old one does.
    Release {
        /// The change.
        change: ChangeId,
    },
    /// The apparatus's figures.
    Status,
    /// Report when no request in flight uses a table older than the current one, or after `wait_us`.
    Quiesce {
        /// At most this long, in microseconds.
        wait_us: u64,
    },
    /// Work on this job here, in the background.
    RunJob {
        /// The job.
        job: JobId,
    },
    /// Leave in good order: unmount and end.
    Stop,
    /// The same if no host has a volume open; else refused with [`Refusal::InUse`], and nothing has changed.
    StopUnused,
    /// Write a copy of the database, as this apparatus has it open, to a new file with this absolute path: a way to it when the file was deleted.
    Backup {
        /// The file.
        file: PathBuf,
    },
    /// Count what failed on this disk from zero, and use it again in its whole length if it has that again.
    ClearDisk {
        /// The disk.
        disk: DiskId,
    },
    /// What hosts have open.
    Opens,
    /// Keep these volumes from being opened until the connection ends or the time is over. Refused with [`Refusal::InUse`] when a host
    /// has one open. An open that comes meanwhile waits.
    Vacate {
        /// The volumes.
        volumes: BTreeSet<VolumeId>,
        /// Handles that only read may be there and may come.
        writers_only: bool,
        /// How long at most, in microseconds.
        for_us: u64,
    },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Answer {
    /// To `Hello`.
    Welcome {
        /// [`VERSION`].
        version: u32,
        /// Its name.
        name: String,
        /// This life's number.
        incarnation: Incarnation,
        /// Its current table.
        generation: Generation,
    },
    /// To `Hold`: nothing that overlaps is in flight, and nothing new will be.
    Held {
        /// The change.
        change: ChangeId,
    },
    /// To `Hold`: alive, but requests in flight have not finished in `drain_us`. The hold stays until released.
    StillDraining {
        /// The change.
        change: ChangeId,
        /// How many.
        in_flight: u64,
        /// Age of the oldest, in microseconds.
        oldest_us: u64,
        /// The disk that the oldest waits for.
        disk: String,
    },
    /// To `Hold`: alive, but a disk of the change has not been opened in `drain_us`. Nothing is held; the request stays until released.
    StillOpening {
        /// The change.
        change: ChangeId,
        /// The disk.
        disk: String,
        /// Since when it has been asked, in microseconds.
        waited_us: u64,
    },
    /// To `Apply`: the new face is current.
    Applied {
        /// The change.
        change: ChangeId,
        /// The current generation.
        generation: Generation,
        /// No request in flight uses a table older than this.
        oldest: Generation,
    },
    /// To `Release`: the hold is over.
    Released {
        /// The change.
        change: ChangeId,
        /// Requests that had been parked.
        parked: u64,
        /// The longest that one of them waited, in microseconds.
        longest_us: u64,
        /// No request in flight uses a table older than this.
        oldest: Generation,
    },
    /// To `Status`.
    Status(Box<Figures>),
    /// To `Quiesce`.
    Quiesced {
        /// No request in flight uses a table older than this.
        oldest: Generation,
    },
    /// To `RunJob`, `Stop` and `StopUnused`: begun.
    Accepted,
    /// To `Opens`.
    Opens(Box<Opens>),
    /// To `Vacate`: nobody has them open, and nobody will.
    Vacant,
    /// The request was not carried out, and changed nothing.
    Refused {
        /// The change it was about, if any.
        change: Option<ChangeId>,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Refusal {
    /// Speaks this version.
    Version(u32),
    /// Serves this pool.
    Pool(Uuid),
    /// `Hello` has not been said.
    NoHello,
    /// Obeys its own user and root, not this user.
    User(u32),
    /// Has seen this higher term.
    StaleTerm(Term),
    /// Is in this life now.
    Incarnation(Incarnation),
    /// Is fenced, and about to rejoin.
    Fenced,
    /// Its table is at this generation, so the difference does not apply. It will reload and rejoin.
    Generation(Generation),
    /// The hold is not there (ran out, or never placed), so nothing may be applied under it.
    NotHeld,
    /// Too many holds or connections at once.
    TooMany,
    /// The disk cannot be opened.
    Disk {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// The frame or request cannot be read.
    Malformed(String),
    /// Hosts have this open.
    InUse(Box<Opens>),
    /// Something else went wrong here.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(
                f,
                "it speaks version {version} of the protocol, this is {VERSION}"
            ),
            Self::Pool(pool) => write!(f, "it serves another pool, {pool}"),
            Self::NoHello => write!(f, "no hello was said"),
            Self::User(user) => write!(f, "user {user} may not control it"),
            Self::StaleTerm(term) => write!(f, "a later controller acts, with term {term}"),
            Self::Incarnation(life) => write!(f, "it has begun a new life, {life}"),
            Self::Fenced => write!(f, "it is fenced and about to rejoin"),
            Self::Generation(generation) => write!(f, "its table is at generation {generation}"),
            Self::NotHeld => write!(f, "its hold is not in place any more"),
            Self::TooMany => write!(f, "it has too many holds or connections"),
            Self::Disk { name, why } => write!(f, "it cannot open disk {name}: {why}"),
            Self::InUse(opens) => {
                let handles: u64 = opens.volumes.values().map(|volume| volume.handles).sum();
                write!(f, "hosts have {handles} handles open")
            }
            Self::Malformed(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What hosts have open through one apparatus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opens {
    /// Major and minor number of the mount's device; none before it has mounted.
    pub device: Option<(u32, u32)>,
    /// The volumes that are open.
    pub volumes: BTreeMap<VolumeId, VolumeOpens>,
    /// Handles of further volumes, which are too many to name.
    pub left_out: u64,
}

/// The open handles of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeOpens {
    /// How many.
    pub handles: u64,
    /// How many of them may write.
    pub writers: u64,
    /// Threads that opened them, some of them where there are many; whoever has a handle now may be another. 0 stands for those of another
    /// PID namespace.
    pub pids: BTreeSet<u32>,
}

/// Counters of one apparatus since it started; times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Since when it has run.
    pub uptime_us: u64,
    /// This life's number.
    pub incarnation: Incarnation,
    /// The highest term it has obeyed.
    pub term: Term,
    /// Its current table.
    pub generation: Generation,
    /// No request in flight uses a table older than this.
    pub oldest: Generation,
    /// Requests being served now.
    pub in_flight: u64,
    /// Requests parked by holds now.
    pub parked: u64,
    /// Bytes of parked writes now.
    pub parked_bytes: u64,
    /// Holds in place now.
    pub holds: u64,
    /// Requests ever parked.
    pub ever_parked: u64,
    /// Longest that one was parked.
    pub longest_parked_us: u64,
    /// FUSE reader threads.
    pub threads: u64,
    /// The jobs it works on.
    pub jobs: Vec<JobId>,
    /// By volume name. Of more than [`Figures::ALL_VOLUMES`] volumes, those that nothing was asked of are left out.
    pub volumes: BTreeMap<String, IoFigures>,
    /// Requests parked now, by volume name; volumes without any are left out.
    pub parked_by_volume: BTreeMap<String, u64>,
    /// By disk name.
    pub disks: BTreeMap<String, IoFigures>,
    /// Requests that have been served for long and are not done, by volume name; volumes without any are left out.
    pub waiting: BTreeMap<String, Waiting>,
}

impl Figures {
    /// Up to so many volumes, all are told of in every detail.
    pub const ALL_VOLUMES: usize = 256;
}

/// Requests to one volume that have been in flight for [`Waiting::LONG`] or longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// How many.
    pub requests: u64,
    /// For how long the first of them.
    pub longest_us: u64,
    /// Names of the disks that they wait for, as far as that can be told.
    pub disks: BTreeSet<String>,
    /// Why flushes among them wait for the pool's database.
    #[serde(default)]
    pub database: Option<String>,
}

impl Waiting {
    /// Longer than a disk takes that answers.
    pub const LONG: Duration = Duration::from_secs(2);
}

/// Counters of I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoFigures {
    /// Reads finished.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes, punches and zeroings finished.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes finished.
    pub flushes: u64,
    /// Requests that ended in an I/O error.
    pub errors: u64,
    /// How long reads took.
    pub read_latency: Latency,
    /// How long writes, punches and zeroings took.
    pub write_latency: Latency,
    /// How long flushes took.
    pub flush_latency: Latency,
}

/// How long requests of one kind took: a histogram with power-of-two microsecond buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// All of them together, in microseconds.
    pub sum_us: u64,
    /// Bucket i counts requests that took less than 2^i microseconds and not less than 2^(i-1).
    pub counts: Vec<u64>,
}

/// Reads a list of at most [`MOST`]: a short text cannot ask for much memory.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom(format_args!("more than {MOST} in one frame")));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(Few(PhantomData))
}
