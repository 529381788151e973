//! The data path without FUSE, controlled as the control thread does: holds, fences, rejoining, flushes, bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "data/buffered.rs"]
mod buffered;
#[path = "data/durable.rs"]
mod durable;
#[path = "data/fences.rs"]
mod fences;
#[path = "data/inside.rs"]
mod inside;
#[path = "data/leases.rs"]
mod leases;
mod support;

use apparatus::blockdev::device::{Fault, Faults, Faulty, On, Rule};
use apparatus::blockdev::{Disk, Disks};
use apparatus::cluster::{self, OwnEntry, SharedState};
use apparatus::datapath::{
    Apparatus, Data, Delivery, Failure, IoContext, Limits, Operation, Parts, Persist, Reply, Report, Request,
    Response, Role, Runtime, SystemThreads, Waker,
};
use apparatus::map::{Draft, Table};
use apparatus::model::change::HoldMode;
use apparatus::model::error::{Error, Result};
use apparatus::model::records::{Delta, DiskRecord, Edit, PoolHeader, Span};
use apparatus::model::units::{
    ChangeId, DiskId, DiskOffset, Generation, Incarnation, Slot, VolumeId, VolumeOffset,
};
use apparatus::rpc::message::{ApparatusMetrics, IoFigures};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{TestPool, segments};

const EXTENT: u64 = 64 << 10;
const SLOT: Slot = Slot(3);
/// How long an expected answer may take.
const SOON: Duration = Duration::from_secs(100);

/// A recorded answer.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Data(Vec<u8>),
    Written(u64),
    Done,
    Failed(Failure),
}

struct Ear(u32, Sender<(u32, Received)>);

impl Reply for Ear {
    fn send(self, answer: Response<'_>) -> Delivery {
        let received = match answer {
            Response::Data(bytes) => Received::Data(bytes.to_vec()),
            Response::Placed(_) => panic!("the reply has no memory"),
            Response::Written(bytes) => Received::Written(bytes),
            Response::Done => Received::Done,
            Response::Failed(failure) => Received::Failed(failure),
            Response::Found(_) => panic!("nobody seeks here"),
        };
        self.1.send((self.0, received)).unwrap();
        Delivery::Taken
    }
}

type Then = Box<dyn Fn() -> Result<()> + Send>;

/// Called by a flush: records the generation, and does what the test has set.
#[derive(Default)]
struct Persisting {
    asked: Mutex<Vec<Generation>>,
    then: Mutex<Option<Then>>,
}

impl Persist for Persisting {
    fn persist(&self, _: VolumeId, generation: Generation) -> Result<apparatus::datapath::PersistState> {
        self.asked.lock().unwrap().push(generation);
        let then = self.then.lock().unwrap().as_ref().map_or(Ok(()), |then| then());
        then.map(|()| apparatus::datapath::PersistState::Done)
    }
}

struct Silent;

impl Report for Silent {
    fn disk_failed(&self, _: &str, _: &str, _: &str) {}
    fn persist_failed(&self, _: &str) {}
}

/// A data path on a pool with the volume `v` of 16 extents on disk `a`, and free space on disk `b`.
struct Rig {
    pool: TestPool,
    apparatus: Arc<Apparatus>,
    shared: SharedState,
    entry: Arc<dyn OwnEntry>,
    persisting: Arc<Persisting>,
    volume: VolumeId,
    disks: [DiskId; 2],
    ear: Sender<(u32, Received)>,
    received: Receiver<(u32, Received)>,
    kept: BTreeMap<u32, Received>,
}

fn limits() -> Limits {
    Limits {
        readers: 4,
        workers: 4,
        parked_bytes: 8 << 20,
        parked: 100,
        holds: 8,
        fenced: Duration::from_secs(600),
        copied_reads: 0,
    }
}

fn requests_of(io: &IoFigures) -> u64 {
    io.reads + io.writes + io.flushes
}

impl Rig {
    /// Returns the figures once this number of requests of the volume are counted, which follows the answer of a request.
    fn counted(&self, requests: u64) -> ApparatusMetrics {
        let end = Instant::now() + SOON;
        loop {
            let figures = self.apparatus.control().figures();
            let volume = &figures.volumes["v"];
            if requests_of(volume) + volume.errors >= requests {
                return figures;
            }
            assert!(Instant::now() < end, "not counted: {volume:?}");
            thread::yield_now();
        }
    }

