//! Runs of the model: the protocol passes, and each deliberate fault is caught.

use super::*;

/// Most seeds that a fault may need.
const FOCUSED: u64 = 20_000;

fn found_after(fault: Fault) -> Option<u64> {
    let found = (0..FOCUSED).find(|&seed| Model::new(seed, Some(fault)).run().0.is_err());
    println!("{fault:?} is caught by seed {found:?}");
    found
}

#[test]
fn the_protocol_passes_and_meets_what_it_is_for() {
    let mut met: BTreeMap<Met, u64> = BTreeMap::new();
    for seed in 0..2000 {
        let (result, seen) = Model::new(seed, None).run();
        assert_eq!(result, Ok(()), "seed {seed}");
        for (what, count) in seen {
            *met.entry(what).or_default() += count;
        }
    }
    use Met::*;
    for what in [
        Moved,
        MovedAfterWait,
        MovedAhead,
        SilentAtHold,
        SilentAtApply,
        ByNeighbour,
        Lapsed,
        WentOnAfterLapse,
        LateWrite,
        LateCopy,
        TookOver,
        Tainted,
        Reused,
        ReusedAfterBoot,
    ] {
        assert!(met.contains_key(&what), "not met: {what:?} in {met:?}");
    }
}

/// Prints the events of a run: `SEED=7 cargo test --lib lease::model::tests::one_seed -- --nocapture`.
#[test]
fn one_seed() {
    let seed = std::env::var("SEED").ok();
    let mut model = Model::new(seed.as_ref().map_or(0, |seed| seed.parse().unwrap()), None);
    model.traces = seed.is_some();
    assert_eq!(model.run().0, Ok(()));
}

macro_rules! caught {
    ($($test:ident: $fault:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            assert!(found_after(Fault::$fault).is_some(), "{:?} is not caught", Fault::$fault);
        })*
    };
}

caught! {
    a_lease_from_the_reply_is_caught: LeaseFromReply,
    a_look_before_only_is_caught: LookBeforeOnly,
    a_read_s_look_before_only_is_caught: ReadLookBeforeOnly,
    resting_at_once_is_caught: RestAtOnce,
    a_wait_from_silence_is_caught: WaitFromSilence,
    ignored_drift_is_caught: DriftIgnored,
    a_hidden_pause_fails_as_documented: HiddenPause,
    a_lapse_as_death_is_caught: LapseIsDeath,
    the_boot_of_another_is_caught: BootOfAnother,
    an_ignored_grace_is_caught: GraceIgnored,
    a_grace_from_the_hold_is_caught: GraceFromHold,
    a_missing_taint_is_caught: NoTaint,
    a_copy_ahead_with_a_late_writer_is_caught: AheadWithLateWriter,
    given_up_by_another_is_caught: GivenUpByAnother,
}
