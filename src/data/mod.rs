//! The way of a host request, from its arrival to its answer: gate, table, disk, fence check, reply. Knows no FUSE.
//!
//! ```text
//!                              +--------- parked in the gate <---------+
//!                              | let go: workers                       | held, or fenced
//!                              v                                       |
//!  reader thread --------> enter the gate -> locate -> fence? -> I/O -> fence? -> reply -> leave
//!                              ^                |
//!                              | workers        | may wait long: cold read, zeroing, seek, flush
//!                              +----------------+ (it leaves the gate first, and enters again)
//! ```
//!
//! Reader threads ([`Role::Reader`]) never wait for a hold, and hand over what may wait for a disk. Workers do the rest; there
//! are as many as are needed, up to a bound. The control thread ([`crate::control::Runtime`]) only ever takes requests
//! out of the gate and queues them.

mod cold;
mod control;
mod figures;
mod flush;
mod handles;
mod io;
mod keeper;
mod lines;
mod occupied;
mod request;
mod rests;
mod seek;
mod space;
mod times;
mod way;
mod workers;

pub use handles::{NotOpened, OpenReply, Opening};
pub use request::{Answer, BoxedReply, Delivery, Failure, Operation, Owned, Reply, Request, Target};
pub use space::Space;

use crate::control::{Bell, Runtime};
use crate::disk::Disks;
use crate::error::{Error, Result};
use crate::gate::{Bounds, Gate, Lane};
use crate::member::times::Times;
use crate::member::{DiskMarks, MemberTable, MyLine};
use crate::pool::model::{DiskRecord, VolumeRecord};
use crate::pool::names::Name;
use crate::table::{Piece, Reader, Table};
use crate::units::{DiskId, Generation, VolumeId};
use cold::ColdWatch;
use crossbeam_channel::Sender;
use figures::{Book, Tally};
use flush::{Flushing, Losses};
use handles::Handles;
use io::micros;
use keeper::Keeper;
use occupied::Occupied;
use rests::Rests;
use space::Room;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use workers::Workers;

/// Bounds of an apparatus's data path.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reader threads at most, and others that look things up.
    pub readers: usize,
    /// Threads at most for what waits for disks.
    pub workers: usize,
    /// Bytes of write data parked, and waiting for a worker, at once.
    pub parked_bytes: u64,
    /// Requests parked, and requests waiting for a worker, at once.
    pub parked: usize,
    /// Holds at once.
    pub holds: usize,
    /// How long hosts wait for an apparatus that is fenced, before they see EIO.
    pub fenced: Duration,
}

/// Makes the records of committed changes survive power loss, as a host's flush needs it.
pub trait Harden: Send + Sync {
    /// Hardens the committed changes up to this generation that have to do with this volume, once the disks that they need are flushed. Waits for
    /// nothing that another thread waits for already.
    ///
    /// # Errors
    /// When it is known that they cannot be made durable; the flush that asked for it is answered with an error.
    fn harden(&self, volume: VolumeId, generation: Generation) -> Result<Hardening>;
    /// See [`Hardening::Later`].
    fn turns(&self) -> u64 {
        0
    }
    /// Why the store cannot be used now, if it cannot: flushes that rest on changes wait for it.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Whether those who were told to come back are to be called now, for no other reason than that it may help. Asked a few times a second.
    fn wants_retry(&self) -> bool {
        false
    }
    /// The disks that are being flushed for changes, and for how long they have been.
    fn flushing(&self) -> Vec<(DiskId, Duration)> {
        Vec::new()
    }
}

/// What asking for it has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardening {
    /// They are hardened.
    Done,
    /// Not yet: to be asked again when [`Harden::turns`] is another number than this ([`crate::control::Runtime::flush_again`] is called then), or after a while.
    Later(u64),
}

/// Tells the operator. Called on the way of requests: must not wait.
pub trait Report: Send + Sync {
    /// A disk did not do what was asked of it.
    fn disk_failed(&self, disk: &str, what: &str, why: &str);
    /// What committed changes need could not be made durable.
    fn harden_failed(&self, why: &str);
}

/// What the kernel has to be told, because it remembers names and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Size, mode or owner is another.
    Attributes(VolumeId),
    /// The volume that had this name is gone.
    Gone(VolumeId, Name),
    /// Anything may be another.
    Everything,
}