    fn new(limits: Limits) -> Self {
        Self::on(limits, Disk::open)
    }

    /// Makes a data path on disks without a mapping, and returns their faults too.
    fn faulty(limits: Limits) -> (Self, [Arc<Faults>; 2]) {
        let faults: [Arc<Faults>; 2] = Default::default();
        let mut next = faults.iter().map(Arc::clone);
        let rig = Self::on(limits, |record, header| {
            let faults = next.next().unwrap();
            Disk::open_through(record, header, |device| Box::new(Faulty::new(device, faults)))
        });
        (rig, faults)
    }

    /// Makes a data path on disks that are opened by `open_disk`, `a` first.
    fn on(limits: Limits, open_disk: impl FnMut(&DiskRecord, &PoolHeader) -> Result<Disk>) -> Self {
        Self::with(limits, open_disk, |entry| entry)
    }

    /// Makes a data path on such disks, with the entry among the members that `own` makes of its own.
    fn with(
        limits: Limits,
        mut open_disk: impl FnMut(&DiskRecord, &PoolHeader) -> Result<Disk>,
        own: impl FnOnce(Arc<dyn OwnEntry>) -> Arc<dyn OwnEntry>,
    ) -> Self {
        let pool = TestPool::new(EXTENT);
        let disks = [pool.add_disk("a", 40).id, pool.add_disk("b", 40).id];
        let volume = pool.add_volume("v", 16 * EXTENT, &[(disks[0], 1, 16)]).id;
        let snapshot = pool.store().snapshot().unwrap();
        let open = Disks::new();
        for record in &snapshot.disks {
            let disk = open_disk(record, &snapshot.header);
            open.insert(Arc::new(disk.unwrap()));
        }
        let cluster = cluster::open(&pool.dir).unwrap();
        let shared = cluster.share(snapshot.header.uuid).unwrap();
        let entry = own(shared.members.own(SLOT));
        entry.begin(Incarnation(7), snapshot.header.generation);
        shared.ledgers.set_persisted(snapshot.header.generation);
        let persisting = Arc::new(Persisting::default());
        let apparatus = Apparatus::start(Parts {
            access: snapshot.header.access,
            name: support::name_of("x"),
            table: Table::new(&snapshot).unwrap(),
            disks: open,
            records: snapshot.disks.clone(),
            ledgers: shared.ledgers.clone(),
            entry: entry.clone(),
            waker: Arc::new(Waker::new().unwrap()),
            threads: Arc::new(SystemThreads),
            persist: persisting.clone(),
            report: Arc::new(Silent),
            limits,
            stop: Box::new(|| ()),
        });
        let (ear, received) = channel();
        Self {
            pool,
            apparatus: apparatus.unwrap(),
            shared,
            entry,
            persisting,
            volume,
            disks,
            ear,
            received,
            kept: BTreeMap::new(),
        }
    }

    fn io_context(&self) -> IoContext {
        self.apparatus.io_context(Role::Reader).unwrap()
    }

    fn ask(&self, number: u32, operation: Operation<'_>) {
        let request = Request::new(self.volume, operation, Ear(number, self.ear.clone()));
        self.apparatus.serve(&mut self.io_context(), request);
    }

    fn write(&self, number: u32, at: u64, bytes: &[u8]) {
        self.ask(number, write(at, bytes));
    }

    fn read(&self, number: u32, at: u64, len: u64) {
        let at = VolumeOffset(at);
        self.ask(number, Operation::Read { at, len });
    }

    /// Maps the volume from extent `first` on to that disk, without a copy.
    fn map(&self, first: u64, disk: DiskId, start: u64, len: u64) {
        let map = Edit::Map {
            volume: self.volume,
            segments: segments(first, &[(disk, start, len)]),
        };
        let from = self.apparatus.control().generation();
        let edits = vec![map];
        self.apparatus.control().apply(&Delta { from, edits }).unwrap();
    }

    /// Returns the answer to that request.
    fn answer(&mut self, number: u32) -> Received {
        loop {
            if let Some(received) = self.kept.remove(&number) {
                return received;
            }
            let (other, received) = self.received.recv_timeout(SOON).expect("an answer");
            self.kept.insert(other, received);
        }
    }

