//! Changes through apparatuses in all their states.

#[path = "heavy.rs"]
mod heavy;
#[path = "order.rs"]
mod order;
#[path = "pipeline.rs"]
mod pipeline;

use crate::rig::{EXTENT, PATIENCE, Pool, change, map, name, until};
use apparatus::agent::server::Limits;
use apparatus::controller::{ChangePipeline, Controller, PATIENCE as USUAL, Prepare, Wait};
use apparatus::datapath::Runtime;
use apparatus::model::change::{ChangeState, HoldMode, NewChange};
use apparatus::model::error::{ErrorKind, Result};
use apparatus::model::member::MemberState;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, Edit, Segment, Span, VolumeRecord};
use apparatus::model::units::{ByteCount, DiskExtent, DiskId, Generation, VolumeExtent, VolumeId};
use apparatus::protocol::controller::{Outcome, Patience};
use apparatus::protocol::parts;
use std::time::{Duration, Instant};

fn held(volume: VolumeId, edits: Vec<apparatus::model::records::Edit>) -> NewChange {
    NewChange {
        spans: vec![Span::whole(volume)],
        ..change("test", edits)
    }
}

/// A pool with two disks and a volume on the first.
fn pool_with_volume() -> (Pool, DiskId, DiskId, VolumeId) {
    let pool = Pool::new();
    let mut controller = pool.controller();
    let d1 = pool.add_disk(&mut controller, "d1", 20);
    let d2 = pool.add_disk(&mut controller, "d2", 20);
    let volume = pool.add_volume(&mut controller, "v", d1, 1, 8);
    (pool, d1, d2, volume)
}

fn impatient(controller: &mut Controller) {
    controller.set_patience(Patience {
        drain_us: 100_000,
        answer_us: 100_000,
        ..USUAL
    });
}

#[test]
fn a_change_goes_through_everyone_and_lets_go_what_was_parked() {
    let (pool, _, d2, volume) = pool_with_volume();
    let (a, b) = (pool.apparatus("a"), pool.apparatus("b"));
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap().generation;
    let outcome = controller.run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || {
        for each in [&a, &b] {
            assert!(
                !each.path.is_open(Span::whole(volume)),
                "held while the work is done"
            );
            assert_eq!(each.path.generation(), before);
        }
        a.path.park(Span::whole(volume));
        Ok(())
    });
    let Outcome::Finished {
        generation,
        fenced,
        parked,
        ..
    } = outcome.unwrap()
    else {
        panic!("not finished")
    };
    assert_eq!((generation, fenced, parked), (before.next(), vec![], 1));
    for each in [&a, &b] {
        assert_eq!(each.path.generation(), before.next());
        assert!(each.path.is_open(Span::whole(volume)));
        assert_eq!(each.path.holds(), 0);
        assert!(each.path.disks().get(d2).is_some());
    }
    assert!(controller.store().unfinished().unwrap().is_empty(), "persisted");
    assert_eq!(pool.shared().ledgers.persisted(), generation);
    assert_eq!(pool.shared().members.committed(), generation);
    assert_eq!(
        pool.shared().members.entry(pool.member("a").slot).generation,
        generation
    );
}

#[test]
fn work_that_fails_changes_nothing() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap().generation;
    let outcome = controller.run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || {
        Err("no".into())
    });
    assert_eq!(outcome.unwrap_err().why(), "no");
    assert_eq!(controller.store().header().unwrap().generation, before);
    until("the hold is gone", || a.path.holds() == 0);
    assert_eq!(a.path.generation(), before);
    assert!(controller.store().unfinished().unwrap().is_empty());
}

