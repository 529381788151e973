//! The cost of the gate for a request: entering and leaving alone, among threads, and with a hold elsewhere; and the cost of a hold.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot go on should say so"
)]

use apparatus::gate::barrier::Barrier;
use apparatus::gate::{Access, Bounds, Drain, Entry, Gate, Lane, Parkable, Signal};
use apparatus::model::change::HoldMode;
use apparatus::model::records::Span;
use apparatus::model::units::{ChangeId, Generation, VolumeId, VolumeOffset};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Nobody;

impl Signal for Nobody {
    fn lane_left(&self) {}
}

struct Item;

impl Parkable for Item {
    fn bytes(&self) -> u64 {
        4096
    }
}

fn gate(barrier: Barrier) -> Gate<Item> {
    Gate::with_barrier(Bounds::default(), Arc::new(Nobody), barrier)
}

fn span(volume: u64, start: u64) -> Span {
    Span {
        volume: VolumeId(volume),
        start: VolumeOffset(start),
        end: VolumeOffset(start + 4096),
    }
}

/// Runs one request through the gate.
#[inline]
fn pass(gate: &Gate<Item>, lane: &mut Lane, span: Span) {
    match gate.enter(lane, black_box(span), Access::Write, Generation(7)) {
        Entry::Open(pass) => drop(black_box(pass)),
        Entry::Held => panic!("held"),
    }
}

/// Runs `requests` requests on each of `threads` threads in parallel; returns the time of the slowest thread.
fn on_threads(gate: &Gate<Item>, threads: u64, requests: u64) -> Duration {
    let barrier = std::sync::Barrier::new(usize::try_from(threads).unwrap());
    std::thread::scope(|scope| {
        let run = |volume| {
            let mut lane = gate.lane().unwrap();
            barrier.wait();
            let begin = Instant::now();
            for at in 0..requests {
                pass(gate, &mut lane, span(volume, at << 12));
            }
            begin.elapsed()
        };
        let running: Vec<_> = (0..threads)
            .map(|volume| scope.spawn(move || run(volume)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .max()
            .unwrap()
    })
}

fn entering(c: &mut Criterion) {
    let mut group = c.benchmark_group("gate/enter and leave");
    for (name, barrier) in [("membarrier", Barrier::new()), ("fences", Barrier::fences())] {
        let gate = gate(barrier);
        let mut lane = gate.lane().unwrap();
        group.bench_function(format!("alone, {name}"), |b| {
            b.iter(|| pass(&gate, &mut lane, span(1, 0)))
        });
    }
    for threads in [1, 2, 4] {
        let gate = gate(Barrier::new());
        let name = format!("{threads} threads, each");
        group.bench_function(name, |b| {
            b.iter_custom(|requests| on_threads(&gate, threads, requests))
        });
    }
    for (name, held) in [
        ("of another volume", span(2, 0)),
        ("of this volume", span(1, 1 << 20)),
    ] {
        let gate = gate(Barrier::new());
        let mut lane = gate.lane().unwrap();
        assert!(gate.hold(ChangeId(1), &[held], HoldMode::Writes));
        group.bench_function(format!("with a hold {name}"), |b| {
            b.iter(|| pass(&gate, &mut lane, span(1, 0)))
        });
    }
    let gate = gate(Barrier::new());
    let mut lane = gate.lane().unwrap();
    group.bench_function("with the lane handed over", |b| {
        b.iter(
            || match gate.enter(&mut lane, span(1, 0), Access::Write, Generation(7)) {
                Entry::Open(pass) => drop(black_box(pass.into_owned(gate.lane().unwrap()))),
                Entry::Held => panic!("held"),
            },
        );
    });
    group.finish();
}

/// Places a hold, drains it and releases it.
fn hold(gate: &Gate<Item>, id: u64) {
    assert!(gate.hold(ChangeId(id), &[span(100, 0)], HoldMode::Writes));
    while gate.drained(ChangeId(id)) != Some(Drain::Done) {}
    black_box(gate.release(ChangeId(id)));
}

fn holding(c: &mut Criterion) {
    let mut group = c.benchmark_group("gate/hold, drain, release");
    for (name, barrier) in [("membarrier", Barrier::new()), ("fences", Barrier::fences())] {
        let gate = gate(barrier);
        let mut id = 0;
        group.bench_function(format!("idle, {name}"), |b| {
            b.iter(|| {
                id += 1;
                hold(&gate, id);
            });
        });
    }
    let gate = gate(Barrier::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut lane = gate.lane().unwrap();
            while !stop.load(Ordering::Relaxed) {
                pass(&gate, &mut lane, span(1, 0));
            }
        });
        let mut id = 0;
        group.bench_function("while a thread passes elsewhere", |b| {
            b.iter(|| {
                id += 1;
                hold(&gate, id);
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.bench_function("the oldest generation", |b| b.iter(|| gate.oldest(Generation(9))));
    group.finish();
}

criterion_group!(benches, entering, holding);
criterion_main!(benches);
