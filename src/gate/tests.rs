//! The gate's guarantees, tested with one thread at a time. `stress` uses many.

mod note;
mod order;
mod stress;

use super::*;
use crate::model::units::{VolumeId, VolumeOffset};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the signals.
#[derive(Default)]
struct Waker(AtomicU64);

impl Signal for Waker {
    fn lane_left(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, PartialEq)]
struct Item(u32, u64);

impl Parkable for Item {
    fn bytes(&self) -> u64 {
        self.1
    }
}

const BOUNDS: Bounds = Bounds {
    lanes: 4,
    parked_bytes: 100,
    parked: 3,
    holds: 2,
};
const G: Generation = Generation(7);

fn gate() -> (Gate<Item>, Arc<Waker>) {
    let waker = Arc::new(Waker::default());
    (Gate::new(BOUNDS, Arc::clone(&waker) as Arc<dyn Signal>), waker)
}

fn span(start: u64, end: u64) -> Span {
    Span {
        volume: VolumeId(1),
        start: VolumeOffset(start),
        end: VolumeOffset(end),
    }
}

fn pass(gate: &Gate<Item>, span: Span, access: Access) -> OwnedPass {
    let (mut lane, fresh) = (
        gate.lane().expect("a lane is free"),
        gate.lane().expect("a lane is free"),
    );
    match gate.enter(&mut lane, span, access, G) {
        Entry::Open(pass) => pass.into_owned(fresh),
        Entry::Held => panic!("{span:?} is held"),
    }
}

fn is_held(gate: &Gate<Item>, span: Span, access: Access) -> bool {
    let mut lane = gate.lane().expect("a lane is free");
    matches!(gate.enter(&mut lane, span, access, G), Entry::Held)
}

#[test]
fn lanes_are_bounded_and_recycled() {
    let (gate, _) = gate();
    let mut lanes: Vec<_> = (0..4).map(|_| gate.lane().unwrap()).collect();
    assert!(gate.lane().is_none());
    drop(lanes.pop());
    let mut lane = gate.lane().unwrap();
    let Entry::Open(pass) = gate.enter(&mut lane, span(0, 1), Access::Read, G) else {
        panic!()
    };
    assert_eq!(gate.counts().in_flight, 1);
    drop(pass);
    assert_eq!(gate.counts().in_flight, 0);
    assert!(gate.lane().is_none());
    drop(lane);
    assert!(gate.lane().is_some());
}

#[test]
fn a_hold_stops_only_what_overlaps_and_a_write_hold_only_writes() {
    let (gate, _) = gate();
    assert!(gate.hold(ChangeId(1), &[span(10, 20)], HoldMode::Writes));
    assert!(is_held(&gate, span(19, 21), Access::Write));
    assert!(!is_held(&gate, span(19, 21), Access::Read));
    assert!(!is_held(&gate, span(20, 30), Access::Write));
    assert!(
        !is_held(&gate, span(15, 15), Access::Write),
        "an empty range overlaps nothing"
    );
    assert!(gate.hold(ChangeId(2), &[span(30, 40)], HoldMode::All));
    assert!(is_held(&gate, span(35, 36), Access::Read));
    assert!(
        !gate.hold(ChangeId(3), &[span(50, 60)], HoldMode::All),
        "a third one is too many"
    );
    assert!(
        gate.hold(ChangeId(2), &[span(50, 60)], HoldMode::All),
        "a repeated one is the same one"
    );
    assert!(!is_held(&gate, span(50, 60), Access::Read));
    assert!(gate.release(ChangeId(1)).requests.is_empty());
    assert!(!is_held(&gate, span(10, 20), Access::Write));
}

