//! Holding volumes for people and scripts: nothing changes, but while the hold lasts no host request runs, so that what
//! is on the disks is one moment's state. For several volumes it is the same moment.

use super::plan::Planned;
use super::send::{Sent, send_with};
use super::volume::plan_hold;
use crate::change::controller::Patience;
use crate::change::driver::{Controller, PATIENCE};
use crate::change::harden::refuse_lost;
use crate::disk::Disk;
use crate::error::{Error, Kind, Result};
use crate::member::DiskMarks;
use crate::store::{HoldMode, Store};
use crate::units::ByteCount;
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

/// A command that is told to end has so long until it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// A command that is killed has ended after so long, unless it waits for the kernel.
const DEATH: Duration = Duration::from_secs(2);
/// What placing the hold and letting go of it may take beyond the time that it is to last. Then the apparatuses end it by themselves,
/// also when this process is stopped.
const SLACK: Duration = Duration::from_millis(1500);

/// What to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// These volumes.
    pub volumes: Vec<String>,
    /// Only this range of each.
    pub range: Option<(ByteCount, Option<ByteCount>)>,
    /// Reads go on.
    pub writes_only: bool,
}

/// What to do under the hold.
pub struct Work {
    /// How long it lasts, or may last.
    pub time: Duration,
    /// Flush the disks once the volumes are held.
    pub flush: bool,
    /// Run this.
    pub command: Option<Command>,
    /// Readable once the operator wants it to end.
    pub stop: OwnedFd,
}

/// A command to run under a hold.
pub struct Command {
    words: Vec<OsString>,
    quiet: bool,
}

impl Command {
    /// Of these words, if there are any. `quiet`: what it says to its standard output goes to standard error.
    #[must_use]
    pub fn new(words: &[OsString], quiet: bool) -> Option<Self> {
        (!words.is_empty()).then(|| Self {
            words: words.to_vec(),
            quiet,
        })
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How long the volumes were held.
    pub time: Duration,
    /// The command's exit status; 128 and the signal's number if it was killed.
    pub status: Option<u8>,
    /// What the apparatuses said.
    pub sent: Sent,
}

/// The hold, as a change of nothing.
///
/// # Errors
/// When there is no such volume, or the range is not in it.
pub fn plan(store: &mut dyn Store, wish: &Wish) -> Result<Planned> {
    let mode = if wish.writes_only {
        HoldMode::Writes
    } else {
        HoldMode::All
    };
    plan_hold(store, &wish.volumes, wish.range, mode)
}

/// Holds, works, releases. It succeeds only if the hold was in place all the while.
///
/// # Errors
/// When the volumes cannot be held, the hold ran out, a disk could not be flushed, or the command not be run.
pub fn hold(controller: &mut Controller, title: &str, wish: &Wish, work: &Work) -> Result<Held> {
    let planned = plan(controller.store(), wish)?;
    let disks: Vec<(Arc<Disk>, DiskMarks)> = if work.flush {
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
            Err(held_in_vain())
        } else {
            disks.iter().try_for_each(|(disk, ledger)| flush(disk, ledger))
        };
        let ended = flushed.and_then(|()| do_work(work, begun, &mut running));
        lasted = begun.elapsed();
        let said = ended.as_ref().map(drop).map_err(ToString::to_string);
        done = Some(ended);
        said
    });
    // What the hosts wait for is over; a command that is not may have waited for them.
    let left = running.map_or(Ok(()), |running: Running| running.end());
    match (done, sent) {
        (Some(Err(failure)), _) => Err(also(failure, left)),
        (done, sent) => {
            let sent = sent?;
            Ok(Held {
                time: lasted,
                status: done.transpose()?.flatten(),
                sent,
            })
        }
    }
}

/// A failure, and that the command is still there if it is.
fn also(failure: Error, left: Result<(), String>) -> Error {
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

/// The hold is asked for again when an apparatus came or went under it. A command is run once.
fn held_in_vain() -> Error {
    Error::new(
        Kind::TimedOut,
        "hold",
        "an apparatus came or went under it, so what the command saw may not be one moment's state",
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
    let ids: BTreeSet<_> = under.map(|(_, segment)| segment.home.disk).collect();
    controller.open_disks(ids.iter().copied())?;
    let open = |id| {
        let missing = || Error::failed(format!("disk #{id}"), "is not open").hint("vctl pool check");
        controller.disks().get(id).ok_or_else(missing)
    };
    ids.into_iter().map(open).collect()
}

/// Makes durable what is held. A disk that has lost something since what was moved there was made durable last cannot be made to hold one moment's state.
fn flush(disk: &Disk, ledger: &DiskMarks) -> Result<()> {
    disk.flush(ledger)
        .map_err(|error| Error::because(format!("disk {}: flush", disk.name()), error))?;
    refuse_lost(disk.name(), ledger)
}

/// Waits, or runs the command, until it is done, the time is over, or the operator wants it to end. A command that has not ended by then
/// is left in `running`: it may wait for what is held, and is ended once nothing is.
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
            let why = format!("did not end in {} s, and was told to", work.time.as_secs_f32());
            let what = format!("command {}", started.name);
            *running = Some(started);
            Err(Error::new(Kind::TimedOut, what, why).hint("give it longer with --for"))
        }
        Err(failed) => {
            *running = Some(started);
            Err(failed)
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Cancelled, "hold", "ended on request")
}

/// A command that runs, in a process group of its own, so that all of it can be ended.
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

    /// Tells it to end, kills it if it does not, and waits no longer than a killed process takes: one that waits for the kernel is left.
    fn end(mut self) -> Result<(), String> {
        if let Ok(group) = pid_of(&self.child) {
            // Its end is looked at below; a group that is gone already is as well.
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
        // It has ended: this takes its status.
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
