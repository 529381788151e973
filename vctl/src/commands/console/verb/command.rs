//! The command line that is equivalent to a verb.

use super::{DiskRequest, NewApparatus, NewDisk, NewVolume, Verb};
use crate::arguments::NewSize;
use crate::output::exact;
use apparatus::admin::open_images::LOSE_DISK;
use apparatus::admin::usage::OVERRIDE;
use apparatus::admin::{hold, moving};
use apparatus::model::alloc::Policy;
use apparatus::model::units::ByteCount;
use std::time::Duration;

/// The words of a command line.
struct Words(Vec<String>);

impl Words {
    fn new<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(str::to_owned).into())
    }

    fn word(mut self, word: impl ToString) -> Self {
        self.0.push(word.to_string());
        self
    }

    fn flag(self, name: &str, is: bool) -> Self {
        if is { self.word(name) } else { self }
    }

    fn option(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.word(name).word(value),
            None => self,
        }
    }

    fn many<T: ToString>(self, name: &str, values: &[T]) -> Self {
        values
            .iter()
            .fold(self, |words, value| words.option(name, Some(value.to_string())))
    }

    fn policy(self, policy: Option<Policy>) -> Self {
        self.option("--policy", policy.map(Policy::word))
    }

    fn rate(self, rate: Option<ByteCount>) -> Self {
        self.option("--rate", rate.map(|rate| exact(rate.0)))
    }

    fn range(self, range: Option<(ByteCount, Option<ByteCount>)>) -> Self {
        let words = range.map(|(start, end)| {
            let end = end.map_or(String::new(), |end| exact(end.0));
            format!("{}..{end}", exact(start.0))
        });
        self.option("--range", words)
    }
}

impl Verb {
    /// Returns the words of the equivalent command after `vctl`.
    pub fn words(&self) -> Vec<String> {
        let words = match self {
            Self::CreateVolume(new) => of_new_volume(new),
            Self::ResizeVolume {
                volume,
                size,
                on,
                policy,
                cut_off,
            } => Words::new(["volume", "resize", volume])
                .word(new_size(*size))
                .many("--on", on)
                .policy(*policy)
                .flag(OVERRIDE, *cut_off),
            Self::RenameVolume { volume, new } => Words::new(["volume", "rename", volume]).word(new),
            Self::SetVolume {
                volume,
                mode,
                owner,
                read_only,
                cut_off,
            } => Words::new(["volume", "set", volume])
                .option("--mode", mode.map(octal))
                .option("--owner", owner.as_ref())
                .flag("--read-only", *read_only == Some(true))
                .flag("--read-write", *read_only == Some(false))
                .flag(OVERRIDE, *cut_off),
            Self::RemoveVolume { volume, cut_off } => {
                Words::new(["volume", "remove", volume]).flag(OVERRIDE, *cut_off)
            }
            Self::Attach {
                volume,
                apparatus,
                read_only,
                partitions,
            } => Words::new(["volume", "attach", volume])
                .option("--apparatus", apparatus.as_ref())
                .flag("--read-only", *read_only)
                .flag("--partitions", *partitions),
            Self::Detach(volume) => Words::new(["volume", "detach", volume]),
            Self::Move { request, rate } => of_move(request).rate(*rate),
            Self::Hold { request, time } => of_hold(request, *time),
            _ => self.words_of_others(),
        };
        words.0
    }