#[test]
fn a_drain_waits_for_those_inside_and_each_of_them_signals() {
    let (gate, waker) = gate();
    let inside = pass(&gate, span(10, 20), Access::Write);
    let beside = pass(&gate, span(20, 30), Access::Write);
    let reading = pass(&gate, span(10, 20), Access::Read);
    assert!(gate.hold(ChangeId(1), &[span(10, 20)], HoldMode::Writes));
    let Some(Drain::Waiting {
        in_flight, oldest, ..
    }) = gate.drained(ChangeId(1))
    else {
        panic!()
    };
    assert_eq!((in_flight, oldest), (1, span(10, 20)));
    drop(beside);
    drop(reading);
    assert_eq!(waker.0.load(Ordering::SeqCst), 0, "no drain waits for those");
    let mut lane = std::thread::spawn(move || inside.leave()).join().unwrap();
    assert_eq!(waker.0.load(Ordering::SeqCst), 1);
    assert!(matches!(
        gate.enter(&mut lane, span(10, 20), Access::Write, G),
        Entry::Held
    ));
    assert_eq!(gate.drained(ChangeId(1)), Some(Drain::Done));
    let Entry::Open(later) = gate.enter(&mut lane, span(30, 40), Access::Write, G) else {
        panic!()
    };
    assert_eq!(gate.drained(ChangeId(1)), Some(Drain::Done));
    assert_eq!(gate.drained(ChangeId(2)), None);
    drop(later);
    assert_eq!(waker.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_lane_s_later_request_is_not_taken_for_its_earlier_one() {
    let (gate, _) = gate();
    let early = pass(&gate, span(10, 20), Access::Write);
    assert!(gate.hold(ChangeId(1), &[span(0, 15)], HoldMode::Writes));
    let mut lane = early.leave();
    let Entry::Open(later) = gate.enter(&mut lane, span(15, 20), Access::Write, G) else {
        panic!()
    };
    assert_eq!(gate.drained(ChangeId(1)), Some(Drain::Done));
    assert!(gate.hold(ChangeId(2), &[span(19, 25)], HoldMode::Writes));
    assert!(matches!(
        gate.drained(ChangeId(2)),
        Some(Drain::Waiting { in_flight: 1, .. })
    ));
    drop(later);
    assert_eq!(gate.drained(ChangeId(2)), Some(Drain::Done));
}

#[test]
fn the_oldest_is_the_one_seen_first() {
    let (gate, _) = gate();
    let early = pass(&gate, span(40, 50), Access::Write);
    assert_eq!(gate.counts().in_flight, 1);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2) {}
    let _late = pass(&gate, span(10, 20), Access::Write);
    assert!(gate.hold(ChangeId(1), &[span(0, 100)], HoldMode::Writes));
    let Some(Drain::Waiting {
        in_flight: 2,
        oldest,
        age,
    }) = gate.drained(ChangeId(1))
    else {
        panic!()
    };
    assert_eq!(oldest, span(40, 50));
    assert!(age >= Duration::from_millis(2), "{age:?}");

    let lasting = gate.lasting(age);
    assert_eq!(lasting.len(), 1);
    assert_eq!(lasting[0].0, span(40, 50));
    assert!(lasting[0].1 >= age);
    assert_eq!(gate.lasting(Duration::ZERO).len(), 2);
    drop(early);
    assert_eq!(gate.lasting(age).len(), 0);
}

#[test]
fn parking_is_bounded_and_names_the_holds_that_must_end() {
    let (gate, _) = gate();
    let request = span(10, 20);
    assert!(matches!(
        gate.park(Item(0, 1), request, Access::Write),
        Parked::Retry(Item(0, 1))
    ));
    assert!(gate.hold(ChangeId(1), &[request], HoldMode::Writes));
    assert!(gate.hold(ChangeId(2), &[span(0, 12)], HoldMode::Writes));
    assert!(matches!(
        gate.park(Item(1, 60), request, Access::Write),
        Parked::Waits
    ));
    let Parked::Full(item, holds) = gate.park(Item(2, 60), request, Access::Write) else {
        panic!()
    };
    assert_eq!((item, holds), (Item(2, 60), vec![ChangeId(1), ChangeId(2)]));
    for n in 3..5 {
        assert!(matches!(
            gate.park(Item(n, 1), request, Access::Write),
            Parked::Waits
        ));
    }
    assert!(
        matches!(gate.park(Item(5, 1), span(15, 16), Access::Write), Parked::Full(_, holds) if holds == [ChangeId(1)])
    );
    let counts = gate.counts();
    assert_eq!(
        (
            counts.parked,
            counts.parked_bytes,
            counts.holds,
            counts.ever_parked
        ),
        (3, 62, 2, 3)
    );
    assert_eq!(gate.parked_by_volume(), [(request.volume, 3)].into());
    assert!(gate.release(ChangeId(1)).requests.is_empty());
    let freed: Vec<u32> = gate
        .release(ChangeId(2))
        .requests
        .iter()
        .map(|item| item.0)
        .collect();
    assert_eq!(freed, [1, 3, 4]);
}

/// A thread that serves requests sees the fence first; the control thread places a hold before it sees the fence too.
#[test]
fn a_hold_placed_on_a_closed_gate_ends_when_it_is_closed_again() {
    let (gate, _waker) = gate();
    gate.close();
    assert!(gate.hold(ChangeId(1), &[span(0, 10)], HoldMode::Writes));
    assert!(matches!(
        gate.park(Item(1, 1), span(0, 10), Access::Write),
        Parked::Waits
    ));
    gate.close();
    assert_eq!(gate.drained(ChangeId(1)), None);
    assert_eq!(gate.emptied(), Some(Drain::Done));
    assert_eq!(gate.open().requests.len(), 1);
    assert_eq!(gate.counts().holds, 0);
}

#[test]
fn a_closed_gate_empties_parks_everything_and_releases_it_when_opened() {
    let (gate, waker) = gate();
    assert_eq!(gate.emptied(), None);
    let inside = pass(&gate, span(0, 0), Access::Read);
    assert!(gate.hold(ChangeId(1), &[span(0, 10)], HoldMode::Writes));
    assert!(matches!(
        gate.park(Item(1, 1), span(0, 10), Access::Write),
        Parked::Waits
    ));
    gate.close();
    gate.close();
    assert_eq!(gate.drained(ChangeId(1)), None, "holds are gone");
    assert!(is_held(&gate, span(50, 50), Access::Read));
    assert!(matches!(
        gate.emptied(),
        Some(Drain::Waiting { in_flight: 1, .. })
    ));
    assert!(matches!(
        gate.park(Item(2, 1), span(0, 0), Access::Read),
        Parked::Waits
    ));
    let before = waker.0.load(Ordering::SeqCst);
    drop(inside);
    assert_eq!(waker.0.load(Ordering::SeqCst), before + 1);
    assert_eq!(gate.emptied(), Some(Drain::Done));
    assert!(gate.release(ChangeId(1)).requests.is_empty());
    assert_eq!(gate.open().requests, [Item(1, 1), Item(2, 1)]);
    assert_eq!(gate.emptied(), None);
    assert!(!is_held(&gate, span(0, 10), Access::Write));
}

#[test]
fn a_paused_gate_parks_everything_and_keeps_its_holds() {
    let (gate, _) = gate();
    assert!(gate.hold(ChangeId(1), &[span(0, 10)], HoldMode::Writes));
    assert!(gate.note(ChangeId(2), &[span(0, 10)]));
    assert!(gate.resume().is_none(), "it is not paused");
    gate.pause();
    gate.pause();
    for (item, span) in [
        (Item(1, 1), span(0, 10)),
        (Item(2, 1), span(20, 30)),
        (Item(3, 1), span(0, 0)),
    ] {
        assert!(is_held(&gate, span, Access::Write));
        assert!(matches!(gate.park(item, span, Access::Write), Parked::Waits));
    }
    assert_eq!(
        gate.drained(ChangeId(1)),
        Some(Drain::Done),
        "the hold is in place"
    );
    assert_eq!(gate.written(ChangeId(2)), Some(vec![]), "and so is the note");
    assert_eq!(gate.resume().unwrap().requests, [Item(2, 1), Item(3, 1)]);
    assert!(is_held(&gate, span(0, 10), Access::Write) && !is_held(&gate, span(20, 30), Access::Write));
    assert_eq!(gate.release(ChangeId(1)).requests, [Item(1, 1)]);
}

#[test]
fn the_end_of_a_hold_releases_nothing_from_a_paused_gate_and_closing_ends_the_pause() {
    let (gate, _) = gate();
    assert!(gate.hold(ChangeId(1), &[span(0, 10)], HoldMode::Writes));
    gate.pause();
    assert!(matches!(
        gate.park(Item(1, 1), span(0, 10), Access::Write),
        Parked::Waits
    ));
    assert!(gate.release(ChangeId(1)).requests.is_empty());
    gate.close();
    assert!(gate.resume().is_none());
    assert!(is_held(&gate, span(0, 10), Access::Write));
    // A request finds the lease run out while the gate is closed: the renewal does not open it.
    gate.pause();
    assert!(gate.resume().unwrap().requests.is_empty());
    assert!(is_held(&gate, span(0, 10), Access::Write));
    assert_eq!(gate.open().requests, [Item(1, 1)]);
}

#[test]
fn the_oldest_generation_is_that_of_a_request_inside() {
    let (gate, _) = gate();
    assert_eq!(gate.oldest(Generation(9)), Generation(9));
    let inside = pass(&gate, span(0, 10), Access::Read);
    assert_eq!(gate.oldest(Generation(9)), G);
    drop(inside);
    assert_eq!(gate.oldest(Generation(9)), Generation(9));
}

#[test]
fn requests_that_waited_too_long_are_returned() {
    let (gate, _) = gate();
    assert!(gate.hold(ChangeId(1), &[span(0, 10)], HoldMode::All));
    assert!(matches!(
        gate.park(Item(1, 1), span(0, 10), Access::Write),
        Parked::Waits
    ));
    assert!(gate.expire(Duration::from_secs(3600)).late.is_empty());
    assert_eq!(gate.expire(Duration::ZERO).late, [Item(1, 1)]);
    assert_eq!(gate.counts().parked, 0);
}
