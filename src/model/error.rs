//! One error type for all failures that an operator can see: what failed, why, and the way out.

use std::fmt;

/// Category of a failure. `vctl` chooses the exit status from it, in one place (`exit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// It was tried and did not work.
    Failed,
    /// The input cannot be used.
    Usage,
    /// The thing named does not exist.
    NotFound,
    /// Another controller holds the lock.
    Busy,
    /// It was given up in time; nothing changed.
    TimedOut,
    /// A check found problems.
    CheckFailed,
    /// It was stopped on request.
    Cancelled,
    /// The store has a higher term, or the change is not in the state that the caller expected: the caller has to read it
    /// again.
    Stale,
}

/// A failure, as one line of text: `WHAT: WHY`, with the way out where one is known.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    why: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of an operation whose failure an operator can see.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error: `what` names the thing, `why` the reason; neither ends in a full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: without_numbers(why.into()),
            hint: None,
            source: None,
        }
    }

    /// Creates an error of kind [`ErrorKind::Failed`].
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, what, why)
    }

    /// Creates an error of kind [`ErrorKind::Usage`].
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, what, why)
    }

    /// Creates an error of kind [`ErrorKind::NotFound`]: `disk x: no such disk`.
    pub fn not_found(noun: &str, name: &str) -> Self {
        // A name that cannot be seen is quoted.
        let what = match name.trim().is_empty() {
            true => format!("{noun} {name:?}"),
            false => format!("{noun} {name}"),
        };
        Self::new(ErrorKind::NotFound, what, format!("no such {noun}"))
    }

    /// Creates an error of kind [`ErrorKind::Failed`] that keeps its cause.
    pub fn because(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        Self {
            kind: ErrorKind::Failed,
            what: what.into(),
            why: without_numbers(source.to_string()),
            hint: None,
            source: Some(source),
        }
    }

    /// Creates an error about a file that the user has named, and keeps its cause. The kind is [`ErrorKind::NotFound`] when there is no such file.
    pub fn of_named_file(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        Self {
            kind,
            ..Self::because(what, source)
        }
    }

    /// Returns whether its cause is a file that does not exist.
    #[must_use]
    pub fn is_file_missing(&self) -> bool {
        let cause = self
            .source
            .as_ref()
            .and_then(|cause| cause.downcast_ref::<std::io::Error>());
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound)
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds that the operation itself was done: only the report about it failed.
    #[must_use]
    pub fn but_done(mut self) -> Self {
        self.why.push_str("; the operation itself was done");
        self
    }

    /// Changes the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns the category of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the name of the thing that the failure is about.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the reason.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns the way out, if one is known.
    #[must_use]
    pub fn way_out(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Removes the error numbers that the standard library adds to the text of system errors: `(os error 13)`.
pub(crate) fn without_numbers(mut text: String) -> String {
    const BEFORE: &str = " (os error ";
    while let Some(at) = text.find(BEFORE) {
        let rest = &text[at + BEFORE.len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || rest.as_bytes().get(digits) != Some(&b')') {
            break;
        }
        let end = at + BEFORE.len() + digits + 1;
        text.replace_range(at..end, "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_system_error_is_shown_without_its_number() {
        let denied = || io::Error::from_raw_os_error(13);
        let error = Error::because("file x", denied());
        assert_eq!(error.to_string(), "file x: Permission denied");
        let error = Error::failed("file x", format!("one: {}; two: {}", denied(), denied()));
        assert_eq!(error.why(), "one: Permission denied; two: Permission denied");
        for odd in ["a (os error )", "a (os error 1", "(os error x)"] {
            assert_eq!(Error::failed("x", odd).why(), odd);
        }
    }
}
