//! The exit statuses, chosen in this one place.

use apparatus::error::Kind;
use apparatus::pool::names::Name;
use std::process::ExitCode;

/// How a command ended that did what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// As asked.
    Plainly,
    /// As asked, but these apparatuses were put out of the control range.
    WithFenced(Vec<Name>),
    /// A check ran to its end and found this many problems that remain.
    WithProblems(usize),
    /// To its end, and the end is such a failure; everybody has been told.
    Badly(Kind),
    /// This is the status of the command that ran under a hold.
    Of(u8),
}

impl Done {
    /// The exit status.
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

/// What the process ends with.
#[must_use]
pub fn code(result: Result<Done, u8>) -> ExitCode {
    ExitCode::from(result.map_or_else(|failure| failure, |done| done.status()))
}

/// The exit status of a failure.
#[must_use]
pub fn status_of(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 1,
        Kind::Usage => 2,
        Kind::NotFound => 3,
        Kind::Busy | Kind::Stale => 4,
        Kind::TimedOut => 6,
        Kind::CheckFailed => 7,
        Kind::Cancelled => 8,
    }
}

/// What stands in JSON for a failure's kind.
#[must_use]
pub fn word_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::Usage => "usage",
        Kind::NotFound => "not-found",
        Kind::Busy | Kind::Stale => "busy",
        Kind::TimedOut => "timed-out",
        Kind::CheckFailed => "check-failed",
        Kind::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_contract() {
        let kinds = [
            (Kind::Failed, 1),
            (Kind::Usage, 2),
            (Kind::NotFound, 3),
            (Kind::Busy, 4),
            (Kind::Stale, 4),
            (Kind::TimedOut, 6),
            (Kind::CheckFailed, 7),
            (Kind::Cancelled, 8),
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
