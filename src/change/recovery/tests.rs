use super::*;
use crate::units::Incarnation;

fn seen(slot: u32, state: MemberState, generation: u64) -> Seen {
    Seen {
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

fn joined(slot: u32, generation: u64) -> Seen {
    seen(slot, MemberState::Joined, generation)
}

fn looked(members: &[Seen], prepared: &[u64]) -> Event {
    Event::Looked(View {
        current: Generation(5),
        members: members.to_vec(),
        prepared: prepared.iter().map(|&id| ChangeId(id)).collect(),
    })
}

/// Looking, with so many waits left.
fn looking(polls: u32) -> Recovery {
    let (mut machine, first) = Recovery::new(100, polls);
    assert_eq!(first, [Effect::RecoverBoot]);
    assert_eq!(
        machine.on(Event::BootRecovered(vec![ChangeId(1)])),
        [Effect::Look]
    );
    machine
}

#[test]
fn a_quiet_pool_takes_one_look() {
    let effects = looking(9).on(looked(&[joined(0, 5)], &[]));
    assert_eq!(effects, [Effect::Finish(vec![Did::Undone(ChangeId(1))])]);
}

#[test]
fn what_is_by_half_is_made_whole_and_looked_at_again() {
    let half = seen(0, MemberState::Fenced, 4);
    let dead = Seen {
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
    let out = Seen { fenced: true, ..half };
    let did = [
        Did::Undone(ChangeId(1)),
        Did::SetWord(Slot(0)),
        Did::Left(Slot(1)),
        Did::Cancelled(ChangeId(8)),
    ];
    assert_eq!(machine.on(looked(&[out], &[])), [Effect::Finish(did.to_vec())]);
    assert_eq!(machine.state(), State::Done);
}

#[test]
fn who_is_behind_is_waited_for_and_then_fenced() {
    let mut machine = looking(1);
    let behind = joined(0, 4);
    assert_eq!(machine.on(looked(&[behind], &[])), [Effect::Arm(100)]);
    assert_eq!(machine.on(Event::TimedOut), [Effect::Look]);
    assert_eq!(
        machine.on(looked(&[behind], &[])),
        [Effect::Fence(behind.who), Effect::Look]
    );
    machine.on(Event::Fenced(Slot(0), Some(MembershipVersion(3))));
    let out = Seen {
        fenced: true,
        state: MemberState::Fenced,
        ..behind
    };
    let effects = machine.on(looked(&[out], &[]));
    assert_eq!(
        effects,
        [Effect::Finish(vec![
            Did::Undone(ChangeId(1)),
            Did::Fenced(Slot(0))
        ])]
    );
    assert_eq!(machine.on(Event::TimedOut), [], "over is over");
}

#[test]
fn others_are_there_when_nobody_acknowledges_by_an_older_table() {
    let five = Generation(5);
    assert!(others_reached(&[joined(0, 5), joined(1, 6)], five));
    assert!(!others_reached(&[joined(0, 5), joined(1, 4)], five));
    let fenced = Seen {
        fenced: true,
        ..joined(1, 4)
    };
    let dead = Seen {
        alive: false,
        ..joined(1, 4)
    };
    assert!(others_reached(&[fenced], five) && others_reached(&[dead], five));
    let without_word = seen(1, MemberState::Fenced, 4);
    assert!(
        !others_reached(&[without_word], five),
        "fenced in the store alone, it still acknowledges"
    );
}

#[test]
fn the_fenced_and_the_late_keep_old_tables_in_use() {
    let fenced = Seen {
        fenced: true,
        ..seen(1, MemberState::Fenced, 3)
    };
    let slow = Seen {
        oldest: Generation(2),
        ..joined(0, 5)
    };
    assert_eq!(
        oldest_in_use(&[joined(0, 5), fenced], Generation(5)),
        Generation(3)
    );
    assert_eq!(oldest_in_use(&[slow, fenced], Generation(5)), Generation(2));
    let dead = Seen {
        alive: false,
        ..fenced
    };
    assert_eq!(oldest_in_use(&[dead], Generation(5)), Generation(5));
    assert!(late_writes(&[fenced]) && !late_writes(&[dead, slow]));
    assert_eq!(participants(&[slow, fenced]), [slow.who]);
}

#[test]
fn a_line_of_another_life_says_nothing() {
    let member = Member {
        slot: Slot(0),
        name: crate::pool::names::Name::new("apparatus", "a").unwrap(),
        incarnation: Incarnation(7),
        state: MemberState::Joined,
        pid: 1,
        mount: "/mnt".into(),
        joined_at: Generation(4),
        since: crate::units::Timestamp(0),
        origin: None,
    };
    let line = |incarnation: u64| Line {
        incarnation: Incarnation(incarnation),
        generation: Generation(9),
        oldest: Generation(8),
        heartbeat_us: 0,
        pid: 1,
        fenced: Incarnation(6),
    };
    let begun = Seen::new(&member, &line(7), true);
    assert_eq!((begun.generation, begun.oldest), (Generation(9), Generation(8)));
    let not_yet = Seen::new(&member, &line(6), true);
    assert_eq!(
        (not_yet.generation, not_yet.oldest),
        (Generation(4), Generation(4))
    );
    assert!(!begun.fenced, "the word names an earlier life");
}
