//! What each request of a connection comes to.

use super::core::{Core, Key};
use crate::change::failpoint::{Point, hit};
use crate::change::participant::{Event, Link};
use crate::units::{Generation, Term, VolumeId};
use crate::wire::message::{Answer, Figures, Refusal, Request, RequestFrame, VERSION};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often the old tables in use are looked at while somebody waits for them.
const LOOK: Duration = Duration::from_millis(1);

/// Those who wait for old tables at once.
const WAITING: usize = 256;

/// Longest wait for old tables, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(60);

/// Somebody waits until no request uses a table older than `target`.
#[derive(Debug)]
pub(super) struct Quiesce {
    pub(super) link: Link,
    target: Generation,
    until: Instant,
}

impl Core {
    /// A frame has arrived.
    pub(super) fn asked(&mut self, link: Link, frame: RequestFrame) {
        for request in frame.requests {
            if self.is_dismissed(link) {
                return;
            }
            self.request(link, frame.term, request);
        }
    }

    /// What has arrived is no frame: nothing after it can be read either.
    pub(super) fn garbled(&mut self, link: Link, why: String) {
        self.dismiss(link, refused(Refusal::Malformed(why)));
    }

    fn request(&mut self, link: Link, term: Term, request: Request) {
        match request {
            Request::Hello { version, pool } => self.hello(link, version, pool),
            _ if !self.welcomed.contains(&link) => self.dismiss(link, refused(Refusal::NoHello)),
            Request::Hold { .. } => self.pass_on(Point::ApparatusHoldAsked, link, term, request),
            Request::Apply { .. } => self.pass_on(Point::ApparatusApplyAsked, link, term, request),
            Request::Release { .. } => self.pass_on(Point::ApparatusReleaseAsked, link, term, request),
            Request::Backup { file } => {
                if !self.helpers.back_up(link, file) {
                    self.say(link, refused(Refusal::TooMany));
                }
            }
            Request::Status => {
                let figures = Answer::Status(Box::new(self.figures()));
                self.say(link, figures);
            }
            Request::Quiesce { wait_us } => self.quiesce(link, Duration::from_micros(wait_us)),
            Request::RunJob { job } => {
                let answer = match self.jobs.begin(&self.setup.pool, &self.setup.member.name, job) {
                    Ok(()) => Answer::Accepted,
                    Err(refusal) => refused(refusal),
                };
                self.say(link, answer);
            }
            Request::Stop => {
                self.setup.runtime.stop();
                self.say(link, Answer::Accepted);
            }
            Request::StopUnused => self.stop_unused(link),
            Request::ClearDisk { disk } => {
                self.setup.runtime.clear_disk(disk);
                self.say(link, Answer::Accepted);
            }
            Request::Opens => {
                let opens = Answer::Opens(Box::new(self.setup.runtime.opens()));
                self.say(link, opens);
            }
            Request::Vacate {
                volumes,
                writers_only,
                for_us,
            } => self.vacate(link, volumes, writers_only, Duration::from_micros(for_us)),
        }
    }

    /// Nothing can be opened from the look on, by anybody: it ends.
    fn stop_unused(&mut self, link: Link) {
        /// No connection has this number.
        const OURS: u64 = u64::MAX;
        let answer = match self.setup.runtime.keep_closed(OURS, BTreeSet::new(), false) {
            Ok(()) => {
                self.setup.runtime.stop();
                Answer::Accepted
            }
            Err(opens) => refused(Refusal::InUse(Box::new(opens))),
        };
        self.say(link, answer);
    }

    fn vacate(&mut self, link: Link, volumes: BTreeSet<VolumeId>, writers_only: bool, time: Duration) {
        if volumes.is_empty() {
            return self.say(link, refused(Refusal::Malformed("no volume to vacate".into())));
        }
        let answer = match self.setup.runtime.keep_closed(link.0, volumes, writers_only) {
            Ok(()) => {
                self.timers.arm(Key::LetIn(link), time.min(LONGEST));
                Answer::Vacant
            }
            Err(opens) => refused(Refusal::InUse(Box::new(opens))),
        };
        self.say(link, answer);
    }

    fn pass_on(&mut self, point: Point, link: Link, term: Term, request: Request) {
        hit(point);
        self.events.push_back(Event::Asked(link, term, request));
    }

    fn hello(&mut self, link: Link, version: u32, pool: Uuid) {
        if version != VERSION {
            self.dismiss(link, refused(Refusal::Version(VERSION)));
        } else if pool != self.setup.header.uuid {
            self.dismiss(link, refused(Refusal::Pool(self.setup.header.uuid)));
        } else {
            self.welcomed.insert(link);
            let name = self.setup.member.name.to_string();
            let (incarnation, generation) = (self.machine.incarnation(), self.machine.generation());
            self.say(
                link,
                Answer::Welcome {
                    version: VERSION,
                    name,
                    incarnation,
                    generation,
                },
            );
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            name: self.setup.member.name.to_string(),
            pid: std::process::id(),
            incarnation: self.machine.incarnation(),
            term: self.machine.term(),
            generation: self.machine.generation(),
            oldest: self.setup.runtime.oldest(),
            jobs: self.jobs.running(),
            ..self.setup.runtime.figures()
        }
    }

    fn quiesce(&mut self, link: Link, wait: Duration) {
        if self.quiesces.len() >= WAITING {
            return self.say(link, refused(Refusal::TooMany));
        }
        let until = Instant::now() + wait.min(LONGEST);
        self.quiesces.push(Quiesce {
            link,
            target: self.setup.runtime.generation(),
            until,
        });
        self.look_at_quiesces();
    }

    /// Answers those whose wait is over.
    pub(super) fn look_at_quiesces(&mut self) {
        if self.quiesces.is_empty() {
            return;
        }
        let (oldest, now) = (self.setup.runtime.oldest(), Instant::now());
        let over = |quiesce: &mut Quiesce| oldest >= quiesce.target || quiesce.until <= now;
        let answered: Vec<Quiesce> = self.quiesces.extract_if(.., over).collect();
        for quiesce in answered {
            self.setup.line.set_oldest(oldest);
            self.say(quiesce.link, Answer::Quiesced { oldest });
        }
        if !self.quiesces.is_empty() {
            self.timers.arm(Key::Quiesce, LOOK);
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused {
        change: None,
        refusal,
    }
}
