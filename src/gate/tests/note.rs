//! Notes of writes.

use super::*;

const X: ChangeId = ChangeId(5);
const REGION: u64 = 64 << 10;

#[test]
fn a_note_parks_nothing_and_has_every_write_that_was_not_drained() {
    let (gate, waker) = gate();
    let early = pass(&gate, span(0, REGION), Access::Write);
    let elsewhere = pass(&gate, span(9 * REGION, 9 * REGION + 1), Access::Write);
    assert!(gate.note(X, &[span(0, 4 * REGION)]));
    assert!(gate.note(X, &[span(0, 4 * REGION)]), "it is idempotent");
    assert!(matches!(
        gate.drained(X),
        Some(Drain::Waiting { in_flight: 1, .. })
    ));
    drop(early);
    assert!(waker.0.load(Ordering::SeqCst) > 0, "the drain is woken");
    assert_eq!(gate.drained(X), Some(Drain::Done));
    assert_eq!(gate.written(X), Some(vec![]), "what was drained is not noted");
    drop(pass(&gate, span(0, REGION), Access::Read));
    drop(pass(&gate, span(2 * REGION + 1, 2 * REGION + 2), Access::Write));
    assert_eq!(gate.written(X), Some(vec![span(2 * REGION, 3 * REGION)]));
    drop(elsewhere);
}

#[test]
fn a_note_goes_on_under_the_hold_of_its_change_and_ends_with_it() {
    let (gate, _) = gate();
    assert!(gate.note(X, &[span(0, 2 * REGION)]));
    let write = pass(&gate, span(0, 1), Access::Write);
    assert!(gate.hold(X, &[span(0, 2 * REGION)], HoldMode::Writes));
    assert!(
        matches!(gate.drained(X), Some(Drain::Waiting { .. })),
        "it is drained by the hold"
    );
    drop(write);
    assert!(is_held(&gate, span(REGION, REGION + 1), Access::Write));
    assert_eq!(gate.drained(X), Some(Drain::Done));
    assert_eq!(
        gate.written(X),
        Some(vec![span(0, REGION)]),
        "what is parked has not been written"
    );
    assert!(gate.release(X).requests.is_empty());
    assert_eq!(gate.written(X), None);
    assert!(!is_held(&gate, span(0, 1), Access::Write));
}

#[test]
fn a_note_ends_alone_with_a_fence_and_with_a_release_that_came_before_its_hold() {
    type End = fn(&Gate<Item>);
    let ends: [End; 3] = [
        |gate| gate.end_note(X),
        |gate| drop(gate.release(X).requests),
        |gate| gate.close(),
    ];
    for end in ends {
        let (gate, _) = gate();
        let write = pass(&gate, span(0, 1), Access::Write);
        assert!(gate.note(X, &[span(0, 1)]));
        end(&gate);
        assert_eq!((gate.written(X), gate.drained(X)), (None, None));
        drop(write);
    }
}

#[test]
fn a_change_without_a_note_has_no_answer_and_there_are_so_many_notes_and_no_more() {
    let (gate, _) = gate();
    assert!(gate.hold(X, &[span(0, 1)], HoldMode::Writes));
    assert_eq!(gate.written(X), None);
    assert!(gate.note(ChangeId(6), &[span(0, 1)]) && gate.note(ChangeId(7), &[span(0, 1)]));
    assert!(!gate.note(ChangeId(8), &[span(0, 1)]));
    gate.end_note(ChangeId(6));
    assert!(gate.note(ChangeId(8), &[span(0, 1)]));
}

/// Threads write and set their word afterwards; the note that is placed meanwhile has each write that was not drained by it.
#[test]
fn no_write_slips_past_a_note() {
    const THREADS: usize = 3;
    let bounds = Bounds {
        lanes: 2 * THREADS,
        ..BOUNDS
    };
    let gate: Gate<Item> = Gate::new(bounds, Arc::new(Waker::default()));
    let rounds = 200;
    let began: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (index, began) in began.iter().enumerate() {
            let (gate, stop) = (&gate, &stop);
            let own = span(index as u64 * REGION, index as u64 * REGION + 1);
            scope.spawn(move || {
                let mut lane = gate.lane().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if let Entry::Open(pass) = gate.enter(&mut lane, own, Access::Write, G) {
                        began.fetch_add(1, Ordering::SeqCst);
                        drop(pass);
                    }
                }
            });
        }
        for round in 0..rounds {
            let id = ChangeId(round + 1);
            assert!(gate.note(id, &[span(0, THREADS as u64 * REGION)]));
            while gate.drained(id) != Some(Drain::Done) {
                std::thread::yield_now();
            }
            let before: Vec<u64> = began.iter().map(|began| began.load(Ordering::SeqCst)).collect();
            std::thread::yield_now();
            assert!(gate.hold(id, &[span(0, THREADS as u64 * REGION)], HoldMode::Writes));
            while gate.drained(id) != Some(Drain::Done) {
                std::thread::yield_now();
            }
            let written = gate.written(id).unwrap();
            for (index, (began, before)) in began.iter().zip(before).enumerate() {
                let own = span(index as u64 * REGION, index as u64 * REGION + 1);
                let noted = written.iter().any(|range| range.overlaps(&own));
                assert!(
                    noted || began.load(Ordering::SeqCst) == before,
                    "round {round}, thread {index}"
                );
            }
            drop(gate.release(id).requests);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
