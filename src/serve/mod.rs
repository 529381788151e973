//! Runs one apparatus from its start to its end.
//!
//! Start: pool, claim of the name, control socket, disks, shared state of the members, join, table, control thread, mount,
//! readiness. Each step runs only when all before it have succeeded; when a later one fails, the earlier ones are undone.
//! End: unmount, accept nothing more, wait for requests in flight, end the control thread, leave the control range.

pub mod config;
pub mod daemon;
mod disks;
mod exporter;
mod heartbeat;
mod history;
mod host_locks;
mod hosts;
mod kept;
mod labels;
mod lease;
mod lines;
mod memory;
mod mount_helper;
mod phase;
mod process;
mod report;
mod retire;
mod standby;
mod startup;
mod times;

use crate::agent::persister::Persister;
use crate::agent::server::{Server, Setup};
use crate::blockdev::Disks;
use crate::cluster::{OwnEntry, SharedState};
use crate::controller::pool::PoolHandle;
use crate::datapath::{Apparatus, Parts, Runtime, SystemThreads, Waker};
use crate::frontend::fuse::{self, Mount};
use crate::locks::{Arbiter, Locks, RunFiles};
use crate::map::{Draft, Table};
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::member::Joined;
use crate::model::names::Name;
use crate::model::units::Slot;
use crate::serve::config::Config;
use crate::store::Store;
use crate::sys;
use crossbeam_channel::{Receiver, bounded, never, select};
use exporter::Exporter;
use heartbeat::Heartbeat;
use kept::Kept;
use memory::Memory;
use phase::Phase;
use process::Identity;
use report::Reporter;
use sd_notify::NotifyState;
use startup::{Endpoint, Startup};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use times::TimePublisher;

/// How long the end waits for requests in flight.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// Settings of an apparatus process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pool's directory; the user's default if `None`.
    pub pool: Option<PathBuf>,
    /// The name of the apparatus.
    pub name: Name,
    /// Where it mounts.
    pub mount: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// Whether it moves into a memory cgroup of its own, where the present one has a limit and that is permitted.
    pub own_cgroup: bool,
    /// Whether it is the server of a supervisor.
    pub is_kept: bool,
    /// Whether it is to behave as on a kernel that cannot send requests again.
    pub hides_resend: bool,
}

/// Serves until it is asked to stop, or its mount is gone.
///
/// # Errors
/// Fails when it cannot start: the error names the thing, the reason and the way out.
pub fn run(settings: &Settings) -> Result<()> {
    let mut settings = settings.clone();
    settings.config.resolve_transport()?;
    let settings = &settings;
    let mut kept = settings.is_kept.then(Kept::take_over).transpose()?;
    process::step("taken over");
    let memory = Memory::prepare(settings);
    process::step("memory");
    if let Err(why) = sys::allow_many_files() {
        log::debug!("open files: {why}");
    }
    let (ask, asked) = bounded(1);
    // A signal ends a server that stands by, which has nothing to complete.
    let stands_by = kept.as_ref().is_some_and(Kept::stands_by);
    if !stands_by {
        process::forward_signals(ask.clone())?;
    }
    let (mut startup, read, endpoint) = Startup::new(settings, kept.as_mut())?;
    if stands_by {
        process::forward_signals(ask.clone())?;
    }
    process::step("startup");
    let exporter = settings.config.metrics.map(Exporter::bind).transpose()?;
    let (joined, table) = startup.join(settings, read, endpoint.port())?;
    process::step("joined");
    let (entry, shared) = (startup.entry(&joined), startup.shared.clone());
    let goes_on = kept.as_ref().is_some_and(|kept| kept.previous().is_some());
    let operation = history::Entry::begin(&startup.pool.dir, settings, goes_on);
    let mut membership = Membership {
        store: startup.store,
        slot: joined.member.slot,
        shared: shared.clone(),
        entry: entry.clone(),
    };
    let reporter = startup.reporter.clone();
    let core = Core {
        settings,
        pool: startup.pool,
        reporter: startup.reporter,
        shared,
        entry,
        exporter,
        memory: &memory,
        kept,
        // If the channel is full, a request to stop is waiting already.
        stop: Box::new(move || _ = ask.try_send(0)),
    };
    let claim = endpoint.claim.clone();
    let served = core.serve(&joined, table, startup.disks, endpoint, &asked);
    if matches!(served, Ok(ServeEnd::Replaced)) {
        operation.end(0, "");
        reporter.end();
        retire::end();
    }
    if !matches!(served, Ok(ServeEnd::Abruptly)) {
        membership.leave();
    }
    match &served {
        Ok(_) => operation.end(0, ""),
        Err(why) => operation.end(1, &why.to_string()),
    }
    reporter.end();
    drop(claim);
    served.map(drop)
}

