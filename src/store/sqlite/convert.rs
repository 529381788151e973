//! Conversions between Rust and SQL: errors, enums as words, structured values as RON.

use crate::model::alloc::Policy;
use crate::model::change::{ChangeState, HoldMode};
use crate::model::error::{Error, ErrorKind};
use crate::model::event::Severity;
use crate::model::job::JobState;
use crate::model::member::MemberState;
use crate::model::names::Name;
use crate::model::options::Fullness;
use crate::model::records::DiskAccess;
use crate::model::units::CacheEpoch;
use rusqlite::ErrorCode;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// Name of the database in errors.
pub(super) const DATABASE: &str = "pool database";

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::new(ErrorKind::TimedOut, DATABASE, "has been locked by another process for too long")
                    .hint("look for a stopped vctl or apparatus process of this pool")
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(&error.to_string()),
            Some(ErrorCode::DiskFull) => Self::failed(DATABASE, "has no room to grow")
                .hint("make room in the file system of the pool's directory: the disks themselves are not concerned"),
            Some(_) => Self::failed(DATABASE, format!("cannot be used: {error}")),
            None => damaged(&error.to_string()),
        }
    }
}

/// Returns the error for stored data that contradicts itself or cannot be read.
pub(super) fn damaged(why: &str) -> Error {
    Error::failed(DATABASE, format!("is damaged: {why}"))
        .hint("put a backup in its place: vctl pool restore FILE")
}

/// Encodes a structured value as RON.
pub(super) fn to_ron(value: &impl Serialize) -> Result<String, Error> {
    ron::to_string(value).map_err(|error| Error::because(DATABASE, error))
}

/// A column with a structured value.
pub(super) struct Ron<T>(pub(super) T);

impl<T: DeserializeOwned> FromSql for Ron<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        ron::from_str(value.as_str()?)
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

fn unreadable(why: String) -> FromSqlError {
    FromSqlError::Other(why.into())
}

/// A value that is stored as a word.
pub(super) struct Word<T>(pub(super) T);

macro_rules! words {
    ($name:ty { $($value:path = $word:literal),* $(,)? }) => {
        impl ToSql for Word<$name> {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(match self.0 { $($value => $word),* }))
            }
        }

        impl FromSql for Word<$name> {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_str()? {
                    $($word => Ok(Self($value)),)*
                    other => Err(unreadable(format!("{other:?} is not a {}", stringify!($name)))),
                }
            }
        }
    };
}

/// State of a change's record, including the step between committed and persisted that is not visible outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredState {
    Prepared,
    Committed,
    /// Its disks are flushed; it is persisted once this very word is durable.
    Persisting,
    Persisted,
    Cancelled,
    Undone,
}

impl StoredState {
    pub(super) fn seen(self) -> ChangeState {
        match self {
            Self::Prepared => ChangeState::Prepared,
            Self::Committed | Self::Persisting => ChangeState::Committed,
            Self::Persisted => ChangeState::Persisted,
            Self::Cancelled => ChangeState::Cancelled,
            Self::Undone => ChangeState::Undone,
        }
    }
}

words!(StoredState {
    StoredState::Prepared = "prepared",
    StoredState::Committed = "committed",
    StoredState::Persisting = "hardening",
    StoredState::Persisted = "hardened",
    StoredState::Cancelled = "cancelled",
    StoredState::Undone = "undone",
});
words!(Policy {
    Policy::Order = "order",
    Policy::Spread = "spread",
    Policy::Pack = "pack",
    Policy::Contiguous = "contiguous",
});
words!(DiskAccess {
    DiskAccess::Cached = "cached",
    DiskAccess::Direct = "direct",
});
words!(Fullness {
    Fullness::Room = "room",
    Fullness::Nearfull = "nearfull",
    Fullness::Full = "full",
});
words!(HoldMode {
    HoldMode::Writes = "writes",
    HoldMode::All = "all",
});
words!(MemberState {
    MemberState::Joined = "joined",
    MemberState::Fenced = "fenced",
    MemberState::Left = "left",
});
words!(JobState {
    JobState::Running = "running",
    JobState::Paused = "paused",
    JobState::Cancelled = "cancelled",
    JobState::RollingBack = "rolling back",
    JobState::Done = "done",
    JobState::Failed = "failed",
});
words!(Severity {
    Severity::Info = "info",
    Severity::Warning = "warning",
    Severity::Error = "error",
});

impl FromSql for Word<Name> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Name::try_from(value.as_str()?.to_owned())
            .map(Self)
            .map_err(unreadable)
    }
}

impl FromSql for Word<Uuid> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(FromSqlError::other)
    }
}

impl FromSql for Word<CacheEpoch> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Word::<Uuid>::column_result(value).map(|uuid| Self(CacheEpoch(uuid.0)))
    }
}

impl ToSql for Word<Uuid> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_string()))
    }
}

impl ToSql for Word<CacheEpoch> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.0.to_string()))
    }
}
