//! One apparatus from its start to its end.
//!
//! Start: pool, life lock, control socket, disks, member table, join, table, control thread, mount, readiness. Each step only
//! when all before it have worked; what was begun is taken back when a later one fails. End: unmount, let nothing in, wait
//! for what is in flight, end the control thread, leave the control range.

mod exporter;
mod heartbeat;
mod labels;
mod process;
mod report;
mod times;

use crate::change::harden::{disks_at_risk, refuse_lost};
use crate::change::survey::lives;
use crate::config::Config;
use crate::control::hardener::Hardener;
use crate::control::server::{OpenStore, Server, Setup};
use crate::control::{Bell, Listener, Runtime};
use crate::data::{Apparatus, Parts};
use crate::disk::{Disk, Disks};
use crate::error::{Error, Result};
use crate::fuse::{self, Mount};
use crate::locks::{Locks, RunFiles};
use crate::member::{LifeLock, MemberTable, MyLine};
use crate::ops::history::Deed;
use crate::ops::place;
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::pool::names::Name;

use crate::store::sqlite::SqliteStore;
use crate::store::{Joined, Severity, Store};
use crate::sys;
use crate::table::{Draft, Table};
use crate::units::Slot;
use crossbeam_channel::{Receiver, bounded, select};
use exporter::Exporter;
use heartbeat::Heartbeat;
use process::Identity;
use report::Reporter;
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use times::TimeKeeper;

/// How long the start waits for disks; one that answers later is taken in then.
const START: Duration = Duration::from_secs(5);

/// How long the end waits for requests in flight.
const FAREWELL: Duration = Duration::from_secs(5);

/// Which apparatus of which pool, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pool's directory; the user's own when none is given.
    pub pool: Option<PathBuf>,
    /// What it is called.
    pub name: Name,
    /// Where it mounts.
    pub mount: PathBuf,
    /// The rest.
    pub config: Config,
}

/// Serves until it is told to end, or its mount is gone.
///
/// # Errors
/// When it cannot begin: names the thing, the reason and the way out.
pub fn run(settings: &Settings) -> Result<()> {
    for missing in sys::become_storage_daemon() {
        log::debug!("not as well prepared as could be: {missing}");
    }
    if let Err(why) = sys::allow_many_files() {
        log::debug!("open files: {why}");
    }
    let (ask, asked) = bounded(1);
    process::forward_signals(ask.clone())?;
    let exporter = settings.config.metrics.map(Exporter::bind).transpose()?;
    let mut beginning = Beginning::new(settings)?;
    let (joined, table) = beginning.join(settings)?;
    let (line, members) = (beginning.line(&joined), beginning.members.clone());
    let deed = Deed::begin(
        &beginning.pool,
        &format!("apparatus {}", settings.name),
        command_line(),
    );
    let mut membership = Membership {
        store: beginning.store,
        slot: joined.member.slot,
        members: members.clone(),
        line: line.clone(),
    };
    let reporter = beginning.reporter.clone();
    let core = Core {
        settings,
        pool: beginning.pool,
        open_store: beginning.open_store,
        reporter: beginning.reporter,
        members,
        line,
        exporter,
        // Full: one waits already.
        stop: Box::new(move || _ = ask.try_send(0)),
    };
    let doors = (beginning.listener, beginning.life.clone());
    let served = core.serve(&joined, table, beginning.disks, doors, &asked);
    if !matches!(served, Ok(Ended::Abruptly)) {
        membership.leave();
    }
    match &served {
        Ok(_) => deed.end(0, ""),
        Err(why) => deed.end(1, &why.to_string()),
    }
    reporter.end();
    drop(beginning.life);
    served.map(drop)
}

fn command_line() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// What is there before anybody knows of this apparatus.
struct Beginning {
    pool: PoolDir,
    open_store: OpenStore,
    store: Box<dyn Store>,
    life: Arc<LifeLock>,
    listener: Listener,
    reporter: Arc<Reporter>,
    header: PoolHeader,
    members: Arc<MemberTable>,
    disks: Disks,
}