/// The membership of this apparatus in the control range.
struct Membership {
    store: Box<dyn Store>,
    slot: Slot,
    shared: SharedState,
    entry: Arc<dyn OwnEntry>,
}

impl Membership {
    /// Leaves the control range, with nothing in flight.
    fn leave(&mut self) {
        // A rejoin may have begun another incarnation.
        let incarnation = self.shared.members.entry(self.slot).incarnation;
        self.entry.end();
        if let Err(error) = self.store.leave(self.slot, incarnation) {
            log::warn!("the store did not record that this apparatus has left: {error}");
        }
        if let Err(error) = self.store.checkpoint() {
            log::warn!("{error}");
        }
        self.shared.members.leave();
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServeEnd {
    /// Nothing was in flight.
    InOrder,
    /// Requests were still in flight: only the end of the process ends them.
    Abruptly,
    /// Another server goes on with the mount.
    Replaced,
}

/// The parts that serve.
struct Core<'a> {
    settings: &'a Settings,
    pool: PoolHandle,
    reporter: Arc<Reporter>,
    shared: SharedState,
    entry: Arc<dyn OwnEntry>,
    exporter: Option<Exporter>,
    memory: &'a Memory,
    kept: Option<Kept>,
    stop: Box<dyn Fn() + Send + Sync>,
}

impl Core<'_> {
    fn serve(
        mut self,
        joined: &Joined,
        table: Draft,
        disks: Disks,
        endpoint: Endpoint,
        asked: &Receiver<i32>,
    ) -> Result<ServeEnd> {
        let settings = self.settings;
        let waker = Arc::new(Waker::new().map_err(|error| Error::because("control thread", error))?);
        let who = identity(&self.pool, settings, joined);
        let access = joined.snapshot.header.access;
        let reporter = self.reporter.clone();
        let persister = Persister::new(self.pool.open_store.clone(), self.shared.ledgers.clone());
        let apparatus = Apparatus::start(Parts {
            access,
            name: settings.name.clone(),
            table: Table::of(table),
            disks,
            records: joined.snapshot.disks.clone(),
            ledgers: self.shared.ledgers.clone(),
            entry: self.entry.clone(),
            waker: waker.clone(),
            threads: Arc::new(SystemThreads),
            persist: persister.clone(),
            report: self.reporter,
            limits: settings.config.limits(self.memory.most(), access),
            stop: self.stop,
        })?;
        process::step("apparatus");
        let runtime: Arc<dyn Runtime> = apparatus.control().clone();
        persister.serve(&runtime);
        let lease = lease::start(&self.pool, joined, (&self.shared, &self.entry), &runtime)?;
        let (ledgers, stores) = (self.shared.ledgers.clone(), self.pool.open_store.clone());
        let (ours, inside) = ((self.shared, self.entry), (runtime, waker));
        let mut setup = Setup::new(&self.pool, joined, endpoint.parts(), ours, inside);
        setup.memory = self.memory.reporter(settings, joined);
        let phase = Phase::shown_by(&mut setup);
        setup.thread_limit = settings.config.thread_limit();
        setup.left_jobs = self.kept.as_mut().map(Kept::keep_jobs).transpose()?;
        let ended = Server::start(setup).and_then(|server| {
            let exporting = self.exporter.map(|exporter| exporter.start(who.clone()));
            exporting.transpose()?;
            let times = publish_times(&self.pool, &who, &apparatus, self.kept.as_ref())?;
            let mount = mount(settings, &self.pool, joined, &apparatus, self.kept.as_mut())?;
            if let Some(kept) = &self.kept {
                hand_over(kept, &mount, &settings.name, &reporter)?;
            }
            let renewals =
                labels::Renewals::start(apparatus.control().clone(), ledgers.clone(), stores.clone());
            self.memory.warn(settings, joined);
            announce(settings, &mount, &persister);
            let serving = Serving {
                settings,
                apparatus: &apparatus,
                mount: &mount,
                kept: self.kept.as_ref(),
                server: &server,
                phase: &phase,
            };
            let ended = serving.watch(asked, Heartbeat::new(who, reporter))?;
            if ended == ServeEnd::Replaced {
                // The next server has the claim only when this process has ended, which follows at once.
                std::mem::forget((times, renewals, server, mount, lease));
                return Ok(ended);
            }
            times.end();
            drop(renewals);
            if ended == ServeEnd::InOrder {
                labels::renew_at_end(&**apparatus.control(), &*ledgers, &stores);
            }
            server.shut();
            Ok(ended)
        });
        // Its end would fail the requests that are handed back to the next server.
        if !matches!(ended, Ok(ServeEnd::Replaced)) {
            apparatus.end();
        }
        ended
    }
}

