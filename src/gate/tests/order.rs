//! All orders in which a request and a hold can meet, on a model of a machine with store buffers.
//!
//! There are two processors, each with a buffer that its stores pass through and that it alone sees. One runs requests on a
//! lane, one after the other; the other places holds. The steps are those of `lanes`, one memory access each. The test visits
//! every state that any order of steps and of buffer write-outs can lead to: no request is inside while the holding processor
//! believes that the range is drained, and the holding processor never waits for a signal that does not come.

use std::collections::{BTreeSet, HashSet};

/// The words of the memory.
const SEQUENCE: usize = 0;
const STATE: usize = 1;
const AWAITED: usize = 2;

/// Flags of the word `STATE`.
const HELD: u8 = 1;
const DRAINING: u8 = 2;

/// Violations that the search can find.
const SLIPPED: &str = "a request is inside a drained range";
const ASLEEP: &str = "a drain waits for a signal that does not come";

const REQUESTS: u8 = 3;
const HOLDS: u8 = 2;

/// The processors.
const REQUEST: usize = 0;
const HOLDER: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepKind {
    Membarrier,
    Fences,
    /// Only the expensive side has a fence.
    OneFence,
    /// The real scheme, except that a leaving request does not fence before it checks whether it is awaited.
    NoFenceInLeft,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Machine {
    memory: [u8; 3],
    buffers: [Vec<(usize, u8)>; 2],
    steps: [u8; 2],
    registers: [u8; 2],
    request: u8,
    hold: u8,
    inside: bool,
    drained: bool,
    signal: bool,
}

impl Machine {
    fn store(&mut self, processor: usize, word: usize, value: u8) {
        self.buffers[processor].push((word, value));
    }

    /// Returns the processor's own latest store if it is still in its buffer, else the word in memory.
    fn load(&self, processor: usize, word: usize) -> u8 {
        let own = self.buffers[processor]
            .iter()
            .rev()
            .find(|(other, _)| *other == word);
        own.map_or(self.memory[word], |(_, value)| *value)
    }

    fn write_out(&mut self, processor: usize) {
        for (word, value) in std::mem::take(&mut self.buffers[processor]) {
            self.memory[word] = value;
        }
    }

    /// Returns the next step of the requests; `None` if they are over or must wait.
    fn request(&self, kind: StepKind) -> Option<Self> {
        let mut next = self.clone();
        let number = self.request * 2 + 1;
        let light = |machine: &mut Self| {
            if kind == StepKind::Fences {
                machine.write_out(REQUEST);
            }
        };
        let mut step = self.steps[REQUEST] + 1;
        match self.steps[REQUEST] {
            0 if self.request == REQUESTS => return None,
            0 => next.store(REQUEST, SEQUENCE, number),
            1 | 6 => light(&mut next),
            2 => next.registers[REQUEST] = self.load(REQUEST, STATE),
            3 if self.registers[REQUEST] & HELD != 0 => step = 5,
            3 => next.inside = true,
            4 => next.inside = false,
            5 => next.store(REQUEST, SEQUENCE, number + 1),
            7 if self.load(REQUEST, STATE) & DRAINING == 0 => step = 10,
            7 => {}
            8 if kind == StepKind::NoFenceInLeft => {}
            8 => next.write_out(REQUEST),
            9 => next.signal |= self.load(REQUEST, AWAITED) == number,
            _ => {
                next.request += 1;
                step = 0;
            }
        }
        next.steps[REQUEST] = step;
        Some(next)
    }

    /// Returns the next step of the holding processor; `None` if it is over or waits for a signal.
    fn hold(&self, kind: StepKind) -> Option<Self> {
        let mut next = self.clone();
        let mut step = self.steps[HOLDER] + 1;
        match self.steps[HOLDER] {
            0 if self.hold == HOLDS => return None,
            0 => next.store(HOLDER, STATE, HELD | DRAINING),
            1 => {
                next.write_out(HOLDER);
                if matches!(kind, StepKind::Membarrier | StepKind::NoFenceInLeft) {
                    next.write_out(REQUEST);
                }
            }
            2 => {
                next.registers[HOLDER] = self.load(HOLDER, SEQUENCE);
                if next.registers[HOLDER].is_multiple_of(2) {
                    step = 7;
                }
            }
            3 => next.store(HOLDER, AWAITED, self.registers[HOLDER]),
            4 => next.write_out(HOLDER),
            5 if self.load(HOLDER, SEQUENCE) != self.registers[HOLDER] => step = 7,
            5 => {}
            6 if !self.signal => return None,
            6 => {
                next.signal = false;
                step = 3;
            }
            7 => next.drained = true,
            8 => next.drained = false,
            _ => {
                next.store(HOLDER, STATE, 0);
                next.hold += 1;
                step = 0;
            }
        }
        next.steps[HOLDER] = step;
        Some(next)
    }

    /// Moves the oldest store of this processor from its buffer to the memory.
    fn flow(&self, processor: usize) -> Option<Self> {
        let mut next = self.clone();
        if next.buffers[processor].is_empty() {
            return None;
        }
        let (word, value) = next.buffers[processor].remove(0);
        next.memory[word] = value;
        Some(next)
    }
}

/// Returns the number of reachable states, and the violations in any of them.
fn explore(kind: StepKind) -> (usize, BTreeSet<&'static str>) {
    let mut seen = HashSet::from([Machine::default()]);
    let mut todo = vec![Machine::default()];
    let mut wrong = BTreeSet::new();
    while let Some(machine) = todo.pop() {
        if machine.inside && machine.drained {
            wrong.insert(SLIPPED);
        }
        let next = [
            machine.request(kind),
            machine.hold(kind),
            machine.flow(REQUEST),
            machine.flow(HOLDER),
        ];
        if next.iter().all(Option::is_none) && machine.hold < HOLDS {
            wrong.insert(ASLEEP);
        }
        todo.extend(
            next.into_iter()
                .flatten()
                .filter(|next| seen.insert(next.clone())),
        );
    }
    (seen.len(), wrong)
}

#[test]
fn no_order_lets_a_request_slip_past_a_hold_or_a_drain_sleep_on() {
    for kind in [StepKind::Membarrier, StepKind::Fences] {
        let (states, wrong) = explore(kind);
        println!("{kind:?}: {states} states");
        assert!(states > 1_000 && wrong.is_empty(), "{kind:?}: {wrong:?}");
    }
}

#[test]
fn each_barrier_is_needed() {
    assert_eq!(explore(StepKind::OneFence).1, BTreeSet::from([SLIPPED, ASLEEP]));
    assert_eq!(explore(StepKind::NoFenceInLeft).1, BTreeSet::from([ASLEEP]));
}
