//! What waits for what: a release for every switch of the table, a rejoin for the requests in flight, writes for the tables of others,
//! the end of a hold for the store, and persisting for every disk.

use super::*;
use crate::rig::Apparatus;
use apparatus::blockdev::Disk;
use apparatus::blockdev::device::{Fault, Faults, Faulty, On, Rule};
use apparatus::gate::Access;
use apparatus::model::units::{DiskOffset, Term, VolumeOffset};
use apparatus::rpc::message::{Answer, Request};
use apparatus::rpc::written::Written;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Never takes the controller lock by itself.
fn patient() -> Limits {
    Limits {
        patience: Duration::from_secs(600),
        ..Limits::default()
    }
}

#[test]
fn a_hold_reaches_to_the_last_byte_of_its_range_and_no_further() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let bytes = |start, end| Span {
        volume,
        start: VolumeOffset(start),
        end: VolumeOffset(end),
    };
    let (start, end) = (EXTENT.bytes(), 3 * EXTENT.bytes());
    let moved = NewChange {
        spans: vec![bytes(start, end)],
        ..change("test", vec![map(volume, 1, d2, 1, 2)])
    };
    let outcome = pool.controller().run(moved, true, &mut || {
        let open = [start - 1, start, end - 1, end].map(|at| a.path.is_open(bytes(at, at + 1)));
        assert_eq!(open, [true, false, false, true]);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn an_apparatus_that_has_not_switched_is_fenced_before_the_change_ends() {
    let (pool, _, d2, volume) = pool_with_volume();
    let (a, b) = (pool.apparatus("a"), pool.apparatus("b"));
    let goes_on = b.path.hold_up();
    let mut controller = pool.controller();
    controller.set_patience(Patience {
        answer_us: 1_000_000,
        ..USUAL
    });
    let outcome = controller
        .run(held(volume, vec![map(volume, 0, d2, 1, 2)]), true, &mut || Ok(()))
        .unwrap();
    let Outcome::Finished { generation, .. } = outcome else {
        panic!("not finished")
    };
    assert!(
        controller.fenced().contains(&name("b")),
        "b may still serve the old placement"
    );
    drop(goes_on);
    until("b has rejoined", || b.path.reloads.load(Ordering::SeqCst) == 1);
    until("both have the new table", || {
        [&a, &b].iter().all(|each| each.path.generation() == generation)
    });
}

/// Fences an apparatus in the store and by its word.
fn fence(controller: &mut Controller, pool: &Pool, who: &str) {
    let (member, term) = (pool.member(who), controller.term());
    let fenced = controller.store().fence(term, member.slot, member.incarnation);
    assert!(fenced.unwrap().is_some());
    pool.shared().members.fence(member.slot, member.incarnation);
}

#[test]
fn a_rejoin_waits_until_no_request_is_in_flight() {
    let (pool, ..) = pool_with_volume();
    let a = pool.apparatus("a");
    a.path.lasting.store(3, Ordering::SeqCst);
    fence(&mut pool.controller(), &pool, "a");
    until("a has rejoined", || a.path.reloads.load(Ordering::SeqCst) == 1);
    assert_eq!(a.path.lasting.load(Ordering::SeqCst), 0);
}

#[test]
fn who_joins_or_rejoins_holds_writes_until_the_others_have_its_table() {
    let (pool, d1, d2, old) = pool_with_volume();
    let behind = pool.joined("a");
    let b = pool.apparatus_with("b", patient());
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap().generation;
    let added = VolumeRecord {
        id: controller.store().next_volume_id().unwrap(),
        name: name("w"),
        ..controller.store().volumes().unwrap().remove(0)
    };
    let new = added.id;
    let adds = vec![
        Edit::AddVolume(added),
        map(new, 0, d1, 10, 8),
        map(old, 0, d2, 1, 2),
    ];
    let (id, term) = (prepare(&mut controller, &held(old, adds)), controller.term());
    let (version, _) = controller.store().members().unwrap();
    controller.store().commit(term, id, version).unwrap();

    fence(&mut controller, &pool, "b");
    until("b has rejoined", || b.path.reloads.load(Ordering::SeqCst) == 1);
    // This is answered after the gate was opened.
    pool.greeted("b").ask(Term(0), Request::Status);
    let c = pool.joined("c").serve(patient());
    for each in [&b, &c] {
        assert_eq!(each.path.generation(), before.next());
        for volume in [old, new] {
            assert!(
                !each.path.is_open(Span::whole(volume)),
                "a may still serve the old placement"
            );
            assert!(each.path.is_open_to(Span::whole(volume), Access::Read));
        }
    }
    let of_a = pool.shared().members.own(pool.member("a").slot);
    of_a.set_generation(before.next());
    until("writes go on", || {
        [&b, &c].iter().all(|each| each.path.is_open(Span::whole(old)))
    });
    drop(behind);
}

/// Nobody can tell whether the change is committed, so the hold stays.
#[test]
fn a_hold_stays_until_the_store_can_be_asked_for_its_cancel() {
    let (pool, _, d2, volume) = pool_with_volume();
    let mut handle = pool.handle();
    let (opened, open_store) = (Arc::new(AtomicU64::new(0)), handle.open_store);
    let count = Arc::clone(&opened);
    handle.open_store = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        open_store()
    });
    let often = Limits {
        patience: Duration::from_millis(10),
        ..Limits::default()
    };
    let a = pool.joined_through(&handle, "a").serve(often);
    until("a serves", || a.path.holds() == 0);
    let mut controller = pool.controller();
    let term = controller.term();
    let new = held(volume, vec![map(volume, 0, d2, 1, 2)]);
    let id = prepare(&mut controller, &new);
    let mut raw = pool.greeted("a");
    assert_eq!(
        raw.ask(term, hold(id, &new, &pool)),
        Answer::Held {
            change: id,
            written: Written::All
        }
    );
    a.path.released_at.lock().unwrap().clear();

    let database = rusqlite::Connection::open(pool.dir.database()).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'not now'); END";
    database.execute_batch(refuse).unwrap();
    let before = opened.load(Ordering::SeqCst);
    drop(raw);
    // The store is opened anew after each failure. The second one is that of a retry, so the first was handled.
    until("a has asked again", || {
        opened.load(Ordering::SeqCst) >= before + 2
    });
    assert!(!a.path.is_open(Span::whole(volume)));

    let (version, _) = controller.store().members().unwrap();
    controller.store().commit(term, id, version).unwrap();
    database.execute_batch("DROP TRIGGER refuse").unwrap();
    until("a serves again", || a.path.is_open(Span::whole(volume)));
    let generation = controller.store().header().unwrap().generation;
    assert_eq!(*a.path.released_at.lock().unwrap(), [generation]);
}

