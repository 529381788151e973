//! The end of an apparatus, wished or forced, and the return of a fenced one.

use super::start::open_process;
use super::{State, member, show};
use crate::change::driver::Controller;
use crate::change::survey::lives;
use crate::control::client;
use crate::error::{Error, Kind, Result};
use crate::member::{LifeLock, MemberTable};
use crate::ops::usage;
use crate::ops::watch::Watch;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{Member, Store};
use crate::wire::message::{Answer, Request};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::time::{Duration, Instant};

/// How long an apparatus may take to say that it will stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has it leave in good order, and waits for its end. False when it had ended already. Hosts that have volumes open are cut off only if
/// that is `overridden`.
///
/// # Errors
/// `NotFound`; `Busy` when hosts have volumes open; when it will not, or does not in time.
pub fn stop(
    pool: &PoolDir,
    store: &mut dyn Store,
    name: &str,
    overridden: bool,
    within: Duration,
) -> Result<bool> {
    let member = match member(store, name) {
        // The database may be a new or an older one.
        Err(error) if error.kind() == Kind::NotFound && LifeLock::alive(pool, name)? => {
            return stop_unlisted(pool, &Name::new("apparatus", name)?, overridden, within);
        }
        other => other?,
    };
    if !lives(pool, &member)? {
        store.leave(member.slot, member.incarnation)?;
        return Ok(false);
    }
    let uuid = store.header()?.uuid;
    let request = if overridden {
        Request::Stop
    } else {
        usage::check_apparatus(pool, store, &member.name)?;
        Request::StopUnused
    };
    match client::ask(pool, uuid, &member.name, request, PATIENCE) {
        Ok(Answer::Accepted) => {}
        Ok(other) => {
            return Err(Error::failed(
                what(name),
                format!("answered {other:?} when asked to stop"),
            ));
        }
        Err(error) if !LifeLock::alive(pool, name)? => drop(error),
        // Opened after the look.
        Err(error) if error.kind() == Kind::Busy => return Err(error.hint("try again")),
        Err(error) => return Err(error.hint(format!("end it by force: vctl apparatus fence {name}"))),
    }
    await_end(pool, name, within)?;
    Ok(true)
}

/// The same by its control socket alone, whatever the database says, or if there is none any more.
///
/// # Errors
/// `NotFound`; `Busy` when hosts have volumes open; when it will not, or does not in time.
pub fn stop_unlisted(pool: &PoolDir, name: &Name, overridden: bool, within: Duration) -> Result<bool> {
    if !LifeLock::alive(pool, name.as_str())? {
        return Err(Error::new(Kind::NotFound, what(name.as_str()), "does not run"));
    }
    let request = if overridden {
        Request::Stop
    } else {
        Request::StopUnused
    };
    let uuid = client::pool_of(pool, name, PATIENCE)?;
    match client::ask(pool, uuid, name, request, PATIENCE)? {
        Answer::Accepted => {}
        other => {
            let why = format!("answered {other:?} when asked to stop");
            return Err(Error::failed(what(name.as_str()), why));
        }
    }
    await_end(pool, name.as_str(), within)?;
    Ok(true)
}

/// That it can be stopped without cutting anybody off.
///
/// # Errors
/// `NotFound`; `Busy` when hosts have volumes open.
pub fn check(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<()> {
    let member = member(store, name)?;
    match LifeLock::alive(pool, name)? {
        true => usage::check_apparatus(pool, store, &member.name),
        false => Ok(()),
    }
}

fn what(name: &str) -> String {
    format!("apparatus {name}")
}

fn await_end(pool: &PoolDir, name: &str, within: Duration) -> Result<()> {
    if LifeLock::await_end(pool, name, within)? {
        return Ok(());
    }
    let why = format!("has not ended after {} s", within.as_secs());
    Err(Error::new(Kind::TimedOut, what(name), why)
        .hint(format!("end it by force: vctl apparatus fence {name}")))
}

/// Puts it out of the control range, kills its process, and waits for its end: then nothing of it can reach a disk, and
/// what its table named is no longer quarantined for its sake. False when it had ended already.
///
/// # Errors
/// When it may not be killed, or does not end in time.
pub fn fence(pool: &PoolDir, controller: &mut Controller, member: &Member, within: Duration) -> Result<bool> {
    let name = member.name.as_str();
    let (_, members) = controller.store().members()?;
    let still = |each: &Member| (each.slot, each.incarnation) == (member.slot, member.incarnation);
    if !members.iter().any(still) {
        return Ok(false);
    }
    let alive = lives(pool, member)?;
    if alive {
        shut_out(pool, controller, member)?;
        kill(pool, member)?;
        await_end(pool, name, within)?;
    }
    controller.store().leave(member.slot, member.incarnation)?;
    controller.free()?;
    Ok(alive)
}

/// Store first, word second: when the word is set, that life acknowledges nothing more.
fn shut_out(pool: &PoolDir, controller: &mut Controller, member: &Member) -> Result<()> {
    let term = controller.term();
    controller.store().fence(term, member.slot, member.incarnation)?;
    let header = controller.store().header()?;
    let table = MemberTable::open(pool, header.uuid, crate::sys::boot_id()?)?;
    table.fence(member.slot, member.incarnation);
    Ok(())
}

/// By a descriptor that names the process itself: its number might be another's by now, so the life lock is looked at in between.
fn kill(pool: &PoolDir, member: &Member) -> Result<()> {
    let name = member.name.as_str();
    let failed = |error: io::Error| {
        Error::because(format!("{}, process {}", what(name), member.pid), error)
            .hint("kill it as a user who may, then try again")
    };
    let process = match open_process(member.pid) {
        Ok(process) => process,
        Err(_) if !LifeLock::alive(pool, name)? => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !LifeLock::alive(pool, name)? {
        return Ok(());
    }
    pidfd_send_signal(&process, Signal::KILL).map_err(|errno| failed(errno.into()))
}

/// Waits until a fenced apparatus has rejoined, which it does by itself.
///
/// # Errors
/// `NotFound`; when its process has ended, or it does not come back in time.
pub fn rejoin(pool: &PoolDir, store: &mut dyn Store, name: &str, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let mut watch = Watch::new(pool)?;
    loop {
        let view = show(pool, store, name)?;
        match view.state {
            State::Dead => {
                return Err(Error::failed(what(name), "its process has ended").hint(format!(
                    "start it again: vctl apparatus start {name} {}",
                    view.member.mount.display()
                )));
            }
            State::Serving => return Ok(()),
            State::Fenced | State::Silent => {}
        }
        if !watch.changed(deadline)? {
            return Err(Error::new(Kind::TimedOut, what(name), held_up(&view.member))
                .hint(format!("end it by force: vctl apparatus fence {name}")));
        }
    }
}

/// Why a fenced apparatus does not come back, as far as can be seen from outside.
fn held_up(member: &Member) -> String {
    let state = std::fs::read_to_string(format!("/proc/{}/stat", member.pid)).unwrap_or_default();
    let letter = state
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    match letter {
        Some('T' | 't') => format!(
            "has not rejoined: its process, {}, is stopped (kill -CONT it)",
            member.pid
        ),
        Some('D') => format!("has not rejoined: its process, {}, waits for a disk", member.pid),
        _ => "has not rejoined".into(),
    }
}
