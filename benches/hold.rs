//! The duration for which a change holds requests of hosts: from the first message that asks for the hold until the one that ends it,
//! through real apparatus processes with real mounts. `cargo bench --bench hold [-- CHANGES]`.
//!
//! Each change maps 1 MiB of a volume to another disk under a hold of writes on that range, without work under the hold, so that only the
//! protocol is measured. "alone" has pauses between changes, "series" has them follow one another as in a move.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use apparatus::blockdev::{Candidate, create_image};
use apparatus::controller::pool::open_store;
use apparatus::controller::{ChangePipeline, Controller, Prepare, Wait};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, Span, VolumeRecord};
use apparatus::model::units::{
    ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, Incarnation, Slot, Term, VolumeExtent,
    VolumeId, VolumeOffset,
};
use apparatus::protocol::controller::Outcome;
use apparatus::rpc::client::{Links, WaitOutcome};
use apparatus::rpc::frame::{CAP, Decoder, encode};
use apparatus::rpc::message::{Request, RequestFrame};
use apparatus::rpc::written::Written;
use apparatus::store;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const EXTENT: ExtentSize = ExtentSize::DEFAULT;

/// Host requests in flight on each apparatus under load.
const DEPTH: usize = 16;

fn main() {
    let changes = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(400);
    println!("hold to release, {changes} changes of 1 MiB each, no work under the hold\n");
    println!("| apparatuses | load | changes | median µs | p99 µs | max µs | per s |");
    println!("|---|---|---|---|---|---|---|");
    for (apparatuses, loaded) in [(1, false), (2, false), (4, false), (1, true), (4, true)] {
        let bench = Bench::new(apparatuses, changes);
        let load = loaded.then(|| Load::start(&bench.volumes()));
        println!(
            "| {apparatuses} | {} | one round trip | {} | |",
            load.as_ref().map_or("idle", |_| "loaded"),
            bench.round_trip()
        );
        for pipelined in [false, true] {
            let row = bench.measure(pipelined);
            let load = load.as_ref().map_or("idle".into(), Load::figure);
            let kind = if pipelined { "series" } else { "alone" };
            println!("| {apparatuses} | {load} | {kind} | {row} |");
        }
    }
    frames();
}

/// Measures the cost of encoding and decoding the frames of one change.
fn frames() {
    println!("\n| frame | bytes | encode µs | decode µs |");
    println!("|---|---|---|---|");
    for segments in [1, 1000, 100_000] {
        let placement = |at| Area {
            disk: DiskId(2),
            start: DiskExtent(1 + 2 * at),
            len: 1,
        };
        let segments_of = (0..segments)
            .map(|at| Segment {
                start: VolumeExtent(at),
                placement: placement(at),
            })
            .collect();
        let edits = vec![Edit::Map {
            volume: VolumeId(1),
            segments: segments_of,
        }];
        let delta = Delta {
            from: Generation(41),
            edits,
        };
        let apply = Request::Apply {
            change: ChangeId(42),
            generation: Generation(42),
            delta,
        };
        row(
            &format!("Apply, {segments} segments"),
            &RequestFrame {
                term: Term(7),
                requests: vec![apply],
            },
        );
    }
    let record = DiskRecord {
        id: DiskId(2),
        name: name("d2"),
        uuid: uuid::Uuid::new_v4(),
        path: "/var/lib/apparatus/d2.img".into(),
        extents: 1000,
        tags: Default::default(),
        allocate: true,
        reserve: 0,
        label: 0,
    };
    let hold = Request::Hold {
        change: ChangeId(42),
        spans: vec![Span {
            volume: VolumeId(1),
            start: VolumeOffset(1 << 20),
            end: VolumeOffset(2 << 20),
        }],
        mode: HoldMode::Writes,
        drain_us: 1_000_000,
        deadline_us: 5_000_000,
        incarnation: Incarnation(3),
        disks: vec![record],
    };
    let release = Request::Release {
        change: ChangeId(41),
        given_up: false,
    };
    row(
        "Release and Hold",
        &RequestFrame {
            term: Term(7),
            requests: vec![release, hold],
        },
    );
}

