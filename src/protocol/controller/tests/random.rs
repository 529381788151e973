//! Random events in random order.

use super::*;
use proptest::prelude::*;

fn any_answer() -> impl Strategy<Value = Answer> {
    let refusals = prop_oneof![
        Just(Refusal::Fenced),
        Just(Refusal::NotHeld),
        Just(Refusal::TooMany),
        Just(Refusal::StaleTerm(Term(9))),
        Just(Refusal::Generation(Generation(3))),
        Just(Refusal::Incarnation(Incarnation(9))),
    ];
    let draining = |change| Answer::StillDraining {
        change,
        in_flight: 1,
        oldest_us: 1,
        disk: String::new(),
    };
    prop_oneof![
        2 => Just(Answer::Noting { change: X }),
        3 => Just(held()),
        3 => Just(applied()),
        3 => Just(released(1, 1)),
        1 => Just(draining(X)),
        1 => Just(Answer::StillOpening { change: X, disk: String::new(), waited_us: 1 }),
        1 => Just(Answer::Held { change: ChangeId(8), written: Written::NOTHING }),
        1 => Just(Answer::Accepted),
        1 => refusals.prop_map(refused),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let slot = || (0..3u32).prop_map(Slot);
    let why = || Just(String::from("why"));
    prop_oneof![
        2 => Just(Event::Prepared(X)),
        1 => why().prop_map(Event::PrepareFailed),
        8 => (slot(), any_answer()).prop_map(|(slot, answer)| Event::Answered(slot, answer)),
        1 => slot().prop_map(Event::Lost),
        2 => proptest::collection::vec(slot(), 0..3).prop_map(Event::TimedOut),
        2 => (slot(), 10..14u64, any::<bool>()).prop_map(|(slot, version, ended)| fenced(slot, version, ended)),
        1 => (slot(), why()).prop_map(|(slot, why)| Event::FenceFailed(slot, why)),
        3 => Just(Event::Copied),
        1 => why().prop_map(Event::CopyFailed),
        3 => Just(Event::WorkDone),
        1 => why().prop_map(Event::WorkFailed),
        3 => Just(Event::Committed(Commit::Committed(Generation(5)))),
        1 => Just(Event::Committed(Commit::Cancelled)),
        1 => Just(Event::Committed(Commit::MembershipMoved(MembershipVersion(12)))),
        1 => why().prop_map(Event::CommitFailed),
        2 => Just(Event::Cancelled(Cancel::Cancelled)),
        1 => why().prop_map(Event::CancelFailed),
        1 => why().prop_map(Event::Abandon),
    ]
}

proptest! {
    /// For any events in any order: the machine makes only transitions that are drawn (others panic here); a change ends once
    /// and has no effects after that; work and commit are requested at most once; no apparatus is released between the commit
    /// and the last apply.
    #[test]
    fn every_state_answers_every_event(
        events in proptest::collection::vec(any_event(), 0..60),
        copies_ahead in any::<bool>(),
    ) {
        let plan = Plan { copies_ahead, ..plan(HoldMode::Writes, 2) };
        let (mut machine, _) = Controller::new(plan);
        let (mut ends, mut works, mut commits) = (0, 0, 0);
        for event in events {
            let before = machine.state();
            let effects = machine.on(event);
            prop_assert!(before != State::Done || effects.is_empty());
            for effect in &effects {
                match effect {
                    Effect::Finish(_) => ends += 1,
                    Effect::Work => works += 1,
                    Effect::Commit(_) => commits += 1,
                    Effect::Copy => prop_assert!(copies_ahead && works == 0),
                    Effect::Send(_, Request::Release { given_up: true, .. }) => {
                        prop_assert!(matches!(machine.state(), State::Cancelling | State::Done));
                    }
                    Effect::Send(_, Request::Release { .. }) => {
                        prop_assert!(matches!(machine.state(), State::Releasing | State::Done));
                    }
                    _ => {}
                }
            }
        }
        prop_assert!(ends <= 1 && works <= 1 && commits <= 1);
        prop_assert_eq!(ends == 1, machine.state() == State::Done);
    }
}
