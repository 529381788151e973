//! Between Rust and SQL: errors, enums as words, structured values as RON.

use crate::error::{Error, Kind};
use crate::pool::alloc::Policy;
use crate::pool::names::Name;
use crate::pool::options::Fullness;
use crate::store::{ChangeState, HoldMode, JobState, MemberState, Severity};
use crate::units::BootId;
use rusqlite::ErrorCode;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// What errors call the database.
pub(super) const DATABASE: &str = "pool database";

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::new(Kind::TimedOut, DATABASE, "is locked by another process for too long")
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

/// What is stored contradicts itself or cannot be read.
pub(super) fn damaged(why: &str) -> Error {
    Error::failed(DATABASE, format!("is damaged: {why}"))
        .hint("put a backup in its place: vctl pool restore FILE")
}

/// Structured values are kept as RON.
pub(super) fn to_ron(value: &impl Serialize) -> Result<String, Error> {
    ron::to_string(value).map_err(|error| Error::because(DATABASE, error))
}

/// A column that holds a structured value.
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

/// A value that is kept as a word.
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

/// Where a change's record stands, with the step between committed and hardened that others do not see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Prepared,
    Committed,
    /// Its disks are flushed; hardened once this very word is durable.
    Hardening,
    Hardened,
    Cancelled,
    Undone,
}

impl Stage {
    pub(super) fn seen(self) -> ChangeState {
        match self {
            Self::Prepared => ChangeState::Prepared,
            Self::Committed | Self::Hardening => ChangeState::Committed,
            Self::Hardened => ChangeState::Hardened,
            Self::Cancelled => ChangeState::Cancelled,
            Self::Undone => ChangeState::Undone,
        }
    }
}

words!(Stage {
    Stage::Prepared = "prepared",
    Stage::Committed = "committed",
    Stage::Hardening = "hardening",
    Stage::Hardened = "hardened",
    Stage::Cancelled = "cancelled",
    Stage::Undone = "undone",
});
words!(Policy {
    Policy::Order = "order",
    Policy::Spread = "spread",
    Policy::Pack = "pack",
    Policy::Contiguous = "contiguous",
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

impl FromSql for Word<BootId> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Word::<Uuid>::column_result(value).map(|uuid| Self(BootId(uuid.0)))
    }
}

impl ToSql for Word<Uuid> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_string()))
    }
}

impl ToSql for Word<BootId> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.0.to_string()))
    }
}
