//! A whole pool in one process: hosts, apparatuses, controllers, disks and the store, driving the machines of `protocol/` and the store in memory.
//! The control side of an apparatus is the production agent (`control.rs`), in the explorer too.
//! In the simulation the production driver of controllers (`driver.rs`) and the production data path of apparatuses (`served.rs`) run in it; the
//! explorer, which copies and compares states, drives the core of the gate and steps of its own (`way.rs`, `ctl.rs`). A run is a queue of tasks;
//! who picks the next one (a seed, or an explorer that tries them all) decides what happens.
//!
//! Time is virtual. Whatever a process does between two waits for something outside of it is one task; disk accesses, store
//! transactions, messages, the look at the fence word and the reply are tasks of their own, so that anything can come between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(clippy::wrong_self_convention, reason = "`to_app` sends to an apparatus")]

pub mod access;
pub mod answer;
pub mod app;
pub mod chaos;
pub mod check;
pub mod command;
pub mod control;
pub mod copy;
pub mod ctl;
pub mod disk;
pub mod driver;
pub mod ends;
pub mod explore;
pub mod fault;
pub mod history;
pub mod host;
pub mod jobs;
pub mod ledger;
pub mod links;
pub mod moving;
pub mod notes;
pub mod past;
pub mod power;
pub mod print;
pub mod promise;
pub mod request;
pub mod rng;
pub mod run;
pub mod seams;
pub mod served;
pub mod setup;
pub mod shared;
pub mod small;
pub mod spec;
pub mod thread;
pub mod way;
pub mod work;

use access::{Access, AccessId};
use answer::Answered;
use app::App;
use apparatus::blockdev::label::COPY;
use apparatus::model::member::{Member, MemberEntry};
use apparatus::model::units::{CacheEpoch, ChangeId, Generation, Incarnation, JobId, Slot, Term, VolumeId};
use apparatus::protocol::agent::Due;
use apparatus::rpc::message::{Answer, Request};
use apparatus::store::memory::MemoryStore;
use ctl::Ctl;
use disk::Disk;
use driver::Driver;
use fault::Fault;
use history::{History, Tag};
use host::{Client, Req};
use ledger::Ledger;
use links::Wire;
use rng::Rng;
use run::Phase;
use shared::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use thread::{Thread, ThreadId, Turn};
use uuid::Uuid;

/// A process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcId(pub u64);

/// A host's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReqId(pub u64);

/// A connection between a controller and an apparatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something that can happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A client asks for its next thing.
    Issue(usize),
    /// A request comes (again) to the gate.
    Enter(ReqId),
    /// One disk access of a request takes place.
    Io(ReqId, usize),
    /// And one of a production thread.
    Access(AccessId),
    /// A request's accesses are done: look at the fence word.
    Look(ReqId),
    /// And answer.
    Reply(ReqId),
    /// The next step of a host's flush.
    Flush(ReqId),
    /// A message arrives at an apparatus.
    ToApp(LinkId, Term, Request),
    /// A message arrives at a controller.
    ToCtl(LinkId, Answer),
    /// An apparatus notices the end of a connection.
    AppLost(LinkId),
    /// A controller does.
    CtlLost(LinkId),
    /// An apparatus's process starts, or takes its next step towards serving.
    Start(usize),
    /// A timer of an apparatus.
    AppTimer(usize, Due),
    /// The disks are open.
    DisksOpen(usize, ChangeId),
    /// An apparatus asks the store to cancel.
    Cancel(usize, ChangeId),
    /// It looks where the others are.
    Others(usize),
    /// It looks at its fence word, and at what requests in flight may have ended.
    Word(usize),
    /// It takes its next step towards rejoining.
    Rejoin(usize),
    /// A fault: its data path gets a table that it was to have already.
    Switch(usize),
    /// A thread goes on, if it has paused as many times as this and not more.
    Resume(ThreadId, u64),
    /// An apparatus tries its flushes again, if this request has no answer.
    Retry(usize, ReqId),
    /// The explorer's controller takes its next step.
    Step(ProcId),
    /// A controller's timer for one of its changes; timers armed since have a higher number.
    CtlTimer(ProcId, u64, u64),
    /// A controller's timer for its recovery.
    RecoveryTimer(ProcId),
    /// Something goes wrong.
    Chaos,
    /// An apparatus's process dies at this very step, if it is that one still.
    Kill(usize, ProcId),
    /// A process goes on after it had been stopped.
    Thaw(ProcId),
    /// Somebody runs `vctl`.
    Vctl,
}

