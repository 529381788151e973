//! Changes that copy ahead.

use super::*;

fn written(start: u64) -> Written {
    Written::Only(vec![Span {
        volume: VolumeId(1),
        start: crate::model::units::VolumeOffset(start),
        end: crate::model::units::VolumeOffset(start + 1),
    }])
}

fn ahead(late_writes: bool) -> Plan {
    Plan {
        copies_ahead: true,
        late_writes,
        ..plan(HoldMode::Writes, 2)
    }
}

/// Returns a machine for two apparatuses that have been asked to note writes.
fn noting() -> Controller {
    let (mut machine, _) = Controller::new(ahead(false));
    let effects = machine.on(Event::Prepared(X));
    assert_eq!(machine.state(), State::Noting);
    let is_note = |effect: &Effect| matches!(effect, Effect::Send(_, Request::Note { .. }));
    assert_eq!(effects.iter().filter(|effect| is_note(effect)).count(), 2);
    machine
}

fn noted() -> Answer {
    Answer::Noting { change: X }
}

/// Returns a machine that copies, while both note writes.
fn copying() -> Controller {
    let mut machine = noting();
    assert_eq!(machine.on(Event::Answered(A, noted())), []);
    assert_eq!(
        machine.on(Event::Answered(B, noted())),
        [Effect::Disarm, Effect::Copy]
    );
    machine
}

/// Returns a machine whose range is copied, and which has asked both to hold.
fn holding_a_copy() -> Controller {
    let mut machine = copying();
    assert_eq!(sent(&machine.on(Event::Copied)), [A, B]);
    assert_eq!(machine.state(), State::Holding);
    machine
}

#[test]
fn the_work_is_what_was_written_through_any_apparatus_since_the_copy() {
    let mut machine = holding_a_copy();
    machine.on(Event::Answered(A, held_with(written(3))));
    let effects = machine.on(Event::Answered(B, held_with(written(7))));
    assert_eq!(effects, [Effect::Disarm, Effect::Work]);
    let mut both = written(3);
    both.add(written(7));
    assert_eq!(*machine.written(), both);
    let mut machine = holding_a_copy();
    machine.on(Event::Answered(A, held_with(Written::NOTHING)));
    machine.on(Event::Answered(B, held()));
    assert!(machine.written().is_all(), "one cannot tell");
}

#[test]
fn nothing_is_copied_ahead_while_late_writes_are_possible() {
    let (mut machine, _) = Controller::new(ahead(true));
    machine.on(Event::Prepared(X));
    assert_eq!(machine.state(), State::Holding);
    machine.on(Event::Answered(A, held_with(Written::NOTHING)));
    machine.on(Event::Answered(B, held_with(Written::NOTHING)));
    assert!(machine.written().is_all());
}

#[test]
fn a_change_is_given_up_when_somebody_whose_note_counts_is_fenced_even_if_its_process_has_ended() {
    for ended in [false, true] {
        let mut machine = holding_a_copy();
        machine.on(Event::Answered(A, held_with(Written::NOTHING)));
        assert_eq!(machine.on(Event::TimedOut(vec![])), [Effect::Fence(who(1))]);
        assert_eq!(machine.on(fenced(B, 11, ended)), given_up_for(&[A]));
        let effects = machine.on(Event::Cancelled(Cancel::Cancelled));
        assert_eq!(
            reason(&effects),
            Some(&Reason::MembershipMoved),
            "its range is copied anew"
        );
    }
}

#[test]
fn who_is_silent_or_has_no_room_for_a_note_is_met_by_the_hold_without_a_copy() {
    for event in [
        Event::Lost(B),
        Event::TimedOut(vec![]),
        Event::TimedOut(vec![A, B]),
        Event::Answered(B, refused(Refusal::TooMany)),
    ] {
        let mut machine = noting();
        machine.on(Event::Answered(A, noted()));
        let effects = machine.on(event.clone());
        assert_eq!(machine.state(), State::Holding, "{event:?}");
        assert_eq!(effects.contains(&Effect::Fence(who(1))), event == Event::Lost(B));
        machine.on(Event::Answered(A, held_with(Written::NOTHING)));
        assert!(
            machine.written().is_all(),
            "{event:?}: all is copied under the hold"
        );
    }
}

#[test]
fn a_slow_disk_a_refusal_or_a_failed_copy_gives_the_change_up_before_anything_is_held() {
    let slow = Answer::StillDraining {
        change: X,
        in_flight: 3,
        oldest_us: 9,
        disk: "d".into(),
    };
    for event in [
        Event::Answered(B, slow),
        Event::Answered(B, refused(Refusal::Fenced)),
        Event::Abandon("^C".into()),
    ] {
        assert_eq!(noting().on(event), given_up_for(&[A, B]), "their notes end");
    }
    let mut machine = copying();
    assert_eq!(machine.on(Event::Abandon("^C".into())), [], "the copy ends first");
    assert_eq!(machine.on(Event::Copied), given_up_for(&[A, B]));
    let mut machine = copying();
    assert_eq!(machine.on(Event::CopyFailed("EIO".into())), given_up_for(&[A, B]));
}

#[test]
fn a_connection_that_breaks_during_the_copy_is_met_by_the_hold() {
    let mut machine = copying();
    assert_eq!(machine.on(Event::Lost(B)), []);
    assert!(machine.on(Event::Copied).contains(&Effect::Fence(who(1))));
    machine.on(Event::Answered(A, held_with(Written::NOTHING)));
    assert_eq!(machine.on(fenced(B, 11, true)), given_up_for(&[A]));
}
