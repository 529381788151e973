//! Hosts' requests in production code: the data path of an apparatus, and reader threads that call it. `answer.rs` has the replies.

use super::answer::HostReply;
use super::app::App;
use super::copy::At;
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::{BLOCK, Req, What};
use super::request;
use super::seams::{SimEntry, SimLedgers, open_device, pool};
use super::thread::{Body, ThreadId, pause, suspend, this, world};
use super::{Delay, ProcId, ReqId, Task, World};
use apparatus::agent::Persister;
use apparatus::blockdev::AlignedBytes;
use apparatus::blockdev::Disks;
use apparatus::blockdev::label::choose;
use apparatus::datapath::{
    Apparatus, Data, Limits, Operation, Parts, Persist, PersistState, Report, Request, Role, Runtime,
    Threads, Waker,
};
use apparatus::map::{Draft, Table};
use apparatus::model::error::Result;
use apparatus::model::member::Joined;
use apparatus::model::names::Name;
use apparatus::model::units::{DiskId, Generation, VolumeExtent, VolumeId, VolumeOffset};
use apparatus::protocol::agent::Input;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two attempts of flushes that wait for the store, in microseconds.
const RETRY_US: u64 = 700;

const LIMITS: Limits = Limits {
    readers: 8,
    workers: 64,
    parked_bytes: 1 << 30,
    parked: 1 << 10,
    holds: 16,
    fenced: Duration::from_secs(1 << 30),
    copied_reads: 0,
};

/// The production data path of an apparatus.
#[derive(Clone)]
pub struct Served {
    pub apparatus: Arc<Apparatus>,
    pub runtime: Arc<dyn Runtime>,
    waker: Arc<Waker>,
    starts: Starts,
    readers: BTreeMap<usize, ThreadId>,
    /// The table that was read for a rejoin.
    draft: Arc<Mutex<Option<Draft>>>,
}

/// Threads that production code wants to be started.
type Starts = Arc<Mutex<Vec<Body>>>;

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests in flight", self.runtime.in_flight())
    }
}

/// Threads of the data path: the world starts them after the task in which they are wanted.
struct SimThreads(Starts);

impl Threads for SimThreads {
    fn start(&self, _name: &'static str, body: Body) -> io::Result<()> {
        self.0
            .lock()
            .map_err(|_| io::Error::other("poisoned"))?
            .push(body);
        Ok(())
    }

    fn may_wait(&self) -> bool {
        false
    }
}

struct SimReport;

impl Report for SimReport {
    fn disk_failed(&self, disk: &str, what: &str, why: &str) {
        world(|world| world.fail(format!("{disk}: {what}: {why}")));
    }

    fn persist_failed(&self, why: &str) {
        world(|world| world.fail(format!("cannot persist: {why}")));
    }
}

/// What persists for flushes.
struct SimPersist(Arc<Persister>);

impl Persist for SimPersist {
    fn persist(&self, volume: VolumeId, generation: Generation) -> Result<PersistState> {
        if world(|world| world.wrong(Fault::FlushBeforePersist)) == Some(true) {
            return Ok(PersistState::Done);
        }
        request::persisting(|| self.0.persist(volume, generation))
    }

    fn completions(&self) -> u64 {
        self.0.completions()
    }

    fn flushing(&self) -> Vec<(DiskId, Duration)> {
        self.0.flushing()
    }
}

/// A reader thread: it has one request of its host's at a time.
fn read_requests(apparatus: &Arc<Apparatus>) {
    let Some(mut context) = apparatus.io_context(Role::Reader) else {
        world(|world| world.fail("no lane is left"));
        return;
    };
    loop {
        let Some(id) = world(|world| world.inbox.remove(&this())).flatten() else {
            suspend();
            continue;
        };
        if world(|world| world.locate_early(id)) == Some(true) {
            pause(Delay::Message);
        }
        let Some((volume, operation, covered)) = world(|world| world.come_to_the_gate(id)).flatten() else {
            continue;
        };
        request::comes_to_the_gate();
        apparatus.serve(&mut context, Request::new(volume, operation, HostReply(id)));
        let entered = request::is_entered();
        if let Some((covered, what)) = covered {
            world(|world| world.check_entered(&what, covered, entered));
        }
    }
}

