//! Events of a pool: what an operator may want to know.

use super::units::Timestamp;
use serde::{Deserialize, Serialize};

/// An event of the pool that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Sequence number; it grows by one.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Its severity.
    pub severity: Severity,
    /// The thing that it is about: `disk d1`, `job 7`.
    pub subject: String,
    /// The text, one line.
    pub text: String,
}

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// For the record only.
    Info,
    /// The operator should look at it some time.
    Warning,
    /// The operator should look at it now.
    Error,
}

impl Severity {
    /// Returns the level of the log line of an event of this severity.
    #[must_use]
    pub const fn level(self) -> log::Level {
        match self {
            Self::Info => log::Level::Info,
            Self::Warning => log::Level::Warn,
            Self::Error => log::Level::Error,
        }
    }
}
