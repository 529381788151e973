//! Helper threads that wait for the store and for disks, so that the control thread does not.

use super::Setup;
use super::copy_retries::CopyRetries;
use super::hangs::{HangChange, Hangs};
use crate::agent::rejoin;
use crate::blockdev::{Disk, on_helper_thread, within};
use crate::cluster::{Cluster, FlushLedgers, Membership, NameClaim};
use crate::controller::directory::refuse_if_deleted;
use crate::controller::elsewhere::Elsewhere;
use crate::controller::metadata::catch_up;
use crate::controller::observe::observe_members;
use crate::datapath::{Runtime, Waker};
use crate::failpoint::{Point, hit};
use crate::map::Draft;
use crate::model::change::Cancel;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::member::{Joined, Joiner, Member};
use crate::model::names::Name;
use crate::model::records::DiskRecord;
use crate::model::units::{ChangeId, DiskId, Generation, Incarnation, Slot};
use crate::protocol::participant::Link;
use crate::protocol::recovery::others_reached;
use crate::rpc::Listener;
use crate::rpc::listen::SocketFile;
use crate::rpc::message::Memory;
use crate::store::{OpenStore, Store, TableStore};
use crate::sys::memory;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Maximum number of works that wait for a helper, and of results that wait for the control thread.
const QUEUE: usize = 256;

/// Timeout for checking a disk.
const CHECK: Duration = Duration::from_secs(1);
/// Page tables of the disks may take one part in this many of an apparatus's memory, within the bounds below, in bytes.
const TABLES_PART: u64 = 32;
const LEAST_TABLES: u64 = 1 << 20;
const MOST_TABLES: u64 = 256 << 20;
/// Timeout for opening disks during a rejoin, while all hosts wait.
const REJOIN: Duration = Duration::from_secs(5);

/// Work for a helper.
#[derive(Debug)]
pub(super) enum Work {
    /// Cancel a change in the store (`Store::cancel`).
    Cancel(ChangeId),
    /// Find which of these generations all apparatuses have reached.
    Others(BTreeSet<Generation>),
    /// Check that other processes find the control socket, the claim on the name and the member table, and restore deleted ones.
    CheckRun(SocketFile),
    /// Write a copy of the database to a file, for a request of this connection.
    Backup(Link, PathBuf),
    /// Check whether a disk has become shorter.
    CheckDisks,
    /// Rejoin the control range, from this incarnation, and open the disks of the new table that answer.
    Rejoin(Incarnation),
    /// Write an event to the store.
    Log(Severity, String, String),
    /// Read the names in the certificates of the pool's nodes, for this connection.
    Nodes(Link),
    /// Set the fence word of this member of the node, for this connection.
    FenceNeighbour(Link, (Slot, Incarnation, Name)),
}

/// Result of a helper's work.
pub(super) enum HelperResult {
    Cancelled(ChangeId, Result<Cancel>),
    /// All apparatuses have reached these generations.
    Reached(Vec<Generation>),
    /// The disk has been opened, or could not be for this reason.
    Opened(DiskRecord, Result<Arc<Disk>, String>),
    Logged,
    /// The pool's nodes have these names in their certificates; none if they could not be read.
    Nodes(Link, BTreeSet<String>),
    Rejoined(Result<Box<Rejoined>>),
    /// The fence word of this member is set. The flag tells whether its process has ended. `None` if the member is unknown here.
    NeighbourFenced(Link, Slot, Option<bool>),
    CheckedDisks,
    BackedUp(Link, Result<()>),
    /// The run directory was checked; there is a new control socket if the old one was deleted.
    CheckedRun(Option<Listener>),
}

/// Result of a rejoin.
pub(super) struct Rejoined {
    pub(super) joined: Joined,
    /// The whole table.
    pub(super) table: Draft,
    pub(super) disks: Vec<Arc<Disk>>,
}

