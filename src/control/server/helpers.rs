//! Threads that wait for the store and for disks, so that the control thread does not.

use super::{OpenStore, Setup};
use crate::change::failpoint::{Point, hit};
use crate::change::participant::Link;
use crate::change::recovery::others_reached;
use crate::change::survey::see;
use crate::control::listen::Door;
use crate::control::{Bell, Listener, Runtime};
use crate::disk::Disk;
use crate::error::{Error, Kind, Result};
use crate::member::{LifeLock, MemberTable};
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::store::{Cancel, Joined, Member, Severity, Store};
use crate::table::Draft;
use crate::units::{ChangeId, DiskId, Generation, Incarnation};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// Works that wait for a helper, and posts that wait for the control thread.
const QUEUE: usize = 256;

/// What a helper is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    /// `Store::cancel`.
    Cancel(ChangeId),
    /// See which of these generations everyone has reached.
    Others(BTreeSet<Generation>),
    /// Open these disks for a hold.
    Open(ChangeId, Vec<DiskRecord>),
    /// See whether others still find the control socket, the life lock and the member table, and put back what was deleted.
    LookAtRun(Door),
    /// Write a copy of the database to a file, for somebody who asks on this connection.
    Backup(Link, PathBuf),
    /// See whether a disk has become shorter.
    LookAtDisks,
    /// Get back into the control range from this life, with the disks of the new table open.
    Rejoin(Incarnation),
}

/// What came of it.
pub(super) enum Post {
    Cancelled(ChangeId, Result<Cancel>),
    /// These everyone has reached.
    Reached(Vec<Generation>),
    /// The disks that were not open yet, or the name of one and why it cannot be.
    Opened(ChangeId, Result<Vec<Arc<Disk>>, (String, String)>),
    Rejoined(Result<Box<Back>>),
    LookedAtDisks,
    BackedUp(Link, Result<()>),
    /// With a new control socket, if the old one was deleted.
    LookedAtRun(Option<Listener>),
}

/// Back in the control range.
pub(super) struct Back {
    pub(super) joined: Joined,
    /// The table, whole.
    pub(super) table: Draft,
    pub(super) disks: Vec<Arc<Disk>>,
}

/// One thread for the store and one for disks: a disk that hangs keeps nothing waiting but disks.
pub(super) struct Helpers {
    quick: Sender<Work>,
    slow: Sender<Work>,
    posts: Receiver<Post>,
}

impl Helpers {
    /// Two threads; they end when this is dropped, each after the work it is at.
    pub(super) fn start(setup: &Setup) -> Result<Self> {
        let (post, posts) = bounded(QUEUE);
        let quick = Helper::new(setup, post.clone())?.start("store-helper")?;
        let slow = Helper::new(setup, post)?.start("disk-helper")?;
        Ok(Self { quick, slow, posts })
    }

    /// Asks the store's helper. False when it is too far behind.
    pub(super) fn give(&self, work: Work) -> bool {
        self.quick.try_send(work).is_ok()
    }

    /// Asks the disks' helper, which gives back what it cannot take.
    pub(super) fn give_slow(&self, work: Work) -> Result<(), Work> {
        self.slow.try_send(work).map_err(|why| match why {
            TrySendError::Full(work) | TrySendError::Disconnected(work) => work,
        })
    }

    pub(super) fn next_post(&self) -> Option<Post> {
        self.posts.try_recv().ok()
    }
}

struct Helper {
    pool: PoolDir,
    header: PoolHeader,
    me: Member,
    members: Arc<MemberTable>,
    runtime: Arc<dyn Runtime>,
    bell: Arc<Bell>,
    open_store: OpenStore,
    store: Box<dyn Store>,
    post: Sender<Post>,
    /// Not this thread's to keep: it goes when the apparatus has left.
    life: Weak<LifeLock>,
    /// What was last wrong with the files of the run directory, so that it is told once.
    told: String,
    /// Those that have been told to be shorter than they were.
    shorter: BTreeSet<DiskId>,
}

impl Helper {
    fn new(setup: &Setup, post: Sender<Post>) -> Result<Self> {
        Ok(Self {
            pool: setup.life.pool(),
            header: setup.header.clone(),
            me: setup.member.clone(),
            members: Arc::clone(&setup.members),
            runtime: Arc::clone(&setup.runtime),
            bell: Arc::clone(&setup.bell),
            open_store: Arc::clone(&setup.open_store),
            store: (setup.open_store)()?,
            post,
            life: Arc::downgrade(&setup.life),
            told: String::new(),
            shorter: BTreeSet::new(),
        })
    }

    fn start(mut self, name: &str) -> Result<Sender<Work>> {
        let (give, works) = bounded(QUEUE);
        let run = move || {
            for work in works {
                let post = self.work(work);
                if self.post.send(post).is_err() {
                    return;
                }
                self.bell.ring();
            }
        };
        let started = std::thread::Builder::new().name(name.into()).spawn(run);
        started.map(|_| give).map_err(|why| Error::because(name, why))
    }

