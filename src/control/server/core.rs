//! What the control thread does with what it hears: events to the machine, effects to the data path, answers to be said.

use super::Setup;
use super::helpers::{Helpers, Post, Work};
use super::jobs::Jobs;
use super::opening::Openings;
use super::rejoin::Rejoining;
use super::requests::Quiesce;
use super::timers::Timers;
use crate::change::failpoint::{Point, hit};
use crate::change::participant::{Bounds, Effect, Event, Link, Machine, OWN, Standing, Timer};
use crate::error::Result;
use crate::pool::model::{Difference, Edit, Span};
use crate::store::HoldMode;
use crate::units::{ChangeId, Generation, VolumeId};
use crate::wire::message::{Answer, Refusal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How often an apparatus shows life, and looks at its fence word when nothing else happens.
const BEAT: Duration = Duration::from_millis(100);

/// How often disks are looked at that nobody asks anything of.
const DISKS: Duration = Duration::from_secs(1);

/// How often the files in the run directory are looked at.
const RUN: Duration = Duration::from_millis(250);

/// How often the member table is looked at for the others.
const OTHERS: Duration = Duration::from_millis(2);

/// What timers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The machine's.
    Change(ChangeId, Timer),
    /// Show life.
    Beat,
    /// Look whether the others have reached a generation.
    Others,
    /// Look at the requests that wait for old tables to fall out of use.
    Quiesce,
    /// Try again to rejoin.
    Rejoin,
    /// Look for connections that are overdue.
    Sweep,
    /// Look at the disks.
    Disks,
    /// Somebody who keeps volumes closed has had his time.
    LetIn(Link),
    /// Look whether others find this apparatus's files in the run directory.
    Run,
}

/// What is to be said on one connection.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) answers: Vec<Answer>,
    /// Then it ends.
    pub(super) close: bool,
    /// Steps of the protocol that are reached when it has been said.
    pub(super) points: Vec<Point>,
}

/// The control thread's state, connections apart.
pub(super) struct Core {
    pub(super) setup: Setup,
    pub(super) machine: Machine,
    pub(super) timers: Timers<Key>,
    pub(super) helpers: Helpers,
    pub(super) openings: Openings,
    pub(super) jobs: Jobs,
    pub(super) rejoining: Rejoining,
    pub(super) welcomed: BTreeSet<Link>,
    pub(super) quiesces: Vec<Quiesce>,
    pub(super) events: VecDeque<Event>,
    /// The volumes whose writes [`Effect::HoldWrites`] holds.
    pub(super) volumes: Vec<VolumeId>,
    /// Effects of a machine that has just been made.
    first: Vec<Effect>,
    draining: BTreeSet<ChangeId>,
    /// Generations that the others are awaited at, and whether a helper is looking.
    awaited: BTreeSet<Generation>,
    looking: bool,
    said: BTreeMap<Link, Said>,
}

impl Core {
    pub(super) fn new(mut setup: Setup) -> Result<Self> {
        let holds = setup.limits.holds;
        let patience_us = u64::try_from(setup.limits.patience.as_micros()).unwrap_or(u64::MAX);
        let (incarnation, generation) = (setup.member.incarnation, setup.runtime.generation());
        let (machine, first) = Machine::joined(incarnation, generation, Bounds { holds, patience_us });
        let mut timers = Timers::new();
        timers.arm(Key::Beat, Duration::ZERO);
        timers.arm(Key::Disks, DISKS);
        timers.arm(Key::Run, RUN);
        timers.arm(Key::Sweep, setup.limits.partial / 2);
        Ok(Self {
            helpers: Helpers::start(&setup)?,
            openings: Openings::new(std::mem::take(&mut setup.disks)),
            jobs: Jobs::new(setup.limits),
            volumes: std::mem::take(&mut setup.volumes),
            setup,
            machine,
            timers,
            first,
            rejoining: Rejoining::No,
            welcomed: BTreeSet::new(),
            quiesces: Vec::new(),
            events: VecDeque::new(),
            draining: BTreeSet::new(),
            awaited: BTreeSet::new(),
            looking: false,
            said: BTreeMap::new(),
        })
    }

    /// Whether the background jobs have ended, or have had their time: once it is asked, they are told to stop.
    pub(super) fn may_end(&mut self) -> bool {
        self.jobs.stop()
    }