/// Helper threads, as the parts of the control thread use them: one for the store, one that checks the disks, and one for rejoining. Each disk is
/// opened on a thread of its own. So a hung disk delays only work that uses it.
#[derive(Clone)]
pub(super) struct Helpers {
    store: Sender<Work>,
    disks: Sender<Work>,
    rejoin: Sender<Work>,
    opener: Opener,
}

/// Results of the helpers' works, for the control thread.
pub(super) type Results = Receiver<HelperResult>;

/// Parts that opening a disk needs.
#[derive(Clone)]
struct Opener {
    open_store: OpenStore,
    ledgers: Arc<dyn FlushLedgers>,
    waker: Arc<Waker>,
    results: Sender<HelperResult>,
}

impl Helpers {
    /// Starts the threads. They end when all clones of this are dropped, each after its present work.
    pub(super) fn start(setup: &Setup) -> Result<(Self, Results)> {
        let (sender, results) = bounded(QUEUE);
        let start = |name| Helper::new(setup, sender.clone())?.start(name);
        let opener = Opener {
            open_store: Arc::clone(&setup.pool.open_store),
            ledgers: Arc::clone(&setup.shared.ledgers),
            waker: Arc::clone(&setup.waker),
            results: sender.clone(),
        };
        let helpers = Self {
            store: start("store-helper")?,
            disks: start("disk-checker")?,
            rejoin: start("rejoiner")?,
            opener,
        };
        Ok((helpers, results))
    }

    /// Gives work to the helper that does works of its kind, and returns at once. Returns false when too much work of that kind waits.
    pub(super) fn give(&self, work: Work) -> bool {
        let queue = match work {
            Work::Cancel(_)
            | Work::Others(_)
            | Work::CheckRun(_)
            | Work::Log(..)
            | Work::Nodes(_)
            | Work::FenceNeighbour(..) => &self.store,
            Work::Backup(..) | Work::CheckDisks => &self.disks,
            Work::Rejoin(_) => &self.rejoin,
        };
        queue.try_send(work).is_ok()
    }

    /// Logs an event, and queues writing it to the store, unless the queue is full.
    pub(super) fn log(&self, severity: Severity, subject: String, text: String) {
        log::info!("{subject}: {text}");
        self.give(Work::Log(severity, subject, text));
    }

    /// Opens a disk on a thread of its own, however long that takes; [`HelperResult::Opened`] reports the result.
    pub(super) fn open(&self, record: &DiskRecord) {
        let (opener, record) = (self.opener.clone(), record.clone());
        on_helper_thread(move || {
            let opened = opener.open(&record);
            // The send fails when the apparatus is ending.
            let _ = opener.results.send(HelperResult::Opened(record, opened));
            opener.waker.wake();
        });
    }

    /// Renews the label of a disk that was opened late, as those of the others were renewed when this apparatus started to serve.
    pub(super) fn renew_label(&self, disk: &Arc<Disk>) {
        let (opener, disk) = (self.opener.clone(), Arc::clone(disk));
        on_helper_thread(move || {
            let store = (opener.open_store)();
            if let Err(why) = store.and_then(|mut store| renew_label(&disk, &*opener.ledgers, &mut *store)) {
                log::warn!("disk {}: cannot renew its label: {why}", disk.name());
            }
        });
    }
}

impl Opener {
    /// Opens a disk. It reads the recorded label number before the label, and the layout number after it, so that labels which other processes write
    /// meanwhile are neither taken for an older copy of the disk nor for a change that the database has lost.
    fn open(&self, record: &DiskRecord) -> Result<Arc<Disk>, String> {
        let open = || {
            let mut store = (self.open_store)()?;
            let recorded = store.disks()?.into_iter().find(|known| known.id == record.id);
            let record = DiskRecord {
                label: recorded.map_or(0, |known| known.label).max(record.label),
                ..record.clone()
            };
            // A path on this machine alone may have changed since the start.
            let disk = Disk::open(&record, &store.header()?)?;
            disk.check_layout(store.header()?.layout)?;
            Ok(Arc::new(disk))
        };
        open().map_err(|why: Error| why.why().to_owned())
    }
}

