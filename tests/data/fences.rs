//! Requests that a fence parks, and their outcome after the rejoin.

use super::*;
use apparatus::model::change::NewChange;

#[test]
fn a_fenced_apparatus_acknowledges_nothing_until_it_has_rejoined() {
    let mut rig = Rig::new(limits());
    rig.fence();
    rig.write(1, 0, b"abc");
    rig.read(2, 0, 3);
    rig.read(3, 1 << 40, 3);
    rig.ask(4, Operation::Flush);
    rig.ask(
        5,
        Operation::Zero {
            at: VolumeOffset(9),
            len: 9,
            punch: true,
            clip: true,
        },
    );
    assert_eq!(
        rig.received.recv_timeout(Duration::from_millis(200)),
        Err(RecvTimeoutError::Timeout)
    );
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(3));
    assert!(matches!(rig.answer(2), Received::Data(bytes) if bytes.len() == 3));
    assert_eq!(rig.answer(3), Received::Data(vec![]));
    assert_eq!((rig.answer(4), rig.answer(5)), (Received::Done, Received::Done));
    assert_eq!(rig.content(0, 3), b"abc");
}

#[test]
fn what_is_parked_by_a_fence_runs_by_the_table_of_the_next_life() {
    let mut rig = Rig::new(limits());
    rig.fence();
    rig.write(1, EXTENT - 1, b"xy");
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(0, &[(rig.disks[1], 3, 1)]),
    };
    rig.pool.change(vec![map], vec![]);
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(2));
    let image = std::fs::read(rig.pool.image("b")).unwrap();
    assert_eq!(image[4 * EXTENT as usize - 1], b'x');
}

/// Lets a disk go on when this is dropped, so that a failed test does not wait for it.
struct Lifted<'a>(&'a Faults);

impl Drop for Lifted<'_> {
    fn drop(&mut self) {
        self.0.set([]);
    }
}

/// Writes, and does `meanwhile` while the write is at its disk. The request has left the gate when this returns.
fn write_and_meanwhile(rig: &Rig, faults: &Faults, write: Operation<'_>, meanwhile: impl FnOnce()) {
    at_its_disk(rig, faults, On::Write, write, meanwhile);
}

/// Serves a request, and does `meanwhile` while it is at its disk.
pub(super) fn at_its_disk(
    rig: &Rig,
    faults: &Faults,
    on: On,
    write: Operation<'_>,
    meanwhile: impl FnOnce(),
) {
    faults.set([Rule::always(on, Fault::Hang)]);
    thread::scope(|scope| {
        let (apparatus, mut context) = (&rig.apparatus, rig.io_context());
        let request = Request::new(rig.volume, write, Ear(1, rig.ear.clone()));
        let lifted = Lifted(faults);
        let writing = scope.spawn(move || apparatus.serve(&mut context, request));
        let since = Instant::now();
        while faults.hanging() == 0 {
            assert!(since.elapsed() < SOON, "the request is not at its disk");
            thread::yield_now();
        }
        meanwhile();
        drop(lifted);
        writing.join().unwrap();
    });
}

#[test]
fn a_write_that_is_fenced_at_its_disk_is_acknowledged_after_the_rejoin() {
    let (mut rig, faults) = Rig::faulty(limits());
    write_and_meanwhile(&rig, &faults[0], write(0, b"abc"), || rig.fence());
    rig.nothing_received();
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(3));
    assert_eq!(rig.content(0, 3), b"abc");
}

#[test]
fn a_write_at_its_disk_is_in_flight_for_a_rejoin() {
    let (mut rig, faults) = Rig::faulty(limits());
    write_and_meanwhile(&rig, &faults[0], write(0, b"abc"), || {
        rig.fence();
        rig.apparatus.control().close();
        assert_eq!(rig.apparatus.control().in_flight(), 1);
    });
    assert_eq!(rig.apparatus.control().in_flight(), 0);
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(3));
}

#[test]
fn a_write_whose_range_has_moved_since_it_was_at_its_disk_runs_again() {
    let (mut rig, faults) = Rig::faulty(limits());
    write_and_meanwhile(&rig, &faults[0], write(0, b"abc"), || rig.fence());
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(0, &[(rig.disks[1], 3, 1)]),
    };
    // The copy was made before the write, so the new placement does not have it.
    rig.pool.change(vec![map], vec![]);
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(3));
    assert_eq!(rig.content(0, 3), b"abc");
}

#[test]
fn a_write_of_which_only_the_end_has_moved_runs_again() {
    let (mut rig, faults) = Rig::faulty(limits());
    write_and_meanwhile(&rig, &faults[0], write(EXTENT - 1, b"ab"), || rig.fence());
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(1, &[(rig.disks[1], 3, 1)]),
    };
    rig.pool.change(vec![map], vec![]);
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Written(2));
    assert_eq!(rig.content(EXTENT - 1, 2), b"ab");
}

/// Its old extents are not free before that.
#[test]
fn the_table_of_a_write_at_its_disk_is_in_use() {
    let (mut rig, faults) = Rig::faulty(limits());
    let before = rig.apparatus.control().generation();
    write_and_meanwhile(&rig, &faults[0], write(0, b"abc"), || {
        rig.map(8, rig.disks[1], 5, 8);
        assert_eq!(rig.apparatus.control().oldest(), before);
    });
    assert_eq!(rig.answer(1), Received::Written(3));
    assert_eq!(rig.apparatus.control().oldest(), before.next());
}

