//! Reads, writes, zeroes, holes and copies.

use super::*;
use std::fs::FileTimes;
use std::time::{Duration, SystemTime};

/// Compares reads, writes and zeroing, also at unaligned offsets, with a byte array.
fn behaves(disk: &Disk) {
    let size = 8 * MIB;
    let mut model = vec![0; size as usize];
    disk.zero(DiskOffset(MIB), size - MIB, true).unwrap();
    let writes = [
        (MIB, 3 * MIB),
        (MIB + 1, 5),
        (4 * MIB - 3, 7),
        (size - 1, 1),
        (5 * MIB, MIB),
    ];
    for (at, len) in writes {
        let bytes = pattern(len);
        disk.write_at(&bytes, DiskOffset(at)).unwrap();
        model[at as usize..(at + len) as usize].copy_from_slice(&bytes);
    }
    let zeroes = [
        (MIB + 100, 3),
        (2 * MIB, MIB),
        (3 * MIB + 511, 9000),
        (5 * MIB + 4096, 8192),
        (6 * MIB, 0),
    ];
    for (index, (at, len)) in zeroes.into_iter().enumerate() {
        disk.zero(DiskOffset(at), len, index % 2 == 1).unwrap();
        model[at as usize..(at + len) as usize].fill(0);
    }
    let same = |bytes: &[u8]| bytes == &model[MIB as usize..];
    assert!(same(&read(disk, MIB, size - MIB)));
    // In memory, a range with holes is not read through the mapping.
    let mapped = through_mapping(disk, MIB, (size - MIB) as usize);
    assert!(mapped.map_or_else(|why| why.kind() == io::ErrorKind::NotFound, |bytes| same(&bytes)));
    let ledger = ledger(disk);
    disk.start_writeback(DiskOffset(MIB), size - MIB, &*ledger);
    disk.settle(DiskOffset(MIB), size - MIB, &*ledger).unwrap();
    disk.flush_here(&*ledger).unwrap();
    disk.populate(DiskOffset(MIB), size - MIB).unwrap();
    assert!(disk.resident(DiskOffset(MIB), (size - MIB) as usize));
    assert!(same(&read(disk, MIB, size - MIB)));
    assert_eq!(disk.faults().total(), 0);
}

