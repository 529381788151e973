//! The control thread of an apparatus: one thread that hears controllers, drives [`crate::change::participant`], and carries out
//! what it wants on the data path.
//!
//! ```text
//!  connections --requests--> Core --events--> Machine --effects--> Core --> Runtime (gate, table), member line
//!       ^                     |  ^                                          |
//!       +------ answers ------+  +-- posts -- helper threads <-- works -----+  (store, disks: whatever may wait)
//! ```
//!
//! The loop waits in one place, for sockets, the bell and timers, and does nothing that waits for a disk or the store.

mod connections;
mod core;
mod helpers;
mod jobs;
mod opening;
mod rejoin;
mod requests;
mod timers;

pub use self::helpers::renew_label;

use self::connections::{Connections, Heard};
use self::core::{Core, Key};
use super::{Bell, Listener, Runtime};
use crate::error::{Error, Result};
use crate::member::{LifeLock, MemberTable, MyLine};
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::store::{Joined, Member, Store};
use crate::units::VolumeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Opens a connection to the pool's store; each thread that needs one calls it.
pub type OpenStore = Arc<dyn Fn() -> Result<Box<dyn Store>> + Send + Sync>;

/// Bounds of the control thread.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// For `Hello` to come, and for the rest of a frame once it has begun.
    pub partial: Duration,
    /// Holds of changes at once. The gate takes one more, for joining.
    pub holds: usize,
    /// How long the other apparatuses may take to reach a change, before this one takes the arbitration to finish it.
    pub patience: Duration,
    /// Background jobs at once.
    pub jobs: usize,
    /// How long background jobs may take to stop at a chunk's end when the apparatus leaves.
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

/// What the control thread works with.
pub struct Setup {
    /// The pool's directory.
    pub pool: PoolDir,
    /// The pool's header as it was joined with.
    pub header: PoolHeader,
    /// This apparatus as it joined.
    pub member: Member,
    /// The volumes of the table that it joined with.
    pub volumes: Vec<VolumeId>,
    /// The disks of that table.
    pub disks: Vec<DiskRecord>,
    /// The control socket.
    pub listener: Listener,
    /// The life lock.
    pub life: Arc<LifeLock>,
    /// The pool's member table.
    pub members: Arc<MemberTable>,
    /// Our line in it; its life has begun.
    pub line: Arc<MyLine>,
    /// The data path.
    pub runtime: Arc<dyn Runtime>,
    /// The bell that the data path rings.
    pub bell: Arc<Bell>,
    /// The store.
    pub open_store: OpenStore,
    /// Bounds.
    pub limits: Limits,
}

impl Setup {
    /// With what [`Store::join`] answered and the usual bounds.
    pub fn new(
        pool: &PoolDir,
        joined: &Joined,
        (listener, life): (Listener, Arc<LifeLock>),
        (members, line): (Arc<MemberTable>, Arc<MyLine>),
        (runtime, bell): (Arc<dyn Runtime>, Arc<Bell>),
        open_store: OpenStore,
    ) -> Self {
        Self {
            pool: pool.clone(),
            header: joined.snapshot.header.clone(),
            member: joined.member.clone(),
            volumes: joined.snapshot.volumes.iter().map(|volume| volume.id).collect(),
            disks: joined.snapshot.disks.clone(),
            listener,
            life,
            members,
            line,
            runtime,
            bell,
            open_store,
            limits: Limits::default(),
        }
    }
}

/// The running control thread. Dropping it ends it, as [`Server::shut`] does.
pub struct Server {
    thread: Option<JoinHandle<()>>,
    ending: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl Server {
    /// Starts the control thread. When this returns, writes are held until the other apparatuses are known to be at this one's
    /// table: host requests may be served.
    ///
    /// # Errors
    /// When a thread cannot be made or the store cannot be opened.
    pub fn start(setup: Setup) -> Result<Self> {
        let ending = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&setup.bell);
        let (mut turn, stop) = (Turn::new(setup)?, Arc::clone(&ending));
        turn.core.run();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(why) = crate::sys::prefer_latency() {
                log::debug!("the control thread runs as any other: {why}");
            }
            turn.run(&stop);
        });
        let thread = thread.map_err(|why| Error::because("control thread", why))?;
        Ok(Self {
            thread: Some(thread),
            ending,
            bell,
        })
    }

    /// Ends the control thread and its background jobs, which stop at the end of a chunk, and removes the socket. The data path is
    /// left as it is: unmount first.
    pub fn shut(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the control thread has panicked");
        }
    }
}

/// The loop: waits, hears, lets the core act, says.
struct Turn {
    connections: Connections,
    core: Core,
}

impl Turn {
    fn new(setup: Setup) -> Result<Self> {
        let connections = Connections::new(setup.limits.connections);
        Ok(Self {
            connections,
            core: Core::new(setup)?,
        })
    }

    fn run(mut self, ending: &AtomicBool) {
        while !(ending.load(Ordering::Acquire) && self.core.may_end()) {
            self.turn();
        }
    }

    fn turn(&mut self) {
        let left = self.core.timers.left();
        for heard in self.connections.wait(&self.core.setup, left) {
            match heard {
                Heard::Bell => self.core.setup.bell.hear(),
                Heard::Asked(link, frame) => self.core.asked(link, frame),
                Heard::Garbled(link, why) => self.core.garbled(link, why),
                Heard::Lost(link) => self.core.lost(link),
            }
            self.core.run();
        }
        self.core.look();
        for key in self.core.timers.take_due() {
            match key {
                Key::Sweep => self.sweep(),
                key => self.core.due(key),
            }
            self.core.run();
        }
        self.say();
    }

    /// Ends connections that have not greeted or not finished a frame in time.
    fn sweep(&mut self) {
        let partial = self.core.setup.limits.partial;
        for link in self.connections.overdue(partial) {
            self.core
                .garbled(link, format!("nothing more came in {} ms", partial.as_millis()));
        }
        self.core.timers.arm(Key::Sweep, partial / 2);
    }

    /// Sends what there is to say, one frame for each connection.
    fn say(&mut self) {
        for (link, said) in self.core.take_said() {
            if self.connections.say(link, said.answers, said.close) {
                self.core.was_said(&said.points);
            } else {
                self.core.lost(link);
            }
        }
        self.core.run();
    }
}
