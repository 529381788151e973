//! The core of the control thread: passes requests, results of helpers and timers to the agent, and the rest to the parts that handle it.
//!
//! Each part owns its state and gets what it needs when it is made. [`Parts`] carries out what the agent decides.

mod requests;

use super::Setup;
use super::helpers::{HelperResult, Helpers, Results, Work};
use super::job_records::JobPause;
use super::jobs::Jobs;
use super::links::{Links, Outbound, refused};
use super::opening::Openings;
use super::opens::OpenBlocks;
use super::services::Parts;
use super::upkeep::{self, Upkeep};
use crate::cluster::NameClaim;
use crate::datapath::{Runtime, Waker};
use crate::failpoint::{Point, hit};
use crate::model::error::Result;
use crate::model::names::Name;
use crate::protocol::agent::{Agent, Due, Input, Rejoined};
use crate::protocol::participant::{Bounds, Link};
use crate::rpc::Listener;
use crate::rpc::message::{Answer, Ending, Memory, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimerKey {
    /// A timer of the agent.
    Agent(Due),
    /// Heartbeat.
    Beat,
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
    agent: Agent,
    parts: Parts,
    opens: OpenBlocks,
    upkeep: Upkeep,
    results: Results,
    /// Control socket that a helper has created again.
    new_listener: Option<Listener>,
    /// Connections of other nodes that are to be admitted if they have one of these names.
    strangers: Vec<(Link, BTreeSet<String>)>,
    runtime: Arc<dyn Runtime>,
    waker: Arc<Waker>,
    memory: Arc<dyn Fn() -> Memory + Send + Sync>,
    ending: Arc<dyn Fn() -> Option<Ending> + Send + Sync>,
    thread_limit: Option<u16>,
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
            ending,
            thread_limit,
            left_jobs,
        } = setup;
        let patience_us = u64::try_from(limits.patience.as_micros()).unwrap_or(u64::MAX);
        let bounds = Bounds {
            holds: limits.holds,
            patience_us,
        };
        let joined = Rejoined {
            slot: member.slot,
            incarnation: member.incarnation,
            generation: runtime.generation(),
            volumes,
        };
        let path = || Arc::clone(&runtime);
        let entry = || Arc::clone(&entry);
        let openings = Openings::new(path(), helpers.clone(), disks);
        let jobs = Jobs::new(pool, member.name.clone(), limits);
        let upkeep = Upkeep::new(path(), entry(), helpers.clone(), listener.socket_file().clone());
        let links = Links::new(header.uuid);
        let mut core = Self {
            me: member.name,
            agent: Agent::new(joined, bounds),
            parts: Parts::new((links, openings, jobs, helpers), (path(), entry())),
            opens: OpenBlocks::new(path()),
            upkeep,
            results,
            new_listener: None,
            strangers: Vec::new(),
            runtime: path(),
            waker,
            memory,
            ending,
            thread_limit,
            _claim: claim,
        };
        core.arm(TimerKey::Beat, Duration::ZERO);
        core.arm(TimerKey::Disks, upkeep::DISKS);
        core.arm(TimerKey::Run, upkeep::RUN);
        core.arm(TimerKey::Sweep, limits.partial / 2);
        if let Some(left) = left_jobs {
            core.parts.jobs.go_on(left);
        }
        Ok((core, listener))
    }

    /// Has the agent begin, before hosts are served.
    pub(super) fn begin(&mut self) {
        self.agent.begin(&mut self.parts);
    }

    /// Passes an input to the agent.
    fn on(&mut self, input: Input) {
        self.agent.on(input, &mut self.parts);
    }

    /// Pauses the background jobs, or has them go on, as requested.
    pub(super) fn check_jobs(&mut self, pause: &JobPause) {
        if self.parts.jobs.pause(pause.is_on()) {
            pause.is_idle();
        }
    }

    /// Asks the background jobs to stop, and returns whether they have ended or have run out of time.
    pub(super) fn may_end(&mut self) -> bool {
        self.parts.jobs.stop()
    }

    /// Checks everything that other threads and processes change: the fence word, drains, overflow, results of helpers.
    pub(super) fn check(&mut self) {
        let overflowed = self.waker.take_overflowed();
        self.on(Input::Woken(overflowed));
        while let Ok(result) = self.results.try_recv() {
            self.handle_result(result);
        }
    }

    /// Returns the time until the next timer is due, or `None` when there is none.
    pub(super) fn left(&self) -> Option<Duration> {
        self.parts.timers.left()
    }

    /// Removes and returns the timers that are due, earliest first.
    pub(super) fn take_due(&mut self) -> Vec<TimerKey> {
        self.parts.timers.take_due()
    }

    /// Arms a timer.
    pub(super) fn arm(&mut self, key: TimerKey, after: Duration) {
        self.parts.timers.arm(key, after);
    }

    fn arm_if(&mut self, key: TimerKey, after: Option<Duration>) {
        if let Some(after) = after {
            self.arm(key, after);
        }
    }

    /// Handles a timer that is due.
    pub(super) fn due(&mut self, key: TimerKey) {
        match key {
            TimerKey::Agent(due) => self.on(Input::Due(due)),
            TimerKey::Beat => {
                self.upkeep.beat();
                self.arm(TimerKey::Beat, upkeep::BEAT);
            }
            TimerKey::Disks => {
                self.parts.openings.retry();
                self.arm_if(TimerKey::Disks, self.upkeep.check_disks());
            }
            TimerKey::AllowOpens(link) => self.opens.end(link),
            TimerKey::Run => self.arm_if(TimerKey::Run, self.upkeep.check_run()),
            TimerKey::Sweep => {}
        }
    }

    /// Takes the queued answers of all connections.
    pub(super) fn take_outbound(&mut self) -> BTreeMap<Link, Outbound> {
        self.parts.links.take_outbound()
    }

    /// Takes the control socket that has replaced the present one, if there is one.
    pub(super) fn take_new_listener(&mut self) -> Option<Listener> {
        self.new_listener.take()
    }

    /// Has the names of the pool's nodes read, for a connection that is of one of them or of a stranger.
    pub(super) fn stranger(&mut self, link: Link) {
        if !self.parts.helpers.give(Work::Nodes(link)) {
            self.strangers.push((link, BTreeSet::new()));
        }
    }

    /// Takes the connections that are to be admitted if they have one of these names.
    pub(super) fn take_strangers(&mut self) -> Vec<(Link, BTreeSet<String>)> {
        std::mem::take(&mut self.strangers)
    }

    /// Handles the loss of a connection.
    pub(super) fn lost(&mut self, link: Link) {
        self.parts.links.lost(link);
        self.opens.end(link);
        self.parts.timers.disarm(|key| *key == TimerKey::AllowOpens(link));
        self.on(Input::Lost(link));
    }

    fn handle_result(&mut self, result: HelperResult) {
        match result {
            HelperResult::Cancelled(change, Ok(answer)) => {
                hit(Point::ApparatusCancelAnswered);
                self.on(Input::CancelAnswered(change, Some(answer)));
            }
            HelperResult::Cancelled(change, Err(why)) => {
                log::warn!("cannot cancel change {change}, and retries: {why}");
                self.on(Input::CancelAnswered(change, None));
            }
            HelperResult::Reached(generations) => self.on(Input::OthersReached(generations)),
            HelperResult::CheckedRun(listener) => {
                if let Some(listener) = listener {
                    self.upkeep.set_socket(listener.socket_file().clone());
                    self.new_listener = Some(listener);
                }
                self.arm(TimerKey::Run, upkeep::RUN);
            }
            HelperResult::BackedUp(link, done) => {
                let answer = match done {
                    Ok(()) => Answer::Accepted,
                    Err(why) => refused(Refusal::Failed(why.to_string())),
                };
                self.parts.links.answer(link, answer);
            }
            HelperResult::NeighbourFenced(link, slot, ended) => {
                let answer = match ended {
                    Some(ended) => Answer::NeighbourFenced { slot, ended },
                    None => refused(Refusal::Failed("no such member on this node".to_owned())),
                };
                self.parts.links.answer(link, answer);
            }
            HelperResult::CheckedDisks => self.arm(TimerKey::Disks, upkeep::DISKS),
            HelperResult::Opened(record, opened) => {
                let inputs = self.parts.openings.opened(&record, opened);
                inputs.into_iter().for_each(|input| self.on(input));
            }
            HelperResult::Logged => {}
            HelperResult::Nodes(link, names) => self.strangers.push((link, names)),
            HelperResult::Rejoined(answer) => {
                let rejoined = self.parts.take_rejoined(answer);
                self.on(Input::Rejoined(rejoined));
            }
        }
    }
}
