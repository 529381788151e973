//! The supervisor's own loop: starts the server, waits for its end, starts it again, and replaces it on request.

use super::channel::{self, Item, Kind, Message};
use super::link::REPLACED;
use super::manager::{Kept, Left, ManagerStore};
use super::requests::Requests;
use super::restarts::Restarts;
use super::server::{FAILED, Server, describe, exit_status};
use super::standby::Standby;
use super::upgrade::{Stage, Upgrade, answer};
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Signal;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Maximum number of descriptors that are kept: locks of hosts above all.
const MOST: usize = 8192;

/// One life of a server.
struct Life {
    status: ExitStatus,
    /// How long it served; `None` if it never did.
    served: Option<Duration>,
    ended_us: u64,
    /// Since when it took no requests, if it ended because another server was prepared.
    retired_us: Option<u64>,
}

/// What the supervisor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The end of the server.
    End,
    /// A signal to stop.
    Stop,
    /// A message of the server.
    Server,
    /// A command that connects.
    Connection,
    /// The request of a command.
    Command,
    /// A message of the server that is to replace the present one.
    Successor,
    /// The end of that server.
    SuccessorEnd,
    /// The end of the server that stands by.
    StandbyEnd,
}

/// Supervisor of one apparatus.
struct Supervisor<'a> {
    kept: Kept,
    manager: ManagerStore,
    /// Whether a server has said that `kept` is all that a successor needs.
    is_complete: bool,
    stop: UnixStream,
    is_stopping: bool,
    /// The program of the next server.
    program: PathBuf,
    server: &'a dyn Fn(&Path) -> Command,
    requests: Option<Requests>,
    /// A command that has connected and not sent its request yet.
    command: Option<OwnedFd>,
    upgrade: Option<Upgrade>,
    standby: Standby,
}

/// Starts servers until one ends in order, the mount has ended, or this process is asked to stop. `server` returns the command of a server of this
/// program. Returns the exit status.
///
/// # Errors
/// Fails when no server can be started, before there is a mount.
pub fn supervise(
    program: PathBuf,
    server: &dyn Fn(&Path) -> Command,
    requests: Option<Requests>,
    give_up: impl FnOnce(),
) -> io::Result<u8> {
    if let Err(why) = sys::allow_many_files() {
        log::debug!("open files: {why}");
    }
    let (manager, left) = ManagerStore::open()?;
    let mut supervisor = Supervisor {
        kept: Kept::new(),
        manager,
        is_complete: false,
        stop: on_signals()?,
        is_stopping: false,
        program,
        server,
        requests,
        command: None,
        upgrade: None,
        standby: Standby::default(),
    };
    let (mut restarts, mut how) = (Restarts::default(), String::new());
    if let Some(ended) = supervisor.go_on(left) {
        (restarts.ended, restarts.since_us) = (ended, sys::monotonic_us());
        how = "ended with its supervisor".to_owned();
    }
    loop {
        supervisor.manager.ended(restarts.ended);
        let begin = Message::Begin {
            before: restarts.ended,
            ended_us: restarts.since_us,
            how,
        };
        let wait = match supervisor.live(&begin, restarts.since_us) {
            Ok(life) if supervisor.is_stopping || life.status.success() || !supervisor.has_mount() => {
                return Ok(supervisor.end(life.status, give_up));
            }
            Ok(Life {
                retired_us: Some(since_us),
                ..
            }) => {
                how = REPLACED.to_owned();
                restarts.replaced(since_us);
                continue;
            }
            Ok(life) => {
                how = describe(life.status);
                restarts.after(life.served, life.ended_us)
            }
            Err(error) if supervisor.has_mount() => {
                how = format!("could not be started: {error}");
                restarts.after(None, sys::monotonic_us())
            }
            Err(error) => return Err(error),
        };
        report(&how, restarts, wait);
        supervisor.fall_back(&how);
        if supervisor.wait(wait)? {
            supervisor.give_up(Some(give_up));
            return Ok(FAILED);
        }
    }
}