    /// Asserts that there are no unexpected answers.
    fn nothing_received(&self) {
        assert!(self.kept.is_empty(), "{:?}", self.kept);
        assert_eq!(
            self.received.try_recv().err(),
            Some(std::sync::mpsc::TryRecvError::Empty)
        );
    }

    fn content(&mut self, at: u64, len: u64) -> Vec<u8> {
        self.read(u32::MAX, at, len);
        match self.answer(u32::MAX) {
            Received::Data(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&self, change: u64, from: u64, to: u64, mode: HoldMode) {
        let span = Span {
            volume: self.volume,
            start: VolumeOffset(from),
            end: VolumeOffset(to),
        };
        assert!(self.apparatus.control().hold(ChangeId(change), &[span], mode));
        assert_eq!(
            self.apparatus.control().lag(ChangeId(change)),
            None,
            "nothing is in flight"
        );
    }

    fn fence(&self) {
        let members = &self.shared.members;
        members.fence(SLOT, members.entry(SLOT).incarnation);
    }

    /// Rejoins as the control thread does, with the table from the store. A request that has been answered is in flight a little longer.
    fn rejoin(&self) {
        self.apparatus.control().close();
        let since = Instant::now();
        while self.apparatus.control().in_flight() > 0 {
            assert!(since.elapsed() < SOON, "a request is still in flight");
            thread::yield_now();
        }
        let snapshot = self.pool.store().snapshot().unwrap();
        let table = Draft::new(&snapshot).unwrap();
        self.apparatus.control().reload(table, &snapshot.disks).unwrap();
        let next = Incarnation(self.shared.members.entry(SLOT).incarnation.0 + 1);
        self.entry.begin(next, snapshot.header.generation);
        self.apparatus.control().open();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.apparatus.end();
    }
}

fn write(at: u64, bytes: &[u8]) -> Operation<'_> {
    Operation::Write {
        at: VolumeOffset(at),
        data: Data::Borrowed(bytes),
        durable: false,
    }
}

#[test]
fn a_hold_of_writes_parks_what_overlaps_and_lets_the_rest_go_on() {
    let mut rig = Rig::new(limits());
    rig.hold(1, EXTENT, 2 * EXTENT, HoldMode::Writes);
    rig.write(1, 2 * EXTENT - 1, b"abc");
    rig.write(2, 2 * EXTENT - 1, b"d");
    rig.nothing_received();
    rig.write(3, 2 * EXTENT, b"xyz");
    assert_eq!(rig.answer(3), Received::Written(3));
    assert_eq!(rig.content(2 * EXTENT - 1, 4), b"\0xyz", "reads are not held");
    rig.ask(4, Operation::Flush);
    assert_eq!(rig.answer(4), Received::Done, "nor are flushes");
    let figures = rig.apparatus.control().figures();
    assert_eq!((figures.parked, figures.holds), (2, 1));
    assert!(figures.parked_bytes >= 4);

    assert_eq!(rig.apparatus.control().release(ChangeId(1)).parked, 2);
    assert_eq!(
        (rig.answer(1), rig.answer(2)),
        (Received::Written(3), Received::Written(1))
    );
    assert_eq!(rig.content(2 * EXTENT - 1, 4), b"dbcz", "in the order of arrival");
    let figures = rig.apparatus.control().figures();
    assert_eq!(
        (figures.parked, figures.parked_bytes, figures.ever_parked),
        (0, 0, 2)
    );
}

#[test]
fn a_hold_of_everything_parks_reads_too() {
    let mut rig = Rig::new(limits());
    rig.hold(1, 0, EXTENT, HoldMode::All);
    rig.read(1, 0, 10);
    rig.nothing_received();
    assert_eq!(rig.content(EXTENT, 1), [0]);
    rig.apparatus.control().release(ChangeId(1));
    assert_eq!(rig.answer(1), Received::Data(vec![0; 10]));
}

#[test]
fn after_a_change_the_new_placement_is_used() {
    let mut rig = Rig::new(limits());
    rig.write(1, 0, b"old");
    assert_eq!(rig.answer(1), Received::Written(3));
    rig.hold(9, 0, EXTENT, HoldMode::Writes);
    rig.write(2, 1, b"NEW");
    let from = rig.apparatus.control().generation();
    rig.map(0, rig.disks[1], 5, 1);
    assert_eq!(rig.apparatus.control().generation(), from.next());
    rig.apparatus.control().release(ChangeId(9));
    assert_eq!(rig.answer(2), Received::Written(3));
    assert_eq!(
        rig.content(0, 5),
        b"\0NEW\0",
        "nothing was copied, and the write went to the new placement"
    );
    assert_eq!(rig.apparatus.control().oldest(), from.next());
}

#[test]
fn a_flush_sees_that_the_table_it_rests_on_is_persisted() {
    let mut rig = Rig::new(limits());
    let flush = |rig: &mut Rig, number| {
        rig.ask(number, Operation::Flush);
        rig.answer(number)
    };
    assert_eq!(flush(&mut rig, 1), Received::Done);
    assert!(rig.persisting.asked.lock().unwrap().is_empty(), "it is already");
    let from = rig.apparatus.control().generation();
    let volume = rig.pool.store().volumes().unwrap().remove(0);
    let edits = vec![apparatus::model::records::Edit::SetVolume(volume)];
    rig.apparatus.control().apply(&Delta { from, edits }).unwrap();
    assert_eq!(flush(&mut rig, 2), Received::Done);
    assert_eq!(*rig.persisting.asked.lock().unwrap(), [from.next()]);
    let fail = || Err(Error::failed("store", "cannot"));
    *rig.persisting.then.lock().unwrap() = Some(Box::new(fail));
    assert_eq!(flush(&mut rig, 3), Received::Failed(Failure::NotPersisted));
    rig.shared.ledgers.set_persisted(from.next());
    assert_eq!(flush(&mut rig, 4), Received::Done);
}

#[test]
fn what_does_not_fit_waits_for_room() {
    let mut rig = Rig::new(Limits {
        parked: 2,
        ..limits()
    });
    rig.hold(1, 0, EXTENT, HoldMode::Writes);
    rig.write(1, 0, b"a");
    rig.write(2, 0, b"b");
    thread::scope(|scope| {
        let (apparatus, volume, ear) = (&rig.apparatus, rig.volume, rig.ear.clone());
        let mut context = rig.io_context();
        let third = scope
            .spawn(move || apparatus.serve(&mut context, Request::new(volume, write(0, b"c"), Ear(3, ear))));
        assert_eq!(
            rig.received.recv_timeout(Duration::from_millis(200)),
            Err(RecvTimeoutError::Timeout)
        );
        assert!(!third.is_finished());
        rig.apparatus.control().release(ChangeId(1));
        third.join().unwrap();
    });
    assert_eq!(
        (rig.answer(1), rig.answer(2)),
        (Received::Written(1), Received::Written(1))
    );
    assert_eq!(rig.answer(3), Received::Written(1));
}

#[test]
fn the_end_answers_all_that_is_parked() {
    let mut rig = Rig::new(limits());
    rig.hold(1, 0, EXTENT, HoldMode::All);
    rig.write(1, 0, b"a");
    rig.read(2, 0, 1);
    assert!(rig.apparatus.finish(SOON));
    assert_eq!(rig.answer(1), Received::Failed(Failure::Ending));
    assert_eq!(rig.answer(2), Received::Failed(Failure::Ending));
    rig.write(3, 9, b"a");
    assert_eq!(rig.answer(3), Received::Failed(Failure::Ending));
}

#[test]
fn requests_are_counted_by_volume_and_disk() {
    let mut rig = Rig::new(limits());
    rig.write(1, 0, &[1; 1000]);
    assert_eq!(rig.answer(1), Received::Written(1000));
    rig.content(0, 500);
    rig.ask(2, Operation::Flush);
    assert_eq!(rig.answer(2), Received::Done);
    let figures = rig.counted(3);
    let volume = &figures.volumes["v"];
    assert_eq!((volume.reads, volume.read_bytes), (1, 500));
    assert_eq!(
        (volume.writes, volume.written_bytes, volume.flushes),
        (1, 1000, 1)
    );
    let latencies = [&volume.read_latency, &volume.write_latency, &volume.flush_latency];
    assert_eq!(latencies.map(|each| each.counts.iter().sum::<u64>()), [1, 1, 1]);
    assert_eq!(
        (figures.disks["a"].reads, figures.disks["a"].written_bytes),
        (1, 1000)
    );
    rig.apparatus.control().disks().remove(rig.disks[0]);
    rig.read(3, 0, 10);
    assert_eq!(rig.answer(3), Received::Failed(Failure::Disk));
    assert_eq!(rig.counted(4).volumes["v"].errors, 1);
}
