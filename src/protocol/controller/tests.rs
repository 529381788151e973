mod noting;
mod order;
mod random;

use super::*;
use crate::model::build;
use crate::model::records::{Delta, Span};
use crate::model::units::{Term, VolumeId};

const X: ChangeId = ChangeId(7);
const A: Slot = Slot(0);
const B: Slot = Slot(1);

fn plan(mode: HoldMode, slots: u32) -> Plan {
    Plan {
        change: NewChange {
            title: "test".into(),
            job: None,
            delta: Delta {
                from: Generation(4),
                edits: Vec::new(),
            },
            spans: vec![Span::whole(VolumeId(1))],
            mode,
        },
        disks: Vec::new(),
        participants: (0..slots).map(who).collect(),
        membership: MembershipVersion(10),
        late_writes: false,
        copies_ahead: false,
        elsewhere: BTreeSet::new(),
        patience: Patience {
            drain_us: 100,
            answer_us: 10,
            hold_us: 1000,
        },
    }
}

fn who(slot: u32) -> Participant {
    Participant {
        slot: Slot(slot),
        incarnation: Incarnation(100 + u64::from(slot)),
    }
}

fn held() -> Answer {
    held_with(Written::All)
}

fn held_with(written: Written) -> Answer {
    Answer::Held { change: X, written }
}

fn applied() -> Answer {
    Answer::Applied {
        change: X,
        generation: Generation(5),
        oldest: Generation(5),
    }
}

fn released(parked: u64, longest_us: u64) -> Answer {
    let oldest = Generation(5);
    Answer::Released {
        change: X,
        parked,
        longest_us,
        oldest,
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused {
        change: Some(X),
        refusal,
    }
}

fn fenced(slot: Slot, version: u64, ended: bool) -> Event {
    Event::Fenced {
        slot,
        version: Some(MembershipVersion(version)),
        ended,
    }
}

/// Returns a machine for two apparatuses that have been asked to hold.
fn holding(mode: HoldMode) -> Controller {
    let (mut machine, first) = Controller::new(plan(mode, 2));
    assert_eq!(first, [Effect::Prepare]);
    machine.on(Event::Prepared(X));
    machine
}

/// Returns a machine for which all hold, the work is done, and the change is committed.
fn applying() -> Controller {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    machine.on(Event::WorkDone);
    machine.on(Event::Committed(Commit::Committed(Generation(5))));
    assert_eq!(machine.state(), State::Applying);
    machine
}

fn sent(effects: &[Effect]) -> Vec<Slot> {
    let slot = |effect: &Effect| match effect {
        Effect::Send(slot, _) => Some(*slot),
        _ => None,
    };
    effects.iter().filter_map(slot).collect()
}

/// The effects of giving up a change of which no commit is under way: these apparatuses are told before the store is asked.
fn given_up_for(slots: &[Slot]) -> Vec<Effect> {
    let release = Request::Release {
        change: X,
        given_up: true,
    };
    let sends = slots.iter().map(|&slot| Effect::Send(slot, release.clone()));
    sends.chain([Effect::Disarm, Effect::Cancel]).collect()
}

fn outcome(effects: &[Effect]) -> Option<&Outcome> {
    effects.iter().find_map(|effect| match effect {
        Effect::Finish(outcome) => Some(outcome),
        _ => None,
    })
}

fn reason(effects: &[Effect]) -> Option<&Reason> {
    match outcome(effects) {
        Some(Outcome::GaveUp { reason, .. }) => Some(reason),
        _ => None,
    }
}

#[test]
fn follows_the_drawing_when_nothing_fails() {
    let (mut machine, _) = Controller::new(plan(HoldMode::Writes, 2));
    let effects = machine.on(Event::Prepared(X));
    assert_eq!(sent(&effects), [A, B]);
    assert_eq!(effects.last(), Some(&Effect::Arm(110)), "drain and answer");
    assert_eq!(machine.on(Event::Answered(A, held())), []);
    assert_eq!(
        machine.on(Event::Answered(B, held())),
        [Effect::Disarm, Effect::Work]
    );
    assert_eq!(
        machine.on(Event::WorkDone),
        [Effect::Commit(MembershipVersion(10))]
    );
    let effects = machine.on(Event::Committed(Commit::Committed(Generation(5))));
    assert_eq!(sent(&effects), [A, B]);
    assert_eq!(machine.on(Event::Answered(B, applied())), []);
    assert_eq!(sent(&machine.on(Event::Answered(A, applied()))), [A, B]);
    assert_eq!(machine.on(Event::Answered(A, released(2, 30))), []);
    let effects = machine.on(Event::Answered(B, released(1, 90)));
    let finished = Outcome::Finished {
        generation: Generation(5),
        fenced: Vec::new(),
        parked: 3,
        longest_us: 90,
    };
    assert_eq!(outcome(&effects), Some(&finished));
    let members = (MembershipVersion(10), vec![who(0), who(1)]);
    assert_eq!(machine.membership(), Some(members));
}

#[test]
fn without_apparatuses_only_the_store_takes_part() {
    let (mut machine, _) = Controller::new(plan(HoldMode::All, 0));
    assert!(machine.on(Event::Prepared(X)).contains(&Effect::Work));
    machine.on(Event::WorkDone);
    let effects = machine.on(Event::Committed(Commit::Committed(Generation(5))));
    assert!(
        matches!(outcome(&effects), Some(Outcome::Finished { .. })),
        "{effects:?}"
    );
}

#[test]
fn a_slow_disk_fences_no_apparatus() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    let slow = Answer::StillDraining {
        change: X,
        in_flight: 3,
        oldest_us: 9,
        disk: "d".into(),
    };
    assert_eq!(machine.on(Event::Answered(B, slow)), given_up_for(&[A, B]));
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert_eq!(sent(&effects), [], "both have been released");
    assert!(matches!(reason(&effects), Some(Reason::Draining { slot: B, .. })));
}

