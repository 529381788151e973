//! The control side of an apparatus: the production agent, and what it is given of the pool. In the simulation holds and tables are those of the
//! production data path; the explorer has the core of the gate, and lanes.

use super::app::{App, Stage};
use super::driver::Goal;
use super::fault::Fault;
use super::host::{BLOCK, Lane};
use super::promise::Placed;
use super::{Delay, LinkId, Task, World};
use apparatus::gate::Access;
use apparatus::model::change::{ChangeState, HoldMode};
use apparatus::model::records::{Delta, DiskRecord, Span};
use apparatus::model::units::{ChangeId, ExtentSize, Generation, Incarnation, Slot};
use apparatus::protocol::agent::{Agent, Due, Input, Parked, Rejoined, Services, Step};
use apparatus::protocol::participant::{Link, OWN, Timer};
use apparatus::rpc::message::Answer;
use apparatus::store::roles::*;
use std::collections::BTreeSet;

/// What the agent of an apparatus uses: the world.
struct Surroundings<'a> {
    world: &'a mut World,
    index: usize,
}

impl World {
    /// Something has happened at an apparatus.
    pub fn input(&mut self, index: usize, input: Input) {
        let text = if self.options.trace {
            format!("{input:?}")
        } else {
            String::new()
        };
        self.trace(|| format!("a{index} {text}"));
        if self.with_agent(index, |agent, services| agent.on(input, services)) {
            self.maybe_kill_app(index);
        }
    }

    /// Has the agent of an apparatus do something. Returns false if there is none.
    pub fn with_agent(&mut self, index: usize, job: impl FnOnce(&mut Agent, &mut dyn Services)) -> bool {
        let Some(mut agent) = self.apps[index].as_mut().and_then(|app| app.agent.take()) else {
            return false;
        };
        job(&mut agent, &mut Surroundings { world: self, index });
        if let Some(app) = self.apps[index].as_mut() {
            app.agent = Some(agent);
        }
        true
    }

    /// Removes timers of an apparatus.
    fn remove_timers(&mut self, index: usize, gone: impl Fn(Due) -> bool) {
        let goes = |task: &Task| matches!(task, Task::AppTimer(of, due) if *of == index && gone(*due));
        self.queue.retain(|_, entry| !goes(&entry.task));
        self.waiting.retain(|entry| !goes(&entry.task));
    }
}

impl Surroundings<'_> {
    fn app(&mut self) -> &mut App {
        self.world.apps[self.index]
            .as_mut()
            .expect("an agent has an apparatus")
    }

    fn after(&mut self, delay: Delay, task: Task) {
        let owner = Some(self.app().proc);
        self.world.after(owner, delay, task);
    }

    fn wrong(&self, fault: Fault) -> bool {
        self.world.wrong(fault)
    }

    fn note_deadline(&mut self, change: ChangeId, us: u64) {
        let over = self.world.now + us;
        self.app().asked.entry(change).or_insert((None, 0)).1 = over;
    }

    /// Returns the requests in flight that a hold or a note of the explorer's has to wait for.
    fn lanes_before(&mut self, change: ChangeId) -> usize {
        let app = self.app();
        let stops = |hold: &Placed, lane: &Lane| hold.covers(&lane.span, lane.access);
        match (app.placed.get(&change), app.settling.get_mut(&change)) {
            (Some(hold), _) => app.lanes.values().filter(|lane| stops(hold, lane)).count(),
            (None, Some(inside)) => {
                inside.retain(|id| app.lanes.contains_key(id));
                inside.len()
            }
            (None, None) => 0,
        }
    }
}

