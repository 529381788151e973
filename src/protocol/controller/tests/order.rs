//! What has to come before what, and which answers count.

use super::*;

#[test]
fn answers_to_other_changes_count_for_nothing() {
    let other = ChangeId(6);
    let of_other = Answer::Held {
        change: other,
        written: Written::NOTHING,
    };
    let mut machine = holding(HoldMode::Writes);
    assert_eq!(machine.on(Event::Answered(A, of_other)), []);
    assert_eq!(machine.on(Event::Answered(B, held())), []);
    assert_eq!(machine.state(), State::Holding);

    let mut machine = applying();
    let late = Answer::Applied {
        change: other,
        generation: Generation(4),
        oldest: Generation(4),
    };
    assert_eq!(machine.on(Event::Answered(A, late)), []);
    assert_eq!(machine.on(Event::Answered(B, applied())), []);
    assert_eq!(machine.state(), State::Applying);
}

#[test]
fn nothing_is_released_before_a_fence_is_set() {
    let mut machine = applying();
    assert_eq!(machine.on(Event::Lost(A)), [Effect::Fence(who(0))]);
    assert_eq!(machine.on(Event::Answered(B, applied())), []);
    assert_eq!(machine.state(), State::Applying);
    assert_eq!(sent(&machine.on(fenced(A, 11, false))), [B]);
}

#[test]
fn work_that_fails_is_not_committed() {
    let mut machine = holding(HoldMode::Writes);
    machine.on(Event::Answered(A, held()));
    machine.on(Event::Answered(B, held()));
    let effects = machine.on(Event::WorkFailed("the copy failed".into()));
    let commits = |effect: &Effect| matches!(effect, Effect::Commit(_));
    assert!(!effects.iter().any(commits), "{effects:?}");
    assert_ne!(machine.state(), State::Committing);
}