/// A task in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The process that does it: nothing happens once that has ended, and it waits while that is stopped.
    pub owner: Option<ProcId>,
    pub task: Task,
    /// The explorer's: it takes longer than any timer.
    pub late: bool,
}

/// How long something takes, in microseconds.
#[derive(Clone, Copy, Debug)]
pub enum Delay {
    Exactly(u64),
    /// A step of a process.
    Step,
    /// A message.
    Message,
    /// A disk access.
    Disk,
    /// A transaction of the store.
    Store,
}

/// A line of the member table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub oldest: Generation,
    pub fenced: Incarnation,
}

impl Row {
    pub fn line(self) -> MemberEntry {
        MemberEntry {
            incarnation: self.incarnation,
            generation: self.generation,
            oldest: self.oldest,
            heartbeat_us: 0,
            pid: 0,
            fenced: self.fenced,
        }
    }
}

/// How often things happened that the checks are there for.
pub type Coverage = BTreeMap<&'static str, u64>;

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub options: setup::Options,
    pub rng: Rng,
    pub now: u64,
    entries: u64,
    pub queue: BTreeMap<(u64, u64), Entry>,
    /// Tasks of stopped processes.
    pub waiting: Vec<Entry>,
    pub stopped: BTreeSet<ProcId>,
    /// By kind: how many there have been.
    numbers: BTreeMap<u64, u64>,
    pub alive: BTreeSet<ProcId>,
    pub boots: u128,
    pub store: MemoryStore,
    pub disks: Vec<Shared<Disk>>,
    pub rows: Vec<Row>,
    pub lock: Option<ProcId>,
    pub apps: Vec<Option<Shared<App>>>,
    /// The explorer's controllers.
    pub ctls: BTreeMap<ProcId, Shared<Ctl>>,
    /// The simulation's: production drivers.
    pub drivers: BTreeMap<ProcId, Driver>,
    pub threads: BTreeMap<ThreadId, Thread>,
    last_thread: u64,
    /// Disk accesses of production threads.
    pub accesses: BTreeMap<AccessId, Access>,
    last_access: u64,
    pub ledgers: Vec<Ledger>,
    /// Requests that reader threads are to take.
    pub inbox: BTreeMap<ThreadId, ReqId>,
    /// A fault: replies that are sent late.
    pub late_answers: BTreeMap<ReqId, Answered>,
    /// The way back to the scheduler.
    pub back: Option<Sender<Box<World>>>,
    /// What comes next, if that is known already.
    pub next: Option<Turn>,
    /// The thread that the last task has go on.
    pub resumed: Option<ThreadId>,
    /// What the run waits for.
    pub phase: Phase,
    /// Both copies of each disk's label.
    pub labels: Vec<[[u8; COPY]; 2]>,
    /// The generations that the member table shows as committed and as persisted.
    pub shown: (Generation, Generation),
    /// Which driver works on a job.
    pub claims: BTreeMap<JobId, ProcId>,
    /// The last heartbeats of stopped processes.
    pub beats: BTreeMap<ProcId, u64>,
    pub wires: BTreeMap<LinkId, Wire>,
    pub clients: Vec<Client>,
    pub reqs: BTreeMap<ReqId, Req>,
    pub history: History,
    /// For the explorer, which compares states: the same as `history`, as one goes.
    pub spec: BTreeMap<history::Place, spec::Block>,
    /// And while power can fail: what it may leave.
    pub past: BTreeMap<history::Place, past::Block>,
    /// Volumes that hosts use, and how many blocks of each: not what is not whole yet, nor what is to be removed.
    pub usable: BTreeMap<VolumeId, u64>,
    pub copied: BTreeMap<promise::Copied, ChangeId>,
    /// Blocks that a change has copied once more under its hold.
    pub copied_again: BTreeSet<(ChangeId, u64)>,
    /// Changes that were copied ahead, durably.
    pub durable: BTreeSet<ChangeId>,
    pub coverage: Coverage,
    /// No more trouble and no new work: everything has to come to rest.
    pub ending: bool,
    pub failure: Option<String>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
            rng: self.rng.clone(),
            queue: self.queue.clone(),
            waiting: self.waiting.clone(),
            stopped: self.stopped.clone(),
            numbers: self.numbers.clone(),
            alive: self.alive.clone(),
            store: self.store.fork(),
            disks: self.disks.clone(),
            rows: self.rows.clone(),
            apps: self.apps.clone(),
            ctls: self.ctls.clone(),
            // The explorer has no production threads.
            drivers: BTreeMap::new(),
            threads: BTreeMap::new(),
            accesses: BTreeMap::new(),
            ledgers: self.ledgers.clone(),
            inbox: BTreeMap::new(),
            late_answers: BTreeMap::new(),
            back: None,
            labels: Vec::new(),
            claims: BTreeMap::new(),
            beats: BTreeMap::new(),
            wires: self.wires.clone(),
            clients: self.clients.clone(),
            reqs: self.reqs.clone(),
            history: self.history.clone(),
            spec: self.spec.clone(),
            past: self.past.clone(),
            usable: self.usable.clone(),
            copied: self.copied.clone(),
            copied_again: BTreeSet::new(),
            durable: BTreeSet::new(),
            coverage: self.coverage.clone(),
            failure: self.failure.clone(),
            ..*self
        }
    }
}

