//! Asserts that the history checker, which other tests rely on, accepts linearizable histories and finds violations.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod history;

use history::load::{BLOCK, BLOCK_BITS, BLOCK_BYTES, Load, Plan, fill, values};
use history::{Action, Moment, Op, Value, WORDS, check};
use std::time::Duration;

fn write(value: Value, start: Moment, end: Moment) -> Op {
    Op {
        block: 7,
        action: Action::Write(value),
        start,
        end: Some(end),
        through: 0,
        twice: false,
    }
}

fn read(value: Value, start: Moment, end: Moment) -> Op {
    Op {
        block: 7,
        action: Action::Read([value; WORDS]),
        start,
        end: Some(end),
        through: 0,
        twice: false,
    }
}

fn unanswered(value: Value, start: Moment) -> Op {
    Op {
        end: None,
        ..write(value, start, 0)
    }
}

#[test]
fn an_ordinary_history_is_linearizable() {
    let history = [
        read(0, 1, 2),
        write(1, 3, 6),
        read(0, 4, 5),
        read(1, 5, 7),
        write(2, 8, 9),
        read(2, 10, 11),
    ];
    assert_eq!(check(&history), Ok(()));
}

#[test]
fn what_cannot_be_is_found() {
    let lost = [write(1, 1, 2), read(0, 3, 4)];
    let reverted = [write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)];
    let stale_through_another = [write(1, 1, 2), write(2, 3, 9), read(2, 4, 5), read(1, 6, 7)];
    let from_the_future = [read(1, 1, 2), write(1, 3, 4)];
    let from_nowhere = [read(5, 1, 2)];
    let overwritten_unseen = [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)];
    for bad in [
        &lost[..],
        &reverted,
        &stale_through_another,
        &from_the_future,
        &from_nowhere,
        &overwritten_unseen,
    ] {
        assert!(check(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_unanswered_write_may_happen_late_or_never_but_not_come_and_go() {
    assert_eq!(
        check(&[write(1, 1, 2), unanswered(2, 3), read(1, 4, 5), read(2, 6, 7)]),
        Ok(())
    );
    assert_eq!(check(&[write(1, 1, 2), unanswered(2, 3), read(1, 4, 5)]), Ok(()));
    assert!(check(&[write(1, 1, 2), unanswered(2, 3), read(2, 4, 5), read(1, 6, 7)]).is_err());
}

#[test]
fn a_write_that_ran_twice_may_show_around_another_only_until_its_answer() {
    let between = |twice, late| {
        let first = Op {
            twice,
            ..write(1, 1, 20)
        };
        check(&[
            first,
            read(1, 2, 3),
            write(2, 4, 5),
            read(2, 6, 7),
            read(1, late, late + 1),
        ])
    };
    assert!(between(false, 10).is_err());
    assert_eq!(between(true, 10), Ok(()));
    let other = [
        Op {
            twice: true,
            ..write(1, 1, 20)
        },
        write(2, 21, 22),
        read(1, 23, 24),
    ];
    assert!(check(&other).is_err());
}

/// Compares the checker with a search through every order of a few operations.
#[test]
fn agrees_with_trying_every_order() {
    let mut seed = 1u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4000 {
        let writes = 1 + random(3);
        let mut history = Vec::new();
        for value in 1..=writes {
            let start = 1 + random(12) * 2;
            history.push(write(value, start, start + 1 + random(8) * 2));
        }
        for _ in 0..1 + random(3) {
            let start = 1 + random(12) * 2;
            history.push(read(random(writes + 1), start, start + 1 + random(8) * 2));
        }
        let truth = some_order(&history, &mut Vec::new(), 0);
        assert_eq!(check(&history).is_ok(), truth, "{history:?}");
        if truth { good += 1 } else { bad += 1 }
    }
    assert!(good > 200 && bad > 200, "{good} {bad}");
}

fn some_order(history: &[Op], taken: &mut Vec<usize>, holds: Value) -> bool {
    if taken.len() == history.len() {
        return true;
    }
    let left: Vec<usize> = (0..history.len()).filter(|i| !taken.contains(i)).collect();
    for &next in &left {
        let op = &history[next];
        if left.iter().any(|&other| history[other].end.unwrap() < op.start) {
            continue;
        }
        let holds = match op.action {
            Action::Write(value) => value,
            Action::Read(values) if values[0] == holds => holds,
            Action::Read(_) => continue,
        };
        taken.push(next);
        let found = some_order(history, taken, holds);
        taken.pop();
        if found {
            return true;
        }
    }
    false
}

#[test]
fn a_block_contains_what_was_written_to_it() {
    let mut block = vec![0; BLOCK];
    assert_eq!(values(&block, 9), Ok([0; WORDS]));
    fill(&mut block, 5 << BLOCK_BITS | 9);
    assert_eq!(values(&block, 9), Ok([5 << BLOCK_BITS | 9; WORDS]));
    assert!(values(&block, 8).is_err());
    block[1000] ^= 1;
    assert!(values(&block, 9).is_err());
}

#[test]
fn hosts_on_an_ordinary_file_see_a_linearizable_history() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * BLOCK_BYTES).unwrap();
    let files = vec![file.path().to_owned(); 2];
    let load = Load::start(Plan {
        files,
        blocks: 64,
        threads: 2,
        writes: 5,
        survive: false,
    });
    load.wait_for(5000, Duration::from_secs(100));
    let report = load.finish();
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(check(&report.history), Ok(()));
    assert!(report.longest > Duration::ZERO && report.requests > 5000);
}
