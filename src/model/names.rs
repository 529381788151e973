//! Names that users choose: they become file names and table columns, so they have a plain alphabet.

use crate::model::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name in bytes; it leaves room below the kernel's limit of 255 for suffixes such as `.sock`.
pub const LONGEST: usize = 100;

/// The name of a disk, volume, apparatus or tag: 1 to 100 bytes of ASCII letters, digits, `-`, `_` and `.`, not starting with
/// `-` or `.`. Only a volume that is being created or removed in several changes has another form of name ([`Name::hidden`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks and returns a name; `noun` says in messages what it would name.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::Usage`](crate::model::error::ErrorKind::Usage), which names the character or the length that is
    /// not allowed.
    pub fn new(noun: &str, name: &str) -> Result<Self> {
        match fault(name) {
            None => Ok(Self(name.to_owned())),
            Some(why) => Err(Error::usage(format!("{noun} name {name:?}"), why)
                .hint("use 1 to 100 letters, digits, '-', '_' or '.', starting with a letter, digit or '_'")),
        }
    }

    /// Returns the name of the volume with this number while it is created or removed in several changes: a dot and the number.
    /// Mounts and lists do not show volumes with such a name.
    #[must_use]
    pub fn hidden(number: u64) -> Self {
        Self(format!(".{number}"))
    }

    /// Returns whether it is the name of a volume that is being created or removed.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with('.')
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() {
        Some("is empty".into())
    } else if name.len() > LONGEST {
        Some(format!("is {} bytes long, more than {LONGEST}", name.len()))
    } else if name.starts_with(['-', '.']) {
        Some("starts with '-' or '.'".into())
    } else {
        name.chars()
            .find(|&c| !allowed(c))
            .map(|c| format!("has the character {c:?}"))
    }
}

/// Returns whether [`Name::hidden`] makes such a name.
fn is_hidden(name: &str) -> bool {
    let digits = name.strip_prefix('.').unwrap_or_default();
    !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        match fault(&name) {
            Some(why) if !is_hidden(&name) => Err(why),
            _ => Ok(Self(name)),
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be_a_file_name_or_a_column() {
        for bad in [
            "",
            "a/b",
            "a b",
            "..",
            "-x",
            "a\nb",
            "ü",
            "a\u{7f}",
            &"x".repeat(101),
        ] {
            assert!(Name::new("volume", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "vm-1.img", "_x", &"x".repeat(100)] {
            assert!(Name::new("volume", good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn hidden_names_can_be_stored_and_sent_and_not_chosen() {
        let hidden = Name::hidden(u64::MAX);
        assert!(hidden.is_hidden());
        assert_eq!(Name::try_from(hidden.to_string()), Ok(hidden.clone()));
        assert!(Name::new("volume", hidden.as_str()).is_err());
        for bad in [".", "..", ".a", ".7a", ".123456789012345678901"] {
            assert!(Name::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(!Name::new("volume", "7").unwrap().is_hidden());
    }
}
