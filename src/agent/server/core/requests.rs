//! Routes the requests of connections to the parts that handle them.

use super::{Core, TimerKey};
use crate::agent::server::helpers::Work;
use crate::agent::server::links::refused;
use crate::failpoint::{Point, hit};
use crate::model::names::Name;
use crate::model::units::{Incarnation, Slot, Term, VolumeId};
use crate::protocol::agent::Input;
use crate::protocol::participant::Link;
use crate::rpc::message::{Answer, ApparatusMetrics, Refusal, Request, RequestFrame, VERSION};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Longest wait of a request, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(60);

impl Core {
    /// Handles a frame that has arrived.
    pub(in crate::agent::server) fn received(&mut self, link: Link, frame: RequestFrame) {
        for request in frame.requests {
            if self.parts.links.is_dismissed(link) {
                return;
            }
            self.request(link, frame.term, request);
        }
    }

    /// Closes a connection that has sent an invalid frame, because nothing after it can be decoded.
    pub(in crate::agent::server) fn garbled(&mut self, link: Link, why: String) {
        self.parts.links.dismiss(link, refused(Refusal::Malformed(why)));
    }

    fn request(&mut self, link: Link, term: Term, request: Request) {
        match request {
            Request::Hello { version, pool } => self.hello(link, version, pool),
            _ if !self.parts.links.is_welcome(link) => {
                self.parts.links.dismiss(link, refused(Refusal::NoHello))
            }
            Request::Note { .. } => self.pass_to_agent(Point::ApparatusNoteAsked, link, term, request),
            Request::Hold { .. } => self.pass_to_agent(Point::ApparatusHoldAsked, link, term, request),
            Request::Apply { .. } => self.pass_to_agent(Point::ApparatusApplyAsked, link, term, request),
            Request::Release { .. } => self.pass_to_agent(Point::ApparatusReleaseAsked, link, term, request),
            Request::Backup { file } => self.back_up(link, file),
            Request::Status => {
                let metrics = Answer::Status(Box::new(self.metrics()));
                self.parts.links.answer(link, metrics);
            }
            Request::Quiesce { .. } => self.on(Input::Asked(link, term, request)),
            Request::RunJob { job } => {
                let begun = self.parts.jobs.begin(job).map_err(refused);
                self.parts.links.answer(link, accepted(begun));
            }
            Request::Stop => {
                self.runtime.stop();
                self.parts.links.answer(link, Answer::Accepted);
            }
            Request::StopUnused => self.stop_unused(link),
            Request::ClearDisk { disk } => {
                self.runtime.clear_disk(disk);
                self.parts.links.answer(link, Answer::Accepted);
            }
            Request::FenceNeighbour {
                slot,
                incarnation,
                name,
            } => self.fence_neighbour(link, (slot, incarnation, name)),
            Request::Opens => self.parts.links.answer(link, self.opens.report()),
            Request::Vacate {
                volumes,
                writers_only,
                for_us,
            } => self.vacate(link, volumes, writers_only, Duration::from_micros(for_us)),
        }
    }

    fn pass_to_agent(&mut self, point: Point, link: Link, term: Term, request: Request) {
        hit(point);
        self.on(Input::Asked(link, term, request));
    }

    fn hello(&mut self, link: Link, version: u32, pool: Uuid) {
        if self.parts.links.hello(link, version, pool) {
            let welcome = Answer::Welcome {
                version: VERSION,
                name: self.me.to_string(),
                incarnation: self.agent.machine().incarnation(),
                generation: self.agent.machine().generation(),
            };
            self.parts.links.answer(link, welcome);
        }
    }

    /// Has a helper copy the database, which answers when that is done.
    fn back_up(&mut self, link: Link, file: PathBuf) {
        if !self.parts.helpers.give(Work::Backup(link, file)) {
            self.parts.links.answer(link, refused(Refusal::TooMany));
        }
    }

    /// Has a helper fence another member of this node, which answers when that is done.
    fn fence_neighbour(&mut self, link: Link, whom: (Slot, Incarnation, Name)) {
        if !self.parts.helpers.give(Work::FenceNeighbour(link, whom)) {
            self.parts.links.answer(link, refused(Refusal::TooMany));
        }
    }

    /// Stops the apparatus if no host has a volume open. New opens are blocked from the check on.
    fn stop_unused(&mut self, link: Link) {
        let blocked = self.opens.block_all();
        if blocked.is_ok() {
            self.runtime.stop();
        }
        self.parts.links.answer(link, accepted(blocked));
    }

    fn vacate(&mut self, link: Link, volumes: BTreeSet<VolumeId>, writers_only: bool, time: Duration) {
        let blocked = self.opens.block(link, volumes, writers_only);
        if blocked.is_ok() {
            self.parts
                .timers
                .arm(TimerKey::AllowOpens(link), time.min(LONGEST));
        }
        let answer = blocked.map_or_else(|refused| refused, |()| Answer::Vacant);
        self.parts.links.answer(link, answer);
    }

    fn metrics(&self) -> ApparatusMetrics {
        ApparatusMetrics {
            name: self.me.to_string(),
            pid: std::process::id(),
            incarnation: self.agent.machine().incarnation(),
            term: self.agent.machine().term(),
            generation: self.agent.machine().generation(),
            oldest: self.runtime.oldest(),
            jobs: self.parts.jobs.running(),
            memory: (self.memory)(),
            closed_disks: self.parts.openings.closed(),
            thread_limit: self.thread_limit,
            ending: (self.ending)(),
            ..self.runtime.figures()
        }
    }
}

fn accepted(done: Result<(), Answer>) -> Answer {
    done.map_or_else(|refused| refused, |()| Answer::Accepted)
}
