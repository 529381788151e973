use super::*;
use uuid::Uuid;

const L: u64 = USUAL_US;

fn name(text: &str) -> Name {
    Name::new("node", text).unwrap()
}

fn boot(number: u128) -> CacheEpoch {
    CacheEpoch(Uuid::from_u128(number))
}

#[test]
fn a_lease_counts_from_before_its_renewal_was_sent() {
    let mut lease = Lease::new(L);
    assert_eq!(lease.standing(0), Standing::Lapsed);
    let renewal = Lease::renewal(100);
    // However late the answer is.
    lease.renewed(renewal);
    assert_eq!(lease.valid_until_us(), 100 + L);
    assert_eq!(lease.standing(99 + L), Standing::Valid);
    assert_eq!(lease.standing(100 + L), Standing::Lapsed);
}

#[test]
fn a_late_answer_never_shortens_a_lease() {
    let mut lease = Lease::new(L);
    let (first, second) = (Lease::renewal(100), Lease::renewal(200));
    lease.renewed(second);
    lease.renewed(first);
    assert_eq!(lease.valid_until_us(), 200 + L);
}

#[test]
fn a_lapsed_lease_is_renewed_and_a_fenced_one_is_not() {
    let mut lease = Lease::new(L);
    lease.renewed(Lease::renewal(0));
    assert_eq!(lease.standing(2 * L), Standing::Lapsed);
    lease.renewed(Lease::renewal(2 * L));
    assert_eq!(lease.standing(2 * L), Standing::Valid);
    lease.fenced();
    lease.renewed(Lease::renewal(2 * L + 1));
    assert_eq!(
        (lease.standing(2 * L), lease.valid_until_us()),
        (Standing::Fenced, 0)
    );
}

#[test]
fn whoever_fences_waits_longer_than_the_lease_on_a_clock_that_is_two_percent_slower() {
    for length in [SHORTEST_US, USUAL_US, LONGEST_US] {
        let until = lease_has_run_out_us(500, length);
        assert_eq!(until, 500 + length + length / 50 + 1_000_000);
    }
    assert_eq!(lease_has_run_out_us(u64::MAX - 1, L), u64::MAX);
}

#[test]
fn reads_end_at_the_apparatus_before_the_controller_counts_on_it() {
    let grace = ReadGrace::of_hold(1000, 500_000);
    assert!(grace.admits(500_999) && !grace.admits(501_000));
    assert_eq!(grace.until_us(), 501_000);
    assert_eq!(ReadGrace::is_over_us(1000, 500_000), 1000 + 510_000 + 50_000);
    assert!(!ReadGrace::of_hold(5, 0).admits(5));
}

#[test]
fn a_life_has_ended_by_what_concerns_it_alone() {
    let life = Life {
        incarnation: Incarnation(7),
        node: name("n1"),
        boot: boot(1),
    };
    let ended = |evidence: Evidence| has_ended(&life, [&evidence]);
    let process = |node, epoch| Evidence::ProcessEnded {
        node: name(node),
        boot: boot(epoch),
    };
    assert!(ended(process("n1", 1)));
    assert!(!ended(process("n2", 1)) && !ended(process("n1", 2)));
    let booted = |node, epoch, has_opened_disks| Evidence::Booted {
        node: name(node),
        boot: boot(epoch),
        has_opened_disks,
    };
    assert!(ended(booted("n1", 2, true)));
    assert!(!ended(booted("n1", 2, false)), "its old session may still write");
    assert!(!ended(booted("n1", 1, true)), "the same boot");
    assert!(!ended(booted("n2", 2, true)), "the boot of another node");
    let off = |node, epoch| Evidence::ConfirmedOff {
        node: name(node),
        boot: boot(epoch),
    };
    assert!(ended(off("n1", 1)));
    assert!(!ended(off("n2", 1)) && !ended(off("n1", 2)));
    assert!(ended(Evidence::Rejoined(Incarnation(8))));
    assert!(!ended(Evidence::Rejoined(Incarnation(7))));
    assert!(ended(Evidence::PreemptedEverywhere));
    assert!(!ended(Evidence::LeaseRanOut));
    assert!(!has_ended(&life, []));
}