/// Increments the sequence number in the label of a disk that is in use, which distinguishes it from copies that were made before.
///
/// # Errors
/// Fails with the error of the disk or the store.
fn renew_label(disk: &Disk, ledgers: &dyn FlushLedgers, store: &mut dyn TableStore) -> Result<()> {
    if disk.is_read_only() {
        return Ok(());
    }
    let label = disk.take_over(0, &*ledgers.ledger(disk.id()))?;
    store.label_written(disk.id(), label.sequence)
}

struct Helper {
    pool: PoolDir,
    me: Member,
    cluster: Arc<dyn Cluster>,
    members: Arc<dyn Membership>,
    elsewhere: Elsewhere,
    runtime: Arc<dyn Runtime>,
    waker: Arc<Waker>,
    open_store: OpenStore,
    store: Box<dyn Store>,
    results: Sender<HelperResult>,
    /// The claim on the name, weakly held: it is released when the apparatus has left.
    claim: Weak<dyn NameClaim>,
    /// Last problem of the files in the run directory, so that it is logged once.
    last_problem: String,
    /// Disks that have been reported as truncated.
    shorter: BTreeSet<DiskId>,
    hangs: Hangs,
    memory: Arc<dyn Fn() -> Memory + Send + Sync>,
    /// Size of the page tables after they were last freed, in bytes.
    tables_left: u64,
    copies: CopyRetries,
}

impl Helper {
    fn new(setup: &Setup, results: Sender<HelperResult>) -> Result<Self> {
        Ok(Self {
            pool: setup.pool.dir.clone(),
            me: setup.member.clone(),
            cluster: Arc::clone(&setup.pool.cluster),
            members: Arc::clone(&setup.shared.members),
            elsewhere: Elsewhere::new(&setup.pool, setup.header.uuid),
            runtime: Arc::clone(&setup.runtime),
            waker: Arc::clone(&setup.waker),
            open_store: Arc::clone(&setup.pool.open_store),
            memory: Arc::clone(&setup.memory),
            tables_left: 0,
            copies: CopyRetries::default(),
            store: (setup.pool.open_store)()?,
            results,
            claim: Arc::downgrade(&setup.claim),
            last_problem: String::new(),
            shorter: BTreeSet::new(),
            hangs: Hangs::default(),
        })
    }

    fn start(mut self, name: &str) -> Result<Sender<Work>> {
        let (give, works) = bounded(QUEUE);
        let run = move || {
            for work in works {
                let result = self.work(work);
                if self.results.send(result).is_err() {
                    return;
                }
                self.waker.wake();
            }
        };
        let started = std::thread::Builder::new().name(name.into()).spawn(run);
        started.map(|_| give).map_err(|why| Error::because(name, why))
    }

    fn work(&mut self, work: Work) -> HelperResult {
        match work {
            Work::Cancel(change) => {
                let answer = self.store.cancel(change);
                self.renew(answer.is_err());
                HelperResult::Cancelled(change, answer)
            }
            Work::Others(generations) => {
                let reached = self.reached(&generations);
                self.renew(reached.is_err());
                HelperResult::Reached(reached.unwrap_or_default())
            }
            Work::CheckRun(socket_file) => HelperResult::CheckedRun(self.check_run(&socket_file)),
            // This uses the present connection: the database file may have been deleted, and this one still has it open.
            Work::Backup(link, file) => HelperResult::BackedUp(link, self.store.back_up(&file)),
            Work::Log(severity, subject, text) => {
                let logged = self.store.log(severity, &subject, &text);
                self.renew(logged.is_err());
                HelperResult::Logged
            }
            Work::Nodes(link) => {
                let nodes = self
                    .store
                    .nodes()
                    .inspect_err(|why| log::warn!("nodes of the pool: {why}"));
                self.renew(nodes.is_err());
                let names = nodes.unwrap_or_default().into_iter().map(|node| node.certificate);
                HelperResult::Nodes(link, names.collect())
            }
            Work::FenceNeighbour(link, (slot, incarnation, name)) => {
                HelperResult::NeighbourFenced(link, slot, self.fence_neighbour(slot, incarnation, &name))
            }
            Work::CheckDisks => {
                self.note_hangs();
                self.check_disks();
                self.free_page_tables();
                self.catch_up_copies();
                HelperResult::CheckedDisks
            }
            Work::Rejoin(incarnation) => {
                let back = self.rejoin(incarnation);
                self.renew(back.is_err());
                HelperResult::Rejoined(back.map(Box::new))
            }
        }
    }

