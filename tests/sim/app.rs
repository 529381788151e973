//! An apparatus's process: its start, and what the store is asked for when it rejoins.

use super::fault::Fault;
use super::host::{Lane, What};
use super::promise::Placed;
use super::served::Served;
use super::shared::Shared;
use super::{Delay, LinkId, ProcId, ReqId, Task, World};
use apparatus::agent::rejoin;
use apparatus::gate::Access;
use apparatus::gate::core::Holds;
use apparatus::map::Draft;
use apparatus::model::member::{Joined, Joiner};
use apparatus::model::names::Name;
use apparatus::model::records::{Delta, Snapshot, Span};
use apparatus::model::units::{ChangeId, Generation, Incarnation, Slot, Term, VolumeExtent};
use apparatus::protocol::agent::{Agent, Input, Rejoined};
use apparatus::protocol::participant::{Bounds, Machine, Participation};
use apparatus::protocol::recovery::MemberView;
use apparatus::store::memory::Placements;
use apparatus::store::roles::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the store said to a join or rejoin, until it is put to use.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Another boot's leavings come first.
    Booting,
    /// The store is asked to join.
    Joining,
    /// The table is to be loaded.
    Loading(Box<Joined>),
    /// The agent does the rest.
    Serving,
    /// The store is asked to rejoin, from this incarnation.
    Rejoining(Incarnation),
    /// The table is to be loaded anew.
    Reloading(Box<Joined>),
}

#[derive(Clone, Debug)]
pub struct App {
    pub proc: ProcId,
    pub name: Name,
    pub stage: Stage,
    pub slot: Slot,
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub placements: Placements,
    /// The production agent; an input takes it out while it is handled.
    pub agent: Option<Agent>,
    /// The simulation's: its data path. The explorer has these in its place: holds, lanes and strays.
    pub served: Option<Served>,
    pub holds: Holds<ReqId>,
    pub lanes: BTreeMap<ReqId, Lane>,
    /// Found fenced, to go on after the rejoining.
    pub strays: Vec<ReqId>,
    /// Notes; the explorer's have the writes that were in flight when they were placed.
    pub settling: BTreeMap<ChangeId, BTreeSet<ReqId>>,
    /// Generations of which the store is asked whether the others have reached them.
    pub finding: BTreeSet<Generation>,
    /// A fault: deltas that are to be applied late.
    pub switches: VecDeque<Delta>,
    /// A fault: changes that were not committed when the store was to be asked for them.
    pub not_committed: BTreeSet<ChangeId>,
    /// It has rejoined in the store, and the answer was lost.
    pub unheard: bool,
    /// The explorer's: the agent is woken when the next request leaves the gate.
    pub wakes: bool,
    /// The holds in place, as they were asked for.
    pub placed: BTreeMap<ChangeId, Placed>,
    /// Holds asked for: by which connection, and until when.
    pub asked: BTreeMap<ChangeId, (Option<LinkId>, u64)>,
    /// The terms in which they were asked for.
    pub terms: BTreeMap<ChangeId, Term>,
    /// Everything is parked, until it has rejoined.
    pub closed: bool,
    /// It has not been stopped since.
    pub awake: u64,
    /// The store has failed: it is asked again at this time.
    pub asks_again: u64,
    pub takeover: Option<ProcId>,
}

impl App {
    /// Whether hosts see its mount.
    pub fn serves(&self) -> bool {
        !matches!(self.stage, Stage::Booting | Stage::Joining | Stage::Loading(_))
    }

    /// Whether it is in the control range, waits for nobody, and holds nothing.
    pub fn is_calm(&self) -> bool {
        let machine = self.agent.as_ref().map(Agent::machine);
        let calm = |machine: &Machine| machine.standing() == Participation::Serving && machine.holds() == 0;
        machine.is_some_and(calm)
    }

    /// Whether a request is to be parked.
    pub fn covers(&self, span: &Span, access: Access) -> bool {
        self.closed || self.placed.values().any(|hold| hold.covers(span, access))
    }
}

pub fn placements(snapshot: &Snapshot) -> Placements {
    Placements::new(&snapshot.disks, &snapshot.volumes, &snapshot.segments)
}

impl World {
    pub fn start_step(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else {
            return self.start(index);
        };
        let proc = app.proc;
        match app.stage.clone() {
            Stage::Booting => {
                let boot = self.boot();
                let undone = self.store.recover_epoch(boot).unwrap_or_default();
                if !undone.is_empty() {
                    self.count("boots with changes undone");
                }
                self.set_stage(index, Stage::Joining);
                self.after(Some(proc), Delay::Store, Task::Start(index));
            }
            Stage::Joining => self.join(index),
            Stage::Loading(joined) => self.serve(index, &joined),
            _ => {}
        }
    }

