//! Requests that a lapsed lease parks.

use super::*;

/// Far enough for a test, by any clock.
const FAR: u64 = u64::MAX / 2;

fn renew(rig: &Rig) {
    rig.entry.set_lease(FAR);
    rig.apparatus.control().renewed();
}

#[test]
fn while_its_lease_has_run_out_an_apparatus_acknowledges_nothing_and_then_goes_on_in_the_same_life() {
    let mut rig = Rig::new(limits());
    rig.hold(1, 0, 100, HoldMode::Writes);
    rig.entry.set_lease(0);
    rig.write(1, 200, b"abc");
    rig.read(2, 200, 3);
    rig.ask(3, Operation::Flush);
    rig.write(4, 0, b"held");
    rig.nothing_received();
    assert!(!rig.entry.is_fenced(), "it is the same life");
    renew(&rig);
    assert_eq!(rig.answer(1), Received::Written(3));
    assert_eq!(rig.answer(2), Received::Data(b"abc".to_vec()));
    assert_eq!(rig.answer(3), Received::Done);
    rig.nothing_received();
    rig.apparatus.control().release(ChangeId(1));
    assert_eq!(rig.answer(4), Received::Written(4));
}

#[test]
fn a_write_and_a_read_whose_lease_runs_out_at_their_disk_are_not_acknowledged() {
    let operations: [fn() -> Operation<'static>; 2] = [
        || write(0, b"abc"),
        || Operation::Read {
            at: VolumeOffset(0),
            len: 3,
        },
    ];
    for (operation, on) in operations.into_iter().zip([On::Write, On::Read]) {
        let (mut rig, [faults, _]) = Rig::faulty(limits());
        fences::at_its_disk(&rig, &faults, on, operation(), || rig.entry.set_lease(0));
        rig.nothing_received();
        renew(&rig);
        assert!(!matches!(rig.answer(1), Received::Failed(_)));
    }
}

#[test]
fn a_fence_while_the_lease_has_run_out_leads_to_a_rejoin() {
    let mut rig = Rig::new(limits());
    rig.entry.set_lease(0);
    rig.write(1, 0, b"abc");
    rig.fence();
    rig.write(2, 10, b"abc");
    rig.rejoin();
    rig.nothing_received();
    renew(&rig);
    assert_eq!(
        (rig.answer(1), rig.answer(2)),
        (Received::Written(3), Received::Written(3))
    );
}
