//! The exit statuses. No other file chooses one.

use apparatus::model::error::ErrorKind;
use apparatus::model::names::Name;
use std::process::ExitCode;

/// How a command ended that did what it was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It did all of it.
    Plainly,
    /// It did all of it, and these apparatuses were fenced on the way.
    WithFenced(Vec<Name>),
    /// A check completed and found this many problems that remain.
    WithProblems(usize),
    /// It ran to its end, and its result is this kind of failure, which has been reported already.
    Badly(ErrorKind),
    /// It ran a command under a hold, which ended with this status.
    Of(u8),
}

impl Done {
    /// Returns the exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Plainly | Self::WithProblems(0) => 0,
            Self::WithFenced(names) => {
                if names.is_empty() {
                    0
                } else {
                    5
                }
            }
            Self::WithProblems(_) => 7,
            Self::Badly(kind) => status_of(*kind),
            Self::Of(status) => *status,
        }
    }
}

/// Returns the exit code of the process.
#[must_use]
pub fn code(result: Result<Done, u8>) -> ExitCode {
    ExitCode::from(result.map_or_else(|failure| failure, |done| done.status()))
}

/// Returns the exit status of a failure.
#[must_use]
pub fn status_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Usage => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Busy | ErrorKind::Stale => 4,
        ErrorKind::TimedOut => 6,
        ErrorKind::CheckFailed => 7,
        ErrorKind::Cancelled => 8,
    }
}

/// Returns the word for a kind of failure in JSON.
#[must_use]
pub fn word_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Failed => "failed",
        ErrorKind::Usage => "usage",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Busy | ErrorKind::Stale => "busy",
        ErrorKind::TimedOut => "timed-out",
        ErrorKind::CheckFailed => "check-failed",
        ErrorKind::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_contract() {
        let kinds = [
            (ErrorKind::Failed, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Busy, 4),
            (ErrorKind::Stale, 4),
            (ErrorKind::TimedOut, 6),
            (ErrorKind::CheckFailed, 7),
            (ErrorKind::Cancelled, 8),
        ];
        for (kind, status) in kinds {
            assert_eq!(status_of(kind), status, "{kind:?}");
        }
        assert_eq!(Done::Plainly.status(), 0);
        assert_eq!(Done::WithFenced(vec![]).status(), 0);
        assert_eq!(
            Done::WithFenced(vec![Name::new("apparatus", "a").unwrap()]).status(),
            5
        );
        assert_eq!(Done::WithProblems(0).status(), 0);
        assert_eq!(Done::WithProblems(2).status(), 7);
    }
}
