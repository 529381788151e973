//! What an apparatus's machine wants, carried out; and what happens to it, told.

use super::driver::Goal;
use super::fault::Fault;
use super::host::BLOCK;
use super::promise::Placed;
use super::{Delay, LinkId, ProcId, Task, World};
use apparatus::model::change::{Cancel, HoldMode};
use apparatus::model::records::{Delta, Span};
use apparatus::model::units::{ChangeId, ExtentSize};
use apparatus::protocol::participant::{Effect, Event, Link, OWN, Timer};
use apparatus::rpc::message::Answer;
use apparatus::store::roles::*;

impl World {
    /// An event for the machine of an apparatus.
    pub fn deliver(&mut self, index: usize, event: Event) {
        let Some(machine) = self.apps[index].as_mut().and_then(|app| app.machine.as_mut()) else {
            return;
        };
        let text = if self.options.trace {
            format!("{event:?}")
        } else {
            String::new()
        };
        let effects = machine.on(event);
        self.trace(|| format!("a{index} {text} -> {effects:?}"));
        self.carry_out(index, effects);
        self.maybe_kill_app(index);
    }

    pub fn carry_out(&mut self, index: usize, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(index, effect);
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        let Some(proc) = self.apps[index].as_ref().map(|app| app.proc) else {
            return;
        };
        let owner = Some(proc);
        match effect {
            Effect::Answer(link, answer) => self.answer(link, answer),
            Effect::OpenDisks(change, _) => self.open_disks(index, proc, change),
            Effect::PlaceNote(change, spans) => self.place_note(index, change, &spans),
            Effect::EndNote(change) => self.end_note(index, change),
            Effect::ReportHeld(change, link) => self.report_held(index, change, link),
            Effect::PlaceHold(change, spans, mode) => self.place_hold(index, change, spans, mode),
            Effect::Apply(_, delta) => self.apply(index, &delta),
            Effect::Reopen(change, link) => self.reopen(index, change, link),
            Effect::ReportDraining(change, link) => self.report_draining(index, change, link),
            Effect::ReportOpening(change, link) => self.report_opening(change, link),
            Effect::ReportApplied(change, link) => self.report_applied(index, change, link),
            Effect::Cancel(change) => self.after(owner, Delay::Store, Task::Cancel(index, change)),
            Effect::AwaitOthers(generation) => {
                let Some(app) = self.apps[index].as_mut() else {
                    return;
                };
                app.awaited.insert(generation);
                if !std::mem::replace(&mut app.looking, true) {
                    self.after(owner, Delay::Store, Task::Others(index));
                }
            }
            Effect::TakeOver => self.take_over(index),
            Effect::Arm(change, timer, us) => {
                if timer == Timer::Deadline {
                    self.note_deadline(index, change, us);
                }
                self.after(owner, Delay::Exactly(us), Task::AppTimer(index, change, timer))
            }
            Effect::HoldWrites => self.hold_writes(index),
            Effect::ReleaseWrites => self.reopen(index, OWN, None),
            Effect::Rejoin => self.begin_rejoining(index),
            Effect::Open => {
                let Some(app) = self.apps[index].as_mut() else {
                    return;
                };
                app.closed = false;
                if let Some(served) = &app.served {
                    return served.runtime.open();
                }
                let freed = app.holds.open(self.now).items;
                freed
                    .into_iter()
                    .for_each(|req| self.after(owner, Delay::Step, Task::Enter(req)));
            }
        }
    }

    fn answer(&mut self, link: Link, answer: Answer) {
        self.send_to_ctl(LinkId(link.0), answer);
    }

    fn open_disks(&mut self, index: usize, proc: ProcId, change: ChangeId) {
        let slow = !self.options.explore && self.rng.permille(self.options.chaos.disk_slow);
        let delay = if slow {
            Delay::Exactly(self.options.patience.drain_us * 2)
        } else {
            Delay::Step
        };
        self.after(Some(proc), delay, Task::DisksOpen(index, change));
    }

    fn report_opening(&mut self, change: ChangeId, link: Link) {
        self.count("slow openings reported");
        let disk = String::new();
        let waited_us = 0;
        self.answer(
            link,
            Answer::StillOpening {
                change,
                disk,
                waited_us,
            },
        );
    }

    fn report_applied(&mut self, index: usize, change: ChangeId, link: Link) {
        let app = self.apps[index].as_ref();
        let generation = app.map(|app| app.generation).unwrap_or_default();
        let oldest = self.oldest(index);
        self.answer(
            link,
            Answer::Applied {
                change,
                generation,
                oldest,
            },
        );
    }

    fn place_hold(&mut self, index: usize, change: ChangeId, spans: Vec<Span>, mode: HoldMode) {
        let wide = self.wrong(Fault::HoldTooWide);
        let all = self.wrong(Fault::ReadsHeld);
        let short = self.wrong(Fault::HoldTooShort);
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let (link, over) = app.asked.remove(&change).unwrap_or((None, u64::MAX));
        let asked = Placed {
            spans: spans.clone(),
            mode,
            link,
            over,
        };
        app.placed.insert(change, asked);
        let whole: Vec<Span> = spans.iter().map(|span| Span::whole(span.volume)).collect();
        let placed = if wide { &whole } else { &spans };
        let placed_mode = if all { HoldMode::All } else { mode };
        let has_room = match &app.served {
            Some(served) => served
                .runtime
                .hold(change, &shortened(placed, short), placed_mode),
            None => {
                app.holds.place(change, placed, placed_mode);
                true
            }
        };
        app.draining.insert(change, (spans, mode));
        self.must(has_room, || "the gate has no room for a hold".into());
        self.look_at_drains(index);
    }