/// The apparatus's opening of a disk, replaced by one with faults.
fn through_faults(pool: &Pool, apparatus: &Apparatus, disk: DiskId) -> (Arc<Disk>, Arc<Faults>) {
    let mut store = pool.store();
    let header = store.header().unwrap();
    let records = store.disks().unwrap();
    let record = records.iter().find(|record| record.id == disk).unwrap();
    let faults = Arc::new(Faults::default());
    let given = Arc::clone(&faults);
    let opened = Disk::open_through(record, &header, |device| Box::new(Faulty::new(device, given)));
    let opened = Arc::new(opened.unwrap());
    apparatus.path.disks().insert(Arc::clone(&opened));
    (opened, faults)
}

#[test]
fn changes_are_persisted_once_every_disk_that_they_map_is_flushed() {
    let (pool, _, d2, volume) = pool_with_volume();
    let mut controller = pool.controller();
    let d3 = pool.add_disk(&mut controller, "d3", 20);
    let a = pool.apparatus("a");
    let disks = [d2, d3].map(|disk| through_faults(&pool, &a, disk));
    let at = DiskOffset(EXTENT.bytes());
    let moved = held(volume, vec![map(volume, 0, d2, 1, 2), map(volume, 2, d3, 1, 2)]);
    let copied = controller.run(moved, false, &mut || {
        disks
            .iter()
            .for_each(|(disk, _)| disk.write_at(b"moved", at).unwrap());
        Ok(())
    });
    copied.unwrap();
    a.persist().unwrap();
    assert!(controller.store().unfinished().unwrap().is_empty());
    // Power fails: what the disks were given since their last flush is gone.
    for (disk, faults) in &disks {
        faults.set([Rule::always(On::Flush, Fault::Lose)]);
        let ledger = pool.shared().ledgers.ledger(disk.id());
        disk.flush_here(&*ledger).unwrap_err();
        let mut content = [0; 5];
        disk.read_at(&mut content, at).unwrap();
        assert_eq!(&content, b"moved", "disk {}", disk.name());
    }
}
