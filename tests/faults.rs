//! Each deliberate fault of the protocol is caught by the simulation within a bounded number of seeds; a fault that nothing catches
//! fails the test, for then the checks are worth less than they look.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod sim;

use sim::fault::Fault;
use sim::setup::Options;
use std::sync::Mutex;

/// Most seeds that a fault may survive.
const SEEDS: u64 = 20_000;

#[test]
fn every_fault_is_caught() {
    std::panic::set_hook(Box::new(|_| ()));
    let left = Mutex::new(Fault::ALL.to_vec());
    let uncaught = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let Some(fault) = left.lock().unwrap().pop() else {
                return;
            };
            match (0..SEEDS).find_map(|seed| shown(seed, fault)) {
                Some(why) => println!("{fault:?}: {why}"),
                None => uncaught.lock().unwrap().push(fault),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(worker)));
    _ = std::panic::take_hook();
    let uncaught = uncaught.into_inner().unwrap();
    assert!(uncaught.is_empty(), "not caught in {SEEDS} seeds: {uncaught:?}");
}

/// Returns how this seed shows the fault, if it does: a check that fails, or a refused state transition.
fn shown(seed: u64, fault: Fault) -> Option<String> {
    let options = Options {
        fault: Some(fault),
        ..Options::focused(seed, fault)
    };
    match std::panic::catch_unwind(move || sim::run::run(options)) {
        Ok(result) => result
            .err()
            .map(|why| why.lines().next().unwrap_or_default().to_owned())
            .filter(|why| {
                fault
                    .breaks()
                    .is_none_or(|promise| why.contains(&format!("{promise}:")))
            }),
        Err(_) => Some(format!("seed {seed}: an illegal transition")),
    }
}

/// The fault is caught, not the failures among which it is searched for.
#[test]
fn without_the_fault_the_same_runs_are_sound() {
    for fault in Fault::ALL {
        for seed in 0..60 {
            if let Err(why) = sim::run::run(Options::focused(seed, fault)) {
                panic!("looking for {fault:?}: {why}");
            }
        }
    }
}