impl Beginning {
    fn new(settings: &Settings) -> Result<Self> {
        let pool = place::pool_dir(settings.pool.as_deref())?;
        let name = &settings.name;
        let open_store: OpenStore = {
            let pool = pool.clone();
            Arc::new(move || Ok(Box::new(SqliteStore::open(&pool)?)))
        };
        SqliteStore::open(&pool)?.own(&pool)?;
        let mut store = open_store()?;
        let life = LifeLock::take(&pool, name.as_str())?.ok_or_else(|| {
            Error::failed(format!("apparatus {name}"), "runs already")
                .hint("stop that one first, or choose another name")
        })?;
        let life = Arc::new(life);
        let listener = Listener::bind(&pool, name, &life)?;
        let reporter = Reporter::start(open_store.clone())
            .map_err(|error| Error::because(format!("apparatus {name}"), error))?;
        let header = store.header()?;
        let disks = Disks::new();
        open_disks(&disks, &store.disks()?, &header, &reporter);
        let members = MemberTable::open(&pool, header.uuid, sys::boot_id()?)?;
        let mut beginning = Self {
            pool,
            open_store,
            store,
            life,
            listener,
            reporter,
            header,
            members,
            disks,
        };
        beginning.check_layout()?;
        beginning.tell_losses()?;
        Ok(beginning)
    }

    /// What hosts read on a disk that has lost something may be wrong once memory has forgotten it.
    fn tell_losses(&mut self) -> Result<()> {
        for id in disks_at_risk(&mut *self.store)? {
            if let Some(disk) = self.disks.get(id)
                && let Err(lost) = refuse_lost(disk.name(), &self.members.marks(id))
            {
                let way_out = lost.way_out().unwrap_or_default();
                let text = format!("{}; hosts may read wrong data there; {way_out}", lost.why());
                log::error!("{}: {text}", lost.what());
                self.reporter.tell(Severity::Error, lost.what(), text);
            }
        }
        Ok(())
    }

    /// In the control range from here on. The table is read before, because it may be large: others do not wait for the store meanwhile, and
    /// controllers do not wait long for an apparatus that has joined and does not answer yet.
    fn join(&mut self, settings: &Settings) -> Result<(Joined, Draft)> {
        let mount = place::absolute(&settings.mount)?;
        let pool = self.pool.clone();
        // We hold our own life lock: whoever had our name before has ended. Who cannot be asked about is taken for alive.
        let alive = |member: &crate::store::Member| {
            member.name != settings.name && lives(&pool, member).unwrap_or(true)
        };
        let read = Draft::new(&self.store.snapshot()?)?;
        let (pid, known) = (std::process::id(), Some(read.generation()));
        let joined = self.store.join(&settings.name, pid, &mount, &alive, known)?;
        open_disks(&self.disks, &joined.snapshot.disks, &self.header, &self.reporter);
        let table = read.joined(&joined.snapshot, joined.since.as_deref())?;
        Ok((joined, table))
    }

    /// An older database than the disks know would map volumes to the wrong places. The header is read after the labels, so that
    /// a change made durable meanwhile is not taken for one that the database has lost.
    fn check_layout(&mut self) -> Result<()> {
        let layout = self.store.header()?.layout;
        self.disks
            .all()
            .iter()
            .try_for_each(|disk| disk.check_layout(layout))
    }

    fn line(&self, joined: &Joined) -> Arc<MyLine> {
        let line = self.members.mine(joined.member.slot);
        line.begin(joined.member.incarnation, joined.snapshot.header.generation);
        Arc::new(line)
    }
}

/// Opens those that are not open yet. One that cannot be, or does not answer in time, is told about, and its volumes answer EIO until it can be.
fn open_disks(disks: &Disks, records: &[DiskRecord], header: &PoolHeader, reporter: &Reporter) {
    let closed = |record: &&DiskRecord| disks.get(record.id).is_none();
    let closed: Vec<DiskRecord> = records.iter().filter(closed).cloned().collect();
    let opened = Disk::open_all_within(START, &closed, header);
    for (opened, record) in opened.into_iter().zip(&closed) {
        match opened {
            Ok(disk) => disks.insert(Arc::new(disk)),
            Err(error) => reporter.tell(
                Severity::Error,
                format!("disk {}", record.name),
                format!("{}; volumes on it answer EIO until it is there", error.why()),
            ),
        }
    }
}

/// A place in the control range.
struct Membership {
    store: Box<dyn Store>,
    slot: Slot,
    members: Arc<MemberTable>,
    line: Arc<MyLine>,
}

