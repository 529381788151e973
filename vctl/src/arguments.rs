//! Parsers of arguments: durations, sizes with a sign, ranges, modes, owners, rates.

mod owner;
mod policy;

pub use owner::{Owner, owner};
pub use policy::Policy;

use apparatus::controller::Wait;
use apparatus::model::error::{Error, Result};
use apparatus::model::names::Name;
use apparatus::model::node::name_of_node;
use apparatus::model::size;
use apparatus::model::units::{ByteCount, ExtentSize, JobId, Timestamp};
use std::time::Duration;

/// Parses a duration: `500us`, `20ms`, `2s`, `1.5s`, `3m`, `1h`; a number without unit is in seconds.
///
/// # Errors
/// Fails when the text is no such duration.
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

/// Parses the longest time of a hold.
///
/// # Errors
/// Fails when the text is no duration, or is zero.
pub fn hold_time(text: &str) -> Result<Duration> {
    match duration(text)? {
        Duration::ZERO => {
            let error = Error::usage(format!("duration {text:?}"), "would hold nothing");
            Err(error.hint("write for how long the volume may be held at most, like 500ms or 2s"))
        }
        time => Ok(time),
    }
}

/// Parses a time in RFC 3339, or a duration, which means that long before now.
///
/// # Errors
/// Fails when the text is neither.
pub fn moment(text: &str) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(time.as_microsecond()));
    }
    let ago = duration(text).map_err(|_| {
        Error::usage(format!("time {text:?}"), "is neither a time nor a duration")
            .hint("write it like 2026-03-01T09:00:00Z, or 30m, 12h for that long before now")
    })?;
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    Ok(Timestamp(Timestamp::now().0.saturating_sub(ago)))
}

/// Returns `number`, which may have decimals, times `each`, rounded down.
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

/// Parses the value of `--wait`.
///
/// # Errors
/// Fails when the time is not valid.
pub fn waiting(text: &str) -> Result<Wait> {
    if text == "ever" {
        Ok(Wait::For(None))
    } else {
        duration(text).map(|time| Wait::For(Some(time)))
    }
}

/// The new size of a volume: absolute, or relative to the old size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSize {
    /// The new size is this one.
    To(ByteCount),
    /// The volume grows by this much.
    By(ByteCount),
    /// The volume shrinks by this much.
    Less(ByteCount),
}

impl NewSize {
    /// Returns the new size of a volume that is `old` bytes long.
    ///
    /// # Errors
    /// Fails when the sum exceeds the largest size, or the volume is smaller than what it is to lose.
    pub fn from(self, old: ByteCount) -> Result<ByteCount> {
        match self {
            Self::To(size) => Ok(size),
            Self::By(more) => old
                .0
                .checked_add(more.0)
                .map(ByteCount)
                .ok_or_else(|| Error::usage(format!("size +{more}"), "exceeds 16 EiB")),
            Self::Less(less) => old
                .0
                .checked_sub(less.0)
                .map(ByteCount)
                .ok_or_else(|| Error::usage(format!("size -{less}"), "is more than the volume has")),
        }
    }
}

/// Parses `S`, `+S` or `-S`.
///
/// # Errors
/// Fails when the size is not valid.
pub fn new_size(text: &str) -> Result<NewSize> {
    match text.split_at_checked(1) {
        Some(("+", more)) => size::parse(more).map(NewSize::By),
        Some(("-", less)) => size::parse(less).map(NewSize::Less),
        _ => size::parse(text).map(NewSize::To),
    }
}

/// A range of bytes, `A..B`; either end may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: ByteCount,
    /// One past the last byte; `None` means the end of the volume.
    pub end: Option<ByteCount>,
}

/// Parses `A..B`, `A..` or `..B`; each side is a size.
///
/// # Errors
/// Fails when the text is no range.
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

/// Parses permission bits in octal, for example `0600`.
///
/// # Errors
/// Fails when the text is no such number.
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

