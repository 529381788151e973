//! Sizes in the form that users write. This is the only place that parses them.
//!
//! ```text
//! size    = number [ suffix ]         4096   1.5G
//! suffix  = unit | unit "iB"          powers of 1024: 64K, 64KiB
//!         | unit "B"                  powers of 1000: 64KB
//! unit    = K | M | G | T | P         upper or lower case
//! ```

use crate::model::error::{Error, Result};
use crate::model::units::ByteCount;
use std::fmt;

const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];

/// Parses a size: `4096`, `64K` and `64KiB` (both 1024), `64KB` (1000), up to P; a number without suffix is in bytes. A
/// fraction is allowed if the size is a whole number of bytes.
///
/// # Errors
/// Fails with `Usage`, which names the text and the fault in it.
pub fn parse(text: &str) -> Result<ByteCount> {
    let refused = |why| {
        Error::usage(format!("size {text:?}"), why)
            .hint("write bytes, or a number with K, M, G, T or P (1024), or KB to PB (1000): 4096, 64K, 1.5G")
    };
    let number_ends = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let unit = multiplier(suffix).filter(|_| !number.is_empty());
    let unit = unit.ok_or_else(|| refused(suffix_fault(number, suffix)))?;
    bytes(number, unit).map(ByteCount).map_err(refused)
}

fn suffix_fault(number: &str, suffix: &str) -> &'static str {
    match (number, suffix) {
        ("", "") => "is empty",
        ("", _) => "does not start with a digit",
        _ => "has an unknown suffix",
    }
}

fn multiplier(suffix: &str) -> Option<u64> {
    let mut letters = suffix.chars();
    let Some(unit) = letters.next() else {
        return Some(1);
    };
    let base: u64 = match letters.as_str() {
        "" | "iB" => 1024,
        "B" => 1000,
        _ => return None,
    };
    let power = UNITS
        .iter()
        .position(|known| *known == unit.to_ascii_uppercase())?;
    base.checked_pow(u32::try_from(power + 1).ok()?)
}

/// Returns `number` times `unit`, exactly.
fn bytes(number: &str, unit: u64) -> Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err("is not a number");
    }
    let whole = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| whole.checked_mul(unit))
        .ok_or(TOO_LARGE)?;
    whole.checked_add(part_of(unit, fraction)?).ok_or(TOO_LARGE)
}

const TOO_LARGE: &str = "is larger than 16 EiB";

/// Returns `0.fraction` times `unit` if that is a whole number.
fn part_of(unit: u64, fraction: &str) -> Result<u64, &'static str> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > LONGEST_FRACTION {
        return Err("has too many digits after the point");
    }
    let scaled = fraction
        .bytes()
        .fold(0, |sum: u128, digit| sum * 10 + u128::from(digit - b'0'));
    let scale = fraction.bytes().fold(1, |scale: u128, _| scale * 10);
    let product = scaled * u128::from(unit);
    if product % scale != 0 {
        return Err("is not a whole number of bytes");
    }
    u64::try_from(product / scale).map_err(|_| TOO_LARGE)
}

/// Most digits of a fraction: ten to this power, times the largest unit, stays far below 2^128.
const LONGEST_FRACTION: usize = 18;

/// Shows a size with about three digits: `1.5GiB`. Parsing the text yields about the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanSize(pub ByteCount);

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&human(self.0.0))
    }
}

fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    // The size in tenths of the unit, rounded: a size that would show as 1024 shows as 1 of the next unit.
    let tenths = |power: usize| (u128::from(bytes) * 10 + (1 << (10 * power - 1))) >> (10 * power);
    let power = (1..UNITS.len())
        .find(|&power| tenths(power) < 10_235)
        .unwrap_or(UNITS.len());
    let shown = tenths(power);
    let unit = UNITS[power - 1];
    match (shown / 10, shown % 10) {
        (whole, 0) => format!("{whole}{unit}iB"),
        (whole, tenth) if whole < 100 => format!("{whole}.{tenth}{unit}iB"),
        (whole, tenth) => format!("{}{unit}iB", whole + u128::from(tenth >= 5)),
    }
}

/// Shows a size in the largest unit that divides it: `1536KiB`. Parsing the text yields the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact(pub ByteCount);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&exact(self.0.0))
    }
}