#[test]
fn silent_apparatuses_are_fenced_and_the_change_goes_on_without_them() {
    let mut machine = holding(HoldMode::All);
    machine.on(Event::Answered(A, held()));
    assert_eq!(machine.on(Event::TimedOut(vec![A])), [Effect::Fence(who(1))]);
    assert_eq!(machine.on(Event::TimedOut(vec![])), [], "asked for once");
    assert_eq!(
        machine.on(Event::Answered(B, held())),
        [],
        "too late: the fence is being set"
    );
    assert_eq!(machine.on(fenced(B, 11, false)), [Effect::Disarm, Effect::Work]);
    assert_eq!(
        machine.on(Event::WorkDone),
        [Effect::Commit(MembershipVersion(11))]
    );
    let effects = machine.on(Event::Committed(Commit::Committed(Generation(5))));
    assert_eq!(sent(&effects), [A]);
    machine.on(Event::Answered(A, applied()));
    let effects = machine.on(Event::Answered(A, released(0, 0)));
    assert!(matches!(outcome(&effects), Some(Outcome::Finished { fenced, .. }) if *fenced == [B]));
    assert_eq!(machine.membership(), Some((MembershipVersion(11), vec![who(0)])));
}

#[test]
fn a_disk_that_is_still_being_opened_ends_the_change_without_a_fence() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    let opening = Answer::StillOpening {
        change: X,
        disk: "d".into(),
        waited_us: 9,
    };
    assert_eq!(machine.on(Event::Answered(B, opening)), given_up_for(&[A, B]));
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert!(matches!(reason(&effects), Some(Reason::Opening { slot: B, .. })));
}

#[test]
fn an_apparatus_that_is_alive_and_slow_to_hold_ends_the_change_without_a_fence() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    assert_eq!(machine.on(Event::TimedOut(vec![B])), given_up_for(&[A, B]));
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert!(matches!(reason(&effects), Some(Reason::Slow(B))));
}

/// A plan whose second apparatus is on another node.
fn across_nodes() -> Plan {
    Plan {
        elsewhere: BTreeSet::from([B]),
        ..plan(HoldMode::Writes, 2)
    }
}

#[test]
fn across_nodes_reads_are_held_too_and_a_silent_apparatus_ends_the_change_with_nothing_held() {
    let silences: [fn(&mut Controller) -> Vec<Effect>; 2] = [
        |machine| machine.on(Event::TimedOut(vec![])),
        |machine| machine.on(Event::Lost(B)),
    ];
    for silence in silences {
        let (mut machine, _) = Controller::new(across_nodes());
        let holds = machine.on(Event::Prepared(X));
        let all = |effect: &&Effect| {
            matches!(
                effect,
                Effect::Send(
                    _,
                    Request::Hold {
                        mode: HoldMode::All,
                        ..
                    }
                )
            )
        };
        assert_eq!(holds.iter().filter(all).count(), 2);
        machine.on(Event::Answered(A, held()));
        let effects = silence(&mut machine);
        assert!(
            !effects.iter().any(|effect| matches!(effect, Effect::Fence(_))),
            "{effects:?}"
        );
        assert!(effects.contains(&Effect::Cancel));
        let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
        assert!(matches!(reason(&effects), Some(Reason::Silent(B))));
    }
}