/// Tells the service manager that hosts are served, and prepares what no host has to wait for.
fn announce(settings: &Settings, mount: &Mount, persister: &Arc<Persister>) {
    let serves = format!("{} serves at {}", settings.name, mount.point().display());
    log::info!("{serves}");
    process::notify(&[NotifyState::Ready, NotifyState::Status(&serves)]);
    persister.open_ahead();
}

/// Starts to exchange times of modification. A server that goes on with a mount does not wait for them.
fn publish_times(
    pool: &PoolHandle,
    who: &Identity,
    apparatus: &Arc<Apparatus>,
    kept: Option<&Kept>,
) -> Result<TimePublisher> {
    let goes_on = kept.is_some_and(|kept| kept.previous().is_some());
    let times = TimePublisher::start(apparatus, pool.cluster.times(&who.name, who.uuid), goes_on);
    times.map_err(|error| Error::because("times of modification", error))
}

/// What serves, as the main thread watches it.
struct Serving<'a> {
    settings: &'a Settings,
    apparatus: &'a Apparatus,
    mount: &'a Mount,
    kept: Option<&'a Kept>,
    server: &'a Server,
    phase: &'a Phase,
}

impl Serving<'_> {
    /// Serves until a request to stop, the end of the mount, or the replacement of this server, and completes what is in flight.
    fn watch(&self, asked: &Receiver<i32>, mut heartbeat: Heartbeat) -> Result<ServeEnd> {
        let retirements = self
            .kept
            .map(Kept::retirements)
            .transpose()?
            .unwrap_or_else(never);
        let looks = Phase::due();
        loop {
            select! {
                recv(heartbeat.due()) -> _ => heartbeat.beat(),
                recv(looks) -> _ => self.phase.look_for_mount(&heartbeat),
                recv(retirements) -> asked => if asked.is_ok() && self.retire() {
                    return Ok(ServeEnd::Replaced);
                },
                recv(asked) -> _ => {
                    process::notify(&[NotifyState::Stopping]);
                    self.phase.stops();
                    heartbeat.report_lost_disks();
                    self.kept.iter().for_each(|kept| kept.stops());
                    unmount(self.settings, self.apparatus, self.mount, asked);
                    break;
                }
                recv(self.mount.ended()) -> _ => {
                    log::info!("the mount was removed by another process");
                    heartbeat.report_lost_disks();
                    break;
                }
            }
        }
        Ok(match self.apparatus.finish(DRAIN_WAIT) {
            true => ServeEnd::InOrder,
            false => ServeEnd::Abruptly,
        })
    }
}

