//! The control thread of an apparatus: it receives requests of controllers, drives [`crate::protocol::agent`], and gives it what it uses: the data
//! path, the entry among the members, helper threads, timers.
//!
//! ```text
//!  connections --requests--> Core --inputs--> Agent --calls--> services --> Runtime (gate, table), member entry
//!       ^                     |  ^                                   |
//!       +------ answers ------+  +- results - helper threads <-------+  (store, disks: all that may wait)
//! ```
//!
//! | part | state |
//! |---|---|
//! | `connections` | sockets, partial frames |
//! | `links` | greetings, queued answers |
//! | `services` | what a helper has brought from a rejoin; carries out what the agent decides |
//! | `opening` | disks to open, and the holds that wait for them |
//! | `opens` | blocks on opens |
//! | `upkeep` | heartbeat, checks of disks and run directory |
//! | `jobs`, with `job_records` | threads that act as a controller |
//! | `timers` | times at which the parts are called again |
//!
//! The loop waits in one place, for sockets, the waker and timers. It does nothing that waits for a disk or the store.

mod connections;
mod copy_retries;
mod core;
mod hangs;
mod helpers;
mod job_records;
mod jobs;
mod links;
mod opening;
mod opens;
mod services;
mod timers;
mod upkeep;

use self::connections::{Connections, Inbound};
use self::core::{Core, TimerKey};
use self::job_records::JobPause;
pub use self::job_records::{JobRecords, LeftJobs};
use crate::cluster::{NameClaim, OwnEntry, SharedState};
use crate::controller::pool::PoolHandle;
use crate::datapath::{Runtime, Waker};
use crate::failpoint::hit;
use crate::model::error::{Error, Result};
use crate::model::member::{Joined, Member};
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::VolumeId;
use crate::rpc::message::{Ending, Memory};
use crate::rpc::{Listener, NodeListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bounds of the control thread.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections.
    pub connections: usize,
    /// Time for `Hello` to arrive, and for the rest of a frame after its first byte.
    pub partial: Duration,
    /// Maximum number of holds of changes. The gate has room for one more, for joining.
    pub holds: usize,
    /// Time for the other apparatuses to reach a change, before this one takes the controller lock to finish it.
    pub patience: Duration,
    /// Maximum number of background jobs.
    pub jobs: usize,
    /// Time for background jobs to stop at the end of a chunk when the apparatus leaves.
    pub leaving: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            partial: Duration::from_secs(2),
            holds: 63,
            patience: Duration::from_millis(500),
            jobs: 8,
            leaving: Duration::from_secs(10),
        }
    }
}

/// Parts that the control thread works with.
pub struct Setup {
    /// The pool.
    pub pool: PoolHandle,
    /// The pool's header when this apparatus joined.
    pub header: PoolHeader,
    /// The member record of this apparatus when it joined.
    pub member: Member,
    /// The volumes of the table that it joined with.
    pub volumes: Vec<VolumeId>,
    /// The disks of that table.
    pub disks: Vec<DiskRecord>,
    /// The control socket.
    pub listener: Listener,
    /// Where it listens for other nodes, if it does.
    pub node_listener: Option<NodeListener>,
    /// The claim on the name of this apparatus.
    pub claim: Arc<dyn NameClaim>,
    /// State that the members of the pool share.
    pub shared: SharedState,
    /// Entry of this apparatus there; its incarnation has begun.
    pub entry: Arc<dyn OwnEntry>,
    /// The data path.
    pub runtime: Arc<dyn Runtime>,
    /// Wakes the control thread; the data path calls it.
    pub waker: Arc<Waker>,
    /// Bounds of the control thread.
    pub limits: Limits,
    /// Returns the memory limits of this process.
    pub memory: Arc<dyn Fn() -> Memory + Send + Sync>,
    /// Returns why this apparatus serves no new hosts, if it does not.
    pub ending: Arc<dyn Fn() -> Option<Ending> + Send + Sync>,
    /// The upper limit of the FUSE reader threads, if it was configured.
    pub thread_limit: Option<u16>,
    /// The background jobs that an earlier process of this apparatus has left, and their records.
    pub left_jobs: Option<LeftJobs>,
}

impl Setup {
    /// Makes a setup from the result of [`Store::join`], with the usual bounds.
    pub fn new(
        pool: &PoolHandle,
        joined: &Joined,
        (listener, node_listener, claim): (Listener, Option<NodeListener>, Arc<dyn NameClaim>),
        (shared, entry): (SharedState, Arc<dyn OwnEntry>),
        (runtime, waker): (Arc<dyn Runtime>, Arc<Waker>),
    ) -> Self {
        Self {
            pool: pool.clone(),
            header: joined.snapshot.header.clone(),
            member: joined.member.clone(),
            volumes: joined.snapshot.volumes.iter().map(|volume| volume.id).collect(),
            disks: joined.snapshot.disks.clone(),
            listener,
            node_listener,
            claim,
            shared,
            entry,
            runtime,
            waker,
            limits: Limits::default(),
            memory: Arc::new(Memory::default),
            ending: Arc::new(|| None),
            thread_limit: None,
            left_jobs: None,
        }
    }
}