/// What an apparatus is made of.
pub struct Parts {
    /// Its name.
    pub name: Name,
    /// The table it joined with.
    pub table: Table,
    /// The disks that are open; requests for others are answered with an error.
    pub disks: Disks,
    /// All disks of the pool, as the table it joined with has them.
    pub records: Vec<DiskRecord>,
    /// The pool's member table.
    pub members: Arc<MemberTable>,
    /// Its own line there, in the life it joined in.
    pub line: Arc<MyLine>,
    /// Wakes the control thread.
    pub bell: Arc<Bell>,
    /// What a flush calls.
    pub harden: Arc<dyn Harden>,
    /// Where trouble is told.
    pub report: Arc<dyn Report>,
    /// Bounds.
    pub limits: Limits,
    /// What [`crate::control::Runtime::stop`] calls.
    pub stop: Box<dyn Fn() + Send + Sync>,
}

/// The data path of one apparatus.
pub struct Apparatus {
    me: Weak<Self>,
    name: Name,
    gate: Gate<Owned>,
    table: Table,
    /// For those who look into the table only now and then.
    eye: Mutex<Reader>,
    room: Mutex<Room>,
    handles: Handles,
    occupied: Mutex<Occupied>,
    /// When volumes were written, by what others have told and what this apparatus has told itself.
    learnt: Mutex<Times>,
    disks: Disks,
    members: Arc<MemberTable>,
    line: Arc<MyLine>,
    bell: Arc<Bell>,
    harden: Arc<dyn Harden>,
    losses: Losses,
    rests: Mutex<Rests>,
    /// Flushes that wait for the store, or for what another flush does.
    flushes: Mutex<Vec<Owned>>,
    most_flushes: usize,
    flushing: Mutex<Flushing>,
    report: Arc<dyn Report>,
    stop: Box<dyn Fn() + Send + Sync>,
    book: Arc<Book>,
    workers: Workers,
    keeper: Arc<Keeper>,
    readers: AtomicUsize,
    waiting_readers: AtomicUsize,
    notices: OnceLock<Sender<Notice>>,
    missed_notice: AtomicBool,
    /// By a clock that keeps step with the calendar, and by the calendar.
    began: (Instant, SystemTime),
}

/// What a serving thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests from hosts: hands over what waits for a disk.
    Reader,
    /// Takes requests from hosts while all readers are kept by disks: hands over whatever a disk may keep.
    Spare,
    /// Does whatever there is, and waits for it.
    Worker,
}

/// What one serving thread has for itself.
pub struct Desk {
    role: Role,
    lane: Lane,
    tools: Tools,
}

/// The part of a desk that is used inside the gate.
struct Tools {
    reader: Reader,
    pieces: Vec<Piece>,
    found: Vec<DiskId>,
    buffer: Vec<u8>,
    marks: Vec<(DiskId, DiskMarks)>,
    tally: Tally,
    cold: ColdWatch,
}

