//! Connections of a driver: its frames become messages of the simulation, which arrive late, in any order, twice or never.

use super::environment::SimEnvironment;
use crate::sim::driver::Driver;
use crate::sim::fault::Fault;
use crate::sim::thread::{listen, me, world};
use crate::sim::{LinkId, World};
use apparatus::controller::environment::Environment;
use apparatus::model::change::HoldMode;
use apparatus::model::units::{ChangeId, Slot, Term};
use apparatus::protocol::recovery;
use apparatus::rpc::Address;
use apparatus::rpc::message::{Answer, Request, RequestFrame};
use apparatus::rpc::transport::{Broken, Transport};
use apparatus::store::roles::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub struct SimTransport {
    environment: SimEnvironment,
}

impl SimTransport {
    pub fn new(environment: SimEnvironment) -> Self {
        Self { environment }
    }
}

fn driver<T>(job: impl FnOnce(&mut Driver) -> T) -> Option<T> {
    world(|world| world.drivers.get_mut(&me()).map(job)).flatten()
}

impl Transport for SimTransport {
    fn now(&self) -> Instant {
        self.environment.now()
    }

    fn connect(&mut self, slot: Slot, address: &Address) -> Result<bool, Broken> {
        let Address::Local(path) = address else {
            return Err(Broken::Absent);
        };
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let connected = world(|world| {
            let link = world.connect_to(me(), slot, name.as_deref()?)?;
            world.drivers.get_mut(&me())?.links.insert(slot, link);
            Some(())
        });
        connected.flatten().map(|()| true).ok_or(Broken::Absent)
    }

    fn is_connected(&self, slot: Slot) -> bool {
        driver(|driver| driver.links.contains_key(&slot)) == Some(true)
    }

    fn close(&mut self, slot: Slot) {
        world(|world| {
            let link = world
                .drivers
                .get_mut(&me())
                .and_then(|driver| driver.unlink(slot));
            if let Some(link) = link {
                world.close_ctl_end(link);
            }
        });
    }

    fn queue(&mut self, slot: Slot, frame: &RequestFrame) -> Result<(), Broken> {
        world(|world| {
            let link = world
                .drivers
                .get(&me())
                .and_then(|driver| driver.links.get(&slot));
            if let Some(&link) = link {
                for request in &frame.requests {
                    world.driver_sends(slot, link, frame.term, request);
                }
            }
        });
        Ok(())
    }

    fn flush(&mut self, _slot: Slot) -> Result<(), Broken> {
        Ok(())
    }

    fn receive(&mut self, slot: Slot, answers: &mut Vec<Answer>) -> Result<(), Broken> {
        let broken = driver(|driver| {
            answers.extend(driver.inbox.remove(&slot).unwrap_or_default());
            driver.broken.remove(&slot)
        });
        match broken {
            Some(false) => Ok(()),
            _ => Err(Broken::Closed),
        }
    }

    fn wait(&mut self, within: Duration) -> Vec<Slot> {
        let ready = || driver(|driver| driver.ready()).unwrap_or_default();
        let at_once = ready();
        if !at_once.is_empty() || within.is_zero() {
            return at_once;
        }
        listen(u64::try_from(within.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX >> 1));
        ready()
    }
}

impl Driver {
    fn ready(&self) -> Vec<Slot> {
        let slots: BTreeSet<Slot> = self.inbox.keys().chain(&self.broken).copied().collect();
        slots.into_iter().collect()
    }

    /// Notes what a request means for its holds.
    fn note(&mut self, slot: Slot, request: &Request) {
        match request {
            Request::Note { change, .. } => _ = self.noted.insert((slot, *change)),
            Request::Hold { change, .. } => _ = self.asked.entry(*change).or_default().slots.insert(slot),
            Request::Apply { change, .. } => self.asked.entry(*change).or_default().applying = true,
            Request::Release { change, .. } => {
                self.asked.remove(change);
                self.noted.retain(|(_, noted)| noted != change);
            }
            _ => {}
        }
    }
}

impl World {
    fn driver_sends(&mut self, slot: Slot, link: LinkId, term: Term, request: &Request) {
        let id = me();
        if let Some(driver) = self.drivers.get_mut(&id) {
            driver.note(slot, request);
        }
        self.trace(|| format!("{id:?} -> slot {slot}: {request:?}"));
        if self.holds_without_note(id, slot, link, term, request) {
            return;
        }
        match request {
            // A connection begins in order.
            Request::Hello { .. } => self.send_surely_to_app(link, term, request),
            Request::Hold { change, .. } if self.wrong(Fault::ReadsNotHeld) => {
                let request = self.as_announced(*change, request.clone());
                self.send_to_app(link, term, &request);
            }
            Request::Hold { .. } if self.wrong(Fault::AheadWithLateWriter) => {
                let request = self.with_reads_held(request.clone());
                self.send_to_app(link, term, &request);
            }
            _ => self.send_to_app(link, term, request),
        }
    }

    /// A fault: the hold that the change was announced with, whatever late writes there may be.
    fn as_announced(&mut self, id: ChangeId, mut request: Request) -> Request {
        if let (Ok(Some(record)), Request::Hold { mode, .. }) = (self.store.change(id), &mut request) {
            *mode = record.change.mode;
        }
        request
    }

    /// A fault: reads are held because of late writes, as they should be, though the copy was made before.
    fn with_reads_held(&self, mut request: Request) -> Request {
        if let Request::Hold { mode, .. } = &mut request
            && recovery::late_writes(&self.see())
        {
            *mode = HoldMode::All;
        }
        request
    }

    /// An answer arrives at a driver.
    pub fn driver_hears(&mut self, id: crate::sim::ProcId, slot: Slot, link: LinkId, answer: Answer) {
        let spoilt = self.believed(&answer);
        let Some(driver) = self.drivers.get_mut(&id) else {
            return;
        };
        if driver.links.get(&slot) != Some(&link) {
            return;
        }
        // A fault has the driver hear from all what one has said.
        let others = driver
            .links
            .keys()
            .copied()
            .filter(|other| *other != slot && spoilt);
        for slot in [slot].into_iter().chain(others.collect::<Vec<_>>()) {
            driver.inbox.entry(slot).or_default().push(answer.clone());
        }
        self.wake_driver(id);
    }

    /// Whether a fault has the driver believe this answer of all.
    fn believed(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Applied { .. } => self.wrong(Fault::ReleaseEarly),
            Answer::Held { .. } => self.wrong(Fault::HeldByOne),
            _ => false,
        }
    }

    /// A driver's connection is found broken.
    pub fn driver_lost(&mut self, id: crate::sim::ProcId, slot: Slot, link: LinkId) {
        if self.overlooks(id) {
            return;
        }
        let Some(driver) = self.drivers.get_mut(&id) else {
            return;
        };
        if driver.links.get(&slot) != Some(&link) {
            return;
        }
        driver.broken.insert(slot);
        self.wake_driver(id);
    }
}