    fn words_of_others(&self) -> Words {
        match self {
            Self::AddDisk(new) => of_new_disk(new),
            Self::SetDisk(request) => of_disk_request(request),
            Self::ResizeDisk { disk, size } => {
                let words = Words::new(["disk", "resize", disk]);
                size.iter().fold(words, |words, size| words.word(exact(size.0)))
            }
            Self::Evacuate {
                disk,
                to,
                use_reserve,
                rate,
            } => Words::new(["disk", "evacuate", disk])
                .many("--to", to)
                .flag("--use-reserve", *use_reserve)
                .rate(*rate),
            Self::RemoveDisk(disk) => Words::new(["disk", "remove", disk]),
            Self::Pause(job) => Words::new(["job", "pause"]).word(job),
            Self::Resume(job) => Words::new(["job", "resume"]).word(job),
            Self::Cancel { job, back } => Words::new(["job", "cancel"]).word(job).flag("--roll-back", *back),
            Self::Rate { job, rate } => Words::new(["job", "set"])
                .word(job)
                .option("--rate", Some(rate.map_or("none".into(), |rate| exact(rate.0)))),
            Self::Start(new) => of_new_apparatus(new),
            Self::Stop { name, cut_off, lose } => Words::new(["apparatus", "stop", name])
                .flag(OVERRIDE, *cut_off)
                .many(LOSE_DISK, lose),
            Self::Fence { name, cut_off, lose } => Words::new(["apparatus", "fence", name])
                .flag(OVERRIDE, *cut_off)
                .many(LOSE_DISK, lose),
            Self::Rejoin(name) => Words::new(["apparatus", "rejoin", name]),
            _ => Words(Vec::new()),
        }
    }

    /// Returns the command line as an operator would type it; it is recorded as the reason for the change.
    pub fn command(&self) -> String {
        let words: Vec<String> = self.words().iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }
}

fn of_new_volume(new: &NewVolume) -> Words {
    Words::new(["volume", "create", new.name.as_str()])
        .word(exact(new.size.0))
        .many("--on", &new.on)
        .policy(new.policy)
        .option("--mode", Some(octal(new.mode)).filter(|_| new.mode != 0o600))
        .option("--owner", new.owner.as_ref())
        .flag("--read-only", new.read_only)
}

fn of_new_disk(new: &NewDisk) -> Words {
    Words::new(["disk", "add", &new.path])
        .option("--name", new.name.as_ref())
        .option("--create", new.create.map(|size| exact(size.0)))
        .flag("--preallocate", new.preallocate)
        .many("--tag", &new.tags)
        .flag("--no-allocate", !new.allocate)
        .option("--reserve", new.reserve.map(|size| exact(size.0)))
}

fn of_disk_request(request: &DiskRequest) -> Words {
    Words::new(["disk", "set", &request.disk])
        .option("--name", request.name.as_ref())
        .many("--tag", &request.tag)
        .many("--untag", &request.untag)
        .flag("--allocate", request.allocate == Some(true))
        .flag("--no-allocate", request.allocate == Some(false))
        .option("--reserve", request.reserve.map(|size| exact(size.0)))
        .option("--path", request.path.as_ref())
}

fn of_new_apparatus(new: &NewApparatus) -> Words {
    Words::new(["apparatus", "start", new.name.as_str(), &new.mount])
        .option("--threads", new.threads)
        .flag("--allow-other", new.allow_other)
}

fn of_move(request: &moving::MoveRequest) -> Words {
    Words::new(["volume", "move", &request.volume])
        .many("--to", &request.to)
        .option("--from", request.from.as_ref())
        .range(request.range)
        .policy(request.policy)
}

fn of_hold(request: &hold::HoldRequest, time: Duration) -> Words {
    let words = Words::new(["volume", "hold"]);
    let words = request.volumes.iter().fold(words, Words::word);
    words
        .range(request.range)
        .option("--requests", request.writes_only.then_some("writes"))
        .option("--for", Some(exact_time(time)))
}

fn octal(mode: u16) -> String {
    format!("{mode:04o}")
}

fn new_size(size: NewSize) -> String {
    match size {
        NewSize::To(size) => exact(size.0),
        NewSize::By(more) => format!("+{}", exact(more.0)),
        NewSize::Less(less) => format!("-{}", exact(less.0)),
    }
}

/// Formats a duration exactly, in the largest possible unit.
fn exact_time(time: Duration) -> String {
    match time.as_micros() {
        micros if micros % 1_000_000 == 0 => format!("{}s", micros / 1_000_000),
        micros if micros % 1_000 == 0 => format!("{}ms", micros / 1_000),
        micros => format!("{micros}us"),
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_@%+=:,./-".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests;
