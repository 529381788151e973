//! Power cuts: a pool is at work on a file system that records all writes and flushes in one order, of labels, the metadata on the disks, the database and the data. The record is cut at
//! every flush and at random points between; what had not been flushed is there, lost, torn at sectors or there in another order. After each cut the pool opens, its check finds nothing, and
//! every block has what was synced, or something later. So it is when the pool is made from its disks alone, and when the recovery is cut in turn.
//!
//! `CUTS` sets how many cuts there are, and `SEED` which.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_arguments,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails; the file system's trait has long lists of arguments"
)]

mod after;
mod cut;
mod hosts;
mod record;
mod recorder;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod tree;
mod verbs;

use after::Machine;
use cut::Leaves;
use hosts::Note;
use record::Entry;
use scene::Recorded;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use support::Random;

/// How many cuts there are at least, unless it is said.
const CUTS: u64 = 2500;
/// Of how many cuts one is followed by an import from the disks alone.
const IMPORTS: u64 = 5;
/// How many recoveries of each pool are cut.
const RECOVERIES: u64 = 3;
/// How many cuts a recovery has.
const OF_A_RECOVERY: u64 = 100;
/// How many pools are recorded and cut, at the same time.
const POOLS: u64 = 2;

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn the_recorder_in_a_process_of_its_own() {
    scene::serve_if_asked();
}

/// A cut: after how many entries, and what it leaves.
type Cut = (usize, Leaves);

/// Chooses the cuts: at each flush one, in turn of each kind, and random ones.
fn choose(recorded: &Recorded, count: u64, random: &mut Random) -> Vec<Cut> {
    choose_from(&recorded.entries, count, random)
}

fn choose_from(entries: &[Entry], count: u64, random: &mut Random) -> Vec<Cut> {
    let is_flush =
        |(_, entry): &(usize, &Entry)| matches!(entry, Entry::Flush { .. } | Entry::FlushNames { .. });
    let flushes = entries.iter().enumerate().filter(is_flush);
    let kinds = Leaves::EACH.into_iter().cycle();
    let mut cuts: Vec<Cut> = flushes.zip(kinds).map(|((at, _), leaves)| (at, leaves)).collect();
    while (cuts.len() as u64) < count {
        let at = random.below(entries.len() as u64 + 1) as usize;
        cuts.push((at, Leaves::EACH[random.below(4) as usize]));
    }
    cuts.sort_unstable_by_key(|(at, leaves)| (*at, *leaves as u8));
    cuts
}

#[derive(Default)]
struct Counts {
    cuts: AtomicU64,
    imports: AtomicU64,
    of_recoveries: AtomicU64,
}

/// Goes through the record once, and checks these cuts of it.
fn check(recorded: &Recorded, cuts: &[Cut], seed: u64, counts: &Counts) {
    let machine = Machine {
        root: recorded.root.clone(),
        images: recorded.images.clone(),
    };
    let mut random = Random::new(seed);
    let mut now = cut::Machine::new(&recorded.entries, &recorded.initial);
    let mut reported = recorded.reported.clone();
    for (index, &(at, leaves)) in (0_u64..).zip(cuts) {
        while now.at < at {
            if let Some(Entry::Write { file, bytes, .. }) = now.step()
                && *file == recorded.notes
            {
                reported.note(Note::parse(bytes));
            }
        }
        let files = now.cut(leaves, &mut random);
        let failed = |why: String| -> ! {
            recorded.keep();
            panic!(
                "cut {at} of {}, {leaves:?}, seed {seed}: {why}",
                recorded.entries.len()
            )
        };
        machine.put(&recorded.names, &files);
        if index % IMPORTS == IMPORTS - 1 {
            machine.imports(&reported).unwrap_or_else(|why| failed(why));
            counts.imports.fetch_add(1, Ordering::Relaxed);
        } else {
            machine.relocate(&machine.root);
            machine.recovers(&reported).unwrap_or_else(|why| failed(why));
        }
        counts.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Records the recovery after some cuts, and cuts it in turn.
fn check_recoveries(recorded: &Recorded, cuts: &[Cut], seed: u64, counts: &Counts) {
    let mut random = Random::new(seed);
    for number in 0..RECOVERIES {
        let (at, leaves) = cuts[random.below(cuts.len() as u64) as usize];
        let mut now = cut::Machine::new(&recorded.entries, &recorded.initial);
        let mut reported = recorded.reported.clone();
        while now.at < at {
            if let Some(Entry::Write { file, bytes, .. }) = now.step()
                && *file == recorded.notes
            {
                reported.note(Note::parse(bytes));
            }
        }
        let files = now.cut(leaves, &mut random);
        let recovery = scene::record_recovery(recorded, &files, reported);
        let points = choose(&recovery, OF_A_RECOVERY, &mut random);
        println!(
            "the recovery after cut {at} of {leaves:?}: {} entries, {} cuts",
            recovery.entries.len(),
            points.len()
        );
        let before = counts.cuts.load(Ordering::Relaxed);
        check(&recovery, &points, seed + number, counts);
        let after = counts.cuts.load(Ordering::Relaxed);
        counts.of_recoveries.fetch_add(after - before, Ordering::Relaxed);
    }
}

/// Records a pool at work, cuts the record, and cuts recoveries.
fn record_and_cut(count: u64, seed: u64, counts: &Counts) {
    let recorded = scene::record(seed);
    println!(
        "seed {seed}: {} entries, {:?}",
        recorded.entries.len(),
        recorded.kinds()
    );
    let flushes = recorded.entries.iter().filter_map(|entry| match entry {
        Entry::Flush { file, .. } => recorded.names.get(file),
        _ => None,
    });
    let flushed: BTreeSet<&String> = flushes.collect();
    let all: BTreeSet<&String> = recorded.names.values().collect();
    assert_eq!(flushed, all, "a file was never flushed");
    let mut random = Random::new(seed);
    let cuts = choose(&recorded, count, &mut random);
    check(&recorded, &cuts, seed, counts);
    check_recoveries(&recorded, &cuts, seed, counts);
}

#[test]
fn after_a_power_cut_at_any_point_everything_synced_is_there() {
    let (count, seed) = (number("CUTS", CUTS), number("SEED", 1));
    let counts = Counts::default();
    thread::scope(|scope| {
        for number in 0..POOLS {
            let counts = &counts;
            scope.spawn(move || record_and_cut(count.div_ceil(POOLS), seed * POOLS + number, counts));
        }
    });
    println!(
        "{} cuts, {} of them followed by an import, {} of a recovery",
        counts.cuts.into_inner(),
        counts.imports.into_inner(),
        counts.of_recoveries.into_inner()
    );
}

#[test]
fn a_command_that_makes_or_replaces_files_and_is_cut_off_is_done_again_and_loses_nothing() {
    verbs::record_and_cut(number("CUTS", CUTS) / 5, number("SEED", 1));
}
