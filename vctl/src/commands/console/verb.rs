//! What an operator can have the console do.

use crate::output::{duration, size};
use apparatus::ops::{hold, moving};
use apparatus::units::{ByteCount, JobId};
use std::time::Duration;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Move (part of) a volume.
    Move {
        /// What and where to.
        wish: moving::Wish,
        /// At most so many bytes a second.
        rate: Option<ByteCount>,
    },
    /// Empty a disk.
    Evacuate {
        /// The disk.
        disk: String,
        /// Where to; wherever there is room if empty.
        to: Vec<String>,
        /// Take what the destinations keep free, too.
        use_reserve: bool,
        /// At most so many bytes a second.
        rate: Option<ByteCount>,
    },
    /// Take an empty disk out of the pool.
    Remove(String),
    /// Stop a job until it is resumed.
    Pause(JobId),
    /// Let a job go on.
    Resume(JobId),
    /// End a job.
    Cancel {
        /// The job.
        job: JobId,
        /// Move back what it moved.
        back: bool,
    },
    /// Change how fast a job may be.
    Rate {
        /// The job.
        job: JobId,
        /// At most so many bytes a second.
        rate: Option<ByteCount>,
    },
    /// Put an apparatus out by force.
    Fence(String),
    /// Wait for a fenced apparatus to come back.
    Rejoin(String),
    /// Hold a volume's requests.
    Hold {
        /// Of what.
        wish: hold::Wish,
        /// At most so long.
        time: Duration,
    },
}

impl Verb {
    /// The command that does the same: what is recorded as the reason of the change.
    pub fn command(&self) -> String {
        let many = |option: &str, words: &[String]| -> String {
            words.iter().map(|word| format!(" {option} {word}")).collect()
        };
        let limit =
            |rate: &Option<ByteCount>| rate.map_or(String::new(), |rate| format!(" --rate {}", size(rate.0)));
        match self {
            Self::Move { wish, rate } => {
                let from = wish.from.iter().cloned().collect::<Vec<_>>();
                let policy = wish
                    .policy
                    .map_or(String::new(), |policy| format!(" --policy {}", policy.word()));
                format!(
                    "volume move {}{}{}{}{policy}{}",
                    wish.volume,
                    many("--to", &wish.to),
                    many("--from", &from),
                    range(wish.range),
                    limit(rate)
                )
            }
            Self::Evacuate {
                disk,
                to,
                use_reserve,
                rate,
            } => {
                let reserve = if *use_reserve { " --use-reserve" } else { "" };
                format!("disk evacuate {disk}{}{reserve}{}", many("--to", to), limit(rate))
            }
            Self::Remove(disk) => format!("disk remove {disk}"),
            Self::Pause(job) => format!("job pause {job}"),
            Self::Resume(job) => format!("job resume {job}"),
            Self::Cancel { job, back: false } => format!("job cancel {job}"),
            Self::Cancel { job, back: true } => format!("job cancel {job} --roll-back"),
            Self::Rate { job, rate: None } => format!("job set {job} --rate none"),
            Self::Rate { job, rate } => format!("job set {job}{}", limit(rate)),
            Self::Fence(name) => format!("apparatus fence {name}"),
            Self::Rejoin(name) => format!("apparatus rejoin {name}"),
            Self::Hold { wish, time } => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let volumes = wish.volumes.join(" ");
                format!(
                    "volume hold {volumes}{} --for {}",
                    range(wish.range),
                    duration(micros)
                )
            }
        }
    }
}

fn range(range: Option<(ByteCount, Option<ByteCount>)>) -> String {
    range.map_or(String::new(), |(start, end)| {
        format!(
            " --range {start}..{}",
            end.map_or(String::new(), |end| end.to_string())
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_named_as_one_would_type_it() {
        let wish = moving::Wish {
            volume: "v".into(),
            to: vec!["d2".into(), "@fast".into()],
            from: Some("d1".into()),
            range: Some((ByteCount(4096), None)),
            policy: Some(apparatus::pool::alloc::Policy::Spread),
        };
        let rate = Some(ByteCount(1 << 20));
        let cases = [
            (
                Verb::Move { wish, rate },
                "volume move v --to d2 --to @fast --from d1 --range 4096.. --policy spread --rate 1M",
            ),
            (
                Verb::Evacuate {
                    disk: "d1".into(),
                    to: vec!["d2".into()],
                    use_reserve: true,
                    rate: None,
                },
                "disk evacuate d1 --to d2 --use-reserve",
            ),
            (
                Verb::Cancel {
                    job: JobId(3),
                    back: true,
                },
                "job cancel 3 --roll-back",
            ),
            (
                Verb::Rate {
                    job: JobId(3),
                    rate: None,
                },
                "job set 3 --rate none",
            ),
        ];
        for (verb, command) in cases {
            assert_eq!(verb.command(), command);
        }
    }
}
