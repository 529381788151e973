//! The findings of `vctl status`. Each kind has a section with its code as the title in `docs/STATES.md`, which a test checks.

use crate::model::error::without_numbers;
use crate::model::event::Severity;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $code:literal,)*) => {
        /// The state that a finding reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FindingKind {
            $($(#[$doc])* $kind,)*
        }

        impl FindingKind {
            /// All kinds, in the order of `docs/STATES.md`.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The stable name of the kind, which is also the title of its section.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$kind => $code,)*
                }
            }
        }
    };
}

kinds! {
    /// The pool's directory is a copy of another one that owns the disks.
    PoolIsCopy: "pool-is-a-copy",
    /// The file system of the pool's directory accepts no changes.
    DirectoryFault: "pool-directory-fault",
    /// Apparatuses use a member table that no other process can find.
    SharedStateLost: "member-table-lost",
    /// The database is older than a copy of it in the archive.
    DatabaseOlder: "database-is-older",
    /// A sync of the database's log has failed.
    DatabaseNotDurable: "database-not-durable",
    /// The etcd cluster that has the pool's metadata does not answer.
    StoreAway: "store-unreachable",
    /// A disk has failed to write what was moved to it.
    DiskLost: "disk-has-lost-data",
    /// A disk's copy of the pool's metadata is left behind.
    CopyBehind: "metadata-copy-behind",
    /// A disk cannot be opened, is not the right one, or has turned read-only.
    DiskFault: "disk-unusable",
    /// Requests have failed on a disk.
    DiskErrors: "disk-errors",
    /// Hosts wait for a disk that does not answer.
    Waiting: "hosts-wait-for-disk",
    /// Flushes of hosts wait for the pool's database.
    WaitingForDatabase: "flushes-wait-for-database",
    /// The process of an apparatus has ended without leaving the pool.
    ApparatusDead: "apparatus-ended",
    /// An apparatus is alive and fenced.
    ApparatusFenced: "apparatus-fenced",
    /// An apparatus is alive and does not answer.
    ApparatusSilent: "apparatus-silent",
    /// An apparatus runs and serves no new hosts: it was asked to stop, or its mount was detached.
    ApparatusEnding: "apparatus-ending",
    /// An apparatus may hang for lack of memory, which hosts have filled.
    MemoryShared: "memory-shared-with-hosts",
    /// An apparatus may need more memory than its limit allows.
    MemoryShort: "memory-short",
    /// A mount point whose apparatus has ended.
    DeadMount: "mount-point-dead",
    /// A job has failed.
    JobFailed: "job-failed",
    /// A job that no process works on.
    JobAbandoned: "job-abandoned",
    /// A job is paused.
    JobPaused: "job-paused",
    /// Changes were left by a controller that is gone.
    ChangesLeft: "changes-unfinished",
    /// Volumes were left partly created or partly removed.
    VolumesLeft: "volumes-half-made",
    /// Space cannot be used again before an apparatus has come back or ended.
    Quarantine: "space-in-quarantine",
    /// The pool is nearly full.
    Space: "pool-nearly-full",
    /// Images may need more space than their file system has left.
    Room: "images-outgrow-file-system",
    /// A disk is closed to new allocations.
    DiskClosed: "disk-takes-nothing-new",
    /// The pool has no disks.
    NoDisks: "no-disks",
    /// No apparatus runs.
    NoApparatus: "no-apparatus",
    /// A job is running.
    JobRuns: "job-runs",
}

/// A reported state of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which state it reports.
    pub kind: FindingKind,
    /// Its severity.
    pub severity: Severity,
    /// The object that it concerns.
    pub subject: String,
    /// The description.
    pub text: String,
    /// The command to run next.
    pub next: Option<String>,
}

impl Finding {
    pub(super) fn new(
        kind: FindingKind,
        severity: Severity,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            severity,
            subject: subject.into(),
            text: without_numbers(text.into()),
            next: None,
        }
    }

    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }
}