fn unmount(settings: &Settings, apparatus: &Apparatus, mount: &Mount, asked: &Receiver<i32>) {
    let users = hosts::describe(apparatus, mount.point());
    let users = users.map_or(String::new(), |users| format!(": {users}"));
    let grace = match mount.unmount() {
        Ok(true) => DRAIN_WAIT,
        Ok(false) => {
            let grace = Duration::from_secs(settings.config.stop_grace_s);
            log::warn!("files are open, and are waited for {} s{users}", grace.as_secs());
            grace
        }
        Err(error) => {
            log::error!("{error}");
            return;
        }
    };
    select! {
        recv(mount.ended()) -> _ => (),
        recv(asked) -> _ => log::warn!("asked to stop again: files that are still open are cut off{users}"),
        default(grace) => log::warn!("files are still open after {} s and are cut off{users}", grace.as_secs()),
    }
}

/// Mounts, or goes on with the mount that a server before this one has left.
fn mount(
    settings: &Settings,
    pool: &PoolHandle,
    joined: &Joined,
    apparatus: &Arc<Apparatus>,
    kept: Option<&mut Kept>,
) -> Result<Mount> {
    let mut files = RunFiles::new(&pool.dir);
    let mut devices = Vec::new();
    if let Some(kept) = kept {
        kept.keep_opens(apparatus)?;
        files = kept.keep_locks(files)?;
        devices = kept.devices();
    }
    let options = mount_options(settings, host_locks::arbiter(pool, files), joined)?;
    match devices.is_empty() {
        true => fuse::mount(apparatus, &settings.mount, &options),
        false => fuse::go_on(apparatus, &settings.mount, &options, devices),
    }
}

/// Hands the mount over to the supervisor, and reports the server before this one.
fn hand_over(kept: &Kept, mount: &Mount, name: &Name, reporter: &Reporter) -> Result<()> {
    if !mount.can_resend() {
        log::warn!(
            "the kernel cannot send requests again (Linux 6.9 can): if this server crashes, its hosts are cut off"
        );
        return Ok(());
    }
    kept.hand_over(mount)?;
    if let Some(previous) = kept.previous() {
        let text = format!(
            "its server {}; this one goes on, number {}; hosts waited {:.1} ms",
            previous.how,
            previous.servers + 1,
            kept.pause().as_secs_f64() * 1e3
        );
        log::warn!("{text}");
        reporter.report(Severity::Warning, format!("apparatus {name}"), text);
    }
    Ok(())
}

fn identity(pool: &PoolHandle, settings: &Settings, joined: &Joined) -> Identity {
    Identity {
        pool: pool.dir.clone(),
        uuid: joined.snapshot.header.uuid,
        name: settings.name.clone(),
    }
}

fn mount_options(settings: &Settings, locks: Box<dyn Arbiter>, joined: &Joined) -> Result<fuse::Options> {
    let config = &settings.config;
    let locks = Locks::start(locks);
    let locks = locks.map_err(|error| Error::because("file locks", error))?;
    Ok(fuse::Options {
        source: fuse::source(&settings.name, joined.snapshot.header.uuid),
        generation: joined.snapshot.header.uuid.as_fields().0,
        threads: config.threads_of(joined.snapshot.header.access),
        access: joined.snapshot.header.access,
        allow_other: config.allow_other,
        read_only: config.read_only,
        max_background: config.max_background,
        attributes_ttl: Duration::from_secs(config.attributes_ttl_s),
        is_kept: settings.is_kept && !settings.hides_resend,
        transport: config.transport,
        locks,
    })
}
