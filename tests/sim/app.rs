//! An apparatus's process: its start, its fence, its way back.

use super::fault::Fault;
use super::host::{Lane, What};
use super::promise::Placed;
use super::served::Served;
use super::shared::Shared;
use super::{Delay, LinkId, ProcId, ReqId, Task, World};
use apparatus::gate::Access;
use apparatus::gate::core::Holds;
use apparatus::model::change::HoldMode;
use apparatus::model::member::{Joined, Joiner};
use apparatus::model::names::Name;
use apparatus::model::records::{Snapshot, Span};
use apparatus::model::units::{ChangeId, Generation, Incarnation, Slot, Term, VolumeExtent};
use apparatus::protocol::participant::{Bounds, Event, Machine};
use apparatus::protocol::recovery::{self, MemberView};
use apparatus::store::memory::Placements;
use apparatus::store::roles::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the store said to a join or rejoin, until it is put to use.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Another boot's leavings come first.
    Booting,
    /// The store is asked to join.
    Joining,
    /// The table is to be loaded.
    Loading(Box<Joined>),
    Serving,
    /// Fenced: nothing may be in flight before the store is asked.
    Draining,
    /// The store is asked to rejoin.
    Rejoining,
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
    pub machine: Option<Machine>,
    /// The simulation's: its data path. The explorer has these in its place: holds, lanes and strays.
    pub served: Option<Served>,
    pub holds: Holds<ReqId>,
    pub lanes: BTreeMap<ReqId, Lane>,
    /// Found fenced, to go on after the rejoining.
    pub strays: Vec<ReqId>,
    /// Holds that wait for their drain.
    pub draining: BTreeMap<ChangeId, (Vec<Span>, HoldMode)>,
    /// Notes that wait for theirs; the explorer's, with the writes that were in flight when they were placed.
    pub settling: BTreeMap<ChangeId, BTreeSet<ReqId>>,
    /// Generations that the others are awaited at.
    pub awaited: BTreeSet<Generation>,
    pub looking: bool,
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
        self.machine.is_some()
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
            machine: None,
            served: None,
            holds: Holds::new(),
            lanes: BTreeMap::new(),
            strays: Vec::new(),
            draining: BTreeMap::new(),
            settling: BTreeMap::new(),
            awaited: BTreeSet::new(),
            looking: false,
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
        let (incarnation, generation) = (joined.member.incarnation, joined.snapshot.header.generation);
        let bounds = Bounds {
            holds: 8,
            patience_us: self.options.patience_us,
        };
        let (machine, effects) = Machine::joined(incarnation, generation, bounds);
        self.start_data_path(index, joined);
        if let Some(app) = self.apps[index].as_mut() {
            app.stage = Stage::Serving;
            app.machine = Some(machine);
        }
        self.carry_out(index, effects);
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
        if let Some(app) = self.apps[index].as_mut() {
            (app.slot, app.incarnation, app.generation) = (slot, incarnation, generation);
            app.placements = placements(&joined.snapshot);
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

    /// A request leaves the gate: drains may have waited for it, and so may a way back.
    pub fn leave_lane(&mut self, index: usize, id: ReqId) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        app.lanes.remove(&id);
        let (slot, oldest) = (app.slot, self.oldest(index));
        self.row(slot).oldest = oldest;
        self.look_at_drains(index);
        self.look_at_rejoining(index);
    }

    pub fn look_at_drains(&mut self, index: usize) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let wrong = self.options.fault == Some(Fault::NoDrain);
        let (lanes, served) = (&app.lanes, &app.served);
        let waits = |change: ChangeId, spans: &[Span], mode: HoldMode| {
            if let Some(served) = served {
                return served.runtime.lag(change).is_some();
            }
            lanes.values().any(|lane| {
                let stopped = mode == HoldMode::All || lane.access == apparatus::gate::Access::Write;
                stopped && spans.iter().any(|span| span.overlaps(&lane.span))
            })
        };
        let done = app
            .draining
            .iter()
            .filter(|&(&id, (spans, mode))| wrong || !waits(id, spans, *mode));
        let done: Vec<ChangeId> = done.map(|(&id, _)| id).collect();
        for change in done {
            if let Some(app) = self.apps[index].as_mut() {
                app.draining.remove(&change);
            }
            self.deliver(index, Event::Drained(change));
        }
        self.look_at_notes(index);
    }

    /// Looks at the fence word, as the control thread does now and then.
    pub fn look_at_word(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let (slot, incarnation) = (app.slot, app.incarnation);
        if app.serves() && self.row(slot).fenced == incarnation {
            self.deliver(index, Event::Fenced(incarnation));
        }
    }

    pub fn begin_rejoining(&mut self, index: usize) {
        self.count("rejoins begun");
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        match &app.served {
            Some(served) => served.runtime.close(),
            None => app.holds.close(),
        }
        app.draining.clear();
        app.settling.clear();
        app.placed.clear();
        app.asked.clear();
        app.closed = true;
        app.awaited.clear();
        app.stage = Stage::Draining;
        self.look_at_rejoining(index);
    }

    pub fn look_at_rejoining(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let proc = app.proc;
        if !matches!(app.stage, Stage::Draining) {
            return;
        }
        let empty = app.is_drained();
        if matches!(app.stage, Stage::Draining) && (empty || self.wrong(Fault::RejoinWithoutDrain)) {
            self.set_stage(index, Stage::Rejoining);
            self.after(Some(proc), Delay::Store, Task::Rejoin(index));
        }
    }

    pub fn rejoin_step(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let (proc, slot, incarnation) = (app.proc, app.slot, app.incarnation);
        match app.stage.clone() {
            Stage::Rejoining => {
                let joined = match self.store.rejoin(slot, incarnation, None) {
                    Ok(joined) => Some(Box::new(joined)),
                    Err(_) => {
                        self.count("rejoins without a fence");
                        let left = self.store.leave(slot, incarnation);
                        self.must(left.is_ok(), || format!("leave: {left:?}"));
                        self.ask_to_join(index)
                    }
                };
                if let Some(joined) = joined {
                    self.set_stage(index, Stage::Reloading(joined));
                    self.after(Some(proc), Delay::Step, Task::Rejoin(index));
                }
            }
            Stage::Reloading(joined) => self.rejoined(index, &joined),
            _ => {}
        }
    }

    fn rejoined(&mut self, index: usize, joined: &Joined) {
        self.count("rejoined");
        self.load(index, joined);
        self.set_stage(index, Stage::Serving);
        self.reload(index, joined);
        self.finish_strays(index);
        let (incarnation, generation) = (joined.member.incarnation, joined.snapshot.header.generation);
        self.deliver(index, Event::Rejoined(incarnation, generation));
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

    pub fn look_at_others(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let (proc, awaited) = (app.proc, app.awaited.clone());
        let seen = self.see();
        for generation in awaited {
            let joining = matches!(
                self.standing(index),
                apparatus::protocol::participant::Participation::Waiting(_)
            );
            let wrong = self.wrong(Fault::ReopenAlone) || (joining && self.wrong(Fault::JoinerDoesNotWait));
            if wrong || recovery::others_reached(&seen, generation) {
                if let Some(app) = self.apps[index].as_mut() {
                    app.awaited.remove(&generation);
                }
                self.deliver(index, Event::OthersReached(generation));
            }
        }
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        app.looking = !app.awaited.is_empty();
        if app.looking {
            self.after(Some(proc), Delay::Exactly(300), Task::Others(index));
        }
    }

    fn standing(&self, index: usize) -> apparatus::protocol::participant::Participation {
        let machine = self.apps[index].as_ref().and_then(|app| app.machine.as_ref());
        machine.map_or(
            apparatus::protocol::participant::Participation::Out,
            Machine::standing,
        )
    }

    /// Connections of an apparatus.
    pub fn wires_of(&self, index: usize) -> Vec<LinkId> {
        let theirs = self.wires.iter().filter(|(_, wire)| wire.app == index);
        theirs.map(|(&id, _)| id).collect()
    }
}