impl Served {
    /// Starts the data path of an apparatus that has joined.
    pub fn start(
        world: &mut World,
        index: usize,
        proc: ProcId,
        name: &Name,
        joined: &Joined,
    ) -> Result<Self> {
        let snapshot = &joined.snapshot;
        let (waker, starts) = (
            Arc::new(Waker::new().expect("a descriptor is left")),
            Starts::default(),
        );
        let ledgers = Arc::new(SimLedgers);
        let persister = Persister::waiting(pool().open_store, ledgers.clone(), Duration::ZERO);
        let disks = Disks::new();
        for record in &snapshot.disks {
            let copies = world.labels[record.id.0 as usize - 1];
            let (label, _) = choose(&copies).expect("a label is whole");
            disks.insert(Arc::new(open_device(record, &snapshot.header, label)));
        }
        let apparatus = Apparatus::start(Parts {
            access: snapshot.header.access,
            name: name.clone(),
            table: Table::new(snapshot)?,
            disks,
            records: snapshot.disks.clone(),
            ledgers,
            entry: Arc::new(SimEntry::new(index)),
            waker: waker.clone(),
            threads: Arc::new(SimThreads(starts.clone())),
            persist: Arc::new(SimPersist(persister.clone())),
            report: Arc::new(SimReport),
            limits: LIMITS,
            stop: Box::new(|| ()),
        })?;
        // A reader may always wait for a disk itself: how long a read took in real time decides nothing.
        apparatus.set_readers(1 << 20);
        let runtime: Arc<dyn Runtime> = apparatus.control().clone();
        persister.serve(&runtime);
        let clients = world.clients.iter().enumerate();
        let clients: Vec<usize> = clients
            .filter(|(_, client)| client.app == index)
            .map(|(client, _)| client)
            .collect();
        let mut reader = |client| {
            let apparatus = apparatus.clone();
            let body = Box::new(move || read_requests(&apparatus));
            (client, world.start_thread(proc, Delay::Step, body))
        };
        let readers = clients.into_iter().map(&mut reader).collect();
        Ok(Self {
            apparatus: apparatus.clone(),
            runtime,
            waker,
            starts,
            readers,
            draft: Arc::default(),
        })
    }

    /// Its process is no more.
    pub fn end(&self) {
        drop(self.take_starts());
    }

    fn take_starts(&self) -> Vec<Body> {
        let starts = self.starts.lock();
        starts
            .map(|mut starts| std::mem::take(&mut *starts))
            .unwrap_or_default()
    }

    fn take_wake_up(&self) -> bool {
        let woken = self.waker.is_pending();
        if woken {
            self.waker.clear();
        }
        woken
    }

    /// Keeps a table that was read for a rejoin.
    pub fn keep(&self, read: Option<Draft>) {
        *self.draft.lock().expect("one thread at a time runs") = read;
    }

    /// Returns the generation of that table.
    pub fn read(&self) -> Option<Generation> {
        let draft = self.draft.lock().expect("one thread at a time runs");
        draft.as_ref().map(Draft::generation)
    }

    /// Loads the table that a rejoin has led to.
    fn reload(&self, joined: &Joined, as_read: bool) -> Result<()> {
        let read = self.draft.lock().expect("one thread at a time runs").take();
        let table = match read {
            Some(read) if as_read => read,
            Some(read) => read.joined(&joined.snapshot, joined.since.as_deref())?,
            None => Draft::new(&joined.snapshot)?,
        };
        self.runtime.reload(table, &joined.snapshot.disks)
    }
}

impl World {
    /// The simulation's: the production data path of an apparatus that has joined.
    pub fn start_data_path(&mut self, index: usize, joined: &Joined) {
        let Some((proc, name)) = self.apps[index].as_ref().map(|app| (app.proc, app.name.clone())) else {
            return;
        };
        if self.options.explore {
            return;
        }
        match Served::start(self, index, proc, &name, joined) {
            Ok(served) => {
                if let Some(app) = self.apps[index].as_mut() {
                    app.served = Some(served);
                }
            }
            Err(why) => self.fail(format!("{name} cannot serve: {why}")),
        }
    }

    /// Its data path gets the table that it has rejoined with.
    pub fn reload_data_path(&mut self, index: usize, joined: &Joined) {
        let served = self.apps[index].as_ref().and_then(|app| app.served.as_ref());
        let as_read = self.wrong(Fault::OldTableLoaded);
        let reloaded = served.map_or(Ok(()), |served| served.reload(joined, as_read));
        self.must(reloaded.is_ok(), || format!("reload: {reloaded:?}"));
    }

    /// The control side of an apparatus was woken: by a request that met the fence, or that left the gate.
    pub fn look_around(&mut self, index: usize) {
        if !self.options.explore {
            self.show_oldest(index);
        }
        self.input(index, Input::Woken(BTreeSet::new()));
    }

    /// The member table shows the oldest table in use.
    pub fn show_oldest(&mut self, index: usize) {
        let Some(app) = self.apps[index].as_ref().filter(|app| app.serves()) else {
            return;
        };
        let (slot, oldest) = (app.slot, self.shown_as_oldest(index));
        self.row(slot).oldest = oldest;
    }

    /// After each task: starts the threads that production code wants, and has control sides that were woken look around.
    pub fn attend(&mut self) {
        for index in 0..self.apps.len() {
            let Some(app) = &self.apps[index] else { continue };
            let Some(served) = &app.served else { continue };
            let (proc, bodies, woken) = (app.proc, served.take_starts(), served.take_wake_up());
            for body in bodies {
                self.start_thread(proc, Delay::Step, body);
            }
            if woken {
                self.after(Some(proc), Delay::Step, Task::Word(index));
            }
        }
    }

    /// The process of an apparatus is no more.
    pub fn end_data_path(&mut self, app: &App) {
        self.end_threads(app.proc);
        if let Some(served) = &app.served {
            served.end();
        }
    }

