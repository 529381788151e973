//! Every order of events in a small pool: two apparatuses, a volume of two chunks that is moved, hosts that read and write meanwhile; a message
//! lost, a message or disk access or step of a process later than any timer, a process killed, each at every place. No state breaks a promise,
//! and every state in which nothing is left to happen is at rest. Wrong protocols are found.
//!
//! The states are counted: a pool has as many as it has, so another number means that the protocol, or what is explored of it, has changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod sim;

use sim::World;
use sim::explore::{Budget, Found, Wish, explore};
use sim::fault::Fault;
use sim::host::What::{Read, Write};
use std::panic::catch_unwind;
use std::time::Instant;

const NONE: Budget = Budget {
    lost: 0,
    killed: 0,
    late: 0,
};
const LOST: Budget = Budget { lost: 1, ..NONE };
const KILLED: Budget = Budget { killed: 1, ..NONE };
const LATE: Budget = Budget { late: 1, ..NONE };

/// The first block of the volume.
const W: Wish = (Write, 0, 1);
const R: Wish = (Read, 0, 1);
/// The last block of the first chunk and the first of the second.
const W2: Wish = (Write, 1, 2);
const R2: Wish = (Read, 1, 2);

/// What the host of each apparatus asks for, and the trouble there may be.
type Pool = (&'static [&'static [Wish]], Budget);

/// More states than a pool may have: a bound on memory.
const MOST: u64 = 3_000_000;

#[test]
fn every_order_of_events_keeps_the_promises() {
    all(&[
        ((&[&[W, R], &[R, W]], NONE), 55_987),
        ((&[&[W2, R2], &[R2]], NONE), 52_358),
        ((&[&[W2], &[]], LOST), 87_602),
        ((&[&[], &[]], LATE), 69_914),
        ((&[&[W], &[]], KILLED), 331_353),
    ]);
}

#[test]
#[ignore = "some minutes, and some gigabytes"]
fn every_order_of_events_in_larger_pools() {
    all(&[
        ((&[&[W], &[]], LATE), 487_942),
        ((&[&[W], &[R, R]], LOST), 1_599_882),
    ]);
}

fn all(pools: &[(Pool, u64)]) {
    for &(pool, states) in pools {
        let begun = Instant::now();
        let found = whole(pool, None, MOST).unwrap_or_else(|why| panic!("{pool:?}: {why}"));
        println!("{pool:?}: {found:?} in {:?}", begun.elapsed());
        assert_eq!(found.states, states, "{pool:?}");
    }
}

fn whole((wishes, budget): Pool, fault: Option<Fault>, most: u64) -> Result<Found, String> {
    explore(World::small(wishes, fault), budget, most)
}

/// Where the explorer finds which fault.
const FAULTS: [(Fault, Pool); 11] = [
    (Fault::ReleaseEarly, (&[&[W], &[R]], NONE)),
    (Fault::FreeAtOnce, (&[&[W], &[R]], NONE)),
    (Fault::CopyWithoutHold, (&[&[W], &[R]], NONE)),
    (Fault::NoDrain, (&[&[W], &[R]], NONE)),
    (Fault::HoldTooWide, (&[&[W], &[R]], NONE)),
    (Fault::CopyTwice, (&[&[W], &[R]], NONE)),
    (Fault::NoFenceCheck, (&[&[W], &[R]], LOST)),
    (Fault::WordNotSet, (&[&[W], &[R]], LOST)),
    (Fault::NoQuarantine, (&[&[W], &[]], LOST)),
    (Fault::RejoinWithoutDrain, (&[&[W], &[]], LOST)),
    (Fault::ReopenByClock, (&[&[W], &[R]], LATE)),
];

#[test]
fn wrong_protocols_are_found() {
    let lived = FAULTS.iter().filter(|&&(fault, pool)| lives(fault, pool));
    let lived: Vec<_> = lived.map(|(fault, _)| fault).collect();
    assert!(lived.is_empty(), "not found: {lived:?}");
}

/// Whether nothing shows the fault: no check that fails, no machine's door that does not open.
fn lives(fault: Fault, pool: Pool) -> bool {
    let Ok(result) = catch_unwind(|| whole(pool, Some(fault), MOST)) else {
        return false;
    };
    let why = result.err().filter(|why| !why.starts_with("more than"));
    let why = why.filter(|why| fault.breaks().is_none_or(|promise| why.starts_with(promise)));
    println!(
        "{fault:?}: {}",
        why.as_deref()
            .unwrap_or("lives")
            .lines()
            .next()
            .unwrap_or_default()
    );
    why.is_none()
}
