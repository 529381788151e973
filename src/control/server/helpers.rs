//! Threads that wait for the store and for disks, so that the control thread does not.

use super::{OpenStore, Setup};
use crate::change::failpoint::{Point, hit};
use crate::change::participant::Link;
use crate::change::recovery::others_reached;
use crate::change::survey::see;
use crate::control::listen::Door;
use crate::control::{Bell, Listener, Runtime};
use crate::disk::{Disk, on_helper_thread, within};
use crate::error::{Error, Kind, Result};
use crate::member::{LifeLock, MemberTable};
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::store::{Cancel, Joined, Member, Severity, Store};
use crate::table::Draft;
use crate::units::{ChangeId, DiskId, Generation, Incarnation};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Works that wait for a helper, and posts that wait for the control thread.
const QUEUE: usize = 256;

/// How long a look waits for a disk.
const LOOK: Duration = Duration::from_secs(1);
/// How long a rejoin, with all hosts waiting, waits for disks that are not open yet.
const REJOIN: Duration = Duration::from_secs(5);

/// What a helper is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    /// `Store::cancel`.
    Cancel(ChangeId),
    /// See which of these generations everyone has reached.
    Others(BTreeSet<Generation>),
    /// See whether others still find the control socket, the life lock and the member table, and put back what was deleted.
    LookAtRun(Door),
    /// Write a copy of the database to a file, for somebody who asks on this connection.
    Backup(Link, PathBuf),
    /// See whether a disk has become shorter.
    LookAtDisks,
    /// Get back into the control range from this life, with those disks of the new table open that answer.
    Rejoin(Incarnation),
    /// Write an event.
    Tell(Severity, String, String),
}

/// What came of it.
pub(super) enum Post {
    Cancelled(ChangeId, Result<Cancel>),
    /// These everyone has reached.
    Reached(Vec<Generation>),
    /// The disk, or why it cannot be opened.
    Opened(DiskRecord, Result<Arc<Disk>, String>),
    Told,
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

/// A thread for the store, one that looks at the disks, and one for the way back; disks are opened by a thread each. Nothing that
/// hangs on a disk keeps waiting what has nothing to do with that disk.
pub(super) struct Helpers {
    store: Sender<Work>,
    look: Sender<Work>,
    rejoin: Sender<Work>,
    posts: Receiver<Post>,
    opener: Opener,
}

/// What opening a disk needs.
#[derive(Clone)]
struct Opener {
    header: PoolHeader,
    open_store: OpenStore,
    members: Arc<MemberTable>,
    bell: Arc<Bell>,
    post: Sender<Post>,
}

impl Helpers {
    /// The threads end when this is dropped, each after the work it is at.
    pub(super) fn start(setup: &Setup) -> Result<Self> {
        let (post, posts) = bounded(QUEUE);
        let start = |name| Helper::new(setup, post.clone())?.start(name);
        let opener = Opener {
            header: setup.header.clone(),
            open_store: Arc::clone(&setup.open_store),
            members: Arc::clone(&setup.members),
            bell: Arc::clone(&setup.bell),
            post: post.clone(),
        };
        Ok(Self {
            store: start("store-helper")?,
            look: start("disk-looker")?,
            rejoin: start("rejoiner")?,
            posts,
            opener,
        })
    }

    /// Asks the store's helper. False when it is too far behind.
    pub(super) fn give(&self, work: Work) -> bool {
        self.store.try_send(work).is_ok()
    }

    /// Has all open disks looked at. False when the last look is far behind.
    pub(super) fn look_at_disks(&self) -> bool {
        self.look.try_send(Work::LookAtDisks).is_ok()
    }

    /// Asks for the way back. False when it cannot be asked for now.
    pub(super) fn rejoin(&self, from: Incarnation) -> bool {
        self.rejoin.try_send(Work::Rejoin(from)).is_ok()
    }

    /// Has the database copied. False when too much waits.
    pub(super) fn back_up(&self, link: Link, file: PathBuf) -> bool {
        self.look.try_send(Work::Backup(link, file)).is_ok()
    }

    /// Writes an event, unless too much waits.
    pub(super) fn tell(&self, severity: Severity, subject: String, text: String) {
        log::info!("{subject}: {text}");
        self.give(Work::Tell(severity, subject, text));
    }

