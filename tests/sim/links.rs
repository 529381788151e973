//! Connections: messages arrive late, in any order, twice, or not at all; the end of a connection is noticed some time.

use super::fault::Fault;
use super::{Delay, LinkId, ProcId, Task, World};
use apparatus::model::units::{Slot, Term};
use apparatus::protocol::agent::{Agent, Input};
use apparatus::protocol::controller;
use apparatus::protocol::participant::{Link, OWN};
use apparatus::rpc::message::{Answer, Request, VERSION};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wire {
    pub ctl: ProcId,
    pub app: usize,
    pub app_proc: ProcId,
    pub slot: Slot,
    /// Each end's view.
    pub app_open: bool,
    pub ctl_open: bool,
}

impl World {
    /// A connection to whoever serves in this slot; none if nobody does.
    pub fn connect(&mut self, ctl: ProcId, slot: Slot) -> Option<LinkId> {
        let serves = |app: &super::app::App| app.slot == slot && app.serves();
        let index = self
            .apps
            .iter()
            .position(|app| app.as_ref().is_some_and(|app| serves(app)))?;
        Some(self.join_ends(ctl, slot, index))
    }

    /// A connection of a driver to the apparatus of this name; none if that does not serve.
    pub fn connect_to(&mut self, ctl: ProcId, slot: Slot, name: &str) -> Option<LinkId> {
        let found = |app: &super::app::App| app.name.as_str() == name && app.serves();
        let index = self
            .apps
            .iter()
            .position(|app| app.as_ref().is_some_and(|app| found(app)))?;
        Some(self.join_ends(ctl, slot, index))
    }

    fn join_ends(&mut self, ctl: ProcId, slot: Slot, index: usize) -> LinkId {
        let app_proc = self.apps[index].as_ref().map_or(ctl, |app| app.proc);
        let id = LinkId(self.number(ctl.0 * 100 + u64::from(slot.0)));
        self.wires.insert(
            id,
            Wire {
                ctl,
                app: index,
                app_proc,
                slot,
                app_open: true,
                ctl_open: true,
            },
        );
        id
    }

    /// How many copies of a message arrive.
    fn copies(&mut self) -> u64 {
        if self.options.explore {
            return 1;
        }
        if self.rng.permille(self.options.chaos.drop) {
            self.count("messages lost");
            return 0;
        }
        if self.rng.permille(self.options.chaos.double) {
            self.count("messages doubled");
            return 2;
        }
        1
    }

    /// The first message of a connection arrives.
    pub fn send_surely_to_app(&mut self, link: LinkId, term: Term, request: &Request) {
        let owner = self.wires.get(&link).map(|wire| wire.app_proc);
        self.after(owner, Delay::Message, Task::ToApp(link, term, request.clone()));
    }

    pub fn send_to_app(&mut self, link: LinkId, term: Term, request: &Request) {
        let Some(owner) = self.wires.get(&link).map(|wire| wire.app_proc) else {
            return;
        };
        for _ in 0..self.copies() {
            self.after(
                Some(owner),
                Delay::Message,
                Task::ToApp(link, term, request.clone()),
            );
        }
    }

    pub fn send_to_ctl(&mut self, link: LinkId, answer: Answer) {
        let Some(owner) = self
            .wires
            .get(&link)
            .filter(|wire| wire.app_open)
            .map(|wire| wire.ctl)
        else {
            return;
        };
        for _ in 0..self.copies() {
            self.after(Some(owner), Delay::Message, Task::ToCtl(link, answer.clone()));
        }
    }

    pub fn to_app(&mut self, link: LinkId, mut term: Term, request: Request) {
        let Some(index) = self
            .wires
            .get(&link)
            .filter(|wire| wire.app_open)
            .map(|wire| wire.app)
        else {
            return;
        };
        if let Request::Hello { .. } = request {
            return self.welcome(index, link);
        }
        if let (Request::Hold { change, .. }, Some(app)) = (&request, self.apps[index].as_mut())
            && !app.placed.contains_key(change)
        {
            app.asked.insert(*change, (Some(link), u64::MAX));
            app.terms.insert(*change, term);
        }
        if let Request::Release {
            change,
            given_up: true,
        } = &request
            && self.wrong(Fault::GivenUpByAnother)
            && let Some(&placed) = self.apps[index].as_ref().and_then(|app| app.terms.get(change))
        {
            term = placed;
        }
        self.input(index, Input::Asked(Link(link.0), term, request));
    }

    pub fn to_ctl(&mut self, link: LinkId, answer: Answer) {
        let Some(wire) = self.wires.get(&link).filter(|wire| wire.ctl_open) else {
            return;
        };
        let (ctl, slot) = (wire.ctl, wire.slot);
        if self.drivers.contains_key(&ctl) {
            self.driver_hears(ctl, slot, link, answer);
        } else {
            self.ctl_answered(ctl, slot, answer);
        }
    }