    /// Fences another member of this node. One that has never published this incarnation here does not look at this fence word: it may use another directory
    /// of the pool, which was deleted.
    fn fence_neighbour(&self, slot: Slot, incarnation: Incarnation, name: &Name) -> Option<bool> {
        if self.members.entry(slot).incarnation < incarnation {
            return None;
        }
        self.members.fence(slot, incarnation);
        Some(!self.cluster.is_claimed(name.as_str()).unwrap_or(true))
    }

    /// Opens a new connection to the store after a failure, where that is possible.
    fn renew(&mut self, failed: bool) {
        if failed && let Ok(store) = (self.open_store)() {
            self.store = store;
        }
    }

    fn reached(&mut self, generations: &BTreeSet<Generation>) -> Result<Vec<Generation>> {
        let seen = observe_members(
            &mut *self.store,
            (&*self.members, &*self.cluster),
            &mut self.elsewhere,
        )?;
        Ok(generations
            .iter()
            .copied()
            .filter(|&generation| others_reached(&seen, generation))
            .collect())
    }

    /// Restores deleted files of the run directory, and reports that. A process that finds the member table finds the rest, so that comes last.
    fn check_run(&mut self, socket_file: &SocketFile) -> Option<Listener> {
        let mut listener = None;
        let restored = self.restore_run(socket_file, &mut listener);
        let (severity, text) = match restored {
            Ok(false) => {
                self.last_problem.clear();
                return listener;
            }
            Ok(true) => (
                Severity::Warning,
                "files of the run directory were deleted; this apparatus has created its own again"
                    .to_owned(),
            ),
            Err(why) => (Severity::Error, why.to_string()),
        };
        if self.last_problem != text {
            log::log!(severity.level(), "{text}");
            let logged = self
                .store
                .log(severity, &format!("apparatus {}", self.me.name), &text);
            self.renew(logged.is_err());
            self.last_problem = text;
        }
        listener
    }

    fn restore_run(&self, socket_file: &SocketFile, listener: &mut Option<Listener>) -> Result<bool> {
        let Some(claim) = self.claim.upgrade() else {
            return Ok(false);
        };
        refuse_if_deleted(&self.pool)?;
        let claimed = claim.restore()?;
        let present = socket_file
            .is_present()
            .map_err(|why| Error::because("control socket", why))?;
        if !present {
            *listener = Some(Listener::bind(&self.pool, &self.me.name, &*claim)?);
        }
        Ok(self.members.restore()? || claimed || !present)
    }

    fn report_restored_length(&mut self, subject: &str) {
        let text = "has its length again and is used again; the part that was cut off has the content that it has now";
        log::warn!("{subject}: {text}");
        let logged = self.store.log(Severity::Warning, subject, text);
        self.renew(logged.is_err());
    }