/// Any volume may depend on what is new in a table that was loaded whole.
#[test]
fn a_flush_after_a_rejoin_sees_that_the_loaded_table_is_persisted() {
    let mut rig = Rig::new(limits());
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(8, &[(rig.disks[1], 3, 1)]),
    };
    rig.fence();
    let change = NewChange {
        title: "test".into(),
        job: None,
        delta: Delta {
            from: Generation(0),
            edits: vec![map],
        },
        spans: Vec::new(),
        mode: HoldMode::All,
    };
    let ran = rig.pool.controller().run(change, false, &mut || Ok(()));
    ran.unwrap();
    rig.rejoin();
    let loaded = rig.apparatus.control().generation();
    rig.ask(1, Operation::Flush);
    assert_eq!(rig.answer(1), Received::Done);
    assert_eq!(*rig.persisting.asked.lock().unwrap(), [loaded]);
}

/// The fence falls at any moment of a large write: before it has begun, while it is on its way to the disk, or after it was acknowledged.
#[test]
fn a_write_that_is_fenced_on_its_way_is_finished_in_the_next_life() {
    let mut rig = Rig::new(limits());
    let len = 12 * EXTENT as usize;
    let mut fenced_in_time = 0;
    for round in 0..40_u32 {
        let bytes = vec![u8::try_from(round + 1).unwrap(); len];
        let operation = write(EXTENT, &bytes);
        thread::scope(|scope| {
            let (apparatus, mut context) = (&rig.apparatus, rig.io_context());
            let request = Request::new(rig.volume, operation, Ear(round, rig.ear.clone()));
            let writing = scope.spawn(move || apparatus.serve(&mut context, request));
            while rig.apparatus.control().in_flight() == 0 && !writing.is_finished() {
                std::hint::spin_loop();
            }
            rig.fence();
            writing.join().unwrap();
        });
        let acknowledged = rig.received.try_recv().is_ok();
        fenced_in_time += u32::from(!acknowledged);
        // Every other time its range has moved before it goes on; acknowledged data is copied then, as a move does.
        let placement = rig.disks[usize::try_from(round / 2 % 2).unwrap()];
        if round % 2 == 0 {
            move_volume(&rig, placement);
        }
        rig.rejoin();
        if !acknowledged {
            assert_eq!(rig.answer(round), Received::Written(len as u64));
        }
        assert!(rig.content(EXTENT, len as u64) == bytes, "round {round}");
    }
    println!("{fenced_in_time} of 40 writes were fenced before they were acknowledged");
}

/// Maps the volume to extents 1 to 16 of that disk, and copies its bytes.
fn move_volume(rig: &Rig, to: DiskId) {
    let snapshot = rig.pool.store().snapshot().unwrap();
    let from = snapshot.segments[0].1.placement.disk;
    let disks = rig.apparatus.control().disks();
    let (source, target) = (disks.get(from).unwrap(), disks.get(to).unwrap());
    if from == to {
        return;
    }
    let at = DiskOffset(EXTENT);
    source.copy_to(at, &target, at, 16 * EXTENT).unwrap();
    let map = Edit::Map {
        volume: rig.volume,
        segments: segments(0, &[(to, 1, 16)]),
    };
    rig.pool.change(vec![map], vec![]);
    rig.pool.controller().free().unwrap();
}

#[test]
fn a_fence_that_lasts_too_long_is_an_error_and_its_end_is_the_end_of_that() {
    let mut rig = Rig::new(Limits {
        fenced: Duration::from_millis(50),
        ..limits()
    });
    rig.fence();
    rig.write(1, 0, b"abc");
    assert_eq!(rig.answer(1), Received::Failed(Failure::Fenced));
    rig.write(2, 0, b"abc");
    rig.read(3, 0, 1);
    assert_eq!(rig.answer(2), Received::Failed(Failure::Fenced));
    assert_eq!(rig.answer(3), Received::Failed(Failure::Fenced));
    rig.rejoin();
    rig.write(4, 0, b"def");
    assert_eq!(rig.answer(4), Received::Written(3));
}

#[test]
fn a_flush_that_is_fenced_on_its_way_runs_again_in_the_next_life() {
    let mut rig = Rig::new(limits());
    let from = rig.apparatus.control().generation();
    let volume = rig.pool.store().volumes().unwrap().remove(0);
    let edits = vec![apparatus::model::records::Edit::SetVolume(volume)];
    rig.apparatus.control().apply(&Delta { from, edits }).unwrap();
    let (members, incarnation) = (
        rig.shared.members.clone(),
        rig.shared.members.entry(SLOT).incarnation,
    );
    let (flushing, flushed) = channel();
    *rig.persisting.then.lock().unwrap() = Some(Box::new(move || {
        members.fence(SLOT, incarnation);
        flushing.send(()).unwrap();
        Ok(())
    }));
    rig.ask(1, Operation::Flush);
    flushed.recv_timeout(SOON).unwrap();
    assert_eq!(
        rig.received.recv_timeout(Duration::from_millis(200)),
        Err(RecvTimeoutError::Timeout)
    );
    *rig.persisting.then.lock().unwrap() = None;
    rig.rejoin();
    assert_eq!(rig.answer(1), Received::Done);
}