    /// A reader thread gets a request.
    pub fn give_to_reader(&mut self, index: usize, client: usize, id: ReqId) {
        let served = self.apps[index].as_ref().and_then(|app| app.served.as_ref());
        let Some(reader) = served.and_then(|served| served.readers.get(&client)).copied() else {
            return;
        };
        self.inbox.insert(reader, id);
        self.wake_thread(reader, Delay::Exactly(0));
        let flushes = |req: &Req| req.durable || req.ask.what == What::Flush;
        if self.reqs.get(&id).is_some_and(flushes) {
            let owner = self.apps[index].as_ref().map(|app| app.proc);
            self.after(owner, Delay::Exactly(RETRY_US), Task::Retry(index, id));
        }
    }

    /// Flushes that wait for the store are tried again, as long as this one has no answer.
    pub fn retry_flushes(&mut self, index: usize, id: ReqId) {
        let Some(app) = self.apps[index].as_ref().filter(|_| self.reqs.contains_key(&id)) else {
            return;
        };
        if let Some(served) = &app.served {
            served.runtime.flush_again();
        }
        let owner = Some(app.proc);
        self.after(owner, Delay::Exactly(RETRY_US), Task::Retry(index, id));
    }

    /// A fault: a write is located now, and comes to the gate later.
    fn locate_early(&mut self, id: ReqId) -> bool {
        let wrong = self.wrong(Fault::LocatedEarly);
        let Some(req) = self
            .reqs
            .get(&id)
            .filter(|req| wrong && req.ask.what == What::Write)
        else {
            return false;
        };
        let (index, volume, blocks) = (req.app, req.ask.volume, req.blocks());
        let Some(app) = &self.apps[index] else {
            return false;
        };
        let at = |block: u64| {
            let (disk, extent) = app.placements.placement(volume, VolumeExtent(block / BLOCKS))?;
            Some((block, (disk.0 as usize - 1, extent.0 * BLOCKS + block % BLOCKS)))
        };
        let early: BTreeMap<u64, At> = blocks.filter_map(at).collect();
        if let Some(req) = self.reqs.get_mut(&id) {
            req.early = early;
        }
        true
    }

    /// What a request is in production code, and whether a hold covers it; a flush is not looked at.
    #[allow(clippy::type_complexity)]
    fn come_to_the_gate(
        &mut self,
        id: ReqId,
    ) -> Option<(VolumeId, Operation<'static>, Option<(bool, String)>)> {
        let req = self.reqs.get(&id)?;
        let (blocks, durable) = (req.blocks(), req.durable && !self.wrong(Fault::DurableUnflushed));
        let at = VolumeOffset(blocks.start * BLOCK);
        let operation = match req.ask.what {
            What::Read => Operation::Read {
                at,
                len: (blocks.end - blocks.start) * BLOCK,
            },
            What::Write => Operation::Write {
                at,
                data: Data::Owned(AlignedBytes::copy_of(&request::data(id, blocks))),
                durable,
            },
            What::Flush => Operation::Flush,
        };
        let app = self.apps[req.app].as_ref()?;
        let looked_at = (req.ask.what != What::Flush).then(|| {
            let (span, access) = (req.span(), req.access());
            (
                app.covers(&span, access),
                format!("on {} a {access:?} of {span:?}", app.name),
            )
        });
        Some((req.ask.volume, operation, looked_at))
    }

    /// P3: a request is parked exactly if a hold that was asked for covers it, or the gate is closed.
    fn check_entered(&mut self, request: &str, covered: bool, entered: bool) {
        if !entered {
            self.count("requests parked");
        }
        self.must(covered != entered, || {
            let what = if entered { "goes on" } else { "is parked" };
            format!("P3: {request} {what}")
        });
    }

    /// A write of a request reaches a disk, under a tag of its own each time. Returns false if a fault has it taken for written.
    pub fn begin_write(&mut self, by: (ProcId, ThreadId), id: ReqId, block: u64, at: At) -> bool {
        let tag = self.history.tag();
        let acknowledges = self.wrong(Fault::ParkedAcknowledged);
        let Some(req) = self.reqs.get_mut(&id) else {
            return false;
        };
        let place = (req.ask.volume, block);
        if acknowledges && req.tags.contains_key(&block) {
            return false;
        }
        let (earlier, begin) = (req.tags.insert(block, tag), req.begin);
        let at = req.early.get(&block).copied().unwrap_or(at);
        req.ran_in = self.apps[req.app].as_ref().map(|app| app.incarnation);
        self.history.write(place, tag, begin);
        if let Some(earlier) = earlier {
            self.count("writes run again");
            self.history.again(place, earlier);
        }
        self.begin_access(by, at, Some(tag));
        true
    }
}

impl App {
    /// No request is in the gate.
    pub fn is_drained(&self) -> bool {
        match &self.served {
            Some(served) => served.runtime.in_flight() == 0,
            None => self.lanes.is_empty(),
        }
    }
}
