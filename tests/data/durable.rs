//! What was acknowledged as durable is on the disks when power fails.

use super::*;

impl Rig {
    /// Power fails: what the disks were given since their last flush is gone.
    fn cut_power(&self, faults: &[Arc<Faults>; 2]) {
        for (disk, faults) in self.disks.iter().zip(faults) {
            faults.set([Rule::always(On::Flush, Fault::Lose)]);
            let (open, ledger) = (
                self.apparatus.control().disks().get(*disk).unwrap(),
                self.shared.ledgers.ledger(*disk),
            );
            open.flush_here(&*ledger).unwrap_err();
            faults.set([]);
        }
    }
}

#[test]
fn a_flush_makes_every_disk_of_the_volume_durable() {
    let (mut rig, faults) = Rig::faulty(limits());
    rig.map(8, rig.disks[1], 5, 8);
    rig.write(1, 8 * EXTENT - 2, b"abcd");
    assert_eq!(rig.answer(1), Received::Written(4));
    rig.ask(2, Operation::Flush);
    assert_eq!(rig.answer(2), Received::Done);
    rig.cut_power(&faults);
    assert_eq!(rig.content(8 * EXTENT - 2, 4), b"abcd");
}

#[test]
fn a_flush_covers_what_was_written_since_the_one_before() {
    let (mut rig, faults) = Rig::faulty(limits());
    for (number, bytes) in [(1, b"abc"), (3, b"xyz")] {
        rig.write(number, 0, bytes);
        assert_eq!(rig.answer(number), Received::Written(3));
        rig.ask(number + 1, Operation::Flush);
        assert_eq!(rig.answer(number + 1), Received::Done);
    }
    rig.cut_power(&faults);
    assert_eq!(rig.content(0, 3), b"xyz");
}

#[test]
fn a_durable_write_is_acknowledged_when_every_disk_of_it_was_flushed() {
    let (mut rig, faults) = Rig::faulty(limits());
    rig.map(8, rig.disks[1], 5, 8);
    let durable = Operation::Write {
        at: VolumeOffset(8 * EXTENT - 2),
        data: Data::Borrowed(b"abcd"),
        durable: true,
    };
    rig.ask(1, durable);
    assert_eq!(rig.answer(1), Received::Written(4));
    rig.cut_power(&faults);
    assert_eq!(rig.content(8 * EXTENT - 2, 4), b"abcd");
}

#[test]
fn a_flush_after_reads_alone_asks_no_disk() {
    let (mut rig, faults) = Rig::faulty(limits());
    let flush = |rig: &mut Rig, number| {
        rig.ask(number, Operation::Flush);
        assert_eq!(rig.answer(number), Received::Done);
    };
    flush(&mut rig, 1);
    // A flush is never short, so this rule only counts.
    faults[0].set([Rule::always(On::Flush, Fault::Short(1))]);
    rig.content(0, 4096);
    flush(&mut rig, 2);
    assert_eq!(faults[0].struck(), 0);
    rig.write(3, 0, b"abc");
    assert_eq!(rig.answer(3), Received::Written(3));
    flush(&mut rig, 4);
    assert_eq!(faults[0].struck(), 1);
}

/// In a new table every disk counts as written, so a first flush precedes.
#[test]
fn a_write_and_a_zeroing_mark_each_of_their_disks() {
    let at = 8 * EXTENT - 2;
    for (zeroes, left) in [(false, b"abcd"), (true, b"\0\0\0\0")] {
        let (mut rig, faults) = Rig::faulty(limits());
        rig.map(8, rig.disks[1], 5, 8);
        let mut number = 0;
        let mut done = |rig: &mut Rig, operation: Operation<'_>, answer| {
            number += 1;
            rig.ask(number, operation);
            assert_eq!(rig.answer(number), answer);
        };
        done(&mut rig, Operation::Flush, Received::Done);
        done(&mut rig, write(at, b"abcd"), Received::Written(4));
        if zeroes {
            done(&mut rig, Operation::Flush, Received::Done);
            let zero = Operation::Zero {
                at: VolumeOffset(at),
                len: 4,
                punch: false,
                clip: false,
            };
            done(&mut rig, zero, Received::Done);
        }
        done(&mut rig, Operation::Flush, Received::Done);
        rig.cut_power(&faults);
        assert_eq!(rig.content(at, 4), left);
    }
}

#[test]
fn a_write_fails_if_any_of_its_disks_does() {
    for failing in [0, 1] {
        let (mut rig, faults) = Rig::faulty(limits());
        rig.map(8, rig.disks[1], 5, 8);
        faults[failing].set([Rule::always(On::Write, Fault::Error(5))]);
        rig.write(1, 8 * EXTENT - 2, b"abcd");
        assert_eq!(rig.answer(1), Received::Failed(Failure::Disk));
    }
}

/// Whoever takes a placement back notes a loss before that is committed; a flush that is under way must not say that all is there.
#[test]
fn a_loss_that_is_noted_while_a_flush_persists_fails_that_flush() {
    let mut rig = Rig::new(limits());
    rig.map(8, rig.disks[1], 5, 8);
    let ledger = rig.shared.ledgers.ledger(rig.disks[1]);
    *rig.persisting.then.lock().unwrap() = Some(Box::new(move || {
        ledger.note_failure();
        Ok(())
    }));
    rig.ask(1, Operation::Flush);
    assert_eq!(rig.answer(1), Received::Failed(Failure::Disk));
    *rig.persisting.then.lock().unwrap() = None;
    rig.ask(2, Operation::Flush);
    assert_eq!(rig.answer(2), Received::Done, "the volume's hosts know it now");
}