impl World {
    pub fn boot(&self) -> CacheEpoch {
        self.boot_of(self.boots)
    }

    /// A protocol that ignores the boot's identity sees the same one for ever.
    fn boot_of(&self, boot: u128) -> CacheEpoch {
        let boot = if self.wrong(Fault::BootIgnored) { 1 } else { boot };
        CacheEpoch(Uuid::from_u128(boot))
    }

    /// A line for whoever looks into a run.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:7}     {}", self.now, line());
        }
    }

    /// Whether this deliberate fault is switched on.
    pub fn wrong(&self, fault: Fault) -> bool {
        self.options.fault == Some(fault)
    }

    pub fn count(&mut self, what: &'static str) {
        if !self.options.explore {
            *self.coverage.entry(what).or_default() += 1;
        }
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        self.failure.get_or_insert(why.into());
    }

    /// Something that must hold.
    pub fn must(&mut self, holds: bool, why: impl FnOnce() -> String) {
        if !holds {
            self.fail(why());
        }
    }

    /// Puts a task into the queue.
    pub fn after(&mut self, owner: Option<ProcId>, delay: Delay, task: Task) {
        let us = self.time_for(delay);
        let late = false;
        self.put_at(self.now + us, Entry { owner, task, late });
    }

    /// The same again: for the explorer, which knows no time.
    pub fn put(&mut self, entry: Entry) {
        self.put_at(self.now, entry);
    }

    fn put_at(&mut self, at: u64, entry: Entry) {
        self.entries += 1;
        self.queue.insert((at, self.entries), entry);
    }

    fn time_for(&mut self, delay: Delay) -> u64 {
        if self.options.explore {
            return 0;
        }
        let (from, to) = match delay {
            Delay::Exactly(us) => return us,
            Delay::Step => (1, 20),
            Delay::Message => (10, 120),
            Delay::Disk => (5, 150),
            Delay::Store => (10, 80),
        };
        let slow = self.options.chaos.slow;
        match delay {
            Delay::Disk if self.rng.permille(slow) => self.rng.between(2_000, 12_000),
            Delay::Message if self.rng.permille(slow) => self.rng.between(200, 4_000),
            _ => self.rng.between(from, to),
        }
    }

    /// The process of an apparatus, or a controller in it or in none.
    pub fn new_proc(&mut self, app: Option<usize>, controls: bool) -> ProcId {
        let role = 2 * app.map_or(0, |index| index as u64 + 1) + u64::from(controls);
        let id = ProcId(self.number(role));
        self.alive.insert(id);
        id
    }

    /// The next number of its kind. The explorer compares states: who has had as many lives has the same number, whatever others have had.
    pub fn number(&mut self, kind: u64) -> u64 {
        let kind = if self.options.explore { kind } else { 0 };
        let last = self.numbers.entry(kind).or_default();
        *last += 1;
        kind * 100 + *last
    }

    /// Takes one task out of the queue and has it happen.
    pub fn happen(&mut self, key: (u64, u64)) {
        let Some(entry) = self.queue.remove(&key) else {
            return;
        };
        self.now = self.now.max(key.0);
        match entry.owner {
            Some(owner) if !self.alive.contains(&owner) => {}
            Some(owner) if self.stopped.contains(&owner) => self.waiting.push(entry),
            _ => self.perform(entry.task),
        }
    }

    fn perform(&mut self, task: Task) {
        if self.options.trace {
            println!("{:7} {task:?}", self.now);
        }
        match task {
            Task::Issue(client) => self.issue(client),
            Task::Enter(req) => self.enter(req),
            Task::Io(req, piece) => self.io(req, piece),
            Task::Look(req) => self.look(req),
            Task::Access(access) => self.access(access),
            Task::Reply(req) if self.options.explore => self.reply(req),
            Task::Reply(req) => self.late_answer(req),
            Task::Flush(req) => self.flush_step(req),
            Task::ToApp(link, term, request) => self.to_app(link, term, request),
            Task::ToCtl(link, answer) => self.to_ctl(link, answer),
            Task::AppLost(link) => self.app_lost(link),
            Task::CtlLost(link) => self.ctl_lost(link),
            Task::Start(app) => self.start_step(app),
            Task::AppTimer(app, due) => self.app_timer(app, due),
            Task::DisksOpen(app, change) => self.disks_open(app, change),
            Task::Cancel(app, change) => self.app_cancel(app, change),
            Task::Others(app) => self.look_at_others(app),
            Task::Word(app) => self.look_around(app),
            Task::Retry(app, req) => self.retry_flushes(app, req),
            Task::Rejoin(app) => self.rejoin_step(app),
            Task::Switch(app) => self.switch_late(app),
            Task::Resume(thread, epoch) => self.resume(thread, epoch),
            Task::Step(ctl) => self.ctl_step(ctl),
            Task::CtlTimer(ctl, key, epoch) => self.ctl_timer(ctl, key, epoch),
            Task::RecoveryTimer(ctl) => self.recovery_timer(ctl),
            Task::Chaos => self.chaos(),
            Task::Kill(app, proc) => self.kill_at_step(app, proc),
            Task::Thaw(proc) => self.thaw(proc),
            Task::Vctl => self.vctl(),
        }
    }

    /// Whether the process of this member's name has not ended: its life lock.
    pub fn lives(&self, member: &Member) -> bool {
        self.apps.iter().flatten().any(|app| app.name == member.name)
    }

    /// The last heartbeat of the process in this slot.
    pub fn heartbeat(&self, slot: Slot) -> u64 {
        let app = self.apps.iter().flatten().find(|app| app.slot == slot);
        let beat = |app: &Shared<App>| self.beats.get(&app.proc).copied().unwrap_or(self.now);
        app.filter(|app| app.serves()).map_or(0, beat)
    }

    pub fn row(&mut self, slot: Slot) -> &mut Row {
        let index = slot.0 as usize;
        if self.rows.len() <= index {
            self.rows.resize(index + 1, Row::default());
        }
        &mut self.rows[index]
    }
}
