//! The data path without FUSE, commanded as the control thread does: holds, fences, rejoining, flushes, bounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "data/fences.rs"]
mod fences;
mod support;

use apparatus::control::{Bell, Runtime};
use apparatus::data::{
    Answer, Apparatus, Delivery, Desk, Failure, Harden, Limits, Operation, Parts, Reply, Report, Request,
    Role,
};
use apparatus::disk::{Disk, Disks};
use apparatus::error::{Error, Result};
use apparatus::member::{MemberTable, MyLine};
use apparatus::pool::model::{Difference, Edit, Span};
use apparatus::store::{HoldMode, Store};
use apparatus::sys::boot_id;
use apparatus::table::{Draft, Table};
use apparatus::units::{ChangeId, DiskId, DiskOffset, Generation, Incarnation, Slot, VolumeId, VolumeOffset};
use apparatus::wire::message::{Figures, IoFigures};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{TestPool, segments};

const EXTENT: u64 = 64 << 10;
const SLOT: Slot = Slot(3);
/// For what is expected to come.
const SOON: Duration = Duration::from_secs(20);

/// An answer, remembered.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data(Vec<u8>),
    Written(u64),
    Done,
    Failed(Failure),
}

struct Ear(u32, Sender<(u32, Heard)>);

impl Reply for Ear {
    fn send(self, answer: Answer<'_>) -> Delivery {
        let heard = match answer {
            Answer::Data(bytes) => Heard::Data(bytes.to_vec()),
            Answer::Written(bytes) => Heard::Written(bytes),
            Answer::Done => Heard::Done,
            Answer::Failed(failure) => Heard::Failed(failure),
            Answer::Found(_) => panic!("nobody seeks here"),
        };
        self.1.send((self.0, heard)).unwrap();
        Delivery::Taken
    }
}

type Then = Box<dyn Fn() -> Result<()> + Send>;

/// What a flush calls: remembers for which generation, does what it was told to.
#[derive(Default)]
struct Hardening {
    asked: Mutex<Vec<Generation>>,
    then: Mutex<Option<Then>>,
}

impl Harden for Hardening {
    fn harden(&self, _: VolumeId, generation: Generation) -> Result<apparatus::data::Hardening> {
        self.asked.lock().unwrap().push(generation);
        let then = self.then.lock().unwrap().as_ref().map_or(Ok(()), |then| then());
        then.map(|()| apparatus::data::Hardening::Done)
    }
}

struct Silent;

impl Report for Silent {
    fn disk_failed(&self, _: &str, _: &str, _: &str) {}
    fn harden_failed(&self, _: &str) {}
}

/// A data path on a pool with the volume `v` of 16 extents on disk `a`, and room on disk `b`.
struct Rig {
    pool: TestPool,
    apparatus: Arc<Apparatus>,
    members: Arc<MemberTable>,
    line: Arc<MyLine>,
    hardening: Arc<Hardening>,
    volume: VolumeId,
    disks: [DiskId; 2],
    ear: Sender<(u32, Heard)>,
    heard: Receiver<(u32, Heard)>,
    kept: BTreeMap<u32, Heard>,
}

fn limits() -> Limits {
    Limits {
        readers: 4,
        workers: 4,
        parked_bytes: 8 << 20,
        parked: 100,
        holds: 8,
        fenced: Duration::from_secs(600),
    }
}

fn requests_of(io: &IoFigures) -> u64 {
    io.reads + io.writes + io.flushes
}

impl Rig {
    /// The figures once so many requests of the volume are counted: that follows a request's answer.
    fn counted(&self, requests: u64) -> Figures {
        let end = Instant::now() + SOON;
        loop {
            let figures = self.apparatus.figures();
            let volume = &figures.volumes["v"];
            if requests_of(volume) + volume.errors >= requests {
                return figures;
            }
            assert!(Instant::now() < end, "not counted: {volume:?}");
            thread::yield_now();
        }
    }

