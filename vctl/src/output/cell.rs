//! One value of a table or of details, and its appearance.

use super::Style;
use apparatus::model::units::Timestamp;
use std::cmp::Ordering;

/// The rating of a word, which determines its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The normal state.
    Good,
    /// The operator should look.
    Warning,
    /// The operator has to act.
    Bad,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value, shown as `-`.
    None,
    /// A word or a path.
    Text(String),
    /// A word with a colour.
    Word(&'static str, Tone),
    /// A number that is not a size.
    Number(u64),
    /// A number of bytes.
    Size(u64),
    /// A number of bytes that is not rounded: offsets, and the distance between two of them.
    Exact(u64),
    /// A number of microseconds.
    Micros(u64),
    /// Yes or no.
    Flag(bool),
    /// A moment.
    Time(Timestamp),
    /// Several words.
    List(Vec<String>),
}

impl Cell {
    /// Returns a text cell, or an empty cell for an empty text.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() {
            Self::None
        } else {
            Self::Text(text)
        }
    }

    /// Returns whether the value is right-aligned in its column.
    #[must_use]
    pub fn right(&self) -> bool {
        matches!(
            self,
            Self::Number(_) | Self::Size(_) | Self::Exact(_) | Self::Micros(_)
        )
    }

    /// Returns the value as text without colour.
    #[must_use]
    pub fn plain(&self, style: Style) -> String {
        match self {
            Self::None => "-".into(),
            Self::Text(text) => printable(text),
            Self::Word(word, _) => (*word).into(),
            Self::Number(number) => number.to_string(),
            Self::Size(bytes) | Self::Exact(bytes) if style.bytes => bytes.to_string(),
            Self::Size(bytes) => size(*bytes),
            Self::Exact(bytes) => exact(*bytes),
            Self::Micros(micros) => duration(*micros),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
            Self::Time(time) => time.to_string(),
            Self::List(words) if words.is_empty() => "-".into(),
            Self::List(words) => printable(&words.join(",")),
        }
    }

    /// Returns the escape sequences before and after the value.
    #[must_use]
    pub fn paint(&self, style: Style) -> (&'static str, &'static str) {
        match self {
            Self::Word(_, tone) if style.colour => match tone {
                Tone::Good => ("\x1b[32m", "\x1b[0m"),
                Tone::Warning => ("\x1b[33m", "\x1b[0m"),
                Tone::Bad => ("\x1b[31m", "\x1b[0m"),
            },
            _ => ("", ""),
        }
    }

    /// Returns the sort key: numbers by value, other values by text, empty values first.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b))
            | (Self::Size(a), Self::Size(b))
            | (Self::Exact(a), Self::Exact(b))
            | (Self::Micros(a), Self::Micros(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::None, Self::None) => Ordering::Equal,
            (Self::None, _) => Ordering::Less,
            (_, Self::None) => Ordering::Greater,
            _ => self.plain(Style::default()).cmp(&other.plain(Style::default())),
        }
    }
}

/// Replaces control characters, which would move the cursor of the terminal, by a visible form.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// The largest unit of arguments.
const PETA: usize = 5;
const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];

/// Formats a number of bytes with at most four digits and a binary unit, rounded to the nearest tenth.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    while unit + 1 < UNITS.len() && tenths(bytes, unit) >= 10_240 {
        unit += 1;
    }
    let tenths = tenths(bytes, unit);
    match tenths % 10 {
        0 => format!("{}{}", tenths / 10, UNITS[unit]),
        tenth => format!("{}.{tenth}{}", tenths / 10, UNITS[unit]),
    }
}

/// Formats a number of bytes in the largest binary unit that divides it and that arguments may have, without rounding.
#[must_use]
pub fn exact(bytes: u64) -> String {
    let mut unit = 0;
    while bytes > 0 && unit < PETA && bytes.trailing_zeros() as usize >= 10 * (unit + 1) {
        unit += 1;
    }
    format!("{}{}", bytes >> (10 * unit), UNITS[unit])
}

/// Returns `bytes` in tenths of a binary unit, rounded.
fn tenths(bytes: u64, unit: usize) -> u128 {
    let one = 1_u128 << (10 * unit);
    (u128::from(bytes) * 10 + one / 2) / one
}

/// Formats a duration in the unit that keeps it short.
#[must_use]
pub fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100),
        1_000_000..60_000_000 => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000),
        _ => {
            let seconds = micros / 1_000_000;
            let (hours, minutes, seconds) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
            if hours > 0 {
                format!("{hours}h{minutes:02}m")
            } else {
                format!("{minutes}m{seconds:02}s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_true() {
        let cases = [
            (0, "0"),
            (512, "512"),
            (1023, "1023"),
            (1024, "1K"),
            (1536, "1.5K"),
            (1 << 20, "1M"),
            ((1 << 30) + (1 << 29), "1.5G"),
            (u64::MAX, "16E"),
            (1024 * 1024 - 1, "1M"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn exact_sizes_are_not_rounded() {
        let cases = [
            (0, "0"),
            (512, "512"),
            (1536, "1536"),
            (1 << 20, "1M"),
            ((2 << 30) + (1 << 20), "2049M"),
            (u64::MAX, "18446744073709551615"),
            (1 << 60, "1024P"),
        ];
        for (bytes, text) in cases {
            assert_eq!(exact(bytes), text, "{bytes}");
            assert_eq!(apparatus::model::size::parse(text).unwrap().0, bytes);
        }
    }

    #[test]
    fn durations_are_short() {
        let cases = [
            (12, "12us"),
            (1_234, "1.2ms"),
            (2_500_000, "2.5s"),
            (61_000_000, "1m01s"),
            (3_660_000_000, "1h01m"),
        ];
        for (micros, text) in cases {
            assert_eq!(duration(micros), text);
        }
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
    }
}