    fn work(&mut self, work: Work) -> Post {
        match work {
            Work::Cancel(change) => {
                let answer = self.store.cancel(change);
                self.renew(answer.is_err());
                Post::Cancelled(change, answer)
            }
            Work::Others(generations) => {
                let reached = self.reached(&generations);
                self.renew(reached.is_err());
                Post::Reached(reached.unwrap_or_default())
            }
            Work::Open(change, records) => Post::Opened(change, self.open(&records)),
            Work::LookAtRun(door) => Post::LookedAtRun(self.look_at_run(&door)),
            // Not by a new connection: the file may be deleted, and this one still has it.
            Work::Backup(link, file) => Post::BackedUp(link, self.store.back_up(&file)),
            Work::LookAtDisks => {
                self.look_at_disks();
                Post::LookedAtDisks
            }
            Work::Rejoin(incarnation) => {
                let back = self.rejoin(incarnation);
                self.renew(back.is_err());
                Post::Rejoined(back.map(Box::new))
            }
        }
    }

    /// After a failure the next work gets a new connection to the store, where one can be had.
    fn renew(&mut self, failed: bool) {
        if failed && let Ok(store) = (self.open_store)() {
            self.store = store;
        }
    }

    fn reached(&mut self, generations: &BTreeSet<Generation>) -> Result<Vec<Generation>> {
        let seen = see(&mut *self.store, &self.members, &self.pool)?;
        Ok(generations
            .iter()
            .copied()
            .filter(|&generation| others_reached(&seen, generation))
            .collect())
    }

    fn open(&self, records: &[DiskRecord]) -> Result<Vec<Arc<Disk>>, (String, String)> {
        let missing = records.iter().filter(|record| !self.runtime.disks().has(record));
        let open = |record: &DiskRecord| {
            let disk = Disk::open(record, &self.header);
            disk.map(Arc::new)
                .map_err(|why| (record.name.to_string(), why.why().to_owned()))
        };
        missing.map(open).collect()
    }

    /// Who finds the member table finds the rest, so its link comes last.
    fn look_at_run(&mut self, door: &Door) -> Option<Listener> {
        let mut listener = None;
        let restored = self.restore_run(door, &mut listener);
        let (severity, text) = match restored {
            Ok(false) => {
                self.told.clear();
                return listener;
            }
            Ok(true) => (
                Severity::Warning,
                "files of the run directory were deleted; this apparatus has made its own again".to_owned(),
            ),
            Err(why) => (Severity::Error, why.to_string()),
        };
        if self.told != text {
            log::warn!("{text}");
            let logged = self
                .store
                .log(severity, &format!("apparatus {}", self.me.name), &text);
            self.renew(logged.is_err());
            self.told = text;
        }
        listener
    }

    fn restore_run(&self, door: &Door, listener: &mut Option<Listener>) -> Result<bool> {
        let Some(lock) = self.life.upgrade() else {
            return Ok(false);
        };
        let life = lock.restore()?;
        let there = door
            .is_there()
            .map_err(|why| Error::because("control socket", why))?;
        if !there {
            *listener = Some(Listener::bind(&lock.pool(), &self.me.name, &lock)?);
        }
        Ok(self.members.restore()? || life || !there)
    }

    fn look_at_disks(&mut self) {
        for disk in self.runtime.disks().all() {
            let Some(left) = disk.lost() else { continue };
            if !self.shorter.insert(disk.id()) {
                continue;
            }
            let subject = format!("disk {}", disk.name());
            let text = format!("was truncated: {left} bytes are left of it, and what lay behind is lost");
            log::error!("{subject}: {text}");
            let logged = self.store.log(Severity::Error, &subject, &text);
            self.renew(logged.is_err());
        }
    }

    fn rejoin(&mut self, incarnation: Incarnation) -> Result<Back> {
        // Read before, so that nobody waits for the store meanwhile, nor for this apparatus once it is in the control range.
        let read = Draft::new(&self.store.snapshot()?)?;
        let known = Some(read.generation());
        let joined = match self.store.rejoin(self.me.slot, incarnation, known) {
            Err(why) if why.kind() == Kind::Stale => self.join_anew(incarnation, known)?,
            other => other?,
        };
        let table = read.joined(&joined.snapshot, joined.since.as_deref())?;
        hit(Point::ApparatusRejoined);
        let mut disks = Vec::new();
        for record in &joined.snapshot.disks {
            match self.open(std::slice::from_ref(record)) {
                Ok(opened) => disks.extend(opened),
                // Its requests are answered with EIO, the others' are served.
                Err((name, why)) => log::error!("disk {name}: {why}"),
            }
        }
        Ok(Back { joined, table, disks })
    }

    /// This life was not fenced in the store, or a rejoin took place that we have not heard the end of. Holding the life lock,
    /// we are the only process of this name.
    fn join_anew(&mut self, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined> {
        self.store.leave(self.me.slot, incarnation)?;
        self.store
            .join(&self.me.name, self.me.pid, &self.me.mount, &|_| false, known)
    }
}