    fn new(limits: Limits) -> Self {
        let pool = TestPool::new(EXTENT);
        let disks = [pool.add_disk("a", 40).id, pool.add_disk("b", 40).id];
        let volume = pool.add_volume("v", 16 * EXTENT, &[(disks[0], 1, 16)]).id;
        let snapshot = pool.store().snapshot().unwrap();
        let open = Disks::new();
        for record in &snapshot.disks {
            let disk = Disk::open(record, &snapshot.header);
            open.insert(Arc::new(disk.unwrap()));
        }
        let members = MemberTable::open(&pool.dir, snapshot.header.uuid, boot_id().unwrap()).unwrap();
        let line = Arc::new(members.mine(SLOT));
        line.begin(Incarnation(7), snapshot.header.generation);
        members.set_hardened(snapshot.header.generation);
        let hardening = Arc::new(Hardening::default());
        let apparatus = Apparatus::start(Parts {
            name: support::name_of("x"),
            table: Table::new(&snapshot).unwrap(),
            disks: open,
            records: snapshot.disks.clone(),
            members: members.clone(),
            line: line.clone(),
            bell: Arc::new(Bell::new().unwrap()),
            harden: hardening.clone(),
            report: Arc::new(Silent),
            limits,
            stop: Box::new(|| ()),
        });
        let (ear, heard) = channel();
        Self {
            pool,
            apparatus: apparatus.unwrap(),
            members,
            line,
            hardening,
            volume,
            disks,
            ear,
            heard,
            kept: BTreeMap::new(),
        }
    }

    fn desk(&self) -> Desk {
        self.apparatus.desk(Role::Reader).unwrap()
    }

    fn ask(&self, number: u32, operation: Operation<'_>) {
        let request = Request::new(self.volume, operation, Ear(number, self.ear.clone()));
        self.apparatus.serve(&mut self.desk(), request);
    }

    fn write(&self, number: u32, at: u64, bytes: &[u8]) {
        self.ask(number, write(at, bytes));
    }

    fn read(&self, number: u32, at: u64, len: u64) {
        let at = VolumeOffset(at);
        self.ask(number, Operation::Read { at, len });
    }

    /// The answer to that request.
    fn answer(&mut self, number: u32) -> Heard {
        loop {
            if let Some(heard) = self.kept.remove(&number) {
                return heard;
            }
            let (other, heard) = self.heard.recv_timeout(SOON).expect("an answer");
            self.kept.insert(other, heard);
        }
    }

    /// Nothing but what has been asked for has been answered.
    fn nothing_heard(&self) {
        assert!(self.kept.is_empty(), "{:?}", self.kept);
        assert_eq!(
            self.heard.try_recv().err(),
            Some(std::sync::mpsc::TryRecvError::Empty)
        );
    }

