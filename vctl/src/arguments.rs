//! What arguments mean: durations, sizes with a sign, ranges, modes, owners, places.

mod owner;
mod policy;

pub use owner::{Owner, owner};
pub use policy::Policy;

use apparatus::change::driver::Wait;
use apparatus::error::{Error, Result};
use apparatus::pool::names::Name;
use apparatus::pool::size;
use apparatus::units::{ByteCount, ExtentSize, JobId, Timestamp};
use std::time::Duration;

/// `500us`, `20ms`, `2s`, `1.5s`, `3m`, `1h`; no unit is seconds.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = |why: &str| {
        Error::usage(format!("duration {text:?}"), why).hint("write it like 500us, 20ms, 2s, 1.5s, 3m or 1h")
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let micros_each: u64 = match unit {
        "us" | "µs" => 1,
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err(wrong("has a unit that is none of us, ms, s, m, h")),
    };
    let micros = decimal(number, micros_each).ok_or_else(|| wrong("is not a number with a unit of time"))?;
    Ok(Duration::from_micros(micros))
}

/// A time as RFC 3339 writes it, or a duration: so long before now.
///
/// # Errors
/// When it is neither.
pub fn moment(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(time.as_microsecond()));
    }
    let ago = duration(text).map_err(|_| {
        Error::usage(format!("time {text:?}"), "is neither a time nor a duration")
            .hint("write it like 2026-03-01T09:00:00Z, or 30m, 12h for so long before now")
    })?;
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    Ok(Timestamp(Timestamp::now().0.saturating_sub(ago)))
}

/// `number`, which may have decimals, times `each`, cut to a whole number.
fn decimal(number: &str, each: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let units = u128::from(whole.parse::<u64>().ok()?) * scale + part.parse::<u128>().ok()?;
    u64::try_from(units * u128::from(each) / scale).ok()
}

/// The value of `--wait`.
///
/// # Errors
/// What is wrong with the time.
pub fn waiting(text: &str) -> Result<Wait> {
    if text == "ever" {
        Ok(Wait::For(None))
    } else {
        duration(text).map(|time| Wait::For(Some(time)))
    }
}

/// A volume's new size: as it shall be, or by how much more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// This size.
    To(ByteCount),
    /// So much more.
    By(ByteCount),
}

impl NewSize {
    /// The size meant, for what is `old` bytes long now.
    ///
    /// # Errors
    /// When that is more than any size.
    pub fn from(self, old: ByteCount) -> Result<ByteCount> {
        match self {
            Self::To(size) => Ok(size),
            Self::By(more) => old
                .0
                .checked_add(more.0)
                .map(ByteCount)
                .ok_or_else(|| Error::usage(format!("size +{more}"), "leads past 16 EiB")),
        }
    }
}

/// `S` or `+S`.
///
/// # Errors
/// What is wrong with the size.
pub fn new_size(text: &str) -> Result<NewSize> {
    match text.strip_prefix('+') {
        Some(more) => size::parse(more).map(NewSize::By),
        None => size::parse(text).map(NewSize::To),
    }
}

/// A range of bytes, `A..B`; either may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: ByteCount,
    /// One past the last byte; none for the end.
    pub end: Option<ByteCount>,
}

/// `A..B`, `A..`, `..B`, each side a size.
///
/// # Errors
/// What is wrong with it.
pub fn byte_range(text: &str) -> Result<ByteRange> {
    let what = || format!("range {text:?}");
    let (start, end) = text
        .split_once("..")
        .ok_or_else(|| Error::usage(what(), "has no '..'").hint("write it like 1G..2G, 1G.. or ..2G"))?;
    let start = if start.is_empty() {
        ByteCount(0)
    } else {
        size::parse(start)?
    };
    let end = if end.is_empty() {
        None
    } else {
        Some(size::parse(end)?)
    };
    if end.is_some_and(|end| end <= start) {
        return Err(Error::usage(what(), "ends where it starts or before"));
    }
    Ok(ByteRange { start, end })
}

/// Permission bits in octal, `0600`.
///
/// # Errors
/// When they are not.
pub fn mode(text: &str) -> Result<u16> {
    let octal = text.strip_prefix("0o").unwrap_or(text);
    let plain = !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u16::from_str_radix(octal, 8) {
        Ok(bits) if plain && bits <= 0o777 => Ok(bits),
        _ => Err(
            Error::usage(format!("mode {text:?}"), "is no octal number from 0 to 0777")
                .hint("like 0600 or 660"),
        ),
    }
}