    /// Records when hosts begin to wait for a disk that does not answer, and when it answers again.
    fn note_hangs(&mut self) {
        let open = self.runtime.disks().all();
        let open = open.iter().map(|disk| disk.name().to_owned()).collect();
        for change in self.hangs.look(Instant::now(), self.runtime.waited_for(), &open) {
            let (severity, disk, text) = match change {
                HangChange::Began(disk) => (
                    Severity::Warning,
                    disk,
                    "does not answer: requests of hosts wait for it".to_owned(),
                ),
                HangChange::Ended(disk, after) => (
                    Severity::Info,
                    disk,
                    format!(
                        "answers again: requests of hosts waited for {} s",
                        after.as_secs().max(1)
                    ),
                ),
            };
            let subject = format!("disk {disk}");
            log::log!(severity.level(), "{subject}: {text}");
            let logged = self.store.log(severity, &subject, &text);
            self.renew(logged.is_err());
        }
    }

    /// Tries the copies of the pool's metadata that are left behind again; seldom, where that does not help.
    fn catch_up_copies(&mut self) {
        if !self.copies.is_due() {
            return;
        }
        let current = catch_up(&mut *self.store, self.runtime.disks());
        self.renew(current.is_err());
        self.copies.tried(current.unwrap_or_default());
    }

    /// Checks whether disks have become shorter. A disk that does not answer is skipped, and not checked again until it does.
    fn check_disks(&mut self) {
        for disk in self.runtime.disks().all() {
            let (id, subject) = (disk.id(), format!("disk {}", disk.name()));
            let path = disk.path().to_owned();
            let Ok(lost) = within(CHECK, &subject, &path, move || Ok(disk.lost())) else {
                continue;
            };
            let Some(left) = lost else {
                if self.shorter.remove(&id) {
                    self.report_restored_length(&subject);
                }
                continue;
            };
            if !self.shorter.insert(id) {
                continue;
            }
            let text = format!("was truncated: {left} bytes are left of it, and the rest is lost");
            log::error!("{subject}: {text}");
            let logged = self.store.log(Severity::Error, &subject, &text);
            self.renew(logged.is_err());
        }
    }

    /// Frees page tables of the disks' mappings. They grow with the bytes that hosts have read, and the kernel frees none by itself. Where it frees
    /// none on request, the next request comes once they are twice as large.
    fn free_page_tables(&mut self) {
        let most = ((self.memory)().most / TABLES_PART).clamp(LEAST_TABLES, MOST_TABLES);
        let tables = || memory::of_page_tables().unwrap_or(0);
        if tables() <= most.max(2 * self.tables_left) {
            return;
        }
        for disk in self.runtime.disks().all() {
            if let Err(why) = disk.free_page_tables() {
                log::debug!("disk {}: page tables: {why}", disk.name());
            }
        }
        self.tables_left = tables();
    }

    fn rejoin(&mut self, incarnation: Incarnation) -> Result<Rejoined> {
        // The table is read first, so that no other process waits for the store meanwhile, nor for this apparatus once it is in the control range.
        let read = Draft::new(&self.store.snapshot()?)?;
        let joiner = Joiner {
            origin: self.cluster.origin(),
            known: Some(read.generation()),
            ..Joiner::new(&self.me.name, self.me.pid, &self.me.mount)
        };
        let joined = rejoin(&mut *self.store, (self.me.slot, incarnation), &joiner)?;
        let table = read.joined(&joined.snapshot, joined.since.as_deref())?;
        hit(Point::ApparatusRejoined);
        let closed = |record: &&DiskRecord| !self.runtime.disks().has(record);
        let closed: Vec<DiskRecord> = joined.snapshot.disks.iter().filter(closed).cloned().collect();
        let opened = Disk::open_all_within(REJOIN, &closed, &joined.snapshot.header);
        // The layout number is read after the labels, as for any other opening.
        let layout = self.store.header()?.layout;
        let mut disks = Vec::new();
        for (opened, record) in opened.into_iter().zip(&closed) {
            match opened.and_then(|disk| disk.check_layout(layout).map(|()| disk)) {
                Ok(disk) => disks.push(Arc::new(disk)),
                // Requests to this disk fail with EIO until it is open; those to others are served.
                Err(why) => log::error!("disk {}: {}", record.name, why.why()),
            }
        }
        Ok(Rejoined { joined, table, disks })
    }
}