#[test]
fn a_slow_drain_gives_the_change_up_and_fences_no_apparatus() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let (end, thread) = a.path.in_flight_on(Span::whole(volume));
    let mut controller = pool.controller();
    impatient(&mut controller);
    let before = controller.store().header().unwrap().generation;
    let outcome = controller.run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()));
    let why = outcome.unwrap_err();
    assert_eq!(why.kind(), ErrorKind::TimedOut);
    assert!(
        why.to_string()
            .contains("apparatus a still has 1 request in flight"),
        "{why}"
    );
    assert!(why.to_string().contains("disk d1"), "{why}");
    assert_eq!(controller.store().header().unwrap().generation, before);
    assert_eq!(pool.member("a").state, MemberState::Joined);
    until("the hold is gone", || a.path.holds() == 0);
    drop(end);
    thread.join().unwrap();
    controller
        .run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()))
        .unwrap();
}

#[test]
fn a_silent_apparatus_is_fenced_and_rejoins_by_itself() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let silent = pool.joined("b");
    let mut controller = pool.controller();
    impatient(&mut controller);
    let outcome = controller
        .run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()))
        .unwrap();
    let Outcome::Finished { generation, .. } = outcome else {
        panic!("not finished")
    };
    assert_eq!(controller.fenced(), [name("b")]);
    assert_eq!(pool.member("b").state, MemberState::Fenced);
    let first_life = pool.member("b").incarnation;
    assert_eq!(a.path.generation(), generation);
    let events = controller.store().events(0, 100).unwrap();
    assert!(
        events
            .iter()
            .any(|event| event.subject == "apparatus b" && event.text.contains("fenced"))
    );
    // While it is fenced, extents that it may still use are not freed.
    controller.free().unwrap();
    assert!(
        is_quarantined(&pool),
        "the old placement may still be written by the fenced one"
    );
    let b = silent.serve(Limits::default());
    until("b has rejoined", || pool.member("b").state == MemberState::Joined);
    until("b serves the new table", || b.path.is_open(Span::whole(volume)));
    assert!(pool.member("b").incarnation > first_life);
    assert_eq!(b.path.generation(), generation);
    controller.free().unwrap();
    assert!(!is_quarantined(&pool));
    controller
        .run(held(volume, vec![map(volume, 2, d2, 3, 2)]), true, &mut || Ok(()))
        .unwrap();
    assert_eq!(b.path.generation(), generation.next());
}

fn is_quarantined(pool: &Pool) -> bool {
    let mut store = pool.store();
    let disks = store.disks().unwrap();
    let quarantined = |used: &apparatus::model::change::UsedArea| {
        matches!(used.owner, apparatus::model::change::Owner::Quarantine(_))
    };
    disks
        .iter()
        .any(|disk| store.uses(disk.id).unwrap().iter().any(quarantined))
}

#[test]
fn a_dead_one_is_struck_out_and_one_that_left_leaves_nothing_behind() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    drop(pool.apparatus("b"));
    let mut controller = pool.controller();
    assert!(
        controller
            .recovered()
            .iter()
            .any(|line| line.contains("apparatus b has ended")),
        "{:?}",
        controller.recovered()
    );
    drop(pool.apparatus("c"));
    controller
        .run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()))
        .unwrap();
    let (_, members) = controller.store().members().unwrap();
    assert_eq!(members.len(), 1);
    assert!(controller.fenced().is_empty());
    assert_eq!(a.path.applied.lock().unwrap().len(), 1);
}

#[test]
fn one_that_joins_in_the_middle_is_asked_the_next_time() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    let mut late = None;
    let mut works = 0;
    let outcome = controller.run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || {
        works += 1;
        late.get_or_insert_with(|| pool.apparatus("b"));
        Ok(())
    });
    let Outcome::Finished { generation, .. } = outcome.unwrap() else {
        panic!("not finished")
    };
    assert_eq!(works, 2);
    assert_eq!(a.path.generation(), generation);
    assert_eq!(late.unwrap().path.generation(), generation);
}

