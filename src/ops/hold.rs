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
    let long = u64::try_from(work.time.saturating_add(GRACE).as_micros()).unwrap_or(u64::MAX);
    controller.set_patience(Patience {
        hold_us: PATIENCE.hold_us.saturating_add(long),
        ..PATIENCE
    });
    let (mut done, mut lasted) = (None, Duration::ZERO);
    let sent = send_with(controller, title, &planned, &mut || {
        let begun = Instant::now();
        let again = matches!(done, Some(Ok(_))) && work.command.is_some();
        let flushed = if again {
            Err(held_in_vain())
        } else {
            disks.iter().try_for_each(|(disk, ledger)| flush(disk, ledger))
        };
        let ended = flushed.and_then(|()| do_work(work, begun));
        lasted = begun.elapsed();
        let said = ended.as_ref().map(drop).map_err(ToString::to_string);
        done = Some(ended);
        said
    });
    match (done, sent) {
        (Some(Err(failure)), _) => Err(failure),
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

/// Waits, or runs the command, until it is done, the time is over, or the operator wants it to end.
fn do_work(work: &Work, begun: Instant) -> Result<Option<u8>> {
    let deadline = begun + work.time;
    let Some(command) = &work.command else {
        return match wait(work.stop.as_fd(), None, deadline)? {
            Woken::Stop => Err(stopped()),
            Woken::Ended | Woken::Late => Ok(None),
        };
    };
    let name = command
        .words
        .first()
        .map(|word| word.to_string_lossy().into_owned())
        .unwrap_or_default();
    let failed = |error: io::Error| Error::because(format!("command {name}"), error);
    let mut child = spawn(command).map_err(failed)?;
    let end = pidfd_of(&child).map_err(failed)?;
    let woken = wait(work.stop.as_fd(), Some(end.as_fd()), deadline)?;
    if woken != Woken::Ended {
        end_group(&mut child, &end).map_err(failed)?;
    }
    match woken {
        Woken::Ended => Ok(Some(status_of(child.wait().map_err(failed)?))),
        Woken::Stop => Err(stopped()),
        Woken::Late => {
            let why = format!("did not end in {} s, and was told to", work.time.as_secs_f32());
            Err(Error::new(Kind::TimedOut, format!("command {name}"), why).hint("give it longer with --for"))
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Cancelled, "hold", "ended on request")
}

/// In a process group of its own, so that all of it can be ended.
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

fn end_group(child: &mut Child, end: &OwnedFd) -> io::Result<()> {
    let group = pid_of(child)?;
    // Its end is looked at below; a group that is gone already is as well.
    let _ = kill_process_group(group, Signal::TERM);
    let mut ended = [PollFd::new(end, PollFlags::IN)];
    let grace = Timespec::try_from(GRACE).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let _ = poll(&mut ended, Some(&grace));
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().map(drop)
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
