//! How a controller begins: it takes the term, and waits until all have reached the table that the last one has left.

use super::apparatus::Message;
use super::controller::{ANSWER, Step};
use super::store::{APPARATUSES, Transaction};
use super::{Met, Model};

impl Model {
    pub(super) fn take_over(&mut self) {
        self.act(1, Transaction::Peek);
    }

    /// Believes what it has read to be given up, and says so. What it has read is old.
    pub(super) fn peeked(&mut self, ctl: usize, change: Option<u64>) {
        if let Some(change) = change {
            let term = self.ctls[0].term + 1;
            for app in 0..APPARATUSES {
                let message = Message::Release {
                    change,
                    term,
                    given_up: true,
                };
                self.send(app, message);
            }
        }
        self.act(ctl, Transaction::Acquire);
    }

    pub(super) fn acquired(&mut self, ctl: usize, term: u64, left: Option<u64>) {
        self.ctls[ctl].term = term;
        self.ctls[ctl].left = left;
        if ctl == 1 {
            self.met(Met::TookOver);
            if self.store.placements.iter().any(|placement| placement.is_tainted) {
                self.met(Met::Tainted);
            }
        }
        let Some(change) = left else {
            return self.next_move(ctl);
        };
        self.ctls[ctl].step = Step::Recovering;
        for app in 0..APPARATUSES {
            self.send(app, Message::Ask { change, term });
        }
        let until = self.now_of(ctl) + 2 * ANSWER;
        self.arm(ctl, until);
    }

    /// Fences the first apparatus if it is behind; the other one is only slow.
    pub(super) fn recover(&mut self, ctl: usize) {
        let behind = |app: usize| self.store.joined[app] && self.apps[app].placement != self.store.placement;
        if behind(0) {
            self.ctls[ctl].step = Step::Fencing { committed: false };
            return self.act(ctl, Transaction::Fence { app: 0, life: 1 });
        }
        if behind(1) {
            let until = self.now_of(ctl) + ANSWER;
            return self.arm(ctl, until);
        }
        self.next_move(ctl);
    }

    /// Begins a move: all have reached the table, or what they acknowledge has ended.
    pub(super) fn prepare(&mut self, ctl: usize) {
        let now = self.now_of(ctl);
        let controller = &mut self.ctls[ctl];
        self.lapse_waited |= controller.has_waited && controller.rests_at <= now;
        let term = controller.term;
        controller.step = Step::Preparing;
        if let Some(change) = controller.left.take() {
            for app in 0..APPARATUSES {
                let message = Message::Release {
                    change,
                    term,
                    given_up: false,
                };
                self.send(app, message);
            }
        }
        self.act(ctl, Transaction::Prepare { term });
    }
}