#[test]
fn a_controller_that_goes_before_the_commit_leaves_nothing() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    let term = controller.term();
    let new = held(volume, vec![map(volume, 0, d2, 1, 2)]);
    let id = prepare(&mut controller, &new);
    let mut raw = pool.greeted("a");
    raw.send(term, vec![hold(id, &new, &pool)]);
    assert!(matches!(
        raw.answer(),
        apparatus::rpc::message::Answer::Held { .. }
    ));
    assert!(!a.path.is_open(Span::whole(volume)));
    drop(raw);
    until("a opens by itself", || a.path.is_open(Span::whole(volume)));
    assert_eq!(
        pool.store().change(id).unwrap().unwrap().state,
        ChangeState::Cancelled
    );
}

#[test]
fn a_controller_that_goes_after_the_commit_is_done_without() {
    let (pool, _, d2, volume) = pool_with_volume();
    let (a, b) = (pool.apparatus("a"), pool.apparatus("b"));
    let mut controller = pool.controller();
    let term = controller.term();
    let new = held(volume, vec![map(volume, 0, d2, 1, 2)]);
    let id = prepare(&mut controller, &new);
    let mut links = [pool.greeted("a"), pool.greeted("b")];
    for (raw, who) in links.iter_mut().zip(["a", "b"]) {
        raw.send(term, vec![hold_for(id, &new, &pool, who)]);
        assert!(matches!(
            raw.answer(),
            apparatus::rpc::message::Answer::Held { .. }
        ));
    }
    let (version, _) = controller.store().members().unwrap();
    controller.store().commit(term, id, version).unwrap();
    let generation = controller.store().header().unwrap().generation;
    let [first, second] = links;
    drop(first);
    until("a applies by itself", || a.path.generation() == generation);
    assert!(
        !a.path.is_open(Span::whole(volume)),
        "b may still serve the old placement"
    );
    drop(second);
    until("both serve the new table", || {
        a.path.is_open(Span::whole(volume)) && b.path.is_open(Span::whole(volume))
    });
    assert_eq!(b.path.generation(), generation);
}

#[test]
fn an_apparatus_takes_over_when_the_controller_and_another_apparatus_are_gone() {
    let (pool, _, d2, volume) = pool_with_volume();
    let limits = Limits {
        patience: Duration::from_millis(100),
        ..Limits::default()
    };
    let a = pool.apparatus_with("a", limits);
    let silent = pool.joined("b");
    let mut controller = pool.controller();
    let term = controller.term();
    let new = held(volume, vec![map(volume, 0, d2, 1, 2)]);
    let id = prepare(&mut controller, &new);
    let mut raw = pool.greeted("a");
    raw.send(term, vec![hold_for(id, &new, &pool, "a")]);
    assert!(matches!(
        raw.answer(),
        apparatus::rpc::message::Answer::Held { .. }
    ));
    let (version, _) = controller.store().members().unwrap();
    controller.store().commit(term, id, version).unwrap();
    drop(controller);
    drop(raw);
    until("a serves", || a.path.is_open(Span::whole(volume)));
    assert_eq!(
        pool.member("b").state,
        MemberState::Fenced,
        "a took the controller lock and fenced it"
    );
    drop(silent);
}

fn prepare(controller: &mut Controller, new: &NewChange) -> apparatus::model::units::ChangeId {
    let mut new = new.clone();
    new.delta.from = controller.store().header().unwrap().generation;
    let term = controller.term();
    controller.store().prepare(term, &new).unwrap()
}

fn hold(
    id: apparatus::model::units::ChangeId,
    new: &NewChange,
    pool: &Pool,
) -> apparatus::rpc::message::Request {
    hold_for(id, new, pool, "a")
}

fn hold_for(
    id: apparatus::model::units::ChangeId,
    new: &NewChange,
    pool: &Pool,
    who: &str,
) -> apparatus::rpc::message::Request {
    apparatus::rpc::message::Request::Hold {
        change: id,
        spans: new.spans.clone(),
        mode: HoldMode::All,
        drain_us: 1_000_000,
        deadline_us: 60_000_000,
        incarnation: pool.member(who).incarnation,
        disks: Vec::new(),
    }
}

