//! The schedule of commands and faults: a pure function of the seed.

use fastrand::Rng;
use std::fmt;

/// Apparatuses of the pool.
pub(crate) const APPARATUSES: usize = 2;
/// Volumes whose blocks are all checked.
pub(crate) const VOLUMES: u64 = 3;
/// Volumes with a file system on a loop device. A move counts them after the others.
pub(crate) const FILE_SYSTEMS: usize = 2;
/// Disks of the pool. The last one lies on a file system that the program fills.
pub(crate) const DISKS: u64 = 3;

/// A thing to do, and when: milliseconds since the start. What is due while another is under way follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timed<T> {
    pub(crate) at: u64,
    pub(crate) what: T,
}

/// A command that changes the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Move { volume: u64, to: u64, background: bool },
    Evacuate { disk: u64 },
    Grow { volume: u64 },
    Rename { volume: u64, number: u64 },
    Hold { volume: u64, all: bool },
    Create { number: u64 },
    Remove { number: u64 },
    Attach { volume: u64 },
    Detach { volume: u64 },
    Check,
}

/// A command, which is killed so many milliseconds after its start if it still runs then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) verb: Verb,
    pub(crate) kill_after: Option<u64>,
}

/// A fault, which lasts for some milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) lasts: u64,
}

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An apparatus is killed, and started when the fault ends.
    Kill { apparatus: usize },
    /// All apparatuses are killed.
    KillAll,
    /// An apparatus is stopped by SIGSTOP, and continued.
    Stop { apparatus: usize },
    /// An apparatus is asked to end, and started.
    Restart { apparatus: usize },
    /// The file system of the last disk's image is full.
    FullDisk,
    /// The file system of the pool's directory is full.
    FullPool,
    /// Clients misuse the control socket of an apparatus.
    Clients { apparatus: usize },
    /// A disk fails for the apparatuses.
    Disk { disk: u64, how: How },
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    ReadError,
    WriteError,
    Torn,
    Short,
    Slow,
    Hang,
}

impl How {
    const ALL: [Self; 6] = [
        Self::ReadError,
        Self::WriteError,
        Self::Torn,
        Self::Short,
        Self::Slow,
        Self::Hang,
    ];

    /// Returns the rule in RON that asks an apparatus for it.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::ReadError => "(on: Read, fault: Error(5))",
            Self::WriteError => "(on: Write, fault: Error(5))",
            Self::Torn => "(on: Write, fault: Torn(1536))",
            Self::Short => "(on: Any, fault: Short(1024))",
            Self::Slow => "(on: Any, fault: Slow(20))",
            Self::Hang => "(on: Any, fault: Hang)",
        }
    }

    /// Whether hosts may get EIO.
    pub(crate) fn is_error(self) -> bool {
        matches!(self, Self::ReadError | Self::WriteError | Self::Torn)
    }
}

impl Kind {
    /// Names of the kinds in the report; [`Kind::label`] is an index.
    pub(crate) const LABELS: [&'static str; 16] = [
        "none",
        "kill -9",
        "kill -9 of all",
        "SIGSTOP",
        "restart",
        "full disk",
        "full pool directory",
        "disk: read errors",
        "disk: write errors",
        "disk: torn writes",
        "disk: short calls",
        "disk: slow",
        "disk: hangs",
        "broken clients",
        "kill -9 of vctl",
        "kill -9 of a server",
    ];
    /// Index of the label of commands that were killed.
    pub(crate) const KILLED_COMMAND: usize = 14;
    /// Index of the label of servers that were killed under their supervisor, each second where there are supervisors.
    pub(crate) const CRASH: usize = 15;

    /// Returns the index of its name in the report.
    pub(crate) fn label(self) -> usize {
        match self {
            Self::Kill { .. } => 1,
            Self::KillAll => 2,
            Self::Stop { .. } => 3,
            Self::Restart { .. } => 4,
            Self::FullDisk => 5,
            Self::FullPool => 6,
            Self::Clients { .. } => 13,
            Self::Disk { how, .. } => 7 + How::ALL.iter().position(|one| *one == how).unwrap_or(0),
        }
    }
}

/// All that happens in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Moves and evacuations.
    pub(crate) moves: Vec<Timed<Command>>,
    /// All other commands.
    pub(crate) others: Vec<Timed<Command>>,
    pub(crate) faults: Vec<Timed<Fault>>,
}

impl Plan {
    /// Returns the schedule of a seed for so many seconds.
    pub(crate) fn new(seed: u64, seconds: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let end = seconds * 1000;
        Self {
            moves: commands(&mut rng, end, 300..1200, moving),
            others: commands(&mut rng, end, 150..700, other),
            faults: faults(&mut rng, end),
        }
    }
}