    fn note_deadline(&mut self, index: usize, change: ChangeId, us: u64) {
        let over = self.now + us;
        if let Some(app) = self.apps[index].as_mut() {
            app.asked.entry(change).or_insert((None, 0)).1 = over;
        }
    }

    /// Holds of the apparatus itself have no deadline and no controller.
    fn hold_writes(&mut self, index: usize) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let spans: Vec<Span> = app
            .placements
            .volumes()
            .map(|volume| Span::whole(volume.id))
            .collect();
        match &app.served {
            Some(served) => _ = served.runtime.hold(OWN, &spans, HoldMode::Writes),
            None => app.holds.place(OWN, &spans, HoldMode::Writes),
        }
        let own = Placed {
            spans,
            mode: HoldMode::Writes,
            link: None,
            over: u64::MAX,
        };
        app.placed.insert(OWN, own);
    }

    fn apply(&mut self, index: usize, delta: &Delta) {
        self.count("applied");
        let switches = !self.wrong(Fault::TableNotSwitched);
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let applied = app.placements.apply(ExtentSize::MIN, &delta.edits);
        app.generation = delta.from.next();
        let switched = match &app.served {
            Some(served) if switches => served.runtime.apply(delta).map(drop),
            _ => Ok(()),
        };
        let (slot, generation) = (app.slot, app.generation);
        let oldest = self.oldest(index);
        let row = self.row(slot);
        (row.generation, row.oldest) = (generation, oldest);
        self.must(applied.is_ok(), || format!("apply: {applied:?}"));
        self.must(switched.is_ok(), || format!("apply: {switched:?}"));
    }

    fn reopen(&mut self, index: usize, change: ChangeId, link: Option<Link>) {
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let owner = Some(app.proc);
        let freed = match &app.served {
            Some(served) => {
                let resumed = served.runtime.release(change);
                (Vec::new(), resumed.parked, 0)
            }
            None => {
                let freed = app.holds.release(change, self.now);
                (freed.items, freed.parked, freed.longest_us)
            }
        };
        let (items, parked, longest_us) = freed;
        app.draining.remove(&change);
        app.settling.remove(&change);
        app.placed.remove(&change);
        app.asked.remove(&change);
        self.check_gate(index);
        items
            .into_iter()
            .for_each(|req| self.after(owner, Delay::Step, Task::Enter(req)));
        if let Some(link) = link {
            let oldest = self.oldest(index);
            self.answer(
                link,
                Answer::Released {
                    change,
                    parked,
                    longest_us,
                    oldest,
                },
            );
        }
    }

    fn report_draining(&mut self, index: usize, change: ChangeId, link: Link) {
        self.count("slow drains reported");
        let in_flight = self.apps[index].as_ref().map_or(0, |app| app.lanes.len() as u64);
        self.answer(
            link,
            Answer::StillDraining {
                change,
                in_flight,
                oldest_us: 0,
                disk: String::new(),
            },
        );
    }

    pub fn app_timer(&mut self, index: usize, change: ChangeId, timer: Timer) {
        if timer == Timer::Deadline {
            let held = self.apps[index]
                .as_ref()
                .is_some_and(|app| app.placed.contains_key(&change));
            if held {
                self.count("holds past their deadline");
            }
        }
        if timer != Timer::Deadline || !self.wrong(Fault::DeadlineIgnored) {
            self.deliver(index, Event::TimedOut(change, timer));
        }
    }

    pub fn disks_open(&mut self, index: usize, change: ChangeId) {
        let fails = !self.options.explore && self.rng.permille(self.options.chaos.disk_refused);
        let result = if fails {
            Err(("d1".into(), "not there".into()))
        } else {
            Ok(())
        };
        self.deliver(index, Event::DisksOpen(change, result));
    }

    /// An apparatus asks the store who was first: the end of its hold, or the commit.
    pub fn app_cancel(&mut self, index: usize, change: ChangeId) {
        if self.wrong(Fault::ReopenByClock) {
            return self.deliver(index, Event::CancelAnswered(change, Cancel::Cancelled));
        }
        if !self.options.explore && self.rng.permille(self.options.chaos.store_fails) {
            self.count("store failed at a cancel");
            let again = self.now + self.options.patience_us;
            if let Some(app) = self.apps[index].as_mut() {
                app.asks_again = again;
            }
            return self.deliver(index, Event::CancelFailed(change));
        }
        match self.store.cancel(change) {
            Ok(answer) => {
                let committed = matches!(answer, Cancel::Committed(_));
                self.count(if committed {
                    "holds ended as committed"
                } else {
                    "holds ended as cancelled"
                });
                self.deliver(index, Event::CancelAnswered(change, answer));
            }
            // A power loss took the change's record, and everyone who knew of it.
            Err(error) => self.fail(format!("cancel: {error}")),
        }
    }

    /// Takes the controller lock, if it is free, inside this apparatus.
    fn take_over(&mut self, index: usize) {
        let Some(app) = &self.apps[index] else { return };
        let running = app
            .takeover
            .is_some_and(|ctl| self.ctls.contains_key(&ctl) || self.drivers.contains_key(&ctl));
        if running || self.lock.is_some() {
            return;
        }
        self.count("takeovers");
        let ctl = if self.options.explore {
            self.new_ctl(Goal::Recover, Some(index))
        } else {
            self.new_driver(Goal::Recover, Some(index))
        };
        if let Some(app) = self.apps[index].as_mut() {
            app.takeover = Some(ctl);
        }
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
