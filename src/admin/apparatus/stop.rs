//! Stops an apparatus or ends it by force, and waits for the rejoin of a fenced one.

use super::start::open_process;
use super::{State, member, refuse_elsewhere, show};
use crate::admin::usage;
use crate::admin::watch::Watch;
use crate::cluster;
use crate::controller::{Controller, Wait, directory};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::{Member, MemberState};
use crate::model::names::Name;
use crate::rpc::client;
use crate::rpc::message::{Answer, Request};
use crate::store::Store;
use crate::supervisor;
use crate::sys;
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::time::{Duration, Instant};

/// How long an apparatus may take to confirm that it will stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a supervisor may take to end after its server has stopped.
const SUPERVISOR_END: Duration = Duration::from_secs(2);
/// How long disks are waited for after a fence, so that they can discard what is freed.
const DISK_WAIT: Duration = Duration::from_millis(50);
/// How often a fence is tried again because the term was raised meanwhile.
const ATTEMPTS: u32 = 100;

/// Stops an apparatus in the ordinary way, and waits for its end. Returns false when it had
/// ended already. Hosts that have volumes open are cut off only if that is `overridden`.
///
/// # Errors
/// Fails with `NotFound`, with `Busy` when hosts have volumes open, and when it refuses or does not end in time.
pub fn stop(
    pool: &PoolDir,
    store: &mut dyn Store,
    name: &str,
    overridden: bool,
    within: Duration,
) -> Result<bool> {
    until_asked(pool, name, within, |left| {
        stop_once(pool, store, name, overridden, left)
    })
}

/// What became of an attempt to stop an apparatus.
enum Attempt {
    /// It has ended; false when it had before.
    Ended(bool),
    /// It could not be asked because its server is being replaced.
    Replaced(Error),
}

/// Makes attempts, each with the time that is left, until one does not meet a server that is being replaced.
fn until_asked(
    pool: &PoolDir,
    name: &str,
    within: Duration,
    mut attempt: impl FnMut(Duration) -> Result<Attempt>,
) -> Result<bool> {
    let until = Instant::now() + within;
    loop {
        let error = match attempt(until.saturating_duration_since(Instant::now()))? {
            Attempt::Ended(stopped) => return Ok(stopped),
            Attempt::Replaced(error) => error,
        };
        // The next server joins the pool.
        if !Watch::new(pool)?.changed(until)? {
            return Err(error.hint(format!("end it by force: vctl apparatus fence {name}")));
        }
    }
}

/// Returns whether an apparatus could not be asked because its server has crashed, and its supervisor starts another one.
fn is_replaced(pool: &PoolDir, name: &str, error: &Error) -> Result<bool> {
    let is_answer = matches!(error.kind(), ErrorKind::Busy | ErrorKind::TimedOut);
    Ok(!is_answer && supervisor_of(pool, name)?.is_some())
}

/// Makes one attempt of [`stop`].
fn stop_once(
    pool: &PoolDir,
    store: &mut dyn Store,
    name: &str,
    overridden: bool,
    within: Duration,
) -> Result<Attempt> {
    let member = match member(store, name) {
        // The database may be a new or an older one, or a controller has removed the record of a server that has ended.
        Err(error) if error.kind() == ErrorKind::NotFound && runs(pool, name)? => {
            return stop_unlisted_once(pool, &Name::new("apparatus", name)?, overridden, within);
        }
        other => other?,
    };
    refuse_elsewhere(pool, &member)?;
    if cluster::open(pool)?.has_ended(&member)? {
        let kept = give_up_mount(pool, &member.name, overridden, within)?;
        store.leave(member.slot, member.incarnation)?;
        return Ok(Attempt::Ended(kept));
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
        Err(error) if !cluster::open(pool)?.is_claimed(name)? => drop(error),
        Err(error) if is_replaced(pool, name, &error)? => return Ok(Attempt::Replaced(error)),
        // A volume was opened after the check.
        Err(error) if error.kind() == ErrorKind::Busy => return Err(error.hint("try again")),
        Err(error) => return Err(error.hint(format!("end it by force: vctl apparatus fence {name}"))),
    }
    await_end(pool, &member.name, overridden, within)?;
    Ok(Attempt::Ended(true))
}

