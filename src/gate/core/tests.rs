//! The holds compared with a slow oracle that checks all pairs.

use super::*;
use crate::model::units::VolumeOffset;
use proptest::prelude::*;

fn span(volume: u64, start: u64, end: u64) -> Span {
    Span {
        volume: VolumeId(volume),
        start: VolumeOffset(start),
        end: VolumeOffset(end),
    }
}

/// One list of holds and one of parked requests.
#[derive(Default)]
struct Oracle {
    closed: bool,
    holds: Vec<(ChangeId, Vec<Span>, HoldMode)>,
    parked: Vec<(u32, Span, Access, u64)>,
}

impl Oracle {
    fn covers(&self, span: &Span, access: Access) -> bool {
        let stops = |mode: HoldMode| mode == HoldMode::All || access == Access::Write;
        let overlaps = |spans: &[Span]| spans.iter().any(|held| held.overlaps(span));
        self.closed
            || self
                .holds
                .iter()
                .any(|(_, spans, mode)| stops(*mode) && overlaps(spans))
    }

    fn take_free(&mut self) -> Vec<u32> {
        let mut stay: Vec<(u32, Span, Access, u64)> = Vec::new();
        let mut free = Vec::new();
        for request in std::mem::take(&mut self.parked) {
            let (id, span, access, _) = request;
            let conflict = |other: &(u32, Span, Access, u64)| {
                other.1.overlaps(&span) && (other.2 == Access::Write || access == Access::Write)
            };
            if self.covers(&span, access) || stay.iter().any(conflict) {
                stay.push(request);
            } else {
                free.push(id);
            }
        }
        self.parked = stay;
        free
    }

    fn release(&mut self, id: ChangeId, now: u64) -> Released<u32> {
        let Some(at) = self.holds.iter().position(|(other, ..)| *other == id) else {
            return Released {
                items: vec![],
                parked: 0,
                longest_us: 0,
            };
        };
        let (_, spans, mode) = self.holds.remove(at);
        let alone = Oracle {
            closed: false,
            holds: vec![(id, spans, mode)],
            parked: vec![],
        };
        let waits: Vec<u64> = self
            .parked
            .iter()
            .filter(|p| alone.covers(&p.1, p.2))
            .map(|p| now - p.3)
            .collect();
        Released {
            items: self.take_free(),
            parked: waits.len() as u64,
            longest_us: waits.into_iter().max().unwrap_or(0),
        }
    }

    fn open(&mut self, now: u64) -> Released<u32> {
        let parked = if self.closed { self.parked.len() as u64 } else { 0 };
        let longest_us = self
            .parked
            .iter()
            .map(|p| now - p.3)
            .max()
            .filter(|_| self.closed)
            .unwrap_or(0);
        self.closed = false;
        Released {
            items: self.take_free(),
            parked,
            longest_us,
        }
    }

