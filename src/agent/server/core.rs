//! The core of the control thread: passes events to the machine, and routes its effects, requests and results of helpers to the parts.
//!
//! Each part owns its state and gets what it needs when it is made. A part returns events for the machine, answers for connections, or the time
//! after which it is to be called again; the core passes them on.

mod requests;

use super::Setup;
use super::helpers::{HelperResult, Helpers, Rejoined, Results, Work};
use super::holds::Holds;
use super::job_records::JobPause;
use super::jobs::Jobs;
use super::links::{Links, Outbound, refused};
use super::opening::Openings;
use super::opens::OpenBlocks;
use super::others::{self, Others};
use super::quiesce::Quiesces;
use super::rejoin::{NextStep, Rejoin};
use super::timers::Timers;
use super::upkeep::{self, Upkeep};
use super::version::Version;
use crate::cluster::NameClaim;
use crate::datapath::{Runtime, Waker};
use crate::failpoint::{Point, hit};
use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::records::Delta;
use crate::model::units::ChangeId;
use crate::protocol::participant::{Bounds, Effect, Event, Link, Machine, Participation, Timer};
use crate::rpc::Listener;
use crate::rpc::message::{Answer, Memory, Refusal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerKey {
    /// A timer of the machine.
    Change(ChangeId, Timer),
    /// Heartbeat.
    Beat,
    /// Check whether the other apparatuses have reached a generation.
    Others,
    /// Check the `Quiesce` requests, which wait for old tables to fall out of use.
    Quiesce,
    /// Retry to rejoin.
    Rejoin,
    /// Close overdue connections.
    Sweep,
    /// Check the disks.
    Disks,
    /// End the block on opens that this connection has placed.
    AllowOpens(Link),
    /// Check that other processes find this apparatus's files in the run directory.
    Run,
}

/// State of the control thread, except for its connections.
pub(super) struct Core {
    me: Name,
    machine: Machine,
    /// Effects of a new machine.
    first: Vec<Effect>,
    events: VecDeque<Event>,
    timers: Timers<TimerKey>,
    links: Links,
    holds: Holds,
    version: Version,
    others: Others,
    openings: Openings,
    opens: OpenBlocks,
    quiesces: Quiesces,
    rejoin: Rejoin,
    upkeep: Upkeep,
    jobs: Jobs,
    helpers: Helpers,
    results: Results,
    /// Control socket that a helper has created again.
    new_listener: Option<Listener>,
    /// Connections of other nodes that are to be admitted if they have one of these names.
    strangers: Vec<(Link, BTreeSet<String>)>,
    runtime: Arc<dyn Runtime>,
    waker: Arc<Waker>,
    memory: Arc<dyn Fn() -> Memory + Send + Sync>,
    /// The claim on the name ends with the control thread.
    _claim: Arc<dyn NameClaim>,
}

impl Core {
    /// Makes the core and its parts, and starts the helper threads. Returns it with the control socket.
    pub(super) fn new(setup: Setup) -> Result<(Self, Listener)> {
        let (helpers, results) = Helpers::start(&setup)?;
        let Setup {
            pool,
            header,
            member,
            volumes,
            disks,
            listener,
            node_listener: _,
            claim,
            shared: _,
            entry,
            runtime,
            waker,
            limits,
            memory,
            left_jobs,
        } = setup;
        let patience_us = u64::try_from(limits.patience.as_micros()).unwrap_or(u64::MAX);
        let bounds = Bounds {
            holds: limits.holds,
            patience_us,
        };
        let (machine, first) = Machine::joined(member.incarnation, runtime.generation(), bounds);
        let mut timers = Timers::new();
        timers.arm(TimerKey::Beat, Duration::ZERO);
        timers.arm(TimerKey::Disks, upkeep::DISKS);
        timers.arm(TimerKey::Run, upkeep::RUN);
        timers.arm(TimerKey::Sweep, limits.partial / 2);
        let path = || Arc::clone(&runtime);
        let entry = || Arc::clone(&entry);
        let mut core = Self {
            links: Links::new(header.uuid),
            holds: Holds::new(path()),
            version: Version::new(path(), entry(), volumes),
            others: Others::new(helpers.clone()),
            openings: Openings::new(path(), helpers.clone(), disks),
            opens: OpenBlocks::new(path()),
            quiesces: Quiesces::new(path(), entry()),
            rejoin: Rejoin::new(path(), entry(), helpers.clone(), member.slot),
            upkeep: Upkeep::new(path(), entry(), helpers.clone(), listener.socket_file().clone()),
            jobs: Jobs::new(pool, member.name.clone(), limits),
            me: member.name,
            machine,
            first,
            events: VecDeque::new(),
            timers,
            helpers,
            results,
            new_listener: None,
            strangers: Vec::new(),
            runtime: path(),
            waker,
            memory,
            _claim: claim,
        };
        if let Some(left) = left_jobs {
            core.jobs.go_on(left);
        }
        Ok((core, listener))
    }

    /// Pauses the background jobs, or has them go on, as requested.
    pub(super) fn check_jobs(&mut self, pause: &JobPause) {
        if self.jobs.pause(pause.is_on()) {
            pause.is_idle();
        }
    }

    /// Asks the background jobs to stop, and returns whether they have ended or have run out of time.
    pub(super) fn may_end(&mut self) -> bool {
        self.jobs.stop()
    }

    /// Passes all events to the machine, and carries out its effects.
    pub(super) fn run(&mut self) {
        let first = std::mem::take(&mut self.first);
        self.carry_out_all(first);
        while let Some(event) = self.events.pop_front() {
            let effects = self.machine.on(event);
            self.carry_out_all(effects);
        }
    }

    /// Checks everything that other threads and processes change: the fence word, drains, overflow, results of helpers.
    pub(super) fn check(&mut self) {
        if self.rejoin.is_fenced() && self.machine.standing() != Participation::Out {
            hit(Point::ApparatusFenced);
            self.events.push_back(Event::Fenced(self.machine.incarnation()));
        }
        let overflowed = self.waker.take_overflowed().into_iter();
        self.events.extend(overflowed.map(Event::Overflow));
        while let Ok(result) = self.results.try_recv() {
            self.handle_result(result);
        }
        self.events.extend(self.holds.drained());
        self.answer_quiesces();
        self.check_rejoin();
        self.run();
    }

    /// Returns the time until the next timer is due, or `None` when there is none.
    pub(super) fn left(&self) -> Option<Duration> {
        self.timers.left()
    }

    /// Removes and returns the timers that are due, earliest first.
    pub(super) fn take_due(&mut self) -> Vec<TimerKey> {
        self.timers.take_due()
    }

    /// Arms a timer.
    pub(super) fn arm(&mut self, key: TimerKey, after: Duration) {
        self.timers.arm(key, after);
    }

    fn arm_if(&mut self, key: TimerKey, after: Option<Duration>) {
        if let Some(after) = after {
            self.timers.arm(key, after);
        }
    }

    /// Handles a timer that is due.
    pub(super) fn due(&mut self, key: TimerKey) {
        match key {
            TimerKey::Change(change, timer) => self.events.push_back(Event::TimedOut(change, timer)),
            TimerKey::Beat => {
                self.upkeep.beat();
                self.timers.arm(TimerKey::Beat, upkeep::BEAT);
            }
            TimerKey::Others => {
                let retry = self.others.check();
                self.arm_if(TimerKey::Others, retry);
            }
            TimerKey::Rejoin => {
                let retry = self.rejoin.retry(self.machine.incarnation());
                self.arm_if(TimerKey::Rejoin, retry);
            }
            TimerKey::Disks => {
                self.openings.retry();
                self.arm_if(TimerKey::Disks, self.upkeep.check_disks());
            }
            TimerKey::AllowOpens(link) => self.opens.end(link),
            TimerKey::Run => self.arm_if(TimerKey::Run, self.upkeep.check_run()),
            TimerKey::Quiesce | TimerKey::Sweep => {}
        }
    }

    /// Takes the queued answers of all connections.
    pub(super) fn take_outbound(&mut self) -> BTreeMap<Link, Outbound> {
        self.links.take_outbound()
    }

    /// Takes the control socket that has replaced the present one, if there is one.
    pub(super) fn take_new_listener(&mut self) -> Option<Listener> {
        self.new_listener.take()
    }

    /// Has the names of the pool's nodes read, for a connection that is of one of them or of a stranger.
    pub(super) fn stranger(&mut self, link: Link) {
        if !self.helpers.give(Work::Nodes(link)) {
            self.strangers.push((link, BTreeSet::new()));
        }
    }

    /// Takes the connections that are to be admitted if they have one of these names.
    pub(super) fn take_strangers(&mut self) -> Vec<(Link, BTreeSet<String>)> {
        std::mem::take(&mut self.strangers)
    }

    /// Handles the loss of a connection.
    pub(super) fn lost(&mut self, link: Link) {
        self.links.lost(link);
        self.opens.end(link);
        self.timers.disarm(|key| *key == TimerKey::AllowOpens(link));
        self.quiesces.lost(link);
        self.events.push_back(Event::Lost(link));
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if !self.carry_out(effect) {
                // The other effects depend on the table that could not be made.
                self.events.push_front(Event::TableDamaged);
                return;
            }
        }
    }

    /// Carries out an effect. Returns false when a delta could not be applied to the table.
    fn carry_out(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Answer(link, answer) => self.links.answer(link, answer),
            Effect::OpenDisks(change, disks) => self.events.extend(self.openings.open_for(change, disks)),
            Effect::PlaceNote(change, spans) => self.events.extend(self.holds.note(change, &spans)),
            Effect::EndNote(change) => self.holds.end_note(change),
            Effect::ReportHeld(change, link) => self.links.answer(link, self.holds.held(change)),
            Effect::PlaceHold(change, spans, mode) => {
                self.events.extend(self.holds.place(change, &spans, mode));
            }
            Effect::Apply(_, delta) => return self.apply(&delta),
            Effect::Reopen(change, link) => self.reopen(change, link),
            Effect::ReportDraining(change, link) => self.answer_if(link, self.holds.still_draining(change)),
            Effect::ReportOpening(change, link) => {
                self.answer_if(link, self.openings.still_opening(change));
            }
            Effect::ReportApplied(change, link) => {
                let applied = self.version.applied(change, self.machine.generation());
                self.links.answer(link, applied);
            }
            Effect::Cancel(change) => self.cancel(change),
            Effect::AwaitOthers(generation) => {
                let retry = self.others.wait_for(generation);
                self.arm_if(TimerKey::Others, retry);
            }
            Effect::TakeOver => {
                hit(Point::ApparatusTakingOver);
                self.jobs.take_over();
            }
            Effect::Arm(change, timer, us) => {
                let key = TimerKey::Change(change, timer);
                self.timers.arm(key, Duration::from_micros(us));
            }
            Effect::HoldWrites => self.holds.hold_writes(self.version.volumes()),
            Effect::ReleaseWrites => self.holds.release_writes(),
            Effect::Rejoin => self.begin_rejoin(),
            Effect::Open => self.runtime.open(),
        }
        true
    }

    fn answer_if(&mut self, link: Link, answer: Option<Answer>) {
        if let Some(answer) = answer {
            self.links.answer(link, answer);
        }
    }

    fn apply(&mut self, delta: &Delta) -> bool {
        if !self.version.apply(delta) {
            return false;
        }
        self.openings.follow(delta);
        hit(Point::ApparatusApplied);
        true
    }

    fn reopen(&mut self, change: ChangeId, link: Option<Link>) {
        self.openings.forget(change);
        self.timers
            .disarm(|key| matches!(key, TimerKey::Change(of, _) if *of == change));
        let resumed = self.holds.release(change);
        if let Some(link) = link {
            self.links.answer(link, self.holds.released(change, resumed));
        }
    }

    fn cancel(&mut self, change: ChangeId) {
        hit(Point::ApparatusCancelling);
        self.holds.stop_watching(change);
        if !self.helpers.give(Work::Cancel(change)) {
            self.events.push_back(Event::CancelFailed(change));
        }
    }

    /// Answers the `Quiesce` requests whose wait is over.
    fn answer_quiesces(&mut self) {
        for (link, answer) in self.quiesces.answers() {
            self.links.answer(link, answer);
        }
        self.arm_if(TimerKey::Quiesce, self.quiesces.next_check());
    }

    /// Parks all requests, drops all holds, and begins to rejoin.
    fn begin_rejoin(&mut self) {
        self.rejoin.begin();
        self.holds.forget_all();
        self.openings.forget_all();
        self.others.forget_all();
        self.timers.disarm(|key| matches!(key, TimerKey::Change(..)));
        self.check_rejoin();
    }

    fn check_rejoin(&mut self) {
        let retry = self.rejoin.check(self.machine.incarnation());
        self.arm_if(TimerKey::Rejoin, retry);
    }

    fn rejoined(&mut self, answer: Result<Box<Rejoined>>) {
        match self.rejoin.answered(answer) {
            NextStep::Nothing => {}
            NextStep::Retry(after) => self.timers.arm(TimerKey::Rejoin, after),
            NextStep::Load(rejoined) => self.resume(rejoined),
        }
    }

    fn resume(&mut self, rejoined: Box<Rejoined>) {
        let Rejoined { joined, table, .. } = *rejoined;
        let (incarnation, generation) = (joined.member.incarnation, joined.snapshot.header.generation);
        if self.version.reload(table, &joined) {
            self.openings.set_table(joined.snapshot.disks);
            self.rejoin.done();
            log::info!("rejoined with incarnation {incarnation} and the table of generation {generation}");
            self.events.push_back(Event::Rejoined(incarnation, generation));
        }
    }

    fn handle_result(&mut self, result: HelperResult) {
        match result {
            HelperResult::Cancelled(change, Ok(answer)) => {
                hit(Point::ApparatusCancelAnswered);
                self.events.push_back(Event::CancelAnswered(change, answer));
            }
            HelperResult::Cancelled(change, Err(why)) => {
                log::warn!("cannot cancel change {change}, and retries: {why}");
                self.events.push_back(Event::CancelFailed(change));
            }
            HelperResult::Reached(generations) => {
                self.events.extend(self.others.reached(generations));
                self.timers.arm(TimerKey::Others, others::INTERVAL);
            }
            HelperResult::CheckedRun(listener) => {
                if let Some(listener) = listener {
                    self.upkeep.set_socket(listener.socket_file().clone());
                    self.new_listener = Some(listener);
                }
                self.timers.arm(TimerKey::Run, upkeep::RUN);
            }
            HelperResult::BackedUp(link, done) => {
                let answer = match done {
                    Ok(()) => Answer::Accepted,
                    Err(why) => refused(Refusal::Failed(why.to_string())),
                };
                self.links.answer(link, answer);
            }
            HelperResult::CheckedDisks => self.timers.arm(TimerKey::Disks, upkeep::DISKS),
            HelperResult::Opened(record, opened) => {
                self.events.extend(self.openings.opened(&record, opened));
            }
            HelperResult::Logged => {}
            HelperResult::Nodes(link, names) => self.strangers.push((link, names)),
            HelperResult::Rejoined(answer) => self.rejoined(answer),
        }
    }
}
