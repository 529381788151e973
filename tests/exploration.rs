//! Every order of events in a small pool: one apparatus or two, a volume of one chunk or two that is moved, hosts that read, write and flush
//! meanwhile; a message lost or delivered twice, a message or disk access or step of a process later than any timer, a process killed, power
//! lost, each at every place; and two of these in the smallest pools. No state breaks a promise, and every state in which nothing is left to happen
//! is at rest. Wrong protocols are found.
//!
//! The states are counted: a pool has as many as it has, so another number means that the protocol, or what is explored of it, has changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod sim;

use sim::World;
use sim::explore::{Budget, Found, HostRequest, explore};
use sim::fault::Fault;
use sim::host::What::{Flush, Read, Write};
use std::panic::catch_unwind;
use std::time::Instant;

const NONE: Budget = Budget {
    lost: 0,
    killed: 0,
    late: 0,
    doubled: 0,
    power: 0,
};
const LOST: Budget = Budget { lost: 1, ..NONE };
const KILLED: Budget = Budget { killed: 1, ..NONE };
const LATE: Budget = Budget { late: 1, ..NONE };
const DOUBLED: Budget = Budget { doubled: 1, ..NONE };
const POWER: Budget = Budget { power: 1, ..NONE };
const LOST_AND_KILLED: Budget = Budget { lost: 1, ..KILLED };
const KILLED_TWICE: Budget = Budget { killed: 2, ..NONE };

/// The first block of the volume.
const W: HostRequest = (Write, 0, 1);
const R: HostRequest = (Read, 0, 1);
/// The last block of the first chunk and the first of the second.
const W2: HostRequest = (Write, 1, 2);
const R2: HostRequest = (Read, 1, 2);
const F: HostRequest = (Flush, 0, 1);

/// What the host of each apparatus asks for, how many chunks are moved, and the trouble there may be.
type Pool = (&'static [&'static [HostRequest]], u64, Budget);

/// More states than a pool may have: a bound on memory.
const MOST: u64 = 6_000_000;

#[test]
fn every_order_of_events_keeps_the_promises() {
    all(&[
        ((&[&[W, R], &[R, W]], 2, NONE), 55_987),
        ((&[&[W2, R2], &[R2]], 2, NONE), 52_358),
        ((&[&[W2], &[]], 2, LOST), 102_826),
        ((&[&[], &[]], 2, LATE), 83_232),
        ((&[&[W], &[]], 2, KILLED), 286_501),
        ((&[&[W], &[R]], 2, DOUBLED), 169_569),
    ]);
}

#[test]
fn two_troubles_at_once_keep_the_promises() {
    all(&[
        ((&[&[], &[]], 1, LOST_AND_KILLED), 216_947),
        ((&[&[], &[]], 1, KILLED_TWICE), 531_416),
        ((&[&[W]], 1, KILLED_TWICE), 131_402),
        ((&[&[W]], 1, LOST_AND_KILLED), 46_362),
    ]);
}

/// A chunk is copied while the hosts go on, and then what they have written meanwhile.
#[test]
fn every_order_of_a_copy_ahead_keeps_the_promises() {
    let pools: [(Pool, u64); 4] = [
        ((&[&[W, W], &[R]], 1, NONE), 8_667),
        ((&[&[W], &[]], 1, LATE), 74_642),
        ((&[&[W], &[]], 1, KILLED), 312_378),
        ((&[&[W], &[]], 1, LOST), 10_909),
    ];
    check(&pools, &|(asks, chunks, budget)| {
        explore(World::small_ahead(asks, chunks, None), budget, MOST)
    });
}

#[test]
fn power_loss_at_every_step_keeps_the_promises() {
    all(&[
        ((&[&[], &[]], 2, POWER), 93_223),
        ((&[&[W2, F, R2]], 2, POWER), 226_142),
        ((&[&[W, F], &[]], 1, POWER), 611_074),
    ]);
}