    /// Has the machine take all events, and carries out what it wants.
    pub(super) fn run(&mut self) {
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first);
        while let Some(event) = self.events.pop_front() {
            let effects = self.machine.on(event);
            self.carry_out_all(effects);
        }
    }

    /// Looks at everything that others change: the fence word, drains, overflow, posts of helpers.
    pub(super) fn look(&mut self) {
        if self.setup.line.fenced() && self.machine.standing() != Standing::Out {
            hit(Point::ApparatusFenced);
            self.events.push_back(Event::Fenced(self.machine.incarnation()));
        }
        self.events
            .extend(self.setup.bell.take_overflowed().into_iter().map(Event::Overflow));
        while let Some(post) = self.helpers.next_post() {
            self.posted(post);
        }
        for change in self.draining.clone() {
            self.look_at_drain(change);
        }
        self.look_at_quiesces();
        self.look_at_rejoining();
        self.run();
    }

    /// A timer is due.
    pub(super) fn due(&mut self, key: Key) {
        match key {
            Key::Change(change, timer) => self.events.push_back(Event::TimedOut(change, timer)),
            Key::Beat => self.beat(),
            Key::Others => self.look_for_others(),
            Key::Rejoin => self.rejoin_again(),
            Key::Disks => self.look_at_disks(),
            Key::LetIn(link) => self.setup.runtime.let_in(link.0),
            Key::Run => self.look_at_run(),
            Key::Quiesce | Key::Sweep => {}
        }
    }

    /// By a helper: a disk may hang.
    fn look_at_disks(&mut self) {
        self.try_disks_again();
        if !self.helpers.look_at_disks() {
            self.timers.arm(Key::Disks, DISKS);
        }
    }

    fn beat(&mut self) {
        self.setup.line.set_oldest(self.setup.runtime.oldest());
        self.setup.line.beat();
        self.setup.runtime.note();
        self.timers.arm(Key::Beat, BEAT);
    }

    /// By the helper: the pool's file system may hang.
    fn look_at_run(&mut self) {
        if !self
            .helpers
            .give(Work::LookAtRun(self.setup.listener.door().clone()))
        {
            self.timers.arm(Key::Run, RUN);
        }
    }

    /// Fenced: no hold is ours any more.
    pub(super) fn void_holds(&mut self) {
        self.draining.clear();
        self.openings.forget_all();
        self.awaited.clear();
        self.timers.disarm(|key| matches!(key, Key::Change(..)));
    }

    pub(super) fn say(&mut self, link: Link, answer: Answer) {
        let point = match answer {
            Answer::Held { .. } => Some(Point::ApparatusHeldSent),
            Answer::Applied { .. } => Some(Point::ApparatusAppliedSent),
            _ => None,
        };
        let said = self.said.entry(link).or_default();
        said.answers.push(answer);
        said.points.extend(point);
    }

    /// Says this, and ends the connection.
    pub(super) fn dismiss(&mut self, link: Link, answer: Answer) {
        self.say(link, answer);
        self.said.entry(link).or_default().close = true;
    }

    pub(super) fn is_dismissed(&self, link: Link) -> bool {
        self.said.get(&link).is_some_and(|said| said.close)
    }

    pub(super) fn take_said(&mut self) -> BTreeMap<Link, Said> {
        std::mem::take(&mut self.said)
    }

    /// What was to be said has been.
    pub(super) fn was_said(&self, points: &[Point]) {
        points.iter().for_each(|point| hit(*point));
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, link: Link) {
        self.welcomed.remove(&link);
        self.setup.runtime.let_in(link.0);
        self.timers.disarm(|key| *key == Key::LetIn(link));
        self.quiesces.retain(|quiesce| quiesce.link != link);
        self.events.push_back(Event::Lost(link));
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if !self.carry_out(effect) {
                // The rest rests on a table that is not there.
                self.events.push_front(Event::TableDamaged);
                return;
            }
        }
    }

    /// False when the table did not take a difference.
    fn carry_out(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Answer(link, answer) => self.say(link, answer),
            Effect::OpenDisks(change, disks) => self.open_disks(change, disks),
            Effect::PlaceHold(change, spans, mode) => self.place(change, &spans, mode),
            Effect::Apply(_, difference) => return self.apply(&difference),
            Effect::Reopen(change, link) => self.reopen(change, link),
            Effect::ReportDraining(change, link) => self.report_draining(change, link),
            Effect::ReportOpening(change, link) => self.report_opening(change, link),
            Effect::ReportApplied(change, link) => self.report_applied(change, link),
            Effect::Cancel(change) => self.cancel(change),
            Effect::AwaitOthers(generation) => self.await_others(generation),
            Effect::TakeOver => self.take_over(),
            Effect::Arm(change, timer, us) => {
                self.timers
                    .arm(Key::Change(change, timer), Duration::from_micros(us));
            }
            Effect::HoldWrites => self.hold_writes(),
            Effect::LetWrites => {
                self.setup.runtime.release(OWN);
            }
            Effect::Rejoin => self.rejoin(),
            Effect::Open => self.setup.runtime.open(),
        }
        true
    }

    fn place(&mut self, change: ChangeId, spans: &[Span], mode: HoldMode) {
        if self.setup.runtime.hold(change, spans, mode) {
            hit(Point::ApparatusHoldPlaced);
            self.draining.insert(change);
            self.look_at_drain(change);
        } else {
            self.events.push_back(Event::Overflow(change));
        }
    }

    fn look_at_drain(&mut self, change: ChangeId) {
        if self.setup.runtime.lag(change).is_none() {
            self.draining.remove(&change);
            hit(Point::ApparatusDrained);
            self.events.push_back(Event::Drained(change));
        }
    }

    fn apply(&mut self, difference: &Difference) -> bool {
        let generation = match self.setup.runtime.apply(difference) {
            Ok(generation) => generation,
            Err(why) => {
                log::error!(
                    "the table of generation {} is damaged: {why}",
                    self.setup.runtime.generation()
                );
                return false;
            }
        };
        hit(Point::ApparatusSwitched);
        self.setup.line.set_generation(generation);
        self.setup.line.set_oldest(self.setup.runtime.oldest());
        for edit in &difference.edits {
            match edit {
                Edit::AddVolume(volume) => self.volumes.push(volume.id),
                Edit::RemoveVolume(gone) => self.volumes.retain(|volume| volume != gone),
                Edit::AddDisk(record) | Edit::SetDisk(record) => self.openings.set(record.clone()),
                Edit::RemoveDisk(disk) => self.close_disk(*disk),
                _ => {}
            }
        }
        hit(Point::ApparatusApplied);
        true
    }

    fn reopen(&mut self, change: ChangeId, link: Option<Link>) {
        self.draining.remove(&change);
        self.openings.forget(change);
        self.timers
            .disarm(|key| matches!(key, Key::Change(of, _) if *of == change));
        let resumed = self.setup.runtime.release(change);
        hit(Point::ApparatusReopened);
        if let Some(link) = link {
            let longest_us = u64::try_from(resumed.longest.as_micros()).unwrap_or(u64::MAX);
            let oldest = self.setup.runtime.oldest();
            self.say(
                link,
                Answer::Released {
                    change,
                    parked: resumed.parked,
                    longest_us,
                    oldest,
                },
            );
        }
    }

    fn report_draining(&mut self, change: ChangeId, link: Link) {
        // Nothing to report when it has just become empty: the bell brings `Drained`.
        if let Some(lag) = self.setup.runtime.lag(change) {
            let oldest_us = u64::try_from(lag.age.as_micros()).unwrap_or(u64::MAX);
            let (in_flight, disk) = (lag.in_flight, lag.disk);
            self.say(
                link,
                Answer::StillDraining {
                    change,
                    in_flight,
                    oldest_us,
                    disk,
                },
            );
        }
    }

    fn report_applied(&mut self, change: ChangeId, link: Link) {
        let (generation, oldest) = (self.machine.generation(), self.setup.runtime.oldest());
        self.say(
            link,
            Answer::Applied {
                change,
                generation,
                oldest,
            },
        );
    }

    fn cancel(&mut self, change: ChangeId) {
        hit(Point::ApparatusCancelling);
        self.draining.remove(&change);
        if !self.helpers.give(Work::Cancel(change)) {
            self.events.push_back(Event::CancelFailed(change));
        }
    }

    fn hold_writes(&mut self) {
        let spans: Vec<Span> = self.volumes.iter().map(|volume| Span::whole(*volume)).collect();
        if !self.setup.runtime.hold(OWN, &spans, HoldMode::Writes) {
            log::error!("writes cannot be held: too many holds");
        }
    }

    fn await_others(&mut self, generation: Generation) {
        hit(Point::ApparatusAwaiting);
        self.awaited.insert(generation);
        self.look_for_others();
    }

    fn look_for_others(&mut self) {
        if !self.awaited.is_empty() && !self.looking {
            self.looking = self.helpers.give(Work::Others(self.awaited.clone()));
            if !self.looking {
                self.timers.arm(Key::Others, OTHERS);
            }
        }
    }

    fn take_over(&mut self) {
        hit(Point::ApparatusTakingOver);
        self.jobs.take_over(&self.setup.pool);
    }

    fn posted(&mut self, post: Post) {
        match post {
            Post::Cancelled(change, Ok(answer)) => {
                hit(Point::ApparatusCancelAnswered);
                self.events.push_back(Event::CancelAnswered(change, answer));
            }
            Post::Cancelled(change, Err(why)) => {
                log::warn!("change {change} cannot be cancelled, trying again: {why}");
                self.events.push_back(Event::CancelFailed(change));
            }
            Post::Reached(generations) => {
                for generation in generations {
                    self.awaited.remove(&generation);
                    self.events.push_back(Event::OthersReached(generation));
                }
                self.looking = false;
                self.timers.arm(Key::Others, OTHERS);
            }
            Post::LookedAtRun(listener) => {
                if let Some(listener) = listener {
                    self.setup.listener = listener;
                }
                self.timers.arm(Key::Run, RUN);
            }
            Post::BackedUp(link, done) => {
                let answer = match done {
                    Ok(()) => Answer::Accepted,
                    Err(why) => Answer::Refused {
                        change: None,
                        refusal: Refusal::Failed(why.to_string()),
                    },
                };
                self.say(link, answer);
            }
            Post::LookedAtDisks => self.timers.arm(Key::Disks, DISKS),
            Post::Opened(record, opened) => self.opened(&record, opened),
            Post::Told => {}
            Post::Rejoined(answer) => self.rejoined(answer.map(|back| *back)),
        }
    }
}