    fn start(&mut self, index: usize) {
        let proc = self.new_proc(Some(index), false);
        let name = Name::new("apparatus", &format!("a{index}")).unwrap();
        self.apps[index] = Some(Shared::new(App {
            proc,
            name,
            stage: Stage::Booting,
            slot: Slot(u32::MAX),
            incarnation: Incarnation(0),
            generation: Generation(0),
            placements: Placements::default(),
            agent: None,
            served: None,
            holds: Holds::new(),
            lanes: BTreeMap::new(),
            strays: Vec::new(),
            settling: BTreeMap::new(),
            finding: BTreeSet::new(),
            switches: VecDeque::new(),
            not_committed: BTreeSet::new(),
            wakes: false,
            unheard: false,
            placed: BTreeMap::new(),
            asked: BTreeMap::new(),
            terms: BTreeMap::new(),
            closed: false,
            awake: 0,
            asks_again: 0,
            takeover: None,
        }));
        self.after(Some(proc), Delay::Store, Task::Start(index));
    }

    fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(app) = self.apps[index].as_mut() {
            app.stage = stage;
        }
    }

    /// Joins by name; an earlier life of this name has ended, or is this very process, drained.
    fn ask_to_join(&mut self, index: usize) -> Option<Box<Joined>> {
        let app = self.apps[index].as_ref()?;
        let (name, pid) = (app.name.clone(), app.proc.0 as u32);
        let joined = self.store.join(&Joiner::new(&name, pid, "/mnt"), &|_| false);
        self.must(joined.is_ok(), || format!("join: {joined:?}"));
        joined.ok().map(Box::new)
    }

    fn join(&mut self, index: usize) {
        let Some(joined) = self.ask_to_join(index) else {
            return;
        };
        self.count("joins");
        let owner = self.apps[index].as_ref().map(|app| app.proc);
        self.set_stage(index, Stage::Loading(joined));
        self.after(owner, Delay::Step, Task::Start(index));
    }

    fn serve(&mut self, index: usize, joined: &Joined) {
        self.load(index, joined);
        let bounds = Bounds {
            holds: 8,
            patience_us: self.options.patience_us,
        };
        self.start_data_path(index, joined);
        if let Some(app) = self.apps[index].as_mut() {
            app.stage = Stage::Serving;
            app.agent = Some(Agent::new(Rejoined::of(joined), bounds));
        }
        self.with_agent(index, |agent, services| agent.begin(services));
        for client in 0..self.clients.len() {
            if self.clients[client].app == index {
                self.clients[client].busy = None;
                self.after(None, Delay::Step, Task::Issue(client));
            }
        }
    }

    /// Takes a table and a life, and begins them in the member table.
    fn load(&mut self, index: usize, joined: &Joined) {
        let (slot, incarnation) = (joined.member.slot, joined.member.incarnation);
        let generation = joined.snapshot.header.generation;
        // The snapshot has no segments if deltas lead to them; no change was committed since.
        let placements = match joined.since {
            Some(_) => (*self.store.placements()).clone(),
            None => placements(&joined.snapshot),
        };
        if let Some(app) = self.apps[index].as_mut() {
            (app.slot, app.incarnation, app.generation) = (slot, incarnation, generation);
            app.placements = placements;
            app.unheard = false;
        }
        let row = self.row(slot);
        (row.incarnation, row.generation, row.oldest) = (incarnation, generation, generation);
    }

    /// No request in flight uses an older table.
    pub fn oldest(&self, index: usize) -> Generation {
        let Some(app) = &self.apps[index] else {
            return Generation(0);
        };
        if let Some(served) = &app.served {
            return served.runtime.oldest();
        }
        app.lanes
            .values()
            .map(|lane| lane.generation)
            .fold(app.generation, Generation::min)
    }

    /// The explorer's: a request leaves the gate. The agent is woken if it has found something to wait for.
    pub fn leave_lane(&mut self, index: usize, id: ReqId) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        app.lanes.remove(&id);
        let woken = std::mem::take(&mut app.wakes);
        let (slot, oldest) = (app.slot, self.oldest(index));
        self.row(slot).oldest = oldest;
        if woken {
            self.input(index, Input::Woken(BTreeSet::new()));
        }
    }

    /// Asks the store to rejoin, loads the table, and has the agent go on.
    pub fn rejoin_step(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        match app.stage.clone() {
            Stage::Rejoining(_) if self.reads_table(index) => {}
            Stage::Rejoining(from) => self.ask_to_rejoin(index, from),
            Stage::Reloading(joined) => {
                self.count("rejoined");
                self.input(index, Input::Rejoined(Some(Rejoined::of(&joined))));
            }
            _ => {}
        }
    }

    /// The simulation's: the table is read before the store is asked, so that it may change in between.
    fn reads_table(&mut self, index: usize) -> bool {
        let proc = self.apps[index].as_ref().map(|app| app.proc);
        let Some(served) = self.apps[index].as_ref().and_then(|app| app.served.clone()) else {
            return false;
        };
        let reads = served.read().is_none();
        if reads {
            let read = self.store.snapshot().and_then(|snapshot| Draft::new(&snapshot));
            self.must(read.is_ok(), || format!("read: {read:?}"));
            served.keep(read.ok());
            self.after(proc, Delay::Store, Task::Rejoin(index));
        }
        reads
    }

    fn ask_to_rejoin(&mut self, index: usize, from: Incarnation) {
        let Some(app) = &self.apps[index] else { return };
        let (proc, slot) = (app.proc, app.slot);
        let known = app.served.as_ref().and_then(|served| served.read());
        let joiner = Joiner {
            known,
            ..Joiner::new(&app.name, proc.0 as u32, "/mnt")
        };
        let fails = !self.options.explore && self.rng.permille(self.options.chaos.store_fails);
        if fails && self.rng.permille(500) {
            return self.rejoin_failed(index);
        }
        let joined = rejoin(&mut self.store, (slot, from), &joiner);
        self.must(joined.is_ok(), || format!("rejoin: {joined:?}"));
        if fails {
            // The answer is lost.
            self.apps[index].iter_mut().for_each(|app| app.unheard = true);
            return self.rejoin_failed(index);
        }
        if let Ok(joined) = joined {
            self.set_stage(index, Stage::Reloading(Box::new(joined)));
            self.after(Some(proc), Delay::Step, Task::Rejoin(index));
        }
    }

    fn rejoin_failed(&mut self, index: usize) {
        self.count("store failed at a rejoin");
        if let Some(served) = self.apps[index].as_ref().and_then(|app| app.served.as_ref()) {
            served.keep(None);
        }
        self.input(index, Input::Rejoined(None));
    }

    /// The agent loads the table that it has rejoined with.
    pub fn reload(&mut self, index: usize, joined: &Joined) {
        self.reload_data_path(index, joined);
        self.load(index, joined);
        self.set_stage(index, Stage::Serving);
        self.finish_strays(index);
    }

    /// The explorer's: a write that had reached its disk is acknowledged if its range has not moved since; all else runs again, when the gate opens.
    fn finish_strays(&mut self, index: usize) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        for id in std::mem::take(&mut app.strays) {
            let Some(req) = self.reqs.get(&id) else { continue };
            let (span, access, now) = (req.span(), req.access(), self.now);
            let wrong = self.wrong(Fault::ParkedAcknowledged);
            let Some(app) = self.apps[index].as_mut() else {
                return;
            };
            let placement = |block| {
                app.placements
                    .placement(req.ask.volume, VolumeExtent(block / super::disk::BLOCKS))
            };
            let unmoved = req
                .pieces
                .iter()
                .all(|piece| placement(piece.block) == Some(piece.placement));
            if req.ask.what == What::Write && req.reached && (unmoved || wrong) {
                let owner = Some(app.proc);
                self.count("parked writes acknowledged");
                self.after(owner, Delay::Step, Task::Look(id));
            } else {
                app.holds.park(id, span, access, 1, now);
            }
        }
    }

    /// Everyone who has not left, as the store, the member table and the life locks show them.
    pub fn see(&self) -> Vec<MemberView> {
        let (_, members) = self.store.clone().members().unwrap_or_default();
        let seen = members.iter().map(|member| {
            let row = self.rows.get(member.slot.0 as usize).copied().unwrap_or_default();
            MemberView::new(member, &row.line(), self.lives(member))
        });
        seen.collect()
    }

    /// Connections of an apparatus.
    pub fn wires_of(&self, index: usize) -> Vec<LinkId> {
        let theirs = self.wires.iter().filter(|(_, wire)| wire.app == index);
        theirs.map(|(&id, _)| id).collect()
    }
}