    /// Answers the greeting.
    fn welcome(&mut self, index: usize, link: LinkId) {
        let (Some(app), Some(wire)) = (self.apps[index].as_ref(), self.wires.get(&link)) else {
            return;
        };
        let Some(machine) = app.agent.as_ref().map(Agent::machine) else {
            return;
        };
        let answer = Answer::Welcome {
            version: VERSION,
            name: app.name.to_string(),
            incarnation: machine.incarnation(),
            generation: machine.generation(),
        };
        let owner = Some(wire.ctl);
        self.after(owner, Delay::Message, Task::ToCtl(link, answer));
    }

    pub fn app_lost(&mut self, link: LinkId) {
        let Some(wire) = self.wires.get_mut(&link).filter(|wire| wire.app_open) else {
            return;
        };
        wire.app_open = false;
        let index = wire.app;
        self.close_if_unused(link);
        self.note_lost(index, link);
        if !self.wrong(Fault::LossIgnored) {
            self.input(index, Input::Lost(Link(link.0)));
        }
    }

    /// A controller that has just raised the term now and then tells apparatuses that what the last one held for is given up, which it cannot know.
    pub fn give_up_of_others(&mut self, ctl: ProcId, term: Term) {
        if !self.rng.permille(100) && !self.wrong(Fault::GivenUpByAnother) {
            return;
        }
        for index in 0..self.apps.len() {
            let Some(app) = self.apps[index].as_ref().filter(|app| app.serves()) else {
                continue;
            };
            let (slot, changes): (_, Vec<_>) = (app.slot, app.placed.keys().copied().collect());
            let link = self.join_ends(ctl, slot, index);
            for change in changes.into_iter().filter(|change| *change != OWN) {
                self.count("given up by a controller of another term");
                let given_up = true;
                self.send_to_app(link, term, &Request::Release { change, given_up });
            }
        }
    }

    fn note_lost(&mut self, index: usize, link: LinkId) {
        let now = self.now;
        if let Some(app) = self.apps[index].as_mut() {
            let theirs = app.placed.values_mut().filter(|hold| hold.link == Some(link));
            theirs.for_each(|hold| hold.over = hold.over.min(now));
        }
    }

    pub fn ctl_lost(&mut self, link: LinkId) {
        let Some(wire) = self.wires.get_mut(&link).filter(|wire| wire.ctl_open) else {
            return;
        };
        wire.ctl_open = false;
        let (ctl, slot) = (wire.ctl, wire.slot);
        self.close_if_unused(link);
        if self.drivers.contains_key(&ctl) {
            return self.driver_lost(ctl, slot, link);
        }
        if let Some(ctl) = self.ctls.get_mut(&ctl) {
            ctl.links.remove(&slot);
        }
        self.ctl_event(ctl, controller::Event::Lost(slot));
    }

    /// A driver closes its end: the apparatus will notice.
    pub fn close_ctl_end(&mut self, link: LinkId) {
        let Some(wire) = self.wires.get_mut(&link).filter(|wire| wire.ctl_open) else {
            return;
        };
        wire.ctl_open = false;
        if wire.app_open {
            let owner = Some(wire.app_proc);
            self.after(owner, Delay::Message, Task::AppLost(link));
        }
        self.close_if_unused(link);
    }

    fn close_if_unused(&mut self, link: LinkId) {
        if self
            .wires
            .get(&link)
            .is_some_and(|wire| !wire.app_open && !wire.ctl_open)
        {
            self.wires.remove(&link);
        }
    }

    /// Both ends will notice that it is broken.
    pub fn cut(&mut self, link: LinkId) {
        let Some(wire) = self.wires.get(&link).cloned() else {
            return;
        };
        if wire.app_open {
            self.after(Some(wire.app_proc), Delay::Message, Task::AppLost(link));
        }
        if wire.ctl_open {
            self.after(Some(wire.ctl), Delay::Message, Task::CtlLost(link));
        }
    }

    /// The end of a process: its ends of its connections are closed, the others will notice.
    pub fn hang_up(&mut self, proc: ProcId) {
        let theirs = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.ctl == proc || wire.app_proc == proc);
        let theirs: Vec<LinkId> = theirs.map(|(&id, _)| id).collect();
        for link in theirs {
            self.cut(link);
            if let Some(wire) = self.wires.get_mut(&link) {
                wire.ctl_open &= wire.ctl != proc;
                wire.app_open &= wire.app_proc != proc;
            }
            self.close_if_unused(link);
        }
    }
}