fn row(what: &str, frame: &RequestFrame) {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes).unwrap();
    let rounds = (20_000_000 / bytes.len()).clamp(3, 20_000);
    let begun = Instant::now();
    for _ in 0..rounds {
        bytes.clear();
        encode(std::hint::black_box(frame), &mut bytes).unwrap();
    }
    let encoding = begun.elapsed().as_nanos() as f64 / rounds as f64 / 1000.0;
    let begun = Instant::now();
    for _ in 0..rounds {
        let mut decoder = Decoder::new(CAP);
        decoder.feed(std::hint::black_box(&bytes)).unwrap();
        assert!(decoder.take::<RequestFrame>().unwrap().is_some());
    }
    let decoding = begun.elapsed().as_nanos() as f64 / rounds as f64 / 1000.0;
    println!("| {what} | {} | {encoding:.1} | {decoding:.1} |", bytes.len());
}

struct Bench {
    pool: PoolDir,
    disks: [DiskId; 2],
    volume: VolumeId,
    changes: u64,
    // They end before their files are removed.
    apparatuses: Vec<Running>,
    _files: TempDir,
}

struct Running {
    process: Child,
    mount: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

fn name(text: &str) -> Name {
    Name::new("bench", text).unwrap()
}

impl Bench {
    fn new(apparatuses: usize, changes: u64) -> Self {
        let files = TempDir::new_in(if Path::new("/dev/shm").exists() {
            "/dev/shm"
        } else {
            "."
        })
        .unwrap();
        let pool = PoolDir::new(files.path().join("pool"));
        store::create(&pool, EXTENT).unwrap();
        let header = open_store(&pool).unwrap().header().unwrap();
        let mut controller = Controller::acquire(&pool, "bench", Wait::No).unwrap();
        let disks = ["d1", "d2"].map(|text| {
            let path = files.path().join(text);
            create_image(&path, ByteCount((changes + 1) * EXTENT.bytes()), EXTENT).unwrap();
            let disk = uuid::Uuid::new_v4();
            let candidate = Candidate::inspect(&path, &header, &[]).unwrap();
            let extents = candidate.extents();
            candidate.write_label(&header, disk).unwrap();
            let id = controller.store().next_disk_id().unwrap();
            let tags = Default::default();
            let record = DiskRecord {
                id,
                name: name(text),
                uuid: disk,
                path,
                extents,
                tags,
                allocate: true,
                reserve: 0,
                label: 0,
            };
            run(&mut controller, vec![Edit::AddDisk(record)]);
            id
        });
        let volume = controller.store().next_volume_id().unwrap();
        let size = ByteCount(changes * EXTENT.bytes());
        let record = VolumeRecord {
            id: volume,
            name: name("v"),
            size,
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        run(
            &mut controller,
            vec![Edit::AddVolume(record), map(volume, 0, disks[0], changes)],
        );
        drop(controller);
        let start = |index| start(&pool, &files.path().join(format!("m{index}")), index);
        let apparatuses = (0..apparatuses).map(start).collect();
        Self {
            pool,
            disks,
            volume,
            changes,
            apparatuses,
            _files: files,
        }
    }

    /// Measures one request and its answer, over an established link.
    fn round_trip(&self) -> String {
        let uuid = open_store(&self.pool).unwrap().header().unwrap().uuid;
        let mut links = Links::new(uuid, Term(0));
        links.connect(Slot(0), &self.pool, &name("a0"));
        let end = || Instant::now() + Duration::from_secs(20);
        assert!(matches!(links.wait(end()), Some(WaitOutcome::Welcomed(..))));
        let trip = |links: &mut Links| {
            let begun = Instant::now();
            links.send(Slot(0), Request::Quiesce { wait_us: 0 });
            links.flush();
            assert!(matches!(links.wait(end()), Some(WaitOutcome::Answered(..))));
            begun.elapsed()
        };
        figures((0..1000).map(|_| trip(&mut links)).collect())
    }

    fn volumes(&self) -> Vec<PathBuf> {
        self.apparatuses
            .iter()
            .map(|running| running.mount.join("v"))
            .collect()
    }

    /// Moves the whole volume, and returns a row of the table.
    fn measure(&self, pipelined: bool) -> String {
        let mut controller = Controller::acquire(&self.pool, "bench", Wait::No).unwrap();
        let placement = controller
            .store()
            .segments(self.volume, VolumeExtent(0), VolumeExtent(1))
            .unwrap();
        let to = if placement[0].placement.disk == self.disks[0] {
            self.disks[1]
        } else {
            self.disks[0]
        };
        let mut moves = Moves {
            volume: self.volume,
            to,
            next: 0,
            end: self.changes,
            given: false,
            pipelined,
            holds: Vec::new(),
        };
        let begun = Instant::now();
        while moves.next < moves.end {
            moves.given = false;
            controller.run_pipeline(&mut moves).unwrap();
        }
        let rate = moves.holds.len() as f64 / begun.elapsed().as_secs_f64();
        controller.persist().unwrap();
        controller.free().unwrap();
        format!("{} | {rate:.0}", figures(moves.holds))
    }
}

fn figures(mut holds: Vec<Duration>) -> String {
    holds.sort();
    let at = |part: usize| holds[(holds.len() * part / 100).min(holds.len() - 1)].as_micros();
    format!("{} | {} | {}", at(50), at(99), at(100))
}

fn start(pool: &PoolDir, mount: &Path, index: usize) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apparatus"));
    command
        .arg("--pool")
        .arg(pool.path())
        .arg("--mount")
        .arg(mount)
        .args(["--name", &format!("a{index}")]);
    let process = command.stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !mount.join("v").exists() {
        assert!(Instant::now() < end, "the apparatus does not serve");
        std::thread::yield_now();
    }
    Running {
        process,
        mount: mount.to_owned(),
    }
}

fn map(volume: VolumeId, at: u64, disk: DiskId, len: u64) -> Edit {
    let placement = Area {
        disk,
        start: DiskExtent(1 + at),
        len,
    };
    Edit::Map {
        volume,
        segments: vec![Segment {
            start: VolumeExtent(at),
            placement,
        }],
    }
}

fn run(controller: &mut Controller, edits: Vec<Edit>) {
    let delta = Delta {
        from: Generation(0),
        edits,
    };
    let change = NewChange {
        title: "bench".into(),
        job: None,
        delta,
        spans: vec![],
        mode: HoldMode::Writes,
    };
    controller.run(change, true, &mut || Ok(())).unwrap();
}

/// Maps a volume to another disk, extent by extent.
struct Moves {
    volume: VolumeId,
    to: DiskId,
    next: u64,
    end: u64,
    given: bool,
    pipelined: bool,
    holds: Vec<Duration>,
}

impl ChangePipeline for Moves {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        if self.next == self.end || (self.given && !self.pipelined) {
            return Ok(None);
        }
        self.given = true;
        let at = self.next;
        self.next += 1;
        let byte = |extent: u64| VolumeOffset(extent * EXTENT.bytes());
        let span = Span {
            volume: self.volume,
            start: byte(at),
            end: byte(at + 1),
        };
        let delta = Delta {
            from: prepare.from,
            edits: vec![map(self.volume, at, self.to, 1)],
        };
        Ok(Some(NewChange {
            title: "bench".into(),
            job: None,
            delta,
            spans: vec![span],
            mode: HoldMode::Writes,
        }))
    }

