//! The cost of a move: its rate compared with `cp`, and its effect on hosts. `cargo bench --bench move [-- MIB] [rate] [holds] [latency]`.
//!
//! Every row is measured in one run on the same images, so that the ratios are meaningful where the absolute numbers are not. The images
//! are in `$TMPDIR`; `--bench hold` measures holds without a copy, `--bench table` the switch of a table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../tests/history/mod.rs"]
mod history;
#[path = "../tests/moving/mod.rs"]
mod moving;
#[path = "../tests/support/mod.rs"]
mod support;

use apparatus::model::job::{JobLimits, JobRecord, JobState};
use moving::Scene;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::{Daemon, Random};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const ROUNDS: usize = 3;

fn main() {
    let mib = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(2048);
    println!("| what | value | against | ratio |\n|---|---|---|---|");
    let parts = [
        ("rate", rate_beside_cp as fn(u64), mib),
        ("holds", holds, mib.min(512)),
        ("latency", latency, mib.min(1024)),
    ];
    let wanted: Vec<String> = std::env::args().collect();
    let any = parts
        .iter()
        .any(|(name, ..)| wanted.iter().any(|word| word == name));
    for (name, part, mib) in parts {
        if !any || wanted.iter().any(|word| word == name) {
            part(mib);
        }
    }
}

fn row(what: &str, value: &str, against: &str, ratio: Option<f64>) {
    println!(
        "| {what} | {value} | {against} | {} |",
        ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
    );
}

/// Creates a volume full of data that is not zero, in the page cache.
fn filled(mib: u64) -> Scene {
    let scene = Scene::new(MIB, mib);
    let daemon = scene.pool.start("filler");
    let (file, piece) = (
        daemon.open("v"),
        Random::new(1).bytes(usize::try_from(MIB).unwrap()),
    );
    (0..mib).for_each(|at| file.write_all_at(&piece, at * MIB).unwrap());
    file.sync_all().unwrap();
    drop(file);
    daemon.stop();
    scene
}

fn moved(scene: &Scene, disk: usize) -> (JobRecord, Duration) {
    let start = Instant::now();
    let job = scene.move_to(disk);
    (job, start.elapsed())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[allow(clippy::cast_precision_loss)]
fn rate(mib: u64, took: Duration) -> f64 {
    mib as f64 / took.as_secs_f64()
}

/// Alternates an idle move of a page-cached volume and `cp` of one of the two images to the file system of the other, each alone and with
/// the step that makes it durable.
fn rate_beside_cp(mib: u64) {
    let scene = filled(mib);
    let daemon = scene.pool.start("x");
    let (mut moves, mut copies, mut durable) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (from, to) = (["a", "b"][round % 2], 1 - round % 2);
        let target = scene.pool.scratch().join("copy.img");
        read_through(&scene.pool.image(from));
        let (plain, synced) = copy(&scene.pool.image(from), &target);
        fs::remove_file(&target).unwrap();
        copies.push(rate(mib, plain));
        durable.push(rate(mib, synced));
        read_through(&scene.pool.image(from));
        moves.push(rate(mib, moved(&scene, to).1));
    }
    daemon.stop();
    // `cp` always writes a new file. The first move writes to a new image too; later ones overwrite allocated space.
    let (fresh, again) = (moves.remove(0), median(moves));
    let (cp, synced) = (median(copies), median(durable));
    for (what, own) in [("a new image", fresh), ("allocated storage", again)] {
        for (against, rate) in [("cp, not durable", cp), ("cp and sync of it", synced)] {
            row(
                &format!("idle move of {mib} MiB to {what}, durable: {own:.0} MiB/s"),
                "",
                &format!("{against}: {rate:.0} MiB/s"),
                Some(own / rate),
            );
        }
    }
}

fn read_through(image: &Path) {
    std::io::copy(&mut File::open(image).unwrap(), &mut std::io::sink()).unwrap();
}

fn copy(from: &Path, to: &Path) -> (Duration, Duration) {
    let start = Instant::now();
    assert!(
        Command::new("cp")
            .args(["--sparse=never"])
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
    let plain = start.elapsed();
    File::open(to).unwrap().sync_data().unwrap();
    (plain, start.elapsed())
}

/// Measures holds of a move with chunks of one extent: a latency target that no chunk can meet makes chunks as small as possible.
fn holds(mib: u64) {
    let scene = filled(mib);
    for apparatuses in [1, 4] {
        let daemons: Vec<Daemon> = (0..apparatuses)
            .map(|n| scene.pool.start(&format!("x{n}")))
            .collect();
        let limits = JobLimits {
            hold_target_us: Some(1),
            ..JobLimits::default()
        };
        let job = scene.create(&scene.to(usize::from(scene.on_disk(1) == 0)), limits);
        assert_eq!(scene.run(job).unwrap(), JobState::Done);
        let longest = scene.job(job).longest_hold_us;
        row(
            &format!("longest hold, 1 MiB chunks, {apparatuses} idle apparatuses"),
            &format!("{longest} µs"),
            "",
            None,
        );
        daemons.into_iter().for_each(Daemon::stop);
    }
}

/// One host at queue depth 1, 4 KiB at random offsets, half of it writes: the latencies of reads and of writes.
struct Host {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<[Vec<Duration>; 2]>,
}

impl Host {
    fn start(file: File, blocks: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut random, mut block) = (Random::new(9), vec![1; usize::try_from(BLOCK).unwrap()]);
            let mut latencies = [Vec::new(), Vec::new()];
            while !stopped.load(Ordering::Relaxed) {
                let (at, writes) = (random.below(blocks) * BLOCK, random.below(2));
                let start = Instant::now();
                match writes {
                    0 => file.read_exact_at(&mut block, at).unwrap(),
                    _ => file.write_all_at(&block, at).unwrap(),
                }
                latencies[usize::try_from(writes).unwrap()].push(start.elapsed());
            }
            latencies
        });
        Self { stop, thread }
    }

    fn end(self) -> [Vec<Duration>; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn latency(mib: u64) {
    let scene = filled(mib);
    let daemon = scene.pool.start("x");
    let host = || Host::start(daemon.open("v"), mib * MIB / BLOCK);
    let busy = host();
    let (job, took) = moved(&scene, 1);
    let during = busy.end();
    let quiet = host();
    thread::park_timeout(took);
    let without = quiet.end();
    for (which, name) in ["reads", "writes"].into_iter().enumerate() {
        for (what, share) in [("median", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            let (with, alone) = (at(&during[which], share), at(&without[which], share));
            let ratio = with.as_secs_f64() / alone.as_secs_f64();
            row(
                &format!("{what} of {name} during a move"),
                &format!("{with:.0?}"),
                &format!("without: {alone:.0?}"),
                Some(ratio),
            );
        }
    }
    row(
        "longest hold of that move",
        &format!("{} µs", job.longest_hold_us),
        "",
        None,
    );
    daemon.stop();
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn at(latencies: &[Duration], share: f64) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