/// Returns whether an apparatus of this name has a process, be it only a supervisor.
fn runs(pool: &PoolDir, name: &str) -> Result<bool> {
    Ok(cluster::open(pool)?.is_claimed(name)? || supervisor_of(pool, name)?.is_some())
}

/// Stops an apparatus by its control socket alone, whatever the database contains, even if there is none any more.
///
/// # Errors
/// Fails with `NotFound`, with `Busy` when hosts have volumes open, and when it refuses or does not end in time.
pub fn stop_unlisted(pool: &PoolDir, name: &Name, overridden: bool, within: Duration) -> Result<bool> {
    until_asked(pool, name.as_str(), within, |left| {
        stop_unlisted_once(pool, name, overridden, left)
    })
}

/// Makes one attempt of [`stop_unlisted`].
fn stop_unlisted_once(pool: &PoolDir, name: &Name, overridden: bool, within: Duration) -> Result<Attempt> {
    if !cluster::open(pool)?.is_claimed(name.as_str())? {
        if give_up_mount(pool, name, overridden, within)? {
            return Ok(Attempt::Ended(true));
        }
        return Err(Error::new(
            ErrorKind::NotFound,
            what(name.as_str()),
            "does not run",
        ));
    }
    let request = if overridden {
        Request::Stop
    } else {
        Request::StopUnused
    };
    let asked = client::pool_of(pool, name, PATIENCE)
        .and_then(|uuid| client::ask(pool, uuid, name, request, PATIENCE));
    match asked {
        Ok(Answer::Accepted) => {}
        Ok(other) => {
            let why = format!("answered {other:?} when asked to stop");
            return Err(Error::failed(what(name.as_str()), why));
        }
        Err(error) if is_replaced(pool, name.as_str(), &error)? => return Ok(Attempt::Replaced(error)),
        Err(error) => return Err(error),
    }
    await_end(pool, name, overridden, within)?;
    Ok(Attempt::Ended(true))
}