fn commands(
    rng: &mut Rng,
    end: u64,
    gaps: std::ops::Range<u64>,
    verb: fn(&mut Rng, &mut Made) -> Verb,
) -> Vec<Timed<Command>> {
    let (mut at, mut made, mut all) = (0, Made::default(), Vec::new());
    while at < end {
        let verb = verb(rng, &mut made);
        let kill_after = (rng.u8(..5) == 0).then(|| rng.u64(5..400));
        let what = Command { verb, kill_after };
        all.push(Timed { at, what });
        at += rng.u64(gaps.clone());
    }
    all
}

/// What earlier commands of a schedule have made.
#[derive(Default)]
struct Made {
    last: u64,
    scratch: Vec<u64>,
    attached: Option<u64>,
}

fn moving(rng: &mut Rng, _: &mut Made) -> Verb {
    let to = rng.u64(..DISKS);
    match rng.u8(..5) {
        0 => Verb::Evacuate { disk: to },
        kind => Verb::Move {
            volume: rng.u64(..VOLUMES + FILE_SYSTEMS as u64),
            to,
            background: kind == 1,
        },
    }
}

fn other(rng: &mut Rng, made: &mut Made) -> Verb {
    let volume = rng.u64(..VOLUMES);
    made.last += 1;
    match rng.u8(..12) {
        0 => Verb::Grow { volume },
        1 => Verb::Rename {
            volume,
            number: made.last,
        },
        2 | 3 => Verb::Hold {
            volume,
            all: rng.bool(),
        },
        4 | 5 => match made.attached.take() {
            Some(volume) => Verb::Detach { volume },
            None => Verb::Attach {
                volume: *made.attached.insert(volume),
            },
        },
        6 => Verb::Check,
        7..=8 if !made.scratch.is_empty() => Verb::Remove {
            number: made.scratch.swap_remove(rng.usize(..made.scratch.len())),
        },
        _ if made.scratch.len() < 6 => {
            made.scratch.push(made.last);
            Verb::Create { number: made.last }
        }
        _ => Verb::Remove {
            number: made.scratch.swap_remove(0),
        },
    }
}

fn faults(rng: &mut Rng, end: u64) -> Vec<Timed<Fault>> {
    let (mut at, mut all) = (rng.u64(1000..3000), Vec::new());
    while at < end {
        let fault = fault(rng);
        all.push(Timed { at, what: fault });
        at += fault.lasts + rng.u64(500..3000);
    }
    all
}

fn fault(rng: &mut Rng) -> Fault {
    let apparatus = rng.usize(..APPARATUSES);
    let kind = match rng.u8(..17) {
        0..=2 => Kind::Kill { apparatus },
        3 => Kind::KillAll,
        4..=6 => Kind::Stop { apparatus },
        7 | 8 => Kind::Restart { apparatus },
        9 | 10 => Kind::FullDisk,
        11 => Kind::FullPool,
        12 => Kind::Clients { apparatus },
        _ => Kind::Disk {
            disk: rng.u64(..DISKS),
            how: How::ALL[rng.usize(..How::ALL.len())],
        },
    };
    // Some stops are longer than it takes until an apparatus is fenced.
    let longest = if matches!(kind, Kind::Stop { .. }) {
        8000
    } else {
        3000
    };
    Fault {
        kind,
        lasts: rng.u64(100..longest),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<(u64, String)> = Vec::new();
        lines.extend(self.faults.iter().map(|one| (one.at, format!("{:?}", one.what))));
        for one in self.moves.iter().chain(&self.others) {
            lines.push((one.at, format!("{:?}", one.what)));
        }
        lines.sort();
        lines
            .iter()
            .try_for_each(|(at, what)| writeln!(f, "{:>9.3} {what}", *at as f64 / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(Plan::new(7, 60), Plan::new(7, 60));
        assert_ne!(Plan::new(7, 60), Plan::new(8, 60));
        assert_eq!(Plan::new(7, 60).to_string(), Plan::new(7, 60).to_string());
    }

    #[test]
    fn what_is_removed_was_created_before_and_is_removed_once() {
        let mut there = Vec::new();
        for one in Plan::new(3, 600).others {
            match one.what.verb {
                Verb::Create { number } => there.push(number),
                Verb::Remove { number } => {
                    let found = there.iter().position(|one| *one == number);
                    there.swap_remove(found.expect("was created"));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn each_kind_of_fault_comes_in_an_hour_and_none_overlaps_another() {
        let faults = Plan::new(1, 3600).faults;
        for label in 1..Kind::KILLED_COMMAND {
            assert!(faults.iter().any(|one| one.what.kind.label() == label), "{label}");
        }
        for pair in faults.windows(2) {
            assert!(pair[0].at + pair[0].what.lasts < pair[1].at);
        }
    }

    #[test]
    fn a_schedule_ends_in_time() {
        let plan = Plan::new(2, 30);
        assert!(plan.faults.iter().all(|one| one.at < 30_000));
        assert!(plan.moves.iter().chain(&plan.others).all(|one| one.at < 30_000));
    }
}