#[test]
fn across_nodes_a_connection_that_was_lost_before_the_hold_holds_nothing() {
    let (mut machine, _) = Controller::new(across_nodes());
    machine.on(Event::Lost(B));
    let effects = machine.on(Event::Prepared(X));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send(_, Request::Hold { .. })))
    );
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert!(matches!(reason(&effects), Some(Reason::Silent(B))));
}

#[test]
fn across_nodes_one_that_is_silent_at_apply_makes_nobody_wait() {
    let (mut machine, _) = Controller::new(across_nodes());
    machine.on(Event::Prepared(X));
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    machine.on(Event::WorkDone);
    machine.on(Event::Committed(Commit::Committed(Generation(5))));
    machine.on(Event::Answered(A, applied()));
    assert_eq!(machine.on(Event::TimedOut(vec![])), [Effect::Fence(who(1))]);
    // The store has the fence; the lease of B may be valid, but B holds all requests of the range.
    let effects = machine.on(fenced(B, 11, false));
    assert!(
        matches!(&effects[..], [Effect::Send(A, Request::Release { .. }), ..]),
        "{effects:?}"
    );
}

#[test]
fn a_silent_apparatus_is_fenced_beside_a_slow_one() {
    let mut machine = holding(HoldMode::All);
    let effects = machine.on(Event::TimedOut(vec![B]));
    assert_eq!(effects, [Effect::Fence(who(0)), Effect::Arm(10)]);
    assert_eq!(machine.on(fenced(A, 11, true)), []);
    assert_eq!(
        machine.on(Event::Answered(B, held())),
        [Effect::Disarm, Effect::Work]
    );
}

#[test]
fn an_apparatus_that_is_alive_and_slow_to_apply_gets_more_time_before_it_is_fenced() {
    let mut machine = applying();
    machine.on(Event::Answered(A, applied()));
    for _ in 0..WAITS {
        assert_eq!(machine.on(Event::TimedOut(vec![B])), [Effect::Arm(10)]);
    }
    let mut patient = machine.clone();
    let effects = patient.on(Event::Answered(B, applied()));
    assert_eq!(sent(&effects), [A, B], "released");
    assert_eq!(machine.on(Event::TimedOut(vec![B])), [Effect::Fence(who(1))]);
}

#[test]
fn a_hold_of_writes_is_given_up_when_a_fenced_apparatus_may_still_write() {
    for (mode, ended, goes_on) in [
        (HoldMode::Writes, false, false),
        (HoldMode::Writes, true, true),
        (HoldMode::All, false, true),
    ] {
        let mut machine = holding(mode);
        machine.on(Event::Answered(A, held()));
        machine.on(Event::Lost(B));
        let effects = machine.on(fenced(B, 11, ended));
        assert_eq!(effects.contains(&Effect::Work), goes_on, "{mode:?} {ended}");
        assert_eq!(effects.contains(&Effect::Cancel), !goes_on);
    }
}

#[test]
fn reads_are_held_while_late_writes_are_possible() {
    let mut plan = plan(HoldMode::Writes, 1);
    plan.late_writes = true;
    let (mut machine, _) = Controller::new(plan);
    let effects = machine.on(Event::Prepared(X));
    let all = |effect: &Effect| {
        matches!(
            effect,
            Effect::Send(
                _,
                Request::Hold {
                    mode: HoldMode::All,
                    ..
                }
            )
        )
    };
    assert!(effects.iter().any(all));
}

#[test]
fn a_fence_or_join_by_another_process_gives_the_change_up() {
    for event in [
        fenced(B, 12, true),
        Event::Fenced {
            slot: B,
            version: None,
            ended: true,
        },
    ] {
        let mut machine = holding(HoldMode::All);
        machine.on(Event::Answered(A, held()));
        machine.on(Event::Lost(B));
        assert_eq!(machine.on(event), given_up_for(&[A]));
        assert_eq!(machine.membership(), None);
    }
}

#[test]
fn an_apparatus_that_does_not_apply_is_fenced_whatever_it_answers() {
    for event in [
        Event::TimedOut(vec![]),
        Event::Lost(B),
        Event::Answered(B, refused(Refusal::NotHeld)),
        Event::Answered(B, refused(Refusal::Fenced)),
    ] {
        let mut machine = applying();
        machine.on(Event::Answered(A, applied()));
        assert_eq!(machine.on(event.clone()), [Effect::Fence(who(1))], "{event:?}");
        let effects = machine.on(fenced(B, 11, false));
        assert_eq!(sent(&effects), [A], "released: no apparatus is behind");
    }
}

