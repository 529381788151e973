//! Each deliberate fault of the protocol is caught by the simulation within a bounded number of seeds; a fault that nothing catches
//! fails the test, for then the checks are worth less than they look.

mod sim;

use sim::fault::Fault;

#[test]
fn every_fault_is_caught() {
    let mut uncaught = Vec::new();
    for fault in Fault::ALL {
        let begun = std::time::Instant::now();
        let caught = (0..3000).find_map(|seed| match std::panic::catch_unwind(|| sim::run::run(seed, Some(fault))) {
            Ok(result) => result.err(),
            Err(_) => Some(format!("seed {seed}: panicked")),
        });
        match caught {
            Some(why) => println!("{fault:?}: {} ({:?})", why.lines().next().unwrap_or_default(), begun.elapsed()),
            None => uncaught.push(fault),
        }
    }
    assert!(uncaught.is_empty(), "not caught: {uncaught:?}");
}