    fn expire(&mut self, patience: u64, now: u64) -> Expired<u32> {
        let late = self
            .parked
            .extract_if(.., |p| now - p.3 >= patience)
            .map(|p| p.0)
            .collect();
        Expired {
            late,
            free: self.take_free(),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Place(u64, Vec<Span>, HoldMode),
    Request(Span, Access),
    Release(u64),
    Close,
    Open,
    Expire(u64),
}

fn any_span() -> impl Strategy<Value = Span> {
    (0u64..3, 0u64..30, 0u64..12).prop_map(|(volume, start, len)| span(volume, start, start + len))
}

fn any_op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![Just(HoldMode::All), Just(HoldMode::Writes)];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        4 => (0u64..6, prop::collection::vec(any_span(), 0..4), mode).prop_map(|(i, s, m)| Op::Place(i, s, m)),
        20 => (any_span(), access).prop_map(|(s, a)| Op::Request(s, a)),
        4 => (0u64..6).prop_map(Op::Release),
        1 => Just(Op::Close),
        2 => Just(Op::Open),
        1 => (0u64..60).prop_map(Op::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn behaves_like_the_oracle(ops in prop::collection::vec(any_op(), 0..120)) {
        let (mut holds, mut oracle) = (Holds::new(), Oracle::default());
        for (op, now) in ops.into_iter().zip(0u64..) {
            match op {
                Op::Place(id, spans, mode) => {
                    holds.place(ChangeId(id), &spans, mode);
                    if oracle.holds.iter().all(|(other, ..)| other.0 != id) {
                        oracle.holds.push((ChangeId(id), spans, mode));
                    }
                }
                Op::Request(span, access) => {
                    let id = u32::try_from(now).unwrap();
                    let covered = oracle.covers(&span, access);
                    prop_assert_eq!(holds.covers(&span, access), covered);
                    prop_assert_eq!(holds.park(id, span, access, 3, now).is_none(), covered);
                    if covered {
                        oracle.parked.push((id, span, access, now));
                    }
                }
                Op::Release(id) => {
                    prop_assert_eq!(holds.release(ChangeId(id), now), oracle.release(ChangeId(id), now));
                }
                Op::Close => {
                    holds.close();
                    oracle.closed = true;
                    oracle.holds.clear();
                }
                Op::Open => prop_assert_eq!(holds.open(now), oracle.open(now)),
                Op::Expire(age) => prop_assert_eq!(holds.expire(age, now), oracle.expire(age, now)),
            }
            prop_assert_eq!(holds.check(), Ok(()));
            prop_assert_eq!(holds.parked(), oracle.parked.len());
            prop_assert_eq!(holds.parked_bytes(), oracle.parked.len() as u64 * 3);
            prop_assert_eq!(holds.holds(), oracle.holds.len());
        }
        for id in 0..6 {
            holds.release(ChangeId(id), 1000);
        }
        holds.open(1000);
        prop_assert_eq!(holds.parked(), 0, "a request waits forever");
    }
}

#[test]
fn a_request_under_two_holds_waits_for_both_and_later_ones_wait_behind_it() {
    let mut holds = Holds::new();
    holds.place(ChangeId(1), &[span(1, 0, 10)], HoldMode::Writes);
    holds.place(ChangeId(2), &[span(1, 20, 30)], HoldMode::Writes);
    assert!(holds.park("wide", span(1, 5, 25), Access::Write, 1, 0).is_none());
    assert!(holds.park("behind", span(1, 5, 8), Access::Write, 1, 1).is_none());
    assert!(holds.park("beside", span(1, 0, 5), Access::Write, 1, 2).is_none());
    assert_eq!(
        holds.release(ChangeId(1), 10),
        Released {
            items: vec!["beside"],
            parked: 3,
            longest_us: 10
        }
    );
    assert!(
        !holds.covers(&span(1, 5, 8), Access::Write),
        "a new request outside the ranges goes on"
    );
    assert_eq!(
        holds.release(ChangeId(2), 20),
        Released {
            items: vec!["wide", "behind"],
            parked: 1,
            longest_us: 20
        }
    );
}

#[test]
fn closing_ends_holds_and_opening_releases_everything_in_order() {
    let mut holds = Holds::new();
    holds.place(ChangeId(1), &[span(1, 0, 10)], HoldMode::All);
    assert!(holds.park(1, span(1, 0, 4), Access::Write, 1, 0).is_none());
    holds.close();
    assert!(holds.park(2, span(2, 0, 4), Access::Read, 1, 0).is_none());
    assert!(holds.park(3, span(1, 0, 4), Access::Read, 1, 0).is_none());
    assert!(holds.release(ChangeId(1), 1).items.is_empty());
    assert_eq!(
        holds.open(5),
        Released {
            items: vec![1, 2, 3],
            parked: 3,
            longest_us: 5
        }
    );
    assert!(holds.cover().is_empty());
}

#[test]
fn a_request_that_waited_for_an_expired_one_goes_on() {
    let mut holds = Holds::new();
    holds.place(ChangeId(1), &[span(1, 0, 10)], HoldMode::Writes);
    holds.place(ChangeId(2), &[span(1, 20, 30)], HoldMode::Writes);
    assert!(holds.park(1, span(1, 5, 25), Access::Write, 1, 0).is_none());
    assert!(holds.park(2, span(1, 5, 8), Access::Write, 1, 7).is_none());
    assert!(holds.release(ChangeId(1), 8).items.is_empty());
    assert_eq!(
        holds.expire(10, 10),
        Expired {
            late: vec![1],
            free: vec![2]
        }
    );
}

#[test]
fn releasing_many_does_not_compare_all_pairs() {
    let mut holds = Holds::new();
    holds.place(ChangeId(1), &[Span::whole(VolumeId(1))], HoldMode::All);
    holds.place(ChangeId(2), &[span(1, 0, 1)], HoldMode::All);
    for i in 0..100_000 {
        let start = (i * 7919) % 100_000;
        assert!(
            holds
                .park(i, span(1, start, start + 1), Access::Write, 1, 0)
                .is_none()
        );
    }
    let begin = std::time::Instant::now();
    assert_eq!(holds.release(ChangeId(1), 1).items.len(), 99_999);
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
}
