use super::*;
use crate::model::member::MemberEntry;
use crate::model::units::Generation;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};

const L: u64 = 30_000_000;

/// An apparatus's entry, with a clock that the test sets.
#[derive(Default)]
struct World {
    incarnation: AtomicU64,
    fenced: AtomicU64,
    clock: AtomicU64,
    /// One more than the end of the lease; 0 without one.
    until: AtomicU64,
    went_on: AtomicUsize,
}

impl OwnEntry for World {
    fn begin(&self, incarnation: Incarnation, _: Generation) {
        self.incarnation.store(incarnation.0, SeqCst);
    }
    fn end(&self) {
        self.incarnation.store(0, SeqCst);
    }
    fn is_fenced(&self) -> bool {
        self.fenced.load(SeqCst) >= self.incarnation.load(SeqCst)
    }
    fn set_lease(&self, until_us: u64) {
        self.until.fetch_max(until_us + 1, SeqCst);
    }
    fn lease_clock_us(&self) -> u64 {
        self.clock.load(SeqCst)
    }
    fn set_generation(&self, _: Generation) {}
    fn set_oldest(&self, _: Generation) {}
    fn beat(&self) {}
}

struct Members(Arc<World>);

impl Membership for Members {
    fn own(&self, _: Slot) -> Arc<dyn OwnEntry> {
        self.0.clone()
    }
    fn entry(&self, _: Slot) -> MemberEntry {
        MemberEntry {
            incarnation: Incarnation(self.0.incarnation.load(SeqCst)),
            generation: Generation(0),
            oldest: Generation(0),
            heartbeat_us: 0,
            pid: 1,
            fenced: Incarnation(self.0.fenced.load(SeqCst)),
        }
    }
    fn fence(&self, _: Slot, incarnation: Incarnation) {
        self.0.fenced.fetch_max(incarnation.0, SeqCst);
    }
    fn committed(&self) -> Generation {
        Generation(0)
    }
    fn set_committed(&self, _: Generation) {}
    fn restore(&self) -> Result<bool> {
        Ok(false)
    }
    fn leave(&self) {}
}

type Asked = Arc<Mutex<Vec<(u64, Option<u64>)>>>;

/// A store with the given answers, each after some time of the clock.
struct Script {
    world: Arc<World>,
    answers: VecDeque<(u64, Option<Renewed>)>,
    asked: Asked,
}

impl Leases for Script {
    fn renew(&mut self, holder: &LeaseHolder, lease_us: Option<u64>) -> Result<Renewed> {
        self.asked.lock().unwrap().push((holder.incarnation.0, lease_us));
        let (takes, answer) = self.answers.pop_front().unwrap();
        self.world.clock.fetch_add(takes, SeqCst);
        answer.ok_or_else(|| Error::failed("etcd", "is away"))
    }
    fn published(&mut self, _: Slot, _: Incarnation) -> Result<Option<u64>> {
        Ok(None)
    }
}

fn renewals(answers: &[(u64, Option<Renewed>)], holds: bool) -> (Renewals, Arc<World>, Asked) {
    let world = Arc::new(World::default());
    world.begin(Incarnation(7), Generation(1));
    let asked = Asked::default();
    let counted = world.clone();
    let with = Renewing {
        leases: Box::new(Script {
            world: world.clone(),
            answers: answers.iter().copied().collect(),
            asked: asked.clone(),
        }),
        members: Arc::new(Members(world.clone())),
        entry: world.clone(),
        slot: Slot(3),
        node: Name::new("node", "n1").unwrap(),
        length_us: L,
        go_on: Box::new(move || _ = counted.went_on.fetch_add(1, SeqCst)),
    };
    (Renewals::new(with, holds), world, asked)
}

const ALONE: Option<Renewed> = Some(Renewed::Yes { several: false });
const SEVERAL: Option<Renewed> = Some(Renewed::Yes { several: true });

#[test]
fn in_a_pool_of_one_node_no_lease_is_held_or_published() {
    let (mut renewals, world, asked) = renewals(&[(5, ALONE), (5, None), (5, ALONE)], false);
    assert_eq!(renewals.step(), Duration::from_secs(5));
    assert_eq!(renewals.step(), RETRY);
    renewals.step();
    assert_eq!(world.until.load(SeqCst), 0);
    assert_eq!(*asked.lock().unwrap(), [(7, None), (7, None), (7, None)]);
}

#[test]
fn a_second_node_makes_it_hold_a_lease_before_that_is_published_and_for_ever() {
    let (mut renewals, world, asked) = renewals(&[(100, SEVERAL), (100, SEVERAL), (100, ALONE)], false);
    world.clock.store(1000, SeqCst);
    assert_eq!(renewals.step(), Duration::ZERO);
    // It counts from before the renewal was sent.
    assert_eq!(world.until.load(SeqCst), 1000 + L + 1);
    assert_eq!(*asked.lock().unwrap(), [(7, None)]);
    assert_eq!(renewals.step(), Duration::from_secs(5));
    renewals.step();
    assert_eq!(*asked.lock().unwrap(), [(7, None), (7, Some(L)), (7, Some(L))]);
    assert_eq!(world.until.load(SeqCst), 1200 + L + 1);
    assert_eq!(world.went_on.load(SeqCst), 3);
}

#[test]
fn a_process_that_joins_several_nodes_acknowledges_nothing_before_the_first_renewal() {
    let (mut renewals, world, _) = renewals(&[(5, None), (5, SEVERAL)], true);
    assert_eq!(world.until.load(SeqCst), 1, "lapsed");
    assert_eq!(renewals.step(), RETRY);
    assert_eq!(world.until.load(SeqCst), 1);
    renewals.step();
    assert_eq!(world.until.load(SeqCst), 5 + L + 1);
}

#[test]
fn a_refused_renewal_fences_its_own_life_and_no_later_one() {
    let (mut renewals, world, asked) = renewals(&[(5, Some(Renewed::No)), (5, SEVERAL)], true);
    renewals.step();
    assert!(world.is_fenced());
    world.begin(Incarnation(8), Generation(2));
    assert!(!world.is_fenced());
    renewals.step();
    assert_eq!(asked.lock().unwrap()[1].0, 8);
    world.end();
    assert_eq!(renewals.step(), RETRY);
    assert_eq!(
        asked.lock().unwrap().len(),
        2,
        "nothing is renewed without a life"
    );
}
