//! One error type for everything an operator can meet: what failed, why, and the way out.

use std::fmt;

/// What sort of failure it is. The exit status is chosen from it, in one place (`vctl`'s `exit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// Tried, and did not work.
    Failed,
    /// The input cannot be used.
    Usage,
    /// The thing named does not exist.
    NotFound,
    /// Another controller acts.
    Busy,
    /// Gave up in time; nothing changed.
    TimedOut,
    /// A check found problems.
    CheckFailed,
    /// Stopped on request.
    Cancelled,
    /// The store holds a higher term, or the change is no longer what the caller thinks: look again.
    Stale,
}

/// A failure, as one line for a person: `WHAT: WHY`, with the way out where there is one.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    why: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of anything that an operator can see fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `what` names the thing, `why` the reason; neither ends in a full stop.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            why: without_numbers(why.into()),
            hint: None,
            source: None,
        }
    }

    /// [`Kind::Failed`].
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what, why)
    }

    /// [`Kind::Usage`].
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what, why)
    }

    /// [`Kind::NotFound`]: `no disk "x"`.
    pub fn not_found(noun: &str, name: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("{noun} {name}"),
            format!("no such {noun}"),
        )
    }

    /// [`Kind::Failed`] with its cause kept.
    pub fn because(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        Self {
            kind: Kind::Failed,
            what: what.into(),
            why: without_numbers(source.to_string()),
            hint: None,
            source: Some(source),
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The thing it is about.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The reason.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The way out, if one is known.
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

/// The text without the error numbers that the standard library puts behind the words for them: `(os error 13)`.
fn without_numbers(mut text: String) -> String {
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
    fn an_error_of_the_system_is_told_in_words_alone() {
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
