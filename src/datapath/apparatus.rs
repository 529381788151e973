//! Puts the parts of the data path together, and passes calls of the frontend and of the process on to them.

use super::control::ControlPort;
use super::figures::Figures;
use super::flush::FlushPath;
use super::io::DiskIo;
use super::lookup::Lookup;
use super::metrics::MetricsRegistry;
use super::notices::{KernelNotice, Notices};
use super::occupied::{Occupancies, Occupancy};
use super::open_files::OpenFiles;
use super::park_timeouts::{self, ParkTimeouts};
use super::parking::Parking;
use super::readers::Readers;
use super::space::{PoolSpace, Space};
use super::start_time::StartTime;
use super::submit::Submitter;
use super::times::ModifiedTimes;
use super::waiting_flushes::WaitingFlushes;
use super::workers::Workers;
use super::{IoContext, Limits, OpenRecords, OpenReply, Opening, Parts, Reply, Request, Role, Threads};
use crate::cluster::Times;
use crate::gate::Bounds;
use crate::map::Table;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::VolumeRecord;
use crate::model::units::VolumeId;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Interval at which a drain looks whether requests are in flight.
const LOOK: Duration = Duration::from_micros(200);

/// The data path of one apparatus.
pub struct Apparatus {
    name: Name,
    start: StartTime,
    submitter: Arc<Submitter>,
    control: Arc<ControlPort>,
    table: Arc<Table>,
    parking: Arc<Parking>,
    park_timeouts: Arc<ParkTimeouts>,
    workers: Arc<Workers>,
    flushes: Arc<WaitingFlushes>,
    files: Arc<OpenFiles>,
    occupied: Arc<Occupancies>,
    times: Arc<ModifiedTimes>,
    space: Arc<PoolSpace>,
    readers: Arc<Readers>,
    notices: Arc<Notices>,
    threads: Arc<dyn Threads>,
}

impl Apparatus {
    /// Starts the data path: it accepts requests when this returns. Its threads end with [`Apparatus::end`].
    ///
    /// # Errors
    /// Fails when a thread cannot be started.
    pub fn start(parts: Parts) -> Result<Arc<Self>> {
        calibrate();
        let apparatus = Arc::new(Self::assemble(parts));
        if let Err(error) = apparatus.start_threads() {
            apparatus.end();
            return Err(Error::because(format!("apparatus {}", apparatus.name), error));
        }
        Ok(apparatus)
    }

    /// Makes the parts, each after those that it needs.
    fn assemble(parts: Parts) -> Self {
        let (limits, ledgers, entry) = (parts.limits, parts.ledgers, parts.entry);
        let (persist, report, waker) = (parts.persist, parts.report, parts.waker);
        let start = StartTime::now();
        let (table, disks) = (Arc::new(parts.table), Arc::new(parts.disks));
        let lookup = Arc::new(Lookup::new(table.clone()));
        let (readers, metrics) = (Arc::<Readers>::default(), Arc::<MetricsRegistry>::default());
        let notices = Arc::<Notices>::default();

        let park_timeouts = Arc::new(ParkTimeouts::new(waker.clone(), limits.fenced));
        let workers = Workers::new(&limits, parts.access, parts.threads.clone());
        let parking = Parking::new(bounds(&limits), park_timeouts.clone(), workers.clone(), waker);
        let parking = Arc::new(parking);

        let flush = FlushPath::new(
            (table.clone(), lookup.clone()),
            (disks.clone(), ledgers.clone()),
            entry.clone(),
            persist.clone(),
            report.clone(),
        );
        let flush = Arc::new(flush);
        let flushes = WaitingFlushes::new(limits.parked, persist, workers.clone(), park_timeouts.clone());
        let flushes = Arc::new(flushes);

        let files = Arc::new(OpenFiles::new(lookup.clone()));
        let space = Arc::new(PoolSpace::new(&parts.records, table.extent_size()));
        let times = ModifiedTimes::new(table.clone(), metrics.clone(), notices.clone(), start);
        let times = Arc::new(times);
        let occupied = Occupancies::new(workers.clone(), times.clone(), notices.clone());

        let io = DiskIo::new(table.clone(), disks.clone(), readers.clone(), report, start);
        let io = io.copying(limits.copied_reads).accessing(parts.access);
        let submitter = Submitter::new(
            (table.clone(), disks.clone(), io),
            (parking.clone(), workers.clone()),
            (flush.clone(), flushes.clone(), occupied.clone()),
            (entry, ledgers, metrics.clone()),
        );
        let figures = Figures::new(
            (parts.name.clone(), start),
            (table.clone(), lookup.clone(), disks.clone()),
            (parking.clone(), flush.clone(), flushes.clone()),
            (readers.clone(), metrics.clone()),
        );
        let control = ControlPort::new(
            (table.clone(), lookup, disks),
            (parking.clone(), flush, flushes.clone()),
            (files.clone(), space.clone(), occupied.clone()),
            notices.clone(),
            (metrics, figures),
            parts.stop,
        );
        Self {
            name: parts.name,
            start,
            submitter: Arc::new(submitter),
            control: Arc::new(control),
            table,
            parking,
            park_timeouts,
            workers,
            flushes,
            files,
            occupied,
            times,
            space,
            readers,
            notices,
            threads: parts.threads,
        }
    }

    fn start_threads(&self) -> std::io::Result<()> {
        self.workers.start(&self.submitter)?;
        park_timeouts::start(&*self.threads, self.park_timeouts.clone(), &self.parking)
    }

