use super::*;
use crate::model::units::Incarnation;

fn view(slot: u32, state: MemberState, generation: u64) -> MemberView {
    MemberView {
        who: Participant {
            slot: Slot(slot),
            incarnation: Incarnation(10 + u64::from(slot)),
        },
        state,
        generation: Generation(generation),
        oldest: Generation(generation),
        fenced: false,
        alive: true,
    }
}

fn joined(slot: u32, generation: u64) -> MemberView {
    view(slot, MemberState::Joined, generation)
}

fn looked(members: &[MemberView], prepared: &[u64]) -> Event {
    Event::Looked(PoolObservation {
        current: Generation(5),
        members: members.to_vec(),
        prepared: prepared.iter().map(|&id| ChangeId(id)).collect(),
    })
}

/// Returns a recovery in Looking with this many waits left.
fn looking(polls: u32) -> Recovery {
    let (mut machine, first) = Recovery::new(100, polls);
    assert_eq!(first, [Effect::RecoverEpoch]);
    assert_eq!(
        machine.on(Event::EpochRecovered(vec![ChangeId(1)])),
        [Effect::Look]
    );
    machine
}

#[test]
fn a_pool_without_leftovers_is_read_once() {
    let effects = looking(9).on(looked(&[joined(0, 5)], &[]));
    assert_eq!(
        effects,
        [Effect::Finish(vec![RecoveryAction::Undone(ChangeId(1))])]
    );
}

#[test]
fn unfinished_actions_are_finished_and_the_state_is_read_again() {
    let half = view(0, MemberState::Fenced, 4);
    let dead = MemberView {
        alive: false,
        ..joined(1, 4)
    };
    let mut machine = looking(0);
    let effects = machine.on(looked(&[half, dead], &[8]));
    let expected = [
        Effect::Cancel(ChangeId(8)),
        Effect::SetWord(half.who),
        Effect::Leave(dead.who),
        Effect::Look,
    ];
    assert_eq!(effects, expected);
    machine.on(Event::Cancelled(ChangeId(8), Cancel::Cancelled));
    let out = MemberView { fenced: true, ..half };
    let did = [
        RecoveryAction::Undone(ChangeId(1)),
        RecoveryAction::SetWord(Slot(0)),
        RecoveryAction::Left(Slot(1)),
        RecoveryAction::Cancelled(ChangeId(8)),
    ];
    assert_eq!(machine.on(looked(&[out], &[])), [Effect::Finish(did.to_vec())]);
    assert_eq!(machine.state(), State::Done);
}

#[test]
fn an_apparatus_that_is_behind_gets_time_and_is_then_fenced() {
    let mut machine = looking(1);
    let behind = joined(0, 4);
    assert_eq!(machine.on(looked(&[behind], &[])), [Effect::Arm(100)]);
    assert_eq!(machine.on(Event::TimedOut), [Effect::Look]);
    assert_eq!(
        machine.on(looked(&[behind], &[])),
        [Effect::Fence(behind.who), Effect::Look]
    );
    machine.on(Event::Fenced(Slot(0), Some(MembershipVersion(3))));
    let out = MemberView {
        fenced: true,
        state: MemberState::Fenced,
        ..behind
    };
    let effects = machine.on(looked(&[out], &[]));
    assert_eq!(
        effects,
        [Effect::Finish(vec![
            RecoveryAction::Undone(ChangeId(1)),
            RecoveryAction::Fenced(Slot(0))
        ])]
    );
    assert_eq!(machine.on(Event::TimedOut), [], "it is over");
}

#[test]
fn others_have_reached_a_generation_when_none_acknowledges_by_an_older_table() {
    let five = Generation(5);
    assert!(others_reached(&[joined(0, 5), joined(1, 6)], five));
    assert!(!others_reached(&[joined(0, 5), joined(1, 4)], five));
    let fenced = MemberView {
        fenced: true,
        ..joined(1, 4)
    };
    let dead = MemberView {
        alive: false,
        ..joined(1, 4)
    };
    assert!(others_reached(&[fenced], five) && others_reached(&[dead], five));
    let without_word = view(1, MemberState::Fenced, 4);
    assert!(
        !others_reached(&[without_word], five),
        "fenced in the store alone, it still acknowledges"
    );
}

#[test]
fn fenced_and_slow_apparatuses_keep_old_tables_in_use() {
    let fenced = MemberView {
        fenced: true,
        ..view(1, MemberState::Fenced, 3)
    };
    let slow = MemberView {
        oldest: Generation(2),
        ..joined(0, 5)
    };
    assert_eq!(
        oldest_in_use(&[joined(0, 5), fenced], Generation(5)),
        Generation(3)
    );
    assert_eq!(oldest_in_use(&[slow, fenced], Generation(5)), Generation(2));
    let dead = MemberView {
        alive: false,
        ..fenced
    };
    assert_eq!(oldest_in_use(&[dead], Generation(5)), Generation(5));
    assert!(late_writes(&[fenced]) && !late_writes(&[dead, slow]));
    assert_eq!(participants(&[slow, fenced]), [slow.who]);
}

#[test]
fn an_entry_of_another_incarnation_is_ignored() {
    let member = Member {
        slot: Slot(0),
        name: crate::model::names::Name::new("apparatus", "a").unwrap(),
        incarnation: Incarnation(7),
        state: MemberState::Joined,
        pid: 1,
        mount: "/mnt".into(),
        joined_at: Generation(4),
        since: crate::model::units::Timestamp(0),
        origin: None,
        node: None,
        port: None,
    };
    let entry = |incarnation: u64| MemberEntry {
        incarnation: Incarnation(incarnation),
        generation: Generation(9),
        oldest: Generation(8),
        heartbeat_us: 0,
        pid: 1,
        fenced: Incarnation(6),
    };
    let begun = MemberView::new(&member, &entry(7), true);
    assert_eq!((begun.generation, begun.oldest), (Generation(9), Generation(8)));
    let not_yet = MemberView::new(&member, &entry(6), true);
    assert_eq!(
        (not_yet.generation, not_yet.oldest),
        (Generation(4), Generation(4))
    );
    assert!(!begun.fenced, "the fence word names an earlier incarnation");
}
