//! Holds volumes for users and scripts: nothing changes, but while the hold lasts no host request runs, so the content
//! of the disks is the state of one moment. Several volumes are held at the same moment.

use super::plan::Planned;
use super::send::{Sent, send_with};
use super::volume::plan_hold;
use crate::blockdev::Disk;
use crate::cluster::FlushLedger;
use crate::controller::persist::refuse_lost;
use crate::controller::{Controller, PATIENCE};
use crate::model::change::HoldMode;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::units::ByteCount;
use crate::protocol::controller::Patience;
use crate::store::TableStore;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a command that was asked to end may take until it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// A killed command has ended after this time, unless it waits in the kernel.
const DEATH: Duration = Duration::from_secs(2);
/// Time that placing and releasing the hold may take beyond its duration. After that the apparatuses end it by themselves,
/// even when this process is stopped.
const SLACK: Duration = Duration::from_millis(1500);

/// What to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// The names of the volumes.
    pub volumes: Vec<String>,
    /// The range of each volume; the whole if `None`.
    pub range: Option<(ByteCount, Option<ByteCount>)>,
    /// Whether reads go on.
    pub writes_only: bool,
}

/// What to do under the hold.
pub struct Work {
    /// How long the hold lasts, or the command may take.
    pub time: Duration,
    /// Whether to flush the disks once the volumes are held.
    pub flush: bool,
    /// A command to run.
    pub command: Option<Command>,
    /// A descriptor that is readable once the operator asks to end the hold.
    pub stop: OwnedFd,
}

/// A command to run under a hold.
pub struct Command {
    words: Vec<OsString>,
    quiet: bool,
}

impl Command {
    /// Makes a command of these words; `None` if there are none. With `quiet` its standard output goes to standard error.
    #[must_use]
    pub fn new(words: &[OsString], quiet: bool) -> Option<Self> {
        (!words.is_empty()).then(|| Self {
            words: words.to_vec(),
            quiet,
        })
    }
}

/// The outcome of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOutcome {
    /// How long the volumes were held.
    pub time: Duration,
    /// The command's exit status; 128 and the signal's number if it was killed.
    pub status: Option<u8>,
    /// The figures of the apparatuses.
    pub sent: Sent,
}

/// Plans the hold, as a change without edits.
///
/// # Errors
/// Fails when there is no such volume, or the range is not in it.
pub fn plan(store: &mut dyn TableStore, request: &HoldRequest) -> Result<Planned> {
    let mode = if request.writes_only {
        HoldMode::Writes
    } else {
        HoldMode::All
    };
    plan_hold(store, &request.volumes, request.range, mode)
}

/// Holds, works, releases. It succeeds only if the hold was in place all the time.
///
/// # Errors
/// Fails when the volumes cannot be held, the hold expired, a disk could not be flushed, or the command could not be run.
pub fn hold(
    controller: &mut Controller,
    title: &str,
    request: &HoldRequest,
    work: &Work,
) -> Result<HoldOutcome> {
    let planned = plan(controller.store(), request)?;
    let disks: Vec<(Arc<Disk>, Arc<dyn FlushLedger>)> = if work.flush {
        let under = disks_under(controller, &planned)?.into_iter();
        under
            .map(|disk| (disk.clone(), controller.ledger(disk.id())))
            .collect()
    } else {
        Vec::new()
    };
    let long = work.time.saturating_add(SLACK).as_micros();
    controller.set_patience(Patience {
        hold_us: u64::try_from(long).unwrap_or(u64::MAX),
        ..PATIENCE
    });
    let (mut done, mut lasted) = (None, Duration::ZERO);
    let mut running = None;
    let sent = send_with(controller, title, &planned, &mut || {
        let begun = Instant::now();
        let again = matches!(done, Some(Ok(_))) && work.command.is_some();
        let flushed = if again {
            Err(interrupted())
        } else {
            disks.iter().try_for_each(|(disk, ledger)| flush(disk, &**ledger))
        };
        let ended = flushed.and_then(|()| do_work(work, begun, &mut running));
        lasted = begun.elapsed();
        let result = ended.as_ref().map(drop).map_err(ToString::to_string);
        done = Some(ended);
        result
    });
    // The hold is released; a command that still runs may have waited for it.
    let left = running.map_or(Ok(()), |running: Running| running.end());
    match (done, sent) {
        (Some(Err(failure)), _) => Err(with_leftover(failure, left)),
        (done, sent) => {
            let sent = sent?;
            Ok(HoldOutcome {
                time: lasted,
                status: done.transpose()?.flatten(),
                sent,
            })
        }
    }
}

/// Adds to a failure that the command has not ended, if that is so.
fn with_leftover(failure: Error, left: Result<(), String>) -> Error {
    let Err(left) = left else { return failure };
    let both = Error::new(
        failure.kind(),
        failure.what(),
        format!("{}; {left}", failure.why()),
    );
    match failure.way_out() {
        Some(hint) => both.hint(hint),
        None => both,
    }
}