    fn work(&mut self, _written: &Written) -> Result<(), String> {
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()> {
        assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
        self.holds.push(hold);
        Ok(())
    }
}

/// Random 4 KiB reads and writes through every mount, with one thread per request in flight.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
    begun: Instant,
}

impl Load {
    fn start(volumes: &[PathBuf]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for (index, path) in volumes
            .iter()
            .flat_map(|path| std::iter::repeat_n(path, DEPTH))
            .enumerate()
        {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .unwrap();
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            threads.push(std::thread::spawn(move || {
                load(&file, index as u64, &stop, &done)
            }));
        }
        Self {
            stop,
            done,
            threads,
            begun: Instant::now(),
        }
    }

    fn figure(&self) -> String {
        let rate = self.done.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64();
        format!("QD{DEPTH} each, {:.0} k IOPS", rate / 1000.0)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn load(file: &File, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    // O_DIRECT requires an aligned buffer.
    let mut memory = vec![0u8; 8192];
    let skip = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[skip..skip + 4096];
    let blocks = file.metadata().unwrap().len() / 4096;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::Relaxed) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = state % blocks * 4096;
        if state & (1 << 40) == 0 {
            file.read_exact_at(buffer, at).unwrap();
        } else {
            file.write_all_at(buffer, at).unwrap();
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}