/// The label, and bytes beyond the disk, cannot be accessed.
fn keeps_to_itself(disk: &Disk) {
    for (at, len) in [
        (0, 4096),
        (MIB - 1, 2),
        (8 * MIB - 1, 2),
        (8 * MIB, 1),
        (u64::MAX, 1),
    ] {
        let at = DiskOffset(at);
        let mut buf = vec![1; len];
        assert_eq!(
            disk.read_at(&mut buf, at).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            disk.write_at(&buf, at).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(disk.zero(at, len as u64, true).is_err() && disk.mapped(at, len).is_none());
        assert!(!disk.resident(at, len) && disk.data_runs(at, len as u64).is_err());
    }
}

#[test]
fn images_read_write_zero_and_report_their_holes() {
    for dir in places() {
        let record = image(dir.path(), 1, 8);
        let disk = opened(&record);
        behaves(&disk);
        keeps_to_itself(&disk);
        assert_eq!(fs::metadata(&record.path).unwrap().len(), 8 * MIB);

        disk.zero(DiskOffset(MIB), 7 * MIB, true).unwrap();
        assert_eq!(disk.data_runs(DiskOffset(MIB), 7 * MIB).unwrap(), []);
        assert!(
            fs::metadata(&record.path).unwrap().blocks() * 512 < MIB,
            "a hole takes no space"
        );
        disk.write_at(&pattern(64 << 10), DiskOffset(3 * MIB)).unwrap();
        let runs = disk.data_runs(DiskOffset(MIB), 7 * MIB).unwrap();
        assert_eq!(runs, [3 * MIB..3 * MIB + (64 << 10)]);
        let inner = disk.data_runs(DiskOffset(3 * MIB + 4096), 4096).unwrap();
        assert_eq!(inner, [3 * MIB + 4096..3 * MIB + 8192]);
    }
}

/// An access time would be written to the file system, which may not answer.
#[test]
fn opening_and_reading_an_image_leaves_no_trace_of_it() {
    for dir in places() {
        let record = image(dir.path(), 1, 2);
        // The access time is so old that the kernel would update it.
        let old = SystemTime::now() - Duration::from_secs(72 * 3600);
        let times = FileTimes::new().set_accessed(old);
        File::options()
            .write(true)
            .open(&record.path)
            .unwrap()
            .set_times(times)
            .unwrap();
        let before = fs::metadata(&record.path).unwrap().accessed().unwrap();
        let disk = opened(&record);
        read(&disk, MIB, 4096);
        // In memory, a hole is not read through the mapping.
        let mapped = through_mapping(&disk, MIB, 4096);
        assert!(mapped.is_ok_and(|bytes| is_zero(&bytes)) || disk.mapped(DiskOffset(MIB), 4096).is_none());
        assert_eq!(fs::metadata(&record.path).unwrap().accessed().unwrap(), before);
    }
}

/// Copies between disks and within one, data and zeroes.
fn copies(from: &Disk, to: &Disk) {
    let bytes = pattern(2 * MIB);
    from.write_at(&bytes, DiskOffset(MIB)).unwrap();
    to.write_at(&vec![0xee; 4 * MIB as usize], DiskOffset(2 * MIB))
        .unwrap();
    from.copy_to(DiskOffset(MIB), to, DiskOffset(3 * MIB), 2 * MIB)
        .unwrap();
    assert!(read(to, 3 * MIB, 2 * MIB) == bytes);
    assert!(read(to, 2 * MIB, MIB).iter().all(|byte| *byte == 0xee));
    assert!(read(to, 5 * MIB, MIB).iter().all(|byte| *byte == 0xee));
    from.zero(DiskOffset(MIB), 65536, true).unwrap();
    from.copy_to(DiskOffset(MIB), to, DiskOffset(3 * MIB), 65536)
        .unwrap();
    assert!(is_zero(&read(to, 3 * MIB, 65536)));
    to.copy_to(DiskOffset(4 * MIB), to, DiskOffset(6 * MIB), 65536)
        .unwrap();
    assert!(read(to, 6 * MIB, 65536) == read(to, 4 * MIB, 65536));
    // The copy is independent: the source can change without it.
    from.write_at(&[9; 4096], DiskOffset(2 * MIB)).unwrap();
    assert!(read(to, 4 * MIB, 4096) == bytes[MIB as usize..][..4096]);
    assert!(through_mapping(to, 4 * MIB, 4096).unwrap() == bytes[MIB as usize..][..4096]);
}

#[test]
fn copies_between_images_are_exact() {
    let dirs = places();
    let disks: Vec<Disk> = dirs
        .iter()
        .flat_map(|dir| [1, 2].map(|id| opened(&image(dir.path(), id, 8))))
        .collect();
    for from in &disks {
        for to in disks.iter().filter(|to| to.path() != from.path()) {
            copies(from, to);
        }
    }
    assert!(!disks[0].shares_with(&disks[2]));
}

#[test]
fn images_on_xfs_share_storage() {
    images_share_storage_on("mkfs.xfs");
}

#[test]
fn images_on_btrfs_share_storage() {
    images_share_storage_on("mkfs.btrfs");
}

/// The kernel keeps read-ahead data in large folios, and later writes to those are slow on ext4.
#[test]
fn a_cold_read_of_an_image_on_ext4_fetches_no_more_than_it_touches() {
    on_ext4(|disk, drop_cache| {
        disk.write_at(&pattern(4 * MIB), DiskOffset(MIB)).unwrap();
        disk.flush_here(&*ledger(disk)).unwrap();
        drop_cache();
        let (touched, beside) = (DiskOffset(2 * MIB), DiskOffset(2 * MIB + (16 << 10)));
        assert!(!disk.resident(touched, 4096));
        through_mapping(disk, touched.0, 4096).unwrap();
        assert!(disk.resident(touched, 4096));
        assert!(!disk.resident(beside, 4096));
    });
}

/// The page cache gets pieces as large as the calls, permanently.
#[test]
fn an_image_on_ext4_is_written_in_small_calls_only_where_the_page_cache_has_nothing_yet() {
    on_ext4(|disk, drop_cache| {
        let (at, bytes) = (DiskOffset(2 * MIB), pattern(MIB));
        let calls = || {
            let before = write_calls();
            disk.write_at(&bytes, at).unwrap();
            write_calls() - before
        };
        assert_eq!([calls(), calls()], [16, 1]);
        disk.flush_here(&*ledger(disk)).unwrap();
        drop_cache();
        assert_eq!(calls(), 16);
        assert!(read(disk, at.0, MIB) == bytes);

        let to = DiskOffset(4 * MIB);
        let before = write_calls();
        disk.copy_to(at, disk, to, MIB).unwrap();
        disk.copy_to(at, disk, to, MIB).unwrap();
        assert_eq!(write_calls() - before, 16 + 1);
        assert!(read(disk, to.0, MIB) == bytes);
    });
}

/// Returns the number of write calls of this thread.
fn write_calls() -> u64 {
    let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
    let count = counts.lines().find_map(|line| line.strip_prefix("syscw: "));
    count.unwrap().parse().unwrap()
}

/// Runs `test` on a new image of 8 MiB, with a function that drops the image's page cache as
/// far as it is not mapped and touched. Does nothing where ext4 or a loop device is missing.
fn on_ext4(test: impl FnOnce(&Disk, &dyn Fn())) {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = scratch.path().join("fs.img");
    empty_file(&path, 64 * MIB);
    if run("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]).is_none() {
        return;
    }
    let Some(device) = Loop::over(&path) else { return };
    let Some(mount) = Mount::of(&device.path) else {
        return;
    };
    let record = image(mount.at.path(), 1, 8);
    let disk = opened(&record);
    let file = File::open(&record.path).unwrap();
    test(&disk, &|| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    });
}

fn images_share_storage_on(mkfs: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file-system");
    empty_file(&path, 400 * MIB);
    if run(mkfs, &["-q", path.to_str().unwrap()]).is_none() {
        return;
    }
    let Some(device) = Loop::over(&path) else { return };
    let Some(mount) = Mount::of(&device.path) else {
        return;
    };
    let [from, to] = [1, 2].map(|id| opened(&image(mount.at.path(), id, 8)));
    behaves(&from);
    assert!(from.shares_with(&to));
    copies(&from, &to);
    assert!(from.shares_with(&to), "cloning was refused");
}

#[test]
fn loop_devices_are_disks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 8 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    let record = added(1, &device.path);
    assert_eq!(record.extents, 8);
    let disk = opened(&record);
    assert!(disk.is_device());
    behaves(&disk);
    keeps_to_itself(&disk);
    assert_eq!(disk.data_runs(DiskOffset(MIB), MIB).unwrap(), [MIB..2 * MIB]);
    let plain = opened(&image(dir.path(), 2, 8));
    copies(&disk, &plain);
    copies(&plain, &disk);
    disk.set_layout(5, &*ledger(&disk)).unwrap();
    assert_eq!(opened(&record).label().layout, 5);
}