fn report(how: &str, restarts: Restarts, wait: Duration) {
    let hosts = "its hosts wait";
    if wait.is_zero() {
        log::error!("the server {how}; it is started again, and {hosts}");
    } else {
        log::error!(
            "the server {how}, {} times in a row without having recovered; it is started again in {} ms. The mount is held and {hosts}: repair or replace the program, or stop this process (SIGTERM), which cuts them off",
            restarts.short,
            wait.as_millis()
        );
    }
}

/// Returns a stream that has a byte for each SIGTERM and SIGINT.
fn on_signals() -> io::Result<UnixStream> {
    let (stop, on_signal) = UnixStream::pair()?;
    stop.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, on_signal.try_clone()?)?;
    }
    Ok(stop)
}

/// Waits until one of the descriptors is ready, no longer than `within`. Returns the sources that are.
fn await_any(sources: &[(Source, BorrowedFd<'_>)], within: Option<Duration>) -> io::Result<Vec<Source>> {
    let mut polled: Vec<PollFd<'_>> = sources
        .iter()
        .map(|(_, descriptor)| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN))
        .collect();
    let timeout = within
        .map(Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    match poll(&mut polled, timeout.as_ref()) {
        Err(Errno::INTR) => return Ok(Vec::new()),
        other => other?,
    };
    let ready = sources.iter().zip(&polled);
    let ready = ready.filter(|(_, polled)| !polled.revents().is_empty());
    Ok(ready.map(|((source, _), _)| *source).collect())
}

impl Supervisor<'_> {
    /// Goes on where an earlier supervisor was, and returns the number of servers that have ended, if there is anything to go on with.
    fn go_on(&mut self, left: Left) -> Option<u64> {
        (self.kept, self.is_complete) = (left.kept, left.is_complete);
        if self.has_mount() {
            log::warn!("another supervisor has ended: this one goes on with its mount");
            return Some(left.ended + 1);
        }
        self.manager.clear(&self.kept);
        self.kept.clear();
        self.is_complete = false;
        None
    }

    /// Ends with the server, and returns the exit status. A server that crashed while it stopped has not detached the mount, or hosts still have files open
    /// there; what was asked for is done all the same.
    fn end(&mut self, status: ExitStatus, detach: impl FnOnce()) -> u8 {
        let has_crashed = !status.success() && self.has_mount();
        if has_crashed {
            log::error!(
                "the server {} while it stopped: its hosts are cut off",
                describe(status)
            );
        }
        self.give_up(has_crashed.then_some(detach));
        if has_crashed { 0 } else { exit_status(status) }
    }

    /// Ends what belongs to the mount, which has ended or is detached by `detach`.
    fn give_up(&mut self, detach: Option<impl FnOnce()>) {
        self.refuse("the apparatus has ended");
        if let Some(detach) = detach {
            detach();
        }
        self.manager.clear(&self.kept);
    }

    /// Starts a server, or takes the one that is prepared, passes on what is kept, and waits for its end. Hosts have waited since this time.
    fn live(&mut self, begin: &Message, since_us: u64) -> io::Result<Life> {
        let prepared = match &mut self.upgrade {
            Some(upgrade) => upgrade.take_over(since_us),
            None => self.standby.take(&self.program),
        };
        let mut server = match prepared {
            Some(server) => server,
            None => Server::start((self.server)(&self.program))?,
        };
        let mut kept = self.kept.iter();
        let passed = kept
            .try_for_each(|((kind, key), each)| server.send_kept(*kind, *key, each.as_fd()))
            .and_then(|()| server.send(begin));
        if let Err(error) = passed {
            log::error!("what is kept cannot be passed to the server: {error}");
        }
        let serves_since = self.watch(&mut server)?;
        let ended_us = sys::monotonic_us();
        let retires = self
            .upgrade
            .as_ref()
            .filter(|upgrade| upgrade.stage() == Stage::Retiring);
        Ok(Life {
            retired_us: retires.map(|upgrade| upgrade.since_us.unwrap_or(ended_us)),
            status: server.wait()?,
            served: serves_since.map(|since| since.elapsed()),
            ended_us,
        })
    }

    /// Serves the messages of a server until it has ended, passes signals on to it, and has it replaced on request. Returns since when it served.
    fn watch(&mut self, server: &mut Server) -> io::Result<Option<Instant>> {
        let mut serves_since = None;
        loop {
            let mut ready = self.ready(server)?;
            if ready.contains(&Source::Server) {
                // What the server has said comes before what is asked of it.
                ready.retain(|source| *source != Source::Command);
            }
            for source in &ready {
                match source {
                    Source::End => (),
                    Source::Stop => self.pass_signal_on(server),
                    Source::Server => _ = self.receive(server, &mut serves_since),
                    Source::Connection => self.command = self.requests.as_ref().and_then(Requests::accept),
                    Source::Command => self.begin_upgrade(),
                    Source::Successor => self.successor_speaks(server),
                    Source::StandbyEnd => self.standby.ended(),
                    Source::SuccessorEnd => {
                        if let Some(upgrade) = self.upgrade.take() {
                            upgrade.ended();
                            self.standby.wanted();
                        }
                    }
                }
            }
            if ready.contains(&Source::End) {
                while self.receive(server, &mut serves_since) {}
                return Ok(serves_since);
            }
            self.end_late_upgrade(server);
            if self.upgrade.is_none() && !self.is_stopping {
                self.standby.start(&self.program, self.server);
            }
        }
    }

    /// Waits for whatever concerns this server.
    fn ready(&self, server: &Server) -> io::Result<Vec<Source>> {
        let mut sources = vec![(Source::End, server.process()), (Source::Stop, self.stop.as_fd())];
        sources.extend(server.channel().map(|channel| (Source::Server, channel)));
        let Some(upgrade) = &self.upgrade else {
            self.add_requests(&mut sources);
            sources.extend(
                self.standby
                    .process()
                    .map(|process| (Source::StandbyEnd, process)),
            );
            return await_any(&sources, self.standby.left());
        };
        if let Some(successor) = upgrade.successor() {
            sources.extend(successor.channel().map(|channel| (Source::Successor, channel)));
            sources.push((Source::SuccessorEnd, successor.process()));
        }
        await_any(&sources, Some(upgrade.left()))
    }

    /// Adds the descriptors by which commands come.
    fn add_requests<'s>(&'s self, sources: &mut Vec<(Source, BorrowedFd<'s>)>) {
        let requests = self
            .requests
            .as_ref()
            .map(|requests| requests.descriptor().as_fd());
        sources.extend(requests.map(|requests| (Source::Connection, requests)));
        sources.extend(
            self.command
                .iter()
                .map(|command| (Source::Command, command.as_fd())),
        );
    }

    fn pass_signal_on(&mut self, server: &Server) {
        if self.was_asked() {
            self.standby.stop();
            server.signal(Signal::TERM);
        }
    }

    /// Receives a message. Returns false when there is none, or none any more.
    fn receive(&mut self, server: &mut Server, serves_since: &mut Option<Instant>) -> bool {
        match server.receive() {
            Some(Message::Keep(Item {
                kind,
                key,
                descriptor,
            })) if self.kept.len() < MOST => {
                self.manager.keep(kind, key, descriptor.as_fd());
                self.kept.insert((kind, key), descriptor);
            }
            Some(Message::Release(kind, key)) => {
                self.manager.release(kind, key);
                self.kept.remove(&(kind, key));
            }
            Some(Message::Serves) => {
                self.is_complete = true;
                self.manager.complete();
                *serves_since = Some(Instant::now());
                self.end_upgrade();
                self.standby.wanted();
            }
            Some(Message::Stops) => {
                self.is_stopping = true;
                self.standby.stop();
            }
            // It was prepared before it became the server.
            Some(Message::Prepared) => (),
            Some(Message::Failed(why)) => self
                .upgrade
                .iter_mut()
                .for_each(|upgrade| upgrade.failed(why.clone())),
            Some(Message::Stays(why)) => self.refuse(&format!("the server goes on: {why}")),
            Some(Message::Retired { since_us }) => {
                self.upgrade
                    .iter_mut()
                    .for_each(|upgrade| upgrade.since_us = Some(since_us));
            }
            Some(_) => log::error!("a message of the server makes no sense, or there are too many locks"),
            None => return false,
        }
        true
    }

    /// Receives the request of a command, and starts the server that it asks for.
    fn begin_upgrade(&mut self) {
        let Some(command) = self.command.take() else {
            return;
        };
        let received = channel::receive(&command, RecvFlags::DONTWAIT);
        let Ok(Some(Message::Upgrade { program, within_us })) = received else {
            return;
        };
        if !self.has_mount() {
            let why = "there is no mount that another server could go on with: this one starts, or the kernel cannot send requests again (Linux 6.9 can)";
            return answer(&command, &Message::Refused(why.to_owned()));
        }
        let program = match program.is_empty() {
            true => self.program.clone(),
            false => PathBuf::from(program),
        };
        log::info!("the server is to be replaced by {}", program.display());
        self.standby.stop();
        let server = (self.server)(&program);
        match Upgrade::begin(command, program, server, Duration::from_micros(within_us)) {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => log::error!("the server that is to replace this one cannot be started: {error}"),
        }
    }

    /// Receives a message of the new server, and asks the old one to retire when the new one is prepared.
    fn successor_speaks(&mut self, server: &Server) {
        if let Some(upgrade) = &mut self.upgrade
            && upgrade.receive()
        {
            match server.send(&Message::Retire) {
                Ok(()) => upgrade.retires(),
                Err(error) => self.refuse(&format!("the server cannot be asked to retire: {error}")),
            }
        }
    }

    /// Ends an upgrade whose stage has lasted too long.
    fn end_late_upgrade(&mut self, server: &Server) {
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| upgrade.left().is_zero()) else {
            return;
        };
        match upgrade.stage() {
            Stage::Preparing => {
                self.refuse("the new program was not prepared in its time: is it an apparatus?")
            }
            Stage::Retiring => self.refuse("the server did not end in its time"),
            Stage::TakingOver => server.signal(Signal::KILL),
        }
    }

    /// Records that the server serves; if it has replaced another one, later servers are of its program.
    fn end_upgrade(&mut self) {
        if let Some(upgrade) = self
            .upgrade
            .take_if(|upgrade| upgrade.stage() == Stage::TakingOver)
        {
            self.program.clone_from(&upgrade.program);
            upgrade.done(sys::monotonic_us());
        }
    }

    /// Ends the upgrade whose new server has become the server and ended without serving: the next one is of the program before.
    fn fall_back(&mut self, how: &str) {
        if let Some(upgrade) = self
            .upgrade
            .take_if(|upgrade| upgrade.stage() == Stage::TakingOver)
        {
            upgrade.refuse(&format!(
                "the new server {how} before it served; {} is started again",
                self.program.display()
            ));
        }
    }

    fn refuse(&mut self, why: &str) {
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.refuse(why);
            self.standby.wanted();
        }
    }

    /// Records that this process was asked to stop. Returns false when it was not.
    fn was_asked(&mut self) -> bool {
        let mut bytes = [0; 16];
        let asked = self.stop.read(&mut bytes).is_ok_and(|len| len > 0);
        self.is_stopping |= asked;
        asked
    }

    /// Waits before the next start; an upgrade ends the wait. Returns whether this process was asked to stop meanwhile.
    fn wait(&mut self, wait: Duration) -> io::Result<bool> {
        let until = Instant::now() + wait;
        while self.upgrade.is_none() {
            let mut sources = vec![(Source::Stop, self.stop.as_fd())];
            self.add_requests(&mut sources);
            let left = until.saturating_duration_since(Instant::now());
            for source in await_any(&sources, Some(left))? {
                match source {
                    Source::Stop if self.was_asked() => return Ok(true),
                    Source::Connection => self.command = self.requests.as_ref().and_then(Requests::accept),
                    Source::Command => self.begin_upgrade(),
                    _ => (),
                }
            }
            if left.is_zero() {
                break;
            }
        }
        Ok(false)
    }

    /// Returns whether there is a mount that a successor can serve.
    fn has_mount(&self) -> bool {
        let device = self.kept.iter().find(|((kind, _), _)| *kind == Kind::Device);
        let Some((_, device)) = device.filter(|_| self.is_complete) else {
            return false;
        };
        // The device reports an error once the mount has ended.
        let mut ready = [PollFd::new(device, PollFlags::IN)];
        let polled = poll(&mut ready, Some(&Timespec::default()));
        polled.is_ok() && !ready[0].revents().contains(PollFlags::ERR)
    }
}