    /// Opens a disk, however long that takes; a post tells what came of it.
    pub(super) fn open(&self, record: &DiskRecord) {
        let (opener, record) = (self.opener.clone(), record.clone());
        on_helper_thread(move || {
            let opened = opener.open(&record);
            // Nobody listens any more when the apparatus ends.
            let _ = opener.post.send(Post::Opened(record, opened));
            opener.bell.ring();
        });
    }

    /// Gives a disk that has been taken in late a new label, as the others got when this apparatus began to serve.
    pub(super) fn renew_label(&self, disk: &Arc<Disk>) {
        let (opener, disk) = (self.opener.clone(), Arc::clone(disk));
        on_helper_thread(move || {
            let store = (opener.open_store)();
            if let Err(why) = store.and_then(|mut store| renew_label(&disk, &opener.members, &mut *store)) {
                log::warn!("disk {}: its label: {why}", disk.name());
            }
        });
    }

    pub(super) fn next_post(&self) -> Option<Post> {
        self.posts.try_recv().ok()
    }
}

impl Opener {
    /// The last label that was recorded is read before the label, and the layout after it: what others write meanwhile is then neither taken for an older
    /// copy of the disk nor for a change that the database has lost.
    fn open(&self, record: &DiskRecord) -> Result<Arc<Disk>, String> {
        let open = || {
            let mut store = (self.open_store)()?;
            let recorded = store.disks()?.into_iter().find(|known| known.id == record.id);
            let record = DiskRecord {
                label: recorded.map_or(0, |known| known.label).max(record.label),
                ..record.clone()
            };
            let disk = Disk::open(&record, &self.header)?;
            disk.check_layout(store.header()?.layout)?;
            Ok(Arc::new(disk))
        };
        open().map_err(|why: Error| why.why().to_owned())
    }
}

/// A new sequence number in the label of a disk that is served: copies of it that were made before are told from it.
///
/// # Errors
/// The disk's, and the store's.
pub fn renew_label(disk: &Disk, members: &Arc<MemberTable>, store: &mut dyn Store) -> Result<()> {
    if disk.is_read_only() {
        return Ok(());
    }
    let label = disk.take_over(0, &members.marks(disk.id()))?;
    store.label_written(disk.id(), label.sequence)
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
            Work::LookAtRun(door) => Post::LookedAtRun(self.look_at_run(&door)),
            // Not by a new connection: the file may be deleted, and this one still has it.
            Work::Backup(link, file) => Post::BackedUp(link, self.store.back_up(&file)),
            Work::Tell(severity, subject, text) => {
                let told = self.store.log(severity, &subject, &text);
                self.renew(told.is_err());
                Post::Told
            }
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

    fn tell_of_return(&mut self, subject: &str) {
        let text = "has its length again and is used again; what had been cut off reads as what is there now";
        log::warn!("{subject}: {text}");
        let logged = self.store.log(Severity::Warning, subject, text);
        self.renew(logged.is_err());
    }

    /// One that does not answer is passed over, and not asked again until it does.
    fn look_at_disks(&mut self) {
        for disk in self.runtime.disks().all() {
            let (id, subject) = (disk.id(), format!("disk {}", disk.name()));
            let path = disk.path().to_owned();
            let Ok(lost) = within(LOOK, &subject, &path, move || Ok(disk.lost())) else {
                continue;
            };
            let Some(left) = lost else {
                if self.shorter.remove(&id) {
                    self.tell_of_return(&subject);
                }
                continue;
            };
            if !self.shorter.insert(id) {
                continue;
            }
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
        let closed = |record: &&DiskRecord| !self.runtime.disks().has(record);
        let closed: Vec<DiskRecord> = joined.snapshot.disks.iter().filter(closed).cloned().collect();
        let mut disks = Vec::new();
        for (opened, record) in Disk::open_all_within(REJOIN, &closed, &self.header)
            .into_iter()
            .zip(&closed)
        {
            match opened {
                Ok(disk) => disks.push(Arc::new(disk)),
                // Its requests are answered with EIO until it is there, the others' are served.
                Err(why) => log::error!("disk {}: {}", record.name, why.why()),
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