#[test]
fn an_apparatus_lost_before_the_commit_is_fenced_after_it() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    assert_eq!(
        machine.on(Event::Lost(A)),
        [],
        "it ends its hold: the store decides which was first"
    );
    machine.on(Event::Answered(B, held()));
    machine.on(Event::WorkDone);
    let effects = machine.on(Event::Committed(Commit::Committed(Generation(5))));
    assert!(effects.contains(&Effect::Fence(who(0))) && sent(&effects) == [B]);
}

#[test]
fn the_store_decides_at_the_commit() {
    let answers = [
        (Commit::Cancelled, Reason::HoldRanOut),
        (
            Commit::MembershipMoved(MembershipVersion(11)),
            Reason::MembershipMoved,
        ),
        (Commit::GenerationMoved(Generation(9)), Reason::GenerationMoved),
        (Commit::StaleTerm(Term(9)), Reason::StaleTerm),
    ];
    for (answer, expected) in answers {
        let mut machine = holding(HoldMode::Writes);
        machine.on(Event::Answered(A, held()));
        machine.on(Event::Answered(B, held()));
        machine.on(Event::WorkDone);
        let mut effects = machine.on(Event::Committed(answer));
        if machine.state() != State::Done {
            effects.extend(machine.on(Event::Cancelled(Cancel::Cancelled)));
        }
        assert_eq!(reason(&effects), Some(&expected));
        assert_eq!(sent(&effects), [A, B], "each once");
    }
}

#[test]
fn cancelling_finds_out_about_a_commit_whose_answer_is_lost() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    machine.on(Event::WorkDone);
    assert!(
        machine
            .on(Event::CommitFailed("disk full".into()))
            .contains(&Effect::Cancel)
    );
    let mut unknown = machine.clone();
    let effects = unknown.on(Event::CancelFailed("disk full".into()));
    assert!(matches!(outcome(&effects), Some(Outcome::Unfinished { .. })));
    assert_eq!(
        sent(&effects),
        [],
        "no apparatus is asked while the result is not known"
    );

    let mut record = build::committed(X.0, Vec::new(), None);
    record.change = plan(HoldMode::Writes, 2).change;
    let effects = machine.on(Event::Cancelled(Cancel::Committed(Box::new(record))));
    assert_eq!((machine.state(), sent(&effects)), (State::Applying, vec![A, B]));
}

/// It may be committed all the same, so the apparatuses hold until the store has said that it is not.
#[test]
fn no_apparatus_hears_that_a_change_is_given_up_while_its_commit_may_be_under_way() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    machine.on(Event::WorkDone);
    let effects = machine.on(Event::CommitFailed("no answer".into()));
    assert_eq!(effects, [Effect::Disarm, Effect::Cancel]);
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert_eq!(sent(&effects), [A, B]);
}

#[test]
fn a_store_that_has_a_given_up_change_as_committed_is_left_to_the_next_controller() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Abandon("^C".into()));
    let mut record = build::committed(X.0, Vec::new(), None);
    record.change = plan(HoldMode::Writes, 2).change;
    let effects = machine.on(Event::Cancelled(Cancel::Committed(Box::new(record))));
    assert!(matches!(outcome(&effects), Some(Outcome::Unfinished { .. })));
}

#[test]
fn a_higher_term_finishes_what_is_committed() {
    let mut machine = applying();
    let effects = machine.on(Event::Answered(A, refused(Refusal::StaleTerm(Term(9)))));
    assert!(matches!(outcome(&effects), Some(Outcome::Unfinished { .. })));
}

#[test]
fn giving_up_waits_for_the_end_of_running_work() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    assert_eq!(machine.on(Event::Abandon("^C".into())), []);
    assert_eq!(machine.on(Event::WorkDone), given_up_for(&[A, B]));
    let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
    assert_eq!(reason(&effects), Some(&Reason::Abandoned("^C".into())));
    let mut machine = applying();
    assert_eq!(
        machine.on(Event::Abandon("^C".into())),
        [],
        "after the commit it has no effect"
    );
}

#[test]
fn silence_at_the_release_has_no_consequence() {
    let mut machine = applying();
    machine.on(Event::Answered(A, applied()));
    machine.on(Event::Answered(B, applied()));
    machine.on(Event::Lost(A));
    let effects = machine.on(Event::TimedOut(vec![]));
    assert!(matches!(outcome(&effects), Some(Outcome::Finished { fenced, .. }) if fenced.is_empty()));
}
