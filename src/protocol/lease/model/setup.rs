//! The nodes, troubles and hosts of a run, by its seed.

use super::apparatus::Apparatus;
use super::controller::Controller;
use super::store::{APPARATUSES, Store, Transaction};
use super::world::{Clock, Dice, Queue, Time};
use super::{END, Event, FAST, Fault, L, MS, Model, SLOW};
use std::collections::BTreeMap;

impl Model {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut dice = Dice::new(seed);
        let hides = fault == Some(Fault::HiddenPause);
        let (slow, fast) = (SLOW, FAST);
        let rates = match dice.within(0, 3) {
            0 => (slow, fast),
            1 => (fast, slow),
            _ => (dice.within(slow, fast), dice.within(slow, fast)),
        };
        let start = dice.within(MS, 20_000 * MS);
        let pauses = match dice.chance(50) || hides {
            true => vec![(start, start + dice.within(100 * MS, 2 * L))],
            false => Vec::new(),
        };
        let clock = |rate, pauses| Clock {
            rate,
            pauses,
            hides_pauses: hides,
        };
        let mut span = |percent: u64| match dice.chance(percent) {
            true => {
                let from = dice.within(MS, 20_000 * MS);
                (from, from + dice.within(100 * MS, 3 * L))
            }
            false => (Time::MAX, Time::MAX),
        };
        let (cut, store_cut, stops) = (span(50), span(30), span(30));
        let mut model = Self {
            fault,
            queue: Queue::new(),
            store: Store::new(fault),
            apps: [
                Apparatus::new(clock(rates.0, pauses)),
                Apparatus::new(clock(rates.1, Vec::new())),
            ],
            ctls: [
                Controller::new(clock(
                    rates.1,
                    if stops.0 < END { vec![stops] } else { Vec::new() },
                )),
                Controller::new(clock(rates.1, Vec::new())),
            ],
            requests: Vec::new(),
            history: Vec::new(),
            values: 0,
            long_access: [0, 0, 5, 15][usize::try_from(dice.within(0, 4)).unwrap_or(0)],
            cut,
            store_cut,
            writes: [0; APPARATUSES]
                .map(|_| [1, 10, 50, 90][usize::try_from(dice.within(0, 4)).unwrap_or(0)]),
            is_cut_by_fence: dice.chance(30),
            takes_over: dice.chance(50),
            has_neighbour: dice.chance(30) && !hides,
            boots: dice.chance(20).then(|| dice.within(15_000 * MS, 40_000 * MS)),
            has_booted: false,
            lapse_waited: false,
            lost: None,
            traces: false,
            met: BTreeMap::new(),
            dice,
        };
        model.focus();
        model.begin();
        model
    }

    /// Makes what some faults need more frequent.
    fn focus(&mut self) {
        if self.fault == Some(Fault::DriftIgnored) {
            (self.apps[0].clock.rate, self.ctls[0].clock.rate) = (SLOW, FAST);
            self.apps[0].clock.pauses.clear();
            let from = self.dice.within(1000 * MS, 10_000 * MS);
            self.cut = (from, END);
            self.store_cut = (Time::MAX, Time::MAX);
            self.is_cut_by_fence = true;
            (self.long_access, self.has_neighbour, self.takes_over, self.boots) = (0, false, false, None);
        }
        if self.fault == Some(Fault::ReadLookBeforeOnly) {
            self.long_access = 30;
            self.writes = [5, 1];
        }
        if self.fault == Some(Fault::GraceFromHold) {
            self.apps[0].clock.pauses.clear();
            (self.long_access, self.has_neighbour, self.takes_over, self.boots) = (0, false, false, None);
        }
    }

    fn begin(&mut self) {
        for app in 0..APPARATUSES {
            self.queue.at(0, Event::Renew { app });
            for at in 0..40 {
                let time = at * 1000 * MS + self.dice.within(0, 1000 * MS);
                let is_write = self.dice.chance(self.writes[app]);
                self.queue.at(time, Event::Host { app, is_write });
            }
        }
        if let Some(time) = self.boots {
            self.queue.at(time, Event::Boot);
        }
        self.act(0, Transaction::Acquire);
    }

    /// Has hosts send requests in quick succession from now on.
    pub(super) fn burst(&mut self) {
        for app in 0..APPARATUSES {
            for at in 0..24 {
                let time = self.queue.now + at * 50 * MS + self.dice.within(0, 50 * MS);
                let is_write = self.dice.chance(self.writes[app]);
                self.queue.at(time, Event::Host { app, is_write });
            }
        }
    }
}