impl Services for Surroundings<'_> {
    fn answer(&mut self, link: Link, answer: Answer) {
        self.world.send_to_ctl(LinkId(link.0), answer);
    }

    fn arm(&mut self, due: Due, after_us: u64) {
        if let Due::Change(change, Timer::Deadline) = due {
            self.note_deadline(change, after_us);
        }
        self.world.remove_timers(self.index, |other| other == due);
        self.after(Delay::Exactly(after_us), Task::AppTimer(self.index, due));
    }

    fn disarm(&mut self, change: Option<ChangeId>) {
        let of = |due| match due {
            Due::Change(of, _) => change.is_none_or(|change| change == of),
            _ => false,
        };
        self.world.remove_timers(self.index, of);
    }

    fn now_us(&mut self) -> u64 {
        self.world.now
    }

    fn passed(&mut self, step: Step) {
        if step == Step::DrainedForRejoin {
            self.world.count("drained for a rejoin");
        }
    }

    fn is_fenced(&mut self) -> bool {
        let (slot, incarnation) = (self.app().slot, self.app().incarnation);
        self.world.row(slot).fenced >= incarnation
    }

    fn show_oldest(&mut self, oldest: Generation) {
        let slot = self.app().slot;
        self.world.row(slot).oldest = oldest;
    }

    fn place_note(&mut self, change: ChangeId, spans: &[Span]) -> bool {
        self.world.count("notes");
        let app = self.app();
        if let Some(served) = &app.served {
            let placed = served.runtime.note_writes(change, spans);
            if placed {
                app.settling.insert(change, BTreeSet::new());
            }
            return placed;
        }
        app.holds.place_note(change, spans);
        let overlaps = |lane: &Lane| spans.iter().any(|span| span.overlaps(&lane.span));
        let lanes = app.lanes.iter();
        let inside = lanes.filter(|(_, lane)| lane.access == Access::Write && overlaps(lane));
        let inside = inside.map(|(&id, _)| id).collect();
        app.settling.insert(change, inside);
        true
    }

    fn written(&mut self, change: ChangeId) -> Option<Vec<Span>> {
        let app = self.app();
        match &app.served {
            Some(served) => served.runtime.written(change),
            None => app.holds.written(change),
        }
    }

    fn end_note(&mut self, change: ChangeId) {
        self.world.count("notes that ended before their hold");
        let app = self.app();
        app.settling.remove(&change);
        match &app.served {
            Some(served) => served.runtime.end_note(change),
            None => app.holds.end_note(change),
        }
    }

    fn place_hold(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        if change == OWN && self.wrong(Fault::WritesNotHeldAtRejoin) {
            return true;
        }
        let wide = self.wrong(Fault::HoldTooWide) && change != OWN;
        let short = self.wrong(Fault::HoldTooShort) && change != OWN;
        let all = self.wrong(Fault::ReadsHeld) && change != OWN;
        let app = self.app();
        // Holds of the apparatus itself have no deadline and no controller.
        let (link, over) = app.asked.remove(&change).unwrap_or((None, u64::MAX));
        let placed = Placed {
            spans: spans.to_vec(),
            mode,
            link,
            over,
        };
        app.placed.insert(change, placed);
        let whole: Vec<Span> = spans.iter().map(|span| Span::whole(span.volume)).collect();
        let spans = if wide { &whole } else { spans };
        let mode = if all { HoldMode::All } else { mode };
        let has_room = match &app.served {
            Some(served) => served.runtime.hold(change, &shortened(spans, short), mode),
            None => {
                app.holds.place(change, spans, mode);
                true
            }
        };
        self.world
            .must(has_room, || "the gate has no room for a hold".into());
        has_room
    }

    fn lag(&mut self, change: ChangeId) -> Option<Answer> {
        let is_hold = self.app().placed.contains_key(&change);
        let undrained = if is_hold {
            Fault::NoDrain
        } else {
            Fault::NoteWithoutDrain
        };
        let app = self.app();
        let in_flight = match &app.served {
            Some(served) => served.runtime.lag(change).map_or(0, |lag| lag.in_flight.max(1)),
            None => self.lanes_before(change) as u64,
        };
        if in_flight == 0 || self.wrong(undrained) {
            return None;
        }
        self.app().wakes = true;
        Some(Answer::StillDraining {
            change,
            in_flight,
            oldest_us: 0,
            disk: String::new(),
        })
    }

    fn release(&mut self, change: ChangeId) -> Parked {
        let now = self.world.now;
        let app = self.app();
        app.settling.remove(&change);
        app.placed.remove(&change);
        app.asked.remove(&change);
        let (items, parked) = match &app.served {
            Some(served) => {
                let resumed = served.runtime.release(change);
                (Vec::new(), (resumed.parked, 0))
            }
            None => {
                let freed = app.holds.release(change, now);
                (freed.items, (freed.parked, freed.longest_us))
            }
        };
        self.world.check_gate(self.index);
        items
            .into_iter()
            .for_each(|req| self.after(Delay::Step, Task::Enter(req)));
        let (requests, longest_us) = parked;
        Parked { requests, longest_us }
    }

    fn close_gate(&mut self) {
        self.world.count("rejoins begun");
        let app = self.app();
        match &app.served {
            Some(served) => served.runtime.close(),
            None => app.holds.close(),
        }
        app.settling.clear();
        app.placed.clear();
        app.asked.clear();
        app.closed = true;
        app.switches.clear();
    }

    fn open_gate(&mut self) {
        let now = self.world.now;
        let app = self.app();
        app.closed = false;
        if let Some(served) = &app.served {
            return served.runtime.open();
        }
        let freed = app.holds.open(now).items;
        freed
            .into_iter()
            .for_each(|req| self.after(Delay::Step, Task::Enter(req)));
    }

    fn in_flight(&mut self) -> u64 {
        if self.wrong(Fault::RejoinWithoutDrain) {
            return 0;
        }
        let app = self.app();
        let in_flight = match &app.served {
            Some(served) => served.runtime.in_flight(),
            None => app.lanes.len() as u64,
        };
        app.wakes |= in_flight > 0;
        in_flight
    }

    fn oldest(&mut self) -> Generation {
        self.world.shown_as_oldest(self.index)
    }

    fn apply(&mut self, delta: &Delta) -> bool {
        self.world.count("applied");
        let switches = !self.wrong(Fault::TableNotSwitched);
        let later = self.wrong(Fault::AppliedBeforeSwitch);
        let app = self.app();
        let applied = app.placements.apply(ExtentSize::MIN, &delta.edits);
        app.generation = delta.from.next();
        if later {
            app.switches.push_back(delta.clone());
            self.after(Delay::Message, Task::Switch(self.index));
        }
        let app = self.app();
        let switched = match &app.served {
            Some(served) if switches && !later => served.runtime.apply(delta).map(drop),
            _ => Ok(()),
        };
        let (slot, generation) = (app.slot, app.generation);
        let oldest = self.world.shown_as_oldest(self.index);
        let row = self.world.row(slot);
        (row.generation, row.oldest) = (generation, oldest);
        self.world.must(applied.is_ok(), || format!("apply: {applied:?}"));
        self.world
            .must(switched.is_ok(), || format!("apply: {switched:?}"));
        true
    }

    fn load(&mut self, rejoined: &Rejoined) -> bool {
        let Stage::Reloading(joined) = self.app().stage.clone() else {
            self.world
                .fail(format!("no table is there to be loaded: {rejoined:?}"));
            return false;
        };
        self.world.reload(self.index, &joined);
        true
    }

    fn end(&mut self, slot: Slot) {
        self.world
            .fail(format!("slot {slot} belongs to another apparatus"));
    }

    fn open_disks(&mut self, change: ChangeId, _disks: Vec<DiskRecord>) -> bool {
        let world = &mut self.world;
        let slow = !world.options.explore && world.rng.permille(world.options.chaos.disk_slow);
        let delay = if slow {
            Delay::Exactly(world.options.patience.drain_us * 2)
        } else {
            Delay::Step
        };
        self.after(delay, Task::DisksOpen(self.index, change));
        false
    }

    fn forget_disks(&mut self, _change: Option<ChangeId>) {}

    fn still_opening(&mut self, change: ChangeId) -> Option<Answer> {
        self.world.count("slow openings reported");
        Some(Answer::StillOpening {
            change,
            disk: String::new(),
            waited_us: 0,
        })
    }

    fn cancel(&mut self, change: ChangeId) -> bool {
        if self.wrong(Fault::OldAnswerTaken) {
            let before = self.world.store.change(change).ok().flatten();
            if before.is_some_and(|record| record.state == ChangeState::Prepared) {
                self.app().not_committed.insert(change);
            }
        }
        self.after(Delay::Store, Task::Cancel(self.index, change));
        true
    }

    fn find_others(&mut self, generations: &BTreeSet<Generation>) -> bool {
        self.app().finding.clone_from(generations);
        self.after(Delay::Store, Task::Others(self.index));
        true
    }

    fn rejoin(&mut self, from: Incarnation) -> bool {
        self.app().stage = Stage::Rejoining(from);
        self.after(Delay::Store, Task::Rejoin(self.index));
        true
    }

    /// Takes the controller lock, if it is free, inside this apparatus.
    fn take_over(&mut self) {
        let takeover = self.app().takeover;
        let world = &mut self.world;
        let running =
            takeover.is_some_and(|ctl| world.ctls.contains_key(&ctl) || world.drivers.contains_key(&ctl));
        if running || world.lock.is_some() {
            return;
        }
        world.count("takeovers");
        let ctl = if world.options.explore {
            world.new_ctl(Goal::Recover, Some(self.index))
        } else {
            world.new_driver(Goal::Recover, Some(self.index))
        };
        self.app().takeover = Some(ctl);
    }
}

/// A fault: each of these spans lacks its last block.
fn shortened(spans: &[Span], short: bool) -> Vec<Span> {
    let mut spans = spans.to_vec();
    if short {
        spans.iter_mut().for_each(|span| span.end.0 -= BLOCK);
    }
    spans
}
