//! Notes of writes.

use super::*;

pub(super) fn note_of(change: ChangeId) -> Request {
    Request::Note {
        change,
        spans: vec![Span::whole(VolumeId(1))],
        drain_us: 10,
        deadline_us: 1000,
        incarnation: LIFE,
    }
}

fn settling() -> Machine {
    let mut machine = serving();
    let effects = machine.on(asked(note_of(X)));
    let placed = Effect::PlaceNote(X, vec![Span::whole(VolumeId(1))]);
    assert_eq!(
        effects.last(),
        Some(&placed),
        "nothing is said before the writes in flight are done"
    );
    machine
}

fn noting() -> Machine {
    let mut machine = settling();
    let effects = machine.on(Event::NoteSettled(X));
    assert_eq!(effects, [Effect::Answer(L, Answer::Noting { change: X })]);
    machine
}

fn ends(effects: &[Effect]) -> bool {
    effects.contains(&Effect::EndNote(X))
}

#[test]
fn a_note_is_kept_until_the_hold_of_its_change_ends() {
    let mut machine = noting();
    assert!(!ends(&machine.on(asked(hold_of(X)))));
    assert_eq!(machine.on(Event::Drained(X)), [Effect::ReportHeld(X, L)]);
    assert_eq!(
        machine.on(asked(hold_of(X))),
        [Effect::ReportHeld(X, L)],
        "said again with the note"
    );
    machine.on(asked(apply_of(X, OLD)));
    assert_eq!(machine.on(release()), [Effect::Reopen(X, Some(L))]);
    assert_eq!(machine.on(Event::TimedOut(X, Timer::NoteOver)), []);
}

#[test]
fn a_note_dies_with_its_connection_and_its_time_and_is_not_placed_again() {
    for end in [Event::Lost(L), Event::TimedOut(X, Timer::NoteOver)] {
        for mut machine in [settling(), noting()] {
            assert_eq!(machine.on(end.clone()), [Effect::EndNote(X)]);
            assert_eq!(machine.on(Event::NoteSettled(X)), []);
            let again = machine.on(asked(note_of(X)));
            assert_eq!(
                again,
                [refused(Refusal::NotHeld)],
                "it would lack what was written in between"
            );
            machine.on(asked(hold_of(X)));
            assert_eq!(machine.on(Event::Drained(X)), [Effect::ReportHeld(X, L)]);
        }
    }
}

#[test]
fn a_note_that_has_not_settled_counts_for_nothing_under_a_hold() {
    let mut machine = settling();
    assert!(ends(&machine.on(asked(hold_of(X)))));
    assert_eq!(machine.on(Event::NoteSettled(X)), []);
}

#[test]
fn a_slow_drain_of_a_note_is_reported() {
    let mut machine = settling();
    let report = machine.on(Event::TimedOut(X, Timer::Settling));
    assert_eq!(report, [Effect::ReportDraining(X, L)]);
    assert_eq!(noting().on(Event::TimedOut(X, Timer::Settling)), []);
    assert_eq!(
        noting().on(asked(note_of(X))),
        [Effect::Answer(L, Answer::Noting { change: X })]
    );
}

#[test]
fn a_note_without_room_is_refused_and_so_is_one_of_an_earlier_life() {
    let mut machine = settling();
    assert_eq!(machine.on(Event::NoteRefused(X)), [refused(Refusal::TooMany)]);
    let mut other = note_of(X);
    if let Request::Note { incarnation, .. } = &mut other {
        *incarnation = Incarnation(2);
    }
    assert_eq!(serving().on(asked(other)), [refused(Refusal::Incarnation(LIFE))]);
    let mut machine = settling();
    machine.on(asked(note_of(ChangeId(8))));
    let most = machine.on(asked(note_of(ChangeId(9))));
    let refusal = Refusal::TooMany;
    let change = Some(ChangeId(9));
    assert_eq!(most, [Effect::Answer(L, Answer::Refused { change, refusal })]);
}

#[test]
fn a_change_that_is_given_up_or_whose_disk_fails_leaves_no_note() {
    assert_eq!(
        noting().on(asked(release_of(X, true))),
        [Effect::Reopen(X, Some(L))]
    );
    let mut request = hold_of(X);
    if let Request::Hold { disks, .. } = &mut request {
        disks.push(build::disk(1, 9));
    }
    let mut machine = noting();
    machine.on(asked(request));
    assert!(ends(
        &machine.on(Event::DisksOpen(X, Err(("d".into(), "gone".into()))))
    ));
    let mut machine = noting();
    assert_eq!(
        machine.on(Event::Fenced(LIFE)),
        [Effect::Rejoin],
        "which ends all notes"
    );
    machine.on(Event::Rejoined(LIFE, NEW));
    assert_eq!(machine.on(Event::TimedOut(X, Timer::NoteOver)), []);
}