    /// Returns the operations of the control thread.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlPort> {
        &self.control
    }

    /// Returns a context for a thread, or `None` when there are as many as the limits allow.
    #[must_use]
    pub fn io_context(&self, role: Role) -> Option<IoContext> {
        self.submitter.io_context(role)
    }

    /// Serves a request until it is answered, or until a worker or the gate has it.
    #[inline]
    pub fn serve<R: Reply>(&self, context: &mut IoContext, request: Request<'_, R>) {
        self.submitter.serve(context, request);
    }

    /// Returns the name of the apparatus.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns when it started to serve.
    #[must_use]
    pub fn began(&self) -> SystemTime {
        self.start.calendar()
    }

    /// Returns the volume of this name.
    pub fn lookup(&self, context: &mut IoContext, name: &str) -> Option<VolumeRecord> {
        self.table.lookup(&mut context.scratch.reader, name)
    }

    /// Returns the volume of this number.
    pub fn volume(&self, context: &mut IoContext, id: VolumeId) -> Option<VolumeRecord> {
        self.table.volume(&mut context.scratch.reader, id)
    }

    /// Returns all volumes, by number.
    pub fn volumes(&self, context: &mut IoContext) -> Vec<VolumeRecord> {
        self.table.volumes(&mut context.scratch.reader)
    }

    /// Returns the first volumes from number `first` on, at most `most`.
    pub fn volumes_from(&self, context: &mut IoContext, first: VolumeId, most: usize) -> Vec<VolumeRecord> {
        self.table.volumes_from(&mut context.scratch.reader, first, most)
    }

    /// Opens a volume for a host. The reply is sent now, or when a block on the volume ends.
    pub fn open_volume(&self, opening: Opening, reply: OpenReply) {
        self.files.open(opening, reply);
    }

    /// Removes the handle that a host has closed.
    pub fn closed(&self, handle: u64) {
        self.files.closed(handle);
    }

    /// Goes on with the handles that a process before this one has left, and has `records` record all from now on. The numbers of new handles
    /// begin after `last`.
    pub fn keep_opens(&self, records: Box<dyn OpenRecords>, left: Vec<(u64, Opening)>, last: u64) {
        self.files.go_on(records, left, last);
    }

    /// Sets the mount's device number.
    pub fn set_device(&self, device: (u32, u32)) {
        self.files.set_device(device);
    }

    /// Sets how the kernel is told to forget names; `forget` waits for nothing. Called once, where the kernel can be told.
    pub fn forget_names_by(&self, forget: Box<dyn Fn() + Send + Sync>) {
        self.notices.forget_names_by(forget);
    }

    /// Sets the channel for notices to the kernel. Called once; changes before that need no notice.
    pub fn send_notices_to(&self, notices: Sender<KernelNotice>) {
        self.notices.send_to(notices);
    }

    /// Returns whether a notice was dropped since the last call; anything may have changed then.
    pub fn missed_notice(&self) -> bool {
        self.notices.take_missed()
    }

    /// Sets how many reader threads take requests. The metrics show it, and a reader that would wait for a disk uses it.
    pub fn set_readers(&self, threads: usize) {
        self.readers.set(threads);
    }

    /// Returns how many bytes of the volume hold data, as far as is known. Never waits for a disk.
    #[must_use]
    pub fn occupied(&self, volume: &VolumeRecord) -> Occupancy {
        self.occupied.look(volume)
    }

    /// Counts watched volumes again that have been written since their last count.
    pub fn recount(&self) {
        self.occupied.recount();
    }

    /// Returns the pool's space, given all its volumes.
    #[must_use]
    pub fn space(&self, volumes: &[VolumeRecord]) -> Space {
        self.space.of(volumes)
    }

    /// Returns when the volume was last written, as far as is known here, or when this apparatus started, if nothing is.
    #[must_use]
    pub fn modified(&self, id: VolumeId) -> SystemTime {
        self.times.modified(id)
    }

    /// Returns the times of all volumes. A volume without a known time counts as written now, so that all apparatuses show the same for it.
    #[must_use]
    pub fn modified_here(&self) -> Times {
        self.times.modified_here()
    }

    /// Records times that other apparatuses, or an earlier incarnation, have reported.
    pub fn learn_modified(&self, times: &Times) {
        self.times.learn(times);
    }

    /// Waits (at most `wait`) for a moment at which no request is in flight. Returns whether there was one. Parked requests are not in flight.
    #[must_use]
    pub fn drain(&self, wait: Duration) -> bool {
        let begun = Instant::now();
        // The end of a request is no event: the path of requests writes nothing that others wait for.
        while begun.elapsed() < wait {
            if self.parking.wait_until_empty(LOOK) {
                return true;
            }
        }
        false
    }

    /// Closes the gate for good, fails parked requests, and waits (at most `wait`) until no request is in flight. Returns whether none is.
    pub fn finish(&self, wait: Duration) -> bool {
        self.parking.close_for_good();
        self.flushes.retry();
        self.parking.fail_parked();
        let done = self.parking.wait_until_empty(wait);
        self.parking.fail_parked();
        done
    }

    /// Checks the invariants of the parked requests, in time quadratic in their number; for tests.
    ///
    /// # Errors
    /// Fails with a description of the first invariant that is violated.
    pub fn check(&self) -> std::result::Result<(), String> {
        self.parking.check()
    }

    /// Ends its threads. Requests that they have not begun fail.
    pub fn end(&self) {
        self.park_timeouts.end();
        self.workers.end();
    }
}

/// Calibrates the clock of request times, which takes a millisecond the first time: hosts are not to wait for that.
pub fn calibrate() {
    quanta::Instant::now();
}

fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        lanes: limits.readers + limits.workers,
        parked_bytes: limits.parked_bytes,
        parked: limits.parked,
        holds: limits.holds,
    }
}