impl Apparatus {
    /// Begins to serve: requests may come when this returns. Its threads end with [`Apparatus::end`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(parts: Parts) -> Result<Arc<Self>> {
        // The first look at this clock takes a millisecond to learn how fast the processor counts: hosts do not wait for that.
        quanta::Instant::now();
        let limits = parts.limits;
        let bounds = Bounds {
            lanes: limits.readers + limits.workers,
            parked_bytes: limits.parked_bytes,
            parked: limits.parked,
            holds: limits.holds,
        };
        let rests = Mutex::new(Rests::new(parts.table.generation()));
        let keeper = Arc::new(Keeper::new(parts.bell.clone(), limits.fenced));
        let apparatus = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            name: parts.name,
            gate: Gate::new(bounds, keeper.clone()),
            eye: Mutex::new(parts.table.reader()),
            table: parts.table,
            room: Mutex::new(Room::new(&parts.records)),
            handles: Handles::default(),
            occupied: Mutex::default(),
            learnt: Mutex::default(),
            disks: parts.disks,
            members: parts.members,
            line: parts.line,
            bell: parts.bell,
            harden: parts.harden,
            losses: Losses::default(),
            rests,
            flushes: Mutex::default(),
            most_flushes: limits.parked,
            flushing: Mutex::default(),
            report: parts.report,
            stop: parts.stop,
            book: Arc::default(),
            workers: Workers::new(&limits),
            keeper,
            readers: AtomicUsize::new(0),
            waiting_readers: AtomicUsize::new(0),
            notices: OnceLock::new(),
            missed_notice: AtomicBool::new(false),
            began: (Instant::now(), SystemTime::now()),
        });
        let started = workers::start_first(&apparatus).and_then(|()| keeper::start(&apparatus));
        if let Err(error) = started {
            apparatus.end();
            return Err(Error::because(format!("apparatus {}", apparatus.name), error));
        }
        Ok(apparatus)
    }

    /// A desk for a thread; `None` when there are as many as the limits allow.
    #[must_use]
    pub fn desk(&self, role: Role) -> Option<Desk> {
        let lane = self.gate.lane()?;
        let tools = Tools {
            reader: self.table.reader(),
            pieces: Vec::new(),
            found: Vec::new(),
            buffer: Vec::new(),
            marks: Vec::new(),
            tally: self.book.tally(),
            cold: ColdWatch::default(),
        };
        Some(Desk { role, lane, tools })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// When it began to serve.
    #[must_use]
    pub fn began(&self) -> SystemTime {
        self.began.1
    }

    /// A volume by name.
    pub fn lookup(&self, desk: &mut Desk, name: &str) -> Option<VolumeRecord> {
        self.table.lookup(&mut desk.tools.reader, name)
    }

    /// A volume by number.
    pub fn volume(&self, desk: &mut Desk, id: VolumeId) -> Option<VolumeRecord> {
        self.table.volume(&mut desk.tools.reader, id)
    }

    /// All volumes, by number.
    pub fn volumes(&self, desk: &mut Desk) -> Vec<VolumeRecord> {
        self.table.volumes(&mut desk.tools.reader)
    }

    /// The first volumes from this number on, at most `most`.
    pub fn volumes_from(&self, desk: &mut Desk, first: VolumeId, most: usize) -> Vec<VolumeRecord> {
        self.table.volumes_from(&mut desk.tools.reader, first, most)
    }

    /// Opens a volume for a host; the answer comes now, or when it may be opened again.
    pub fn open_volume(&self, opening: Opening, reply: OpenReply) {
        if let Some((handle, reply)) = self.handles.begin(opening, reply) {
            self.opened(opening, handle, reply);
        }
    }

    /// Once it is counted, so that a change that takes the volume away either finds it open or has been applied.
    fn opened(&self, opening: Opening, handle: u64, reply: OpenReply) {
        let found = self.table.volume(&mut lock(&self.eye), opening.volume);
        let refused = match found {
            Some(volume) if volume.read_only && opening.writes => NotOpened::ReadOnly,
            Some(_) => return reply(Ok(handle)),
            None => NotOpened::Gone,
        };
        self.handles.end(handle);
        reply(Err(refused));
    }

    /// A host has closed a volume.
    pub fn closed(&self, handle: u64) {
        self.handles.end(handle);
    }

    /// What the mount's device number is.
    pub fn set_device(&self, device: (u32, u32)) {
        self.handles.set_device(device);
    }

    /// Where to send what the kernel has to be told. Once; what happened before needs no telling.
    pub fn send_notices_to(&self, notices: Sender<Notice>) {
        // A second listener would have nothing to tell: there is one mount.
        let _ = self.notices.set(notices);
    }

    /// Whether a notice was dropped since the last call: then anything may have changed.
    pub fn missed_notice(&self) -> bool {
        self.missed_notice.swap(false, Ordering::AcqRel)
    }

    /// How many reader threads take requests: for the figures, and for a reader that would wait for a disk.
    pub fn set_readers(&self, threads: usize) {
        self.readers.store(threads, Ordering::Relaxed);
    }

    /// Lets nothing in any more, answers what is parked with an error, and waits (at most `wait`) until nothing is in flight.
    /// True when nothing is.
    pub fn finish(&self, wait: Duration) -> bool {
        self.gate.close();
        self.keeper.give_up(Failure::Ending);
        self.flush_again();
        self.fail_parked();
        let done = self.keeper.wait_until(wait, || self.gate.counts().in_flight == 0);
        self.fail_parked();
        done
    }

    /// Ends its threads. What they have not begun is answered with an error.
    pub fn end(&self) {
        self.keeper.end();
        self.workers.end();
    }

    /// Microseconds since it began.
    fn now_us(&self) -> u64 {
        micros(self.began.0.elapsed())
    }

    fn tell_kernel(&self, notice: Notice) {
        if let Some(notices) = self.notices.get()
            && notices.try_send(notice).is_err()
        {
            self.missed_notice.store(true, Ordering::Release);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