/// Checks that an apparatus can be stopped without cutting a host off.
///
/// # Errors
/// Fails with `NotFound`, and with `Busy` when hosts have volumes open.
pub fn check(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<()> {
    let is_claimed = cluster::open(pool)?.is_claimed(name)?;
    match supervisor_of(pool, name)? {
        Some(supervisor) if !is_claimed => return Err(holds_mount(name, supervisor)),
        _ => {}
    }
    let member = member(store, name)?;
    match is_claimed {
        true => usage::check_apparatus(pool, store, &member.name),
        false => Ok(()),
    }
}

/// Checks that an apparatus can be ended by force without cutting off a known user. No other apparatus is asked, and one that does not answer
/// is not waited for.
///
/// # Errors
/// Fails with `Busy` when hosts have volumes open.
pub fn check_fence(pool: &PoolDir, store: &mut dyn Store, member: &Member) -> Result<()> {
    match member.state {
        MemberState::Joined => usage::check_known(pool, store, member),
        MemberState::Fenced | MemberState::Left => Ok(()),
    }
}

/// Stops the supervisor of an apparatus whose server has ended. Returns false when there is none.
fn give_up_mount(pool: &PoolDir, name: &Name, overridden: bool, within: Duration) -> Result<bool> {
    let failed = |error| Error::because(what(name.as_str()), error);
    let Some(supervisor) = supervisor_of(pool, name.as_str())? else {
        return Ok(false);
    };
    if !overridden {
        return Err(holds_mount(name.as_str(), supervisor));
    }
    match supervisor::stop_supervisor(pool, name, Signal::TERM, within).map_err(failed)? {
        true => Ok(true),
        false => Err(has_not_ended(pool, name.as_str(), within)),
    }
}

/// Returns the process id of the supervisor of this apparatus, if it has one that lives.
fn supervisor_of(pool: &PoolDir, name: &str) -> Result<Option<u32>> {
    let Ok(valid) = Name::new("apparatus", name) else {
        return Ok(None);
    };
    supervisor::supervisor_of(pool, &valid).map_err(|error| Error::because(what(name), error))
}

/// Refuses to end the supervisor of a server that has ended.
fn holds_mount(name: &str, supervisor: u32) -> Error {
    let why = format!(
        "its server has ended, and its supervisor, process {supervisor}, holds the mount for its hosts while it starts another"
    );
    Error::new(ErrorKind::Busy, what(name), why).hint(
        "its log says why no server comes up; --cut-off-users stops it, and programs on its mount get ENOTCONN",
    )
}

/// Kills the supervisor of an apparatus that is no member of the pool. Returns false when there is none.
///
/// # Errors
/// Fails when it may not be killed, or has not ended in time.
pub fn kill_supervisor_of(pool: &PoolDir, name: &str, within: Duration) -> Result<bool> {
    if supervisor_of(pool, name)?.is_none() {
        return Ok(false);
    }
    let killed = end_supervisor(pool, &Name::new("apparatus", name)?, within)?;
    killed
        .then_some(true)
        .ok_or_else(|| has_not_ended(pool, name, within))
}

pub(super) fn what(name: &str) -> String {
    format!("apparatus {name}")
}

/// Waits until an apparatus that was asked to stop has ended, with its supervisor if it has one. A server that crashes before its supervisor knows
/// that it is to stop is started again: its supervisor is stopped then, if hosts may be cut off.
fn await_end(pool: &PoolDir, name: &Name, overridden: bool, within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    let failed = |error| Error::because(what(name.as_str()), error);
    if !cluster::open(pool)?.await_end(name.as_str(), within)? {
        return Err(has_not_ended(pool, name.as_str(), within));
    }
    let left = until.saturating_duration_since(Instant::now());
    if supervisor::await_end(pool, name, left.min(SUPERVISOR_END)).map_err(failed)? {
        return Ok(());
    }
    let left = until.saturating_duration_since(Instant::now());
    match give_up_mount(pool, name, overridden, left) {
        Ok(_) => Ok(()),
        // The remaining time says nothing to who has set the whole.
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(has_not_ended(pool, name.as_str(), within)),
        Err(error) => Err(error),
    }
}

/// Returns why an apparatus has not ended: it leaves the pool's database, so it waits for a directory that does not answer.
fn has_not_ended(pool: &PoolDir, name: &str, within: Duration) -> Error {
    let waited = format!("has not ended after {} s", within.as_secs());
    match directory::fault(pool) {
        Err(why) => {
            let waits = format!("{waited}, and ends when it can write to the database: {why}");
            let error = Error::new(ErrorKind::TimedOut, what(name), waits);
            why.way_out().into_iter().fold(error, Error::hint)
        }
        Ok(_) => Error::new(ErrorKind::TimedOut, what(name), waited)
            .hint(format!("end it by force: vctl apparatus fence {name}")),
    }
}

/// What became of an apparatus that was fenced by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// Its process had ended before.
    HadEnded,
    /// It has ended: none of its writes can reach a disk any more, and what its table named is no longer quarantined because of it.
    Ended,
    /// It acknowledges nothing more and has been killed, but has not ended yet: it waits in the kernel. What its table names stays in
    /// quarantine.
    IsEnding,
}

/// Fences an apparatus and kills its process. It does not wait for the controller lock: the holder finds that the
/// membership moved, and tries its change again. The end of the process is waited for no longer than `within`.
///
/// # Errors
/// Fails when the process may not be killed, or when it has not ended and its fence could not be recorded.
pub fn fence(pool: &PoolDir, store: &mut dyn Store, member: &Member, within: Duration) -> Result<Fenced> {
    refuse_elsewhere(pool, member)?;
    let name = member.name.as_str();
    let (_, members) = store.members()?;
    let still = |each: &Member| (each.slot, each.incarnation) == (member.slot, member.incarnation);
    if !members.iter().any(still) {
        return Ok(Fenced::HadEnded);
    }
    let alive = !cluster::open(pool)?.has_ended(member)?;
    if alive {
        let recorded = fence_incarnation(pool, store, member);
        kill_supervisor(pool, member, within)?;
        kill(pool, member)?;
        if !cluster::open(pool)?.await_end(name, within)? {
            return recorded.map(|()| Fenced::IsEnding);
        }
    } else {
        kill_supervisor(pool, member, within)?;
    }
    store.leave(member.slot, member.incarnation)?;
    free(pool, &format!("apparatus fence {name}"));
    Ok(if alive { Fenced::Ended } else { Fenced::HadEnded })
}