/// Returns the error for a hold that an apparatus's coming or going interrupted. The hold is tried again then, but a command is run only
/// once.
fn interrupted() -> Error {
    Error::new(
        ErrorKind::TimedOut,
        "hold",
        "an apparatus came or went during it, so what the command read may not be the state of one moment",
    )
    .hint("run it again")
}

fn disks_under(controller: &mut Controller, planned: &Planned) -> Result<Vec<Arc<Disk>>> {
    let volumes: BTreeSet<_> = planned.spans.iter().map(|span| span.volume).collect();
    let snapshot = controller.store().snapshot()?;
    let under = snapshot
        .segments
        .iter()
        .filter(|(volume, _)| volumes.contains(volume));
    let ids: BTreeSet<_> = under.map(|(_, segment)| segment.placement.disk).collect();
    controller.open_disks(ids.iter().copied())?;
    let open = |id| {
        let missing = || Error::failed(format!("disk #{id}"), "is not open").hint("vctl pool check");
        controller.disks().get(id).ok_or_else(missing)
    };
    ids.into_iter().map(open).collect()
}

/// Flushes a disk under the hold. A disk that has lost writes since the last persisted move cannot be made to contain the state of one
/// moment.
fn flush(disk: &Disk, ledger: &dyn FlushLedger) -> Result<()> {
    disk.flush(ledger)
        .map_err(|error| Error::because(format!("disk {}: flush", disk.name()), error))?;
    refuse_lost(disk.name(), ledger)
}

/// Waits, or runs the command, until it is done, the time is over, or the operator asks to end. A command that has not ended by then
/// is left in `running`: it may wait for the held volumes, and is ended after the release.
fn do_work(work: &Work, begun: Instant, running: &mut Option<Running>) -> Result<Option<u8>> {
    let deadline = begun + work.time;
    let Some(command) = &work.command else {
        return match wait(work.stop.as_fd(), None, deadline)? {
            Woken::Stop => Err(stopped()),
            Woken::Ended | Woken::Late => Ok(None),
        };
    };
    let mut started = Running::start(command)?;
    match wait(work.stop.as_fd(), Some(started.end.as_fd()), deadline) {
        Ok(Woken::Ended) => started.status().map(Some),
        Ok(Woken::Stop) => {
            *running = Some(started);
            Err(stopped())
        }
        Ok(Woken::Late) => {
            let why = format!(
                "did not end in {} s, and was asked to end",
                work.time.as_secs_f32()
            );
            let what = format!("command {}", started.name);
            *running = Some(started);
            Err(Error::new(ErrorKind::TimedOut, what, why).hint("give it longer with --for"))
        }
        Err(failed) => {
            *running = Some(started);
            Err(failed)
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "hold", "ended on request")
}

/// A running command, in a process group of its own, so that all its processes can be ended.
struct Running {
    name: String,
    child: Child,
    end: OwnedFd,
}

impl Running {
    fn start(command: &Command) -> Result<Self> {
        let first = command.words.first();
        let name = first.map_or_else(String::new, |word| word.to_string_lossy().into_owned());
        let failed = |error: io::Error| Error::because(format!("command {name}"), error);
        let child = spawn(command).map_err(failed)?;
        let end = pidfd_of(&child).map_err(failed)?;
        Ok(Self { name, child, end })
    }

    fn status(&mut self) -> Result<u8> {
        let status = self.child.wait();
        let status = status.map_err(|error| Error::because(format!("command {}", self.name), error))?;
        Ok(status_of(status))
    }

    /// Asks the command to end, kills it if it does not, and waits no longer than a killed process takes: one that waits in the kernel is
    /// left.
    fn end(mut self) -> Result<(), String> {
        if let Ok(group) = pid_of(&self.child) {
            // Its end is checked below; that a group is gone already shows there as well.
            let _ = kill_process_group(group, Signal::TERM);
            let ended = self.ends_within(GRACE);
            let _ = kill_process_group(group, Signal::KILL);
            if !ended && !self.ends_within(DEATH) {
                return Err(format!(
                    "it was killed, and process {} has not ended yet",
                    self.child.id()
                ));
            }
        }
        // It has ended: this collects its status.
        self.child.wait().map(drop).map_err(|error| error.to_string())
    }

    fn ends_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut ended = [PollFd::new(&self.end, PollFlags::IN)];
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut ended, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) if left.is_zero() => return false,
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }
}

fn spawn(command: &Command) -> io::Result<Child> {
    let (program, arguments) = command
        .words
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut builder = std::process::Command::new(program);
    builder.args(arguments).process_group(0);
    if command.quiet {
        builder.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    }
    builder.spawn()
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid_of(child)?, PidfdFlags::empty())?)
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

fn status_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Stop,
    Ended,
    Late,
}

fn wait(stop: BorrowedFd<'_>, end: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<Woken> {
    let mut watched = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    watched.extend(end.map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN)));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|error| Error::because("hold", error))?;
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) if left.is_zero() => return Ok(Woken::Late),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) if watched.get(1).is_some_and(|end| !end.revents().is_empty()) => return Ok(Woken::Ended),
            Ok(_) => return Ok(Woken::Stop),
            Err(errno) => return Err(Error::because("hold", errno)),
        }
    }
}