/// Returns a parser for the name of a new object; error messages call the object `noun`.
pub fn name(noun: &'static str) -> impl Fn(&str) -> Result<Name> + Clone + Send + Sync + 'static {
    move |text| Name::new(noun, text)
}

/// Parses the number of a job.
///
/// # Errors
/// Fails when the text is no number.
pub fn job(text: &str) -> Result<JobId> {
    let number = text.parse::<u64>().map(JobId);
    number.map_err(|_| Error::usage(format!("job {text:?}"), "is no number").hint("vctl job list"))
}

/// Parses an extent size.
///
/// # Errors
/// Fails when the text is no valid extent size.
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

/// Parses the name of a node.
///
/// # Errors
/// Fails when the text cannot be the name of one.
pub fn node(text: &str) -> Result<Name> {
    name_of_node(text)
}

/// Parses a rate in bytes per second.
///
/// # Errors
/// Fails when the text is no size, or is zero.
pub fn rate(text: &str) -> Result<ByteCount> {
    match size::parse(text)? {
        ByteCount(0) => Err(Error::usage(format!("rate {text:?}"), "would never move anything")
            .hint("omit --rate for no limit, or lift one with vctl job set JOB --rate none; to stop for a while: vctl job pause JOB")),
        rate => Ok(rate),
    }
}

/// The longest average of holds that an operator may ask for: a hold ends after 5 s whatever was copied.
const LONGEST_HOLDS: Duration = Duration::from_secs(1);

/// Parses the duration that the holds of a move are to have on average.
///
/// # Errors
/// Fails when the text is no duration, or a chunk could not be sized for it.
pub fn latency(text: &str) -> Result<Duration> {
    let wrong = |why: &str| {
        Error::usage(format!("latency {text:?}"), why)
            .hint("hosts wait that long for each chunk; 1ms is the default")
    };
    match duration(text)? {
        Duration::ZERO => Err(wrong("is zero")),
        time if time > LONGEST_HOLDS => Err(wrong("is more than 1s")),
        time => Ok(time),
    }
}

/// A value, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// Returns a parser that accepts `none` and what `parse` accepts.
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

/// Parses a percentage, `85` or `85%`.
///
/// # Errors
/// Fails when the text is no percentage.
pub fn percent(text: &str) -> Result<u8> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let share = number
        .parse::<u8>()
        .ok()
        .filter(|share| (1..=100).contains(share));
    share.ok_or_else(|| Error::usage(format!("share {text:?}"), "is no whole number from 1 to 100"))
}

/// Parses `yes` or `no`.
///
/// # Errors
/// Fails when the text is neither.
pub fn yes_or_no(text: &str) -> Result<bool> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Error::usage(format!("{text:?}"), "is neither yes nor no")),
    }
}

/// Returns a duration in microseconds, saturated to `u64`.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9.+ -]{0,24}[a-zA-Zµ.%]{0,6}(\\.\\.)?[0-9a-zA-Z.:%-]{0,24}|\\PC{0,30}") {
            let _ = duration(&text).map(|time| Instant::now() + time);
            let _ = (moment(&text), waiting(&text), byte_range(&text), mode(&text));
            let _ = (job(&text), extent_size(&text), rate(&text), percent(&text), yes_or_no(&text));
            if let Ok(new) = new_size(&text) {
                let _ = (new.from(ByteCount(0)), new.from(ByteCount(u64::MAX)));
            }
        }
    }

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
    fn latencies() {
        assert_eq!(latency("1s").unwrap(), Duration::from_secs(1));
        assert_eq!(latency("20us").unwrap(), Duration::from_micros(20));
        for text in ["0", "0ms", "1001ms", "2h", "99999999h", "1M"] {
            assert!(latency(text).is_err(), "{text}");
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
        let smaller = new_size("-512").unwrap();
        assert_eq!(
            smaller.from(ByteCount(1 << 20)).unwrap(),
            ByteCount((1 << 20) - 512)
        );
        assert!(smaller.from(ByteCount(511)).is_err());
        assert!(new_size("-").is_err() && new_size("--1").is_err() && new_size("+-1").is_err());
    }
}