    fn content(&mut self, at: u64, len: u64) -> Vec<u8> {
        self.read(u32::MAX, at, len);
        match self.answer(u32::MAX) {
            Heard::Data(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&self, change: u64, from: u64, to: u64, mode: HoldMode) {
        let span = Span {
            volume: self.volume,
            start: VolumeOffset(from),
            end: VolumeOffset(to),
        };
        assert!(self.apparatus.hold(ChangeId(change), &[span], mode));
        assert_eq!(self.apparatus.lag(ChangeId(change)), None, "nothing is in flight");
    }

    fn fence(&self) {
        self.members.fence(SLOT, self.members.line(SLOT).incarnation);
    }

    /// As the control thread does, with the table as the store has it. A request that has been answered is in flight for a moment more.
    fn rejoin(&self) {
        self.apparatus.close();
        let since = Instant::now();
        while self.apparatus.in_flight() > 0 {
            assert!(since.elapsed() < SOON, "a request is still in flight");
            thread::yield_now();
        }
        let snapshot = self.pool.store().snapshot().unwrap();
        let table = Draft::new(&snapshot).unwrap();
        self.apparatus.reload(table, &snapshot.disks).unwrap();
        let next = Incarnation(self.members.line(SLOT).incarnation.0 + 1);
        self.line.begin(next, snapshot.header.generation);
        self.apparatus.open();
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
        data: Cow::Borrowed(bytes),
        durable: false,
    }
}

#[test]
fn a_hold_of_writes_parks_what_overlaps_and_lets_the_rest_go_on() {
    let mut rig = Rig::new(limits());
    rig.hold(1, EXTENT, 2 * EXTENT, HoldMode::Writes);
    rig.write(1, 2 * EXTENT - 1, b"abc");
    rig.write(2, 2 * EXTENT - 1, b"d");
    rig.nothing_heard();
    rig.write(3, 2 * EXTENT, b"xyz");
    assert_eq!(rig.answer(3), Heard::Written(3));
    assert_eq!(rig.content(2 * EXTENT - 1, 4), b"\0xyz", "reads are not held");
    rig.ask(4, Operation::Flush);
    assert_eq!(rig.answer(4), Heard::Done, "nor are flushes");
    let figures = rig.apparatus.figures();
    assert_eq!((figures.parked, figures.holds), (2, 1));
    assert!(figures.parked_bytes >= 4);

    assert_eq!(rig.apparatus.release(ChangeId(1)).parked, 2);
    assert_eq!(
        (rig.answer(1), rig.answer(2)),
        (Heard::Written(3), Heard::Written(1))
    );
    assert_eq!(rig.content(2 * EXTENT - 1, 4), b"dbcz", "in the order of arrival");
    let figures = rig.apparatus.figures();
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
    rig.nothing_heard();
    assert_eq!(rig.content(EXTENT, 1), [0]);
    rig.apparatus.release(ChangeId(1));
    assert_eq!(rig.answer(1), Heard::Data(vec![0; 10]));
}

#[test]
fn after_a_change_the_new_home_is_used() {
    let mut rig = Rig::new(limits());
    rig.write(1, 0, b"old");
    assert_eq!(rig.answer(1), Heard::Written(3));
    rig.hold(9, 0, EXTENT, HoldMode::Writes);
    rig.write(2, 1, b"NEW");
    let from = rig.apparatus.generation();
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(0, &[(rig.disks[1], 5, 1)]),
    };
    let difference = Difference {
        from,
        edits: vec![map],
    };
    assert_eq!(rig.apparatus.apply(&difference).unwrap(), from.next());
    rig.apparatus.release(ChangeId(9));
    assert_eq!(rig.answer(2), Heard::Written(3));
    assert_eq!(
        rig.content(0, 5),
        b"\0NEW\0",
        "nothing was copied, and the write went to the new home"
    );
    assert_eq!(rig.apparatus.oldest(), from.next());
}

#[test]
fn a_flush_sees_that_the_table_it_rests_on_is_hardened() {
    let mut rig = Rig::new(limits());
    let flush = |rig: &mut Rig, number| {
        rig.ask(number, Operation::Flush);
        rig.answer(number)
    };
    assert_eq!(flush(&mut rig, 1), Heard::Done);
    assert!(rig.hardening.asked.lock().unwrap().is_empty(), "it is already");
    let from = rig.apparatus.generation();
    let volume = apparatus::store::Store::volumes(&mut rig.pool.store())
        .unwrap()
        .remove(0);
    let edits = vec![apparatus::pool::model::Edit::SetVolume(volume)];
    rig.apparatus.apply(&Difference { from, edits }).unwrap();
    assert_eq!(flush(&mut rig, 2), Heard::Done);
    assert_eq!(*rig.hardening.asked.lock().unwrap(), [from.next()]);
    let fail = || Err(Error::failed("store", "cannot"));
    *rig.hardening.then.lock().unwrap() = Some(Box::new(fail));
    assert_eq!(flush(&mut rig, 3), Heard::Failed(Failure::NotHardened));
    rig.members.set_hardened(from.next());
    assert_eq!(flush(&mut rig, 4), Heard::Done);
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
        let mut desk = rig.desk();
        let third = scope
            .spawn(move || apparatus.serve(&mut desk, Request::new(volume, write(0, b"c"), Ear(3, ear))));
        assert_eq!(
            rig.heard.recv_timeout(Duration::from_millis(200)),
            Err(RecvTimeoutError::Timeout)
        );
        assert!(!third.is_finished());
        rig.apparatus.release(ChangeId(1));
        third.join().unwrap();
    });
    assert_eq!(
        (rig.answer(1), rig.answer(2)),
        (Heard::Written(1), Heard::Written(1))
    );
    assert_eq!(rig.answer(3), Heard::Written(1));
}

#[test]
fn the_end_answers_all_that_is_parked() {
    let mut rig = Rig::new(limits());
    rig.hold(1, 0, EXTENT, HoldMode::All);
    rig.write(1, 0, b"a");
    rig.read(2, 0, 1);
    assert!(rig.apparatus.finish(SOON));
    assert_eq!(rig.answer(1), Heard::Failed(Failure::Ending));
    assert_eq!(rig.answer(2), Heard::Failed(Failure::Ending));
    rig.write(3, 9, b"a");
    assert_eq!(rig.answer(3), Heard::Failed(Failure::Ending));
}

#[test]
fn requests_are_counted_by_volume_and_disk() {
    let mut rig = Rig::new(limits());
    rig.write(1, 0, &[1; 1000]);
    assert_eq!(rig.answer(1), Heard::Written(1000));
    rig.content(0, 500);
    rig.ask(2, Operation::Flush);
    assert_eq!(rig.answer(2), Heard::Done);
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
    rig.apparatus.disks().remove(rig.disks[0]);
    rig.read(3, 0, 10);
    assert_eq!(rig.answer(3), Heard::Failed(Failure::Disk));
    assert_eq!(rig.counted(4).volumes["v"].errors, 1);
}