/// A name for something new, of the kind that the message names.
pub fn name(noun: &'static str) -> impl Fn(&str) -> Result<Name> + Clone + Send + Sync + 'static {
    move |text| Name::new(noun, text)
}

/// A job's number.
///
/// # Errors
/// When it is none.
pub fn job(text: &str) -> Result<JobId> {
    let number = text.parse::<u64>().map(JobId);
    number.map_err(|_| Error::usage(format!("job {text:?}"), "is no number").hint("vctl job list"))
}

/// A unit of allocation.
///
/// # Errors
/// When it is none.
pub fn extent_size(text: &str) -> Result<ExtentSize> {
    let bytes = size::parse(text)?;
    ExtentSize::new(bytes.0).ok_or_else(|| {
        Error::usage(
            format!("extent size {text:?}"),
            "is no power of two from 64K to 64M",
        )
        .hint("1M is usual")
    })
}

/// A rate in bytes a second.
///
/// # Errors
/// When it is no size, or nothing at all.
pub fn rate(text: &str) -> Result<ByteCount> {
    match size::parse(text)? {
        ByteCount(0) => Err(Error::usage(format!("rate {text:?}"), "would never move anything")
            .hint("for no limit leave --rate out, or take one back with vctl job set JOB --rate none; to stop for a while: vctl job pause JOB")),
        rate => Ok(rate),
    }
}

/// A value, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// What `parse` reads, or `none`.
pub fn or_none<T>(
    parse: impl Fn(&str) -> Result<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<OrNone<T>> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "none" {
            Ok(OrNone(None))
        } else {
            parse(text).map(|value| OrNone(Some(value)))
        }
    }
}

/// A share in per cent, `85` or `85%`.
///
/// # Errors
/// When it is none.
pub fn percent(text: &str) -> Result<u8> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let share = number
        .parse::<u8>()
        .ok()
        .filter(|share| (1..=100).contains(share));
    share.ok_or_else(|| Error::usage(format!("share {text:?}"), "is no whole number from 1 to 100"))
}

/// `yes` or `no`.
///
/// # Errors
/// When it is neither.
pub fn yes_or_no(text: &str) -> Result<bool> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Error::usage(format!("{text:?}"), "is neither yes nor no")),
    }
}

/// A duration in microseconds, at most as many as there are.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [
            ("2s", 2_000_000),
            ("2", 2_000_000),
            ("1.5s", 1_500_000),
            ("20ms", 20_000),
            ("7us", 7),
            ("1h", 3_600_000_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_micros(micros), "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "1,5s",
            "1.s",
            ".5s",
            "1d",
            "1 s",
            "99999999999999999999s",
            "1e3s",
            "+1s",
            "1.5.5s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("50M").unwrap(), ByteCount(50 << 20));
        for text in ["0", "0M", "", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(mode("0600").unwrap(), 0o600);
        assert_eq!(mode("0o640").unwrap(), 0o640);
        assert_eq!(mode("7").unwrap(), 7);
        for text in [
            "",
            "8",
            "1000",
            "+7",
            "-7",
            "rw",
            "0x7",
            "00000000000000000000001777",
        ] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = byte_range("1M..2M").unwrap();
        assert_eq!(
            (range.start.0, range.end.map(|end| end.0)),
            (1 << 20, Some(2 << 20))
        );
        assert_eq!(byte_range("..4096").unwrap().start.0, 0);
        assert_eq!(byte_range("4096..").unwrap().end, None);
        for text in ["", "1M", "2M..1M", "1M..1M", "a..b", "1..2..3"] {
            assert!(byte_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_with_a_sign() {
        assert_eq!(
            new_size("+1M").unwrap().from(ByteCount(512)).unwrap(),
            ByteCount((1 << 20) + 512)
        );
        assert_eq!(
            new_size("1M").unwrap().from(ByteCount(512)).unwrap(),
            ByteCount(1 << 20)
        );
        assert!(new_size("+1").unwrap().from(ByteCount(u64::MAX)).is_err());
    }
}