/// Fences in the store first, then by the fence word: once the word is set, that incarnation acknowledges nothing more.
fn fence_incarnation(pool: &PoolDir, store: &mut dyn Store, member: &Member) -> Result<()> {
    let mut attempts = 0;
    let header = loop {
        let header = store.header()?;
        match store.fence(header.term, member.slot, member.incarnation) {
            // Another controller has just taken the lock.
            Err(why) if why.kind() == ErrorKind::Stale && attempts < ATTEMPTS => attempts += 1,
            other => break other.map(|_| header)?,
        }
    };
    let shared = cluster::open(pool)?.share(header.uuid)?;
    shared.members.fence(member.slot, member.incarnation);
    Ok(())
}

/// Frees what was quarantined because of the apparatus, if no controller holds the lock at this moment: otherwise the holder or the next
/// one does that.
fn free(pool: &PoolDir, purpose: &str) {
    let freed = Controller::acquire_with_disk_wait(pool, purpose, Wait::IfFree, DISK_WAIT);
    if let Err(why) = freed.and_then(|mut controller| controller.free_now()) {
        log::info!("the space that the apparatus kept in quarantine is freed another time: {why}");
    }
}

/// Kills the supervisor of an apparatus, if it has one, so that it starts no other server.
fn kill_supervisor(pool: &PoolDir, member: &Member, within: Duration) -> Result<()> {
    end_supervisor(pool, &member.name, within).map(drop)
}

/// Kills the supervisor of this apparatus. Returns whether there is none any more.
fn end_supervisor(pool: &PoolDir, name: &Name, within: Duration) -> Result<bool> {
    supervisor::stop_supervisor(pool, name, Signal::KILL, within).map_err(|error| {
        Error::because(format!("the supervisor of {}", what(name.as_str())), error)
            .hint("kill it as a user with the permission, then try again")
    })
}

/// Kills the process through a descriptor, because its number might belong
/// to another process by now; whether it lives is checked in between.
fn kill(pool: &PoolDir, member: &Member) -> Result<()> {
    let name = member.name.as_str();
    let failed = |error: io::Error| {
        Error::because(format!("{}, process {}", what(name), member.pid), error)
            .hint("kill it as a user with the permission, then try again")
    };
    let process = match open_process(member.pid) {
        Ok(process) => process,
        Err(_) if !cluster::open(pool)?.is_claimed(name)? => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !cluster::open(pool)?.is_claimed(name)? {
        return Ok(());
    }
    pidfd_send_signal(&process, Signal::KILL).map_err(|errno| failed(errno.into()))
}

/// Waits until a fenced apparatus has rejoined, which it does by itself.
///
/// # Errors
/// Fails with `NotFound`, when its process has ended, and when it does not rejoin in time.
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
            State::Serving | State::Ending => return Ok(()),
            State::Fenced | State::Silent | State::Restarting => {}
        }
        if !watch.changed(deadline)? {
            return Err(
                Error::new(ErrorKind::TimedOut, what(name), why_not_rejoined(&view.member))
                    .hint(format!("end it by force: vctl apparatus fence {name}")),
            );
        }
    }
}

/// Describes why a fenced apparatus has not rejoined, as far as that can be seen from outside.
fn why_not_rejoined(member: &Member) -> String {
    let stat = sys::proc::stat(member.pid).ok().flatten();
    match stat.map(|stat| stat.state) {
        Some('T' | 't') => format!(
            "has not rejoined: its process, {}, is stopped (kill -CONT it)",
            member.pid
        ),
        Some('D') => format!("has not rejoined: its process, {}, waits for a disk", member.pid),
        _ => "has not rejoined".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Guard;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_supervisor_that_goes_on_after_the_end_of_its_server_is_stopped_if_hosts_may_be_cut_off() {
        let scratch = tempfile::tempdir().unwrap();
        let (pool, name) = (
            PoolDir::new(scratch.path()),
            Name::new("apparatus", "a1").unwrap(),
        );
        std::fs::create_dir(pool.run()).unwrap();
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGTERM, asked.clone()).unwrap();
        assert!(
            await_end(&pool, &name, true, Duration::ZERO).is_ok(),
            "there is none"
        );
        let _supervisor = Guard::acquire(&pool, &name).unwrap();
        let refused = await_end(&pool, &name, false, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(!asked.load(Ordering::SeqCst));
        let late = await_end(&pool, &name, true, Duration::ZERO).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut, "{late}");
        assert!(asked.load(Ordering::SeqCst));
    }
}
