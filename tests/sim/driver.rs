//! Controllers as processes: each runs the production driver on a thread of its own (`thread.rs`).

use super::thread::ThreadId;
use super::{Delay, LinkId, ProcId, World, command};
use apparatus::cluster::Role;
use apparatus::model::units::{ChangeId, Slot, Term};
use apparatus::rpc::message::Answer;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// An apparatus's own: finish what the last controller left.
    Recover,
    /// `vctl`'s, or a background job's.
    Work,
}

/// A hold that a driver has asked for and not released.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The apparatuses that it has asked, and is still connected with.
    pub slots: BTreeSet<Slot>,
    /// It has sent the delta.
    pub applying: bool,
}

/// A controller's process.
#[derive(Debug)]
pub struct Driver {
    pub id: ProcId,
    pub host: Option<usize>,
    pub goal: Goal,
    thread: ThreadId,
    pub links: BTreeMap<Slot, LinkId>,
    pub inbox: BTreeMap<Slot, Vec<Answer>>,
    /// Connections that it has found broken.
    pub broken: BTreeSet<Slot>,
    pub asked: BTreeMap<ChangeId, Asked>,
    /// Whom it has asked for a note and not yet for the hold.
    pub noted: BTreeSet<(Slot, ChangeId)>,
    /// How many a fault has fenced for it.
    pub fenced_unasked: u64,
    pub term: Term,
    /// It waits for the controller lock.
    pub waits: Option<Role>,
    /// It fences, so that the fence word is not set by a later controller.
    pub fences: bool,
}

impl Driver {
    /// Whether it has a hold in place somewhere, as far as it knows.
    pub fn holds(&self) -> bool {
        self.asked.values().any(|asked| !asked.slots.is_empty())
    }

    /// The connection of this slot is no more.
    pub fn unlink(&mut self, slot: Slot) -> Option<LinkId> {
        self.asked
            .values_mut()
            .for_each(|asked| _ = asked.slots.remove(&slot));
        self.inbox.remove(&slot);
        self.broken.remove(&slot);
        self.links.remove(&slot)
    }
}

impl World {
    /// Starts a controller's process.
    pub fn new_driver(&mut self, goal: Goal, host: Option<usize>) -> ProcId {
        let id = self.new_proc(host, true);
        let thread = self.start_thread(id, Delay::Store, Box::new(move || command::run(goal)));
        let driver = Driver {
            id,
            host,
            goal,
            thread,
            links: BTreeMap::new(),
            inbox: BTreeMap::new(),
            broken: BTreeSet::new(),
            asked: BTreeMap::new(),
            noted: BTreeSet::new(),
            fenced_unasked: 0,
            term: Term(0),
            waits: None,
            fences: false,
        };
        self.drivers.insert(id, driver);
        id
    }

    /// A driver that waits for messages has one.
    pub fn wake_driver(&mut self, id: ProcId) {
        if let Some(thread) = self.drivers.get(&id).map(|driver| driver.thread) {
            self.wake_thread(thread, Delay::Step);
        }
    }

    /// The thread of the process has ended: if that was a driver, it is no more.
    pub fn driver_ended(&mut self, id: ProcId) {
        if self.drivers.remove(&id).is_none() {
            return;
        }
        self.alive.remove(&id);
        self.hang_up(id);
        if self.lock == Some(id) {
            self.lock = None;
        }
    }

    /// Takes the driver out: its thread ends where it pauses next.
    pub fn remove_driver(&mut self, id: ProcId) -> Option<Driver> {
        let driver = self.drivers.remove(&id)?;
        self.end_threads(id);
        Some(driver)
    }

    pub fn maybe_kill_driver(&mut self, id: ProcId) {
        let crash = self.options.chaos.crash_points;
        if self.drivers.contains_key(&id) && self.rng.permille(crash) {
            self.count("controllers killed at a step");
            self.kill_ctl(id);
        }
    }
}
