//! What `vctl status` can find. Each kind has a section of its code's name in `docs/STATES.md`, which a test holds to.

use crate::store::Severity;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $code:literal,)*) => {
        /// The state that a finding reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
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
    /// The file system of the pool's directory takes no change.
    DirectoryFault: "pool-directory-fault",
    /// A sync of the database's log has failed.
    DatabaseNotDurable: "database-not-durable",
    /// A disk has failed to write what was moved to it.
    DiskLost: "disk-has-lost-data",
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
    /// An apparatus lives and is out of the control range.
    ApparatusFenced: "apparatus-fenced",
    /// An apparatus lives and does not answer.
    ApparatusSilent: "apparatus-silent",
    /// A mount point whose apparatus has ended.
    DeadMount: "mount-point-dead",
    /// A job has failed.
    JobFailed: "job-failed",
    /// A job that nobody works on.
    JobAbandoned: "job-abandoned",
    /// A job is paused.
    JobPaused: "job-paused",
    /// Changes were left by a controller that is gone.
    ChangesLeft: "changes-unfinished",
    /// Volumes were left half made or half removed.
    VolumesLeft: "volumes-half-made",
    /// Space cannot be used again before an apparatus has come back or ended.
    Quarantine: "space-in-quarantine",
    /// The pool is nearly full.
    Space: "pool-nearly-full",
    /// Images may ask for more than their file system has left.
    Room: "images-outgrow-file-system",
    /// A disk takes nothing new.
    DiskClosed: "disk-takes-nothing-new",
    /// The pool has no disks.
    NoDisks: "no-disks",
    /// No apparatus runs.
    NoApparatus: "no-apparatus",
    /// A job is worked on.
    JobRuns: "job-runs",
}

/// Something worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which state it reports.
    pub kind: Kind,
    /// How grave.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// What there is to say.
    pub text: String,
    /// The command to type.
    pub next: Option<String>,
}

impl Finding {
    pub(super) fn new(
        kind: Kind,
        severity: Severity,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            severity,
            subject: subject.into(),
            text: text.into(),
            next: None,
        }
    }

    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }
}