fn exact(bytes: u64) -> String {
    let divides = |power: &usize| bytes.trailing_zeros() as usize >= 10 * power;
    match (1..=UNITS.len()).rev().find(divides) {
        Some(power) if bytes > 0 => format!("{}{}iB", bytes >> (10 * power), UNITS[power - 1]),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> u64 {
        parse(text).unwrap().0
    }

    #[test]
    fn suffixes_mean_what_losetup_means_by_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("64KB", 64_000),
            ("1.5G", 3 << 29),
            ("1.50g", 3 << 29),
            ("0.001KB", 1),
            ("7MB", 7_000_000),
            ("2T", 2 << 40),
            ("3PiB", 3 << 50),
            ("1PB", 1_000_000_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("16383P", 16383 << 50),
        ] {
            assert_eq!(parsed(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named_with_the_reason() {
        for (text, why) in [
            ("", "is empty"),
            ("K", "start with a digit"),
            ("-1", "start with a digit"),
            ("+1G", "start with a digit"),
            (" 1", "start with a digit"),
            ("1 G", "unknown suffix"),
            ("1X", "unknown suffix"),
            ("1B", "unknown suffix"),
            ("1Kib", "unknown suffix"),
            ("1KiBB", "unknown suffix"),
            ("1ü", "unknown suffix"),
            ("1E", "unknown suffix"),
            (".", "not a number"),
            ("1.", "not a number"),
            (".5K", "not a number"),
            ("1.2.3K", "not a number"),
            ("0.5", "whole number of bytes"),
            ("1.0001K", "whole number of bytes"),
            ("1.0000000000000000001K", "too many digits"),
            ("18446744073709551616", "larger"),
            ("16384P", "larger"),
            ("16383.99999999999999999P", "whole number of bytes"),
            ("99999999999999999999999P", "larger"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.why().contains(why), "{text}: {error}");
            assert!(error.what().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn human_sizes_have_three_digits() {
        for (bytes, human, exact) in [
            (0, "0", "0"),
            (1023, "1023", "1023"),
            (1024, "1KiB", "1KiB"),
            (1536, "1.5KiB", "1536"),
            (3 << 29, "1.5GiB", "1536MiB"),
            (1_048_575, "1MiB", "1048575"),
            (1_047_552, "1023KiB", "1023KiB"),
            (123_456_789, "118MiB", "123456789"),
            (u64::MAX, "16384PiB", "18446744073709551615"),
        ] {
            assert_eq!(HumanSize(ByteCount(bytes)).to_string(), human);
            assert_eq!(Exact(ByteCount(bytes)).to_string(), exact);
        }
        assert_eq!(format!("{:>8}", HumanSize(ByteCount(1024))), "    1KiB");
    }

    fn any_magnitude() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(bytes, shift)| bytes >> shift)
    }

    proptest! {
        #[test]
        fn what_is_shown_exactly_parses_to_the_same(bytes in any_magnitude()) {
            prop_assert_eq!(parsed(&Exact(ByteCount(bytes)).to_string()), bytes);
            prop_assert_eq!(parsed(&bytes.to_string()), bytes);
        }

        #[test]
        fn human_sizes_are_off_by_five_percent_at_most(bytes in any_magnitude()) {
            let shown = HumanSize(ByteCount(bytes)).to_string();
            prop_assert!(shown.len() <= 8);
            let (number, power) = match shown.find(char::is_alphabetic) {
                None => (shown.as_str(), 0),
                Some(at) => (&shown[..at], UNITS.iter().position(|unit| shown[at..].starts_with(*unit)).unwrap() + 1),
            };
            let meant = number.parse::<f64>().unwrap() * 1024_f64.powi(i32::try_from(power).unwrap());
            let bytes = bytes as f64;
            prop_assert!((meant - bytes).abs() <= bytes * 0.05, "{} for {}", shown, bytes);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9.]{0,25}[kKmMgGtTpPiBx +-]{0,4}") {
            let _ = parse(&text);
        }

        #[test]
        fn decimal_and_binary_units_multiply(number in 0..1000_u64, unit in 0..5_usize) {
            let power = u32::try_from(unit + 1).unwrap();
            prop_assert_eq!(parsed(&format!("{number}{}", UNITS[unit])), number * 1024_u64.pow(power));
            prop_assert_eq!(parsed(&format!("{number}{}B", UNITS[unit])), number * 1000_u64.pow(power));
        }
    }
}