impl Membership {
    /// Nothing is in flight: leaves in good order.
    fn leave(&mut self) {
        // A rejoin may have begun another life.
        let incarnation = self.members.line(self.slot).incarnation;
        self.line.end();
        if let Err(error) = self.store.leave(self.slot, incarnation) {
            log::warn!("not recorded as left: {error}");
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With nothing in flight.
    InOrder,
    /// With requests still in flight: only the end of the process ends them.
    Abruptly,
}

/// What serves.
struct Core<'a> {
    settings: &'a Settings,
    pool: PoolDir,
    open_store: OpenStore,
    reporter: Arc<Reporter>,
    members: Arc<MemberTable>,
    line: Arc<MyLine>,
    exporter: Option<Exporter>,
    stop: Box<dyn Fn() + Send + Sync>,
}

impl Core<'_> {
    fn serve(
        self,
        joined: &Joined,
        table: Draft,
        disks: Disks,
        doors: (Listener, Arc<LifeLock>),
        asked: &Receiver<i32>,
    ) -> Result<Ended> {
        let settings = self.settings;
        let bell = Bell::new().map_err(|error| Error::because("control thread", error))?;
        let bell = Arc::new(bell);
        let who = Identity {
            pool: self.pool.clone(),
            uuid: joined.snapshot.header.uuid,
            name: settings.name.clone(),
        };
        let reporter = self.reporter.clone();
        let hardener = Hardener::new(self.open_store.clone(), self.members.clone());
        let apparatus = Apparatus::start(Parts {
            name: settings.name.clone(),
            table: Table::of(table),
            disks,
            records: joined.snapshot.disks.clone(),
            members: self.members.clone(),
            line: self.line.clone(),
            bell: bell.clone(),
            harden: hardener.clone(),
            report: self.reporter,
            limits: settings.config.limits(),
            stop: self.stop,
        })?;
        let runtime: Arc<dyn Runtime> = apparatus.clone();
        hardener.serve(&runtime);
        let (ledgers, stores) = (self.members.clone(), self.open_store.clone());
        let (members, inside) = ((self.members, self.line), (runtime, bell));
        let setup = Setup::new(&self.pool, joined, doors, members, inside, self.open_store);
        let ended = Server::start(setup).and_then(|server| {
            if let Some(exporter) = self.exporter {
                exporter.start(who.clone())?;
            }
            let times = TimeKeeper::start(&apparatus, &self.pool, who.uuid)
                .map_err(|error| Error::because("times of modification", error))?;
            let options = mount_options(settings, &self.pool, joined)?;
            let mount = fuse::mount(&apparatus, &settings.mount, &options)?;
            let serves = format!("{} serves at {}", settings.name, mount.point().display());
            log::info!("{serves}");
            labels::renew(apparatus.clone(), ledgers, stores);
            process::tell(&[NotifyState::Ready, NotifyState::Status(&serves)]);
            let heartbeat = Heartbeat::new(who, reporter);
            let ended = watch(settings, &apparatus, &mount, asked, heartbeat);
            times.end();
            server.shut();
            Ok(ended)
        });
        apparatus.end();
        ended
    }
}

/// Serves until it is told to end or the mount is gone, and brings everything to rest.
fn watch(
    settings: &Settings,
    apparatus: &Apparatus,
    mount: &Mount,
    asked: &Receiver<i32>,
    mut heartbeat: Heartbeat,
) -> Ended {
    loop {
        select! {
            recv(heartbeat.due()) -> _ => heartbeat.beat(),
            recv(asked) -> _ => {
                process::tell(&[NotifyState::Stopping]);
                unmount(settings, mount, asked);
                break;
            }
            recv(mount.ended()) -> _ => {
                log::info!("the mount was taken away by somebody else");
                break;
            }
        }
    }
    match apparatus.finish(FAREWELL) {
        true => Ended::InOrder,
        false => Ended::Abruptly,
    }
}

fn unmount(settings: &Settings, mount: &Mount, asked: &Receiver<i32>) {
    let grace = match mount.unmount() {
        Ok(true) => FAREWELL,
        Ok(false) => Duration::from_secs(settings.config.stop_grace_s),
        Err(error) => {
            log::error!("{error}");
            return;
        }
    };
    select! {
        recv(mount.ended()) -> _ => (),
        recv(asked) -> _ => log::warn!("told to end again: files that are still open are cut off"),
        default(grace) => log::warn!("files are still open after {} s: they are cut off", grace.as_secs()),
    }
}

fn mount_options(settings: &Settings, pool: &PoolDir, joined: &Joined) -> Result<fuse::Options> {
    let config = &settings.config;
    let locks = Locks::start(Box::new(RunFiles::new(&pool.run())));
    let locks = locks.map_err(|error| Error::because("file locks", error))?;
    Ok(fuse::Options {
        source: fuse::source(&settings.name, joined.snapshot.header.uuid),
        generation: joined.snapshot.header.uuid.as_fields().0,
        threads: config.threads,
        allow_other: config.allow_other,
        read_only: config.read_only,
        max_background: config.max_background,
        attributes_ttl: Duration::from_secs(config.attributes_ttl_s),
        locks,
    })
}