#[test]
#[ignore = "some minutes, and some gigabytes"]
fn every_order_of_events_in_larger_pools() {
    all(&[
        ((&[&[W], &[]], 2, LATE), 580_940),
        ((&[&[W], &[R, R]], 2, LOST), 1_809_672),
        ((&[&[W2, R2], &[R2]], 2, DOUBLED), 1_514_847),
    ]);
}

#[test]
#[ignore = "some minutes, and some gigabytes"]
fn two_troubles_at_once_in_larger_pools() {
    all(&[
        ((&[&[W], &[]], 1, LOST_AND_KILLED), 1_421_579),
        ((&[&[W], &[]], 1, KILLED_TWICE), 4_529_311),
    ]);
}

#[test]
#[ignore = "some minutes, and some gigabytes"]
fn power_loss_at_every_step_in_larger_pools() {
    all(&[((&[&[W], &[F]], 1, POWER), 1_198_348)]);
}

fn all(pools: &[(Pool, u64)]) {
    check(pools, &|pool| whole(pool, None, MOST));
}

fn check(pools: &[(Pool, u64)], explored: &dyn Fn(Pool) -> Result<Found, String>) {
    let mut other = Vec::new();
    for &(pool, states) in pools {
        let begun = Instant::now();
        let found = explored(pool).unwrap_or_else(|why| panic!("{pool:?}: {why}"));
        println!("{pool:?}: {found:?} in {:?}", begun.elapsed());
        if found.states != states {
            other.push((pool, states, found.states));
        }
    }
    assert!(other.is_empty(), "other numbers of states: {other:?}");
}

fn whole((asks, chunks, budget): Pool, fault: Option<Fault>, most: u64) -> Result<Found, String> {
    explore(World::small(asks, chunks, fault), budget, most)
}

/// Where the explorer finds which fault.
const FAULTS: [(Fault, Pool); 19] = [
    (Fault::ReleaseEarly, (&[&[W], &[R]], 2, NONE)),
    (Fault::FreeAtOnce, (&[&[W], &[R]], 2, NONE)),
    (Fault::CopyWithoutHold, (&[&[W], &[R]], 2, NONE)),
    (Fault::NoDrain, (&[&[W], &[R]], 2, NONE)),
    (Fault::HoldTooWide, (&[&[W], &[R]], 2, NONE)),
    (Fault::ReadsHeld, (&[&[W], &[R]], 1, NONE)),
    (Fault::CopyTwice, (&[&[W], &[R]], 2, NONE)),
    (Fault::PersistInHold, (&[&[W], &[R]], 1, NONE)),
    (Fault::ApplyBeforeCommit, (&[&[W], &[R]], 1, NONE)),
    (Fault::NoFenceCheck, (&[&[W], &[R]], 2, LOST)),
    (Fault::WordNotSet, (&[&[W], &[R]], 2, LOST)),
    (Fault::NoQuarantine, (&[&[W], &[]], 2, LOST)),
    (Fault::RejoinWithoutDrain, (&[&[W], &[]], 2, LOST)),
    (Fault::ReopenAlone, (&[&[W], &[R]], 1, LOST)),
    (Fault::ReopenByClock, (&[&[W], &[R]], 2, LATE)),
    (Fault::JoinerDoesNotWait, (&[&[W], &[R]], 1, KILLED)),
    (Fault::FlushBeforePersist, (&[&[W, F]], 1, POWER)),
    (Fault::PersistWithoutFlush, (&[&[W, F]], 1, POWER)),
    (Fault::BootIgnored, (&[&[W, F]], 1, POWER)),
];

#[test]
fn wrong_protocols_are_found() {
    let lived = FAULTS.iter().filter(|&&(fault, pool)| lives(fault, pool));
    let lived: Vec<_> = lived.map(|(fault, _)| fault).collect();
    assert!(lived.is_empty(), "not found: {lived:?}");
}

#[test]
fn a_note_that_does_not_drain_is_found() {
    let world = World::small_ahead(&[&[W], &[R]], 1, Some(Fault::NoteWithoutDrain));
    let why = explore(world, NONE, MOST).unwrap_err();
    assert!(why.starts_with("not linearizable"), "{why}");
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