#[test]
fn a_hold_ends_at_its_deadline_though_the_controller_lives() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    controller.set_patience(Patience {
        hold_us: 50_000,
        ..USUAL
    });
    let before = controller.store().header().unwrap().generation;
    let outcome = controller.run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || {
        until("a opens by itself", || a.path.is_open(Span::whole(volume)));
        Ok(())
    });
    let why = outcome.unwrap_err();
    assert_eq!(why.kind(), ErrorKind::TimedOut);
    assert!(why.why().contains("expired"), "{why}");
    assert_eq!(controller.store().header().unwrap().generation, before);
}

#[test]
fn a_damaged_table_is_never_acknowledged_and_is_loaded_anew() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    a.path.damaged.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut controller = pool.controller();
    impatient(&mut controller);
    let outcome = controller
        .run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()))
        .unwrap();
    let Outcome::Finished { generation, .. } = outcome else {
        panic!("not finished")
    };
    until("a serves again", || a.path.is_open(Span::whole(volume)));
    assert_eq!(a.path.generation(), generation);
    assert_eq!(a.path.reloads.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn one_controller_at_a_time() {
    let pool = Pool::new();
    let first = pool.controller();
    let busy = Controller::acquire(&pool.dir, "second", Wait::No).err().unwrap();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert!(busy.to_string().contains("test by pid"), "{busy}");
    let term = first.term();
    drop(first);
    assert!(pool.controller().term() > term);
}

#[test]
fn a_host_flush_persists_what_its_data_rests_on() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    controller
        .run(
            held(volume, vec![map(volume, 0, d2, 1, 2)]),
            false,
            &mut || Ok(()),
        )
        .unwrap();
    assert_eq!(controller.store().unfinished().unwrap().len(), 1);
    assert!(pool.shared().ledgers.persisted() < a.path.generation());
    std::thread::scope(|scope| {
        (0..8).for_each(|_| {
            scope.spawn(|| a.persist().unwrap());
        });
    });
    assert_eq!(pool.shared().ledgers.persisted(), a.path.generation());
    assert!(controller.store().unfinished().unwrap().is_empty());
    controller.persist().unwrap();
}

/// A label that is ahead of the database shows that the database is an older copy, whenever the disk is opened.
#[test]
fn an_apparatus_that_rejoins_takes_no_disk_that_knows_a_newer_database() {
    let (pool, d1, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    impatient(&mut controller);
    let mut store = pool.store();
    let record = store
        .disks()
        .unwrap()
        .into_iter()
        .find(|disk| disk.id == d2)
        .unwrap();
    let header = store.header().unwrap();
    let open = apparatus::blockdev::Disk::open(&record, &header).unwrap();
    open.set_layout(header.layout + 100, &*pool.shared().ledgers.ledger(d2))
        .unwrap();
    drop(open);
    a.path.disks().remove(d2);
    a.path.damaged.store(true, std::sync::atomic::Ordering::SeqCst);
    let _ = controller.run(held(volume, vec![map(volume, 0, d1, 10, 2)]), false, &mut || {
        Ok(())
    });
    until("a has loaded its table", || {
        a.path.reloads.load(std::sync::atomic::Ordering::SeqCst) > 0
    });
    until("a serves again", || a.path.is_open(Span::whole(volume)));
    assert!(a.path.disks().get(d2).is_none());
}

#[test]
fn a_label_that_was_written_since_the_header_was_read_is_no_fault() {
    let (pool, _, d2, volume) = pool_with_volume();
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap();
    let moved = held(volume, vec![map(volume, 0, d2, 1, 2)]);
    controller.run(moved, true, &mut || Ok(())).unwrap();
    let disks = controller.store().disks().unwrap();
    let record = disks.iter().find(|disk| disk.id == d2).unwrap();
    let fault = apparatus::admin::disk::fault(&mut *pool.store(), record, &before);
    assert_eq!(fault.map(|fault| fault.to_string()), None);
}
