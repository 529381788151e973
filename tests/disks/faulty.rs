//! A disk over a device with faults and without a mapping: every byte arrives, or an error is returned.

use super::*;
use apparatus::blockdev::device::{Fault, Faults, Faulty, On, Rule};

/// A disk of 16 extents with faults, over an image file.
fn faulty(id: u32, dir: &Path) -> (Disk, Arc<Faults>) {
    let path = dir.join(format!("d{id}.img"));
    create_image(&path, ByteCount(16 * MIB), EXTENT).unwrap();
    let faults = Arc::new(Faults::default());
    let wrap = |inner| Box::new(Faulty::new(inner, Arc::clone(&faults))) as Box<_>;
    let disk = Disk::open_through(&added(id, &path), &header(), wrap).unwrap();
    (disk, faults)
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

fn content_of(disk: &Disk, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    disk.read_at(&mut bytes, DiskOffset(at)).unwrap();
    bytes
}

#[test]
fn short_reads_and_writes_are_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let (disk, faults) = faulty(1, dir.path());
    let bytes = content(300_000);
    faults.set([Rule::always(On::Any, Fault::Short(7_777))]);
    disk.write_at(&bytes, DiskOffset(MIB + 100)).unwrap();
    assert!(faults.struck() > 10);
    assert_eq!(content_of(&disk, MIB + 100, bytes.len()), bytes);
    disk.zero(DiskOffset(MIB + 4096), 100_000, true).unwrap();
    assert!(is_zero(&content_of(&disk, MIB + 4096, 100_000)));
    assert_eq!(disk.faults(), apparatus::blockdev::FaultCounts::default());
}

#[test]
fn a_disk_without_a_mapping_reads_copies_and_zeroes() {
    let dir = TempDir::new().unwrap();
    let (from, _) = faulty(1, dir.path());
    let (to, _) = faulty(2, dir.path());
    let bytes = content(200_000);
    from.write_at(&bytes, DiskOffset(MIB)).unwrap();
    assert!(from.mapped(DiskOffset(MIB), 4096).is_none() && !from.resident(DiskOffset(MIB), 4096));
    from.populate(DiskOffset(MIB), 200_000).unwrap();
    assert!(!from.shares_with(&to));
    from.copy_to(DiskOffset(MIB), &to, DiskOffset(3 * MIB), 200_000)
        .unwrap();
    assert_eq!(content_of(&to, 3 * MIB, bytes.len()), bytes);
    let plain = dir.path().join("d3.img");
    create_image(&plain, ByteCount(16 * MIB), EXTENT).unwrap();
    let plain = Disk::open(&added(3, &plain), &header()).unwrap();
    to.copy_to(DiskOffset(3 * MIB), &plain, DiskOffset(MIB), 200_000)
        .unwrap();
    plain
        .copy_to(DiskOffset(MIB), &from, DiskOffset(5 * MIB), 200_000)
        .unwrap();
    assert_eq!(content_of(&from, 5 * MIB, bytes.len()), bytes);
}

#[test]
fn errors_name_their_side_and_are_counted() {
    let dir = TempDir::new().unwrap();
    let (from, from_faults) = faulty(1, dir.path());
    let (to, to_faults) = faulty(2, dir.path());
    to_faults.set([Rule::always(On::Write, Fault::Error(libc::ENOSPC))]);
    let refused = to.write_at(&[1; 4096], DiskOffset(MIB)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    let copied = from.copy_to(DiskOffset(MIB), &to, DiskOffset(MIB), 4096);
    assert!(matches!(copied, Err(CopyError::Write(_))), "{copied:?}");
    from_faults.set([Rule::always(On::Read, Fault::Error(libc::EIO))]);
    let copied = from.copy_to(DiskOffset(MIB), &to, DiskOffset(MIB), 4096);
    assert!(matches!(copied, Err(CopyError::Read(_))), "{copied:?}");
    assert_eq!((from.faults().reads, to.faults().writes), (1, 2));
}

#[test]
fn a_lost_write_is_recorded_by_the_ledger_whichever_call_gets_the_error() {
    let dir = TempDir::new().unwrap();
    let (disk, faults) = faulty(1, dir.path());
    let ledger = ledger(&disk);
    let lose = Rule {
        times: Some(1),
        ..Rule::always(On::Flush, Fault::Lose)
    };
    // A flush of data, a label write, and write-back that is waited for each return the error.
    let calls: [&dyn Fn() -> bool; 3] = [
        &|| disk.flush_here(&*ledger).is_err(),
        &|| disk.set_layout(1, &*ledger).is_err(),
        &|| disk.settle(DiskOffset(MIB), MIB, &*ledger).is_err(),
    ];
    for call in calls {
        disk.write_at(&[1; 4096], DiskOffset(MIB)).unwrap();
        let before = ledger.failures();
        faults.set([lose.clone()]);
        assert!(call());
        assert!(ledger.failures() > before);
    }
}

#[test]
fn a_label_that_was_written_survives_a_power_failure() {
    let dir = TempDir::new().unwrap();
    let (disk, faults) = faulty(1, dir.path());
    let ledger = ledger(&disk);
    let layout = disk.set_layout(7, &*ledger).unwrap().layout;
    faults.set([Rule::always(On::Flush, Fault::Lose)]);
    disk.flush_here(&*ledger).unwrap_err();
    let label = Disk::read_label(&record(1, disk.path(), 16), &header()).unwrap();
    assert_eq!((layout, label.layout), (7, 7));
}

/// A controller that has given up waiting for a label to be written must not wait for it by asking for the label that it knows.
#[test]
fn the_label_is_known_while_writing_it_hangs() {
    let dir = TempDir::new().unwrap();
    let (disk, faults) = faulty(1, dir.path());
    faults.set([Rule::always(On::Write, Fault::Hang)]);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| disk.set_layout(7, &*ledger(&disk)).unwrap());
        while faults.hanging() == 0 {
            std::thread::yield_now();
        }
        let (sender, answer) = std::sync::mpsc::channel();
        let asked = &disk;
        scope.spawn(move || sender.send(asked.label().layout));
        let layout = answer.recv_timeout(std::time::Duration::from_secs(60));
        faults.set([]);
        assert_eq!(layout.unwrap(), 0, "the label before");
        assert_eq!(writing.join().unwrap().layout, 7);
    });
    assert_eq!(disk.label().layout, 7);
}