/// Running control thread. Dropping it ends the thread, as [`Server::shut`] does.
pub struct Server {
    thread: Option<JoinHandle<()>>,
    ending: Arc<AtomicBool>,
    jobs: Arc<JobPause>,
    waker: Arc<Waker>,
}

impl Server {
    /// Starts the control thread. When this returns, host requests may be served: writes are held until the other apparatuses are known to have
    /// reached this one's table.
    ///
    /// # Errors
    /// Fails when a thread cannot be started or the store cannot be opened.
    pub fn start(setup: Setup) -> Result<Self> {
        let ending = Arc::new(AtomicBool::new(false));
        let (waker, jobs) = (Arc::clone(&setup.waker), Arc::<JobPause>::default());
        let (mut control, stop) = (ControlLoop::new(setup, Arc::clone(&jobs))?, Arc::clone(&ending));
        control.core.begin();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(why) = crate::sys::prefer_latency() {
                log::debug!("the control thread runs without a higher priority: {why}");
            }
            control.run(&stop);
        });
        let thread = thread.map_err(|why| Error::because("control thread", why))?;
        Ok(Self {
            thread: Some(thread),
            ending,
            jobs,
            waker,
        })
    }

    /// Has the background jobs stop at the end of a chunk, and waits for that. Returns whether they have.
    #[must_use]
    pub fn pause_jobs(&self, within: Duration) -> bool {
        self.jobs.begin();
        self.waker.wake();
        self.jobs.await_idle(within)
    }

    /// Has the background jobs that [`Server::pause_jobs`] has stopped go on.
    pub fn resume_jobs(&self) {
        self.jobs.end();
        self.waker.wake();
    }

    /// Ends the control thread and its background jobs, which stop at the end of a chunk, and removes the socket. The data path continues, so the
    /// caller unmounts first.
    pub fn shut(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the control thread has panicked");
        }
    }
}

/// The loop: receives requests, lets the core handle them, sends answers.
struct ControlLoop {
    connections: Connections,
    core: Core,
    jobs: Arc<JobPause>,
    /// Time for `Hello`, and for the rest of a frame.
    partial: Duration,
}

impl ControlLoop {
    fn new(mut setup: Setup, jobs: Arc<JobPause>) -> Result<Self> {
        let (waker, limits) = (Arc::clone(&setup.waker), setup.limits);
        let acceptor = setup
            .node_listener
            .as_mut()
            .and_then(|node_listener| node_listener.acceptor.take());
        let (core, listener) = Core::new(setup)?;
        Ok(Self {
            connections: Connections::new((listener, acceptor), waker, limits.connections),
            core,
            jobs,
            partial: limits.partial,
        })
    }

    fn run(mut self, ending: &AtomicBool) {
        while !(ending.load(Ordering::Acquire) && self.core.may_end()) {
            self.step();
        }
    }

    fn step(&mut self) {
        let left = self.core.left();
        for inbound in self.connections.wait(left) {
            self.handle(inbound);
        }
        self.core.check();
        self.core.check_jobs(&self.jobs);
        self.admit_strangers();
        if let Some(listener) = self.core.take_new_listener() {
            self.connections.listen_on(listener);
        }
        for key in self.core.take_due() {
            match key {
                TimerKey::Sweep => self.sweep(),
                key => self.core.due(key),
            }
        }
        self.send_answers();
    }

    fn admit_strangers(&mut self) {
        for (link, names) in self.core.take_strangers() {
            for inbound in self.connections.admit(link, &names) {
                self.handle(inbound);
            }
        }
    }

    fn handle(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Asked(link, frame) => self.core.received(link, frame),
            Inbound::Garbled(link, why) => self.core.garbled(link, why),
            Inbound::Lost(link) => self.core.lost(link),
            Inbound::Stranger(link) => self.core.stranger(link),
        }
    }

    /// Closes connections that have not sent `Hello`, or not finished a frame, in time.
    fn sweep(&mut self) {
        for link in self.connections.overdue(self.partial) {
            let why = format!("no complete frame came within {} ms", self.partial.as_millis());
            self.core.garbled(link, why);
        }
        self.core.arm(TimerKey::Sweep, self.partial / 2);
    }

    /// Sends the queued answers, one frame for each connection.
    fn send_answers(&mut self) {
        for (link, outbound) in self.core.take_outbound() {
            if self.connections.send(link, outbound.answers, outbound.close) {
                outbound.points.iter().for_each(|point| hit(*point));
            } else {
                self.core.lost(link);
            }
        }
    }
}
