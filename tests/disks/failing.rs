//! Failing disks: errors are reported where they belong, and there is no signal.

use super::*;

#[test]
fn a_truncated_image_answers_with_errors_and_stays_lost() {
    for dir in places() {
        let record = image(dir.path(), 1, 8);
        let disk = opened(&record);
        let other = opened(&image(dir.path(), 2, 8));
        disk.write_at(&pattern(7 * MIB), DiskOffset(MIB)).unwrap();
        disk.populate(DiskOffset(MIB), 7 * MIB).unwrap();
        let file = OpenOptions::new().write(true).open(&record.path).unwrap();
        file.set_len(4 * MIB).unwrap();

        let lost = DiskOffset(6 * MIB);
        let mut buf = vec![0; 4096];
        assert!(through_mapping(&disk, lost.0, 4096).is_err());
        assert!(disk.populate(lost, 4096).is_err());
        assert!(!disk.resident(lost, 4096));
        assert_eq!(
            disk.read_at(&mut buf, lost).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(disk.mapped(lost, 4096).is_none());
        assert_eq!(
            disk.write_at(&buf, lost).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(disk.zero(lost, 4096, true).is_err());
        assert!(disk.data_runs(DiskOffset(3 * MIB), 2 * MIB).is_err());
        let copied = disk.copy_to(DiskOffset(3 * MIB), &other, DiskOffset(MIB), 2 * MIB);
        assert!(matches!(copied, Err(CopyError::Read(_))), "{copied:?}");
        let copied = other.copy_to(DiskOffset(MIB), &disk, DiskOffset(5 * MIB), MIB);
        assert!(matches!(copied, Err(CopyError::Write(_))), "{copied:?}");
        assert_eq!(disk.lost(), Some(ByteCount(4 * MIB)));
        assert_eq!(fs::metadata(&record.path).unwrap().len(), 4 * MIB, "was extended");

        // The remaining part is served.
        assert!(read(&disk, MIB, 3 * MIB) == pattern(7 * MIB)[..3 * MIB as usize]);
        disk.write_at(&[5; 4096], DiskOffset(4 * MIB - 4096)).unwrap();
        disk.flush_here(&*ledger(&disk)).unwrap();
        let faults = disk.faults();
        assert!(
            faults.reads > 0 && faults.writes > 0 && faults.flushes == 0,
            "{faults:?}"
        );

        // After growing again it reads as zeroes, which this opening does not accept as data.
        file.set_len(8 * MIB).unwrap();
        assert!(disk.read_at(&mut buf, lost).is_err());
        let again = opened(&record);
        assert!(is_zero(&read(&again, lost.0, 4096)));
        assert_eq!(again.lost(), None);
    }
}

/// Nothing has read the lost part: the write itself has to notice.
#[test]
fn a_write_does_not_make_a_truncated_image_long_again() {
    for dir in places() {
        let record = image(dir.path(), 1, 8);
        let disk = opened(&record);
        disk.write_at(&[1; 4096], DiskOffset(7 * MIB)).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&record.path)
            .unwrap()
            .set_len(4 * MIB)
            .unwrap();
        let truncated = apparatus::sys::coarse_us();
        while apparatus::sys::coarse_us() == truncated {
            std::hint::spin_loop();
        }
        let error = disk.write_at(&[1; 4096], DiskOffset(7 * MIB)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(fs::metadata(&record.path).unwrap().len(), 4 * MIB);
    }
}

/// The page cache gives no warning: the copier finds the truncation in the middle of a copy.
#[test]
fn a_source_truncated_behind_our_back_fails_the_copy_as_a_read() {
    for dir in places() {
        let record = image(dir.path(), 1, 8);
        let disk = opened(&record);
        let other = opened(&image(dir.path(), 2, 8));
        disk.write_at(&pattern(7 * MIB), DiskOffset(MIB)).unwrap();
        let file = OpenOptions::new().write(true).open(&record.path).unwrap();
        file.set_len(4 * MIB).unwrap();
        let copied = disk.copy_to(DiskOffset(3 * MIB), &other, DiskOffset(MIB), 2 * MIB);
        assert!(matches!(copied, Err(CopyError::Read(_))), "{copied:?}");
        assert!(read(&other, MIB, MIB) == pattern(7 * MIB)[2 * MIB as usize..3 * MIB as usize]);
    }
}

#[test]
fn a_full_disk_below_an_image_is_an_error_of_the_write() {
    let Some(mount) = small_tmpfs() else { return };
    let record = image(mount.at.path(), 1, 64);
    let disk = opened(&record);
    let bytes = pattern(MIB);
    let failed = (1..64).find_map(|mib| disk.write_at(&bytes, DiskOffset(mib * MIB)).err());
    assert_eq!(failed.unwrap().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.faults().writes, 1);
    // A hole can be read, though the mapping has no room for its page.
    assert!(is_zero(&read(&disk, 60 * MIB, MIB)));
    disk.populate(DiskOffset(60 * MIB), MIB).unwrap();
    assert!(disk.mapped(DiskOffset(60 * MIB), MIB as usize).is_none());
    assert!(disk.mapped(DiskOffset(MIB), MIB as usize).is_some());
}

/// On a file system in memory, a page fault on a hole takes a page of it.
#[test]
fn reading_a_sparse_image_in_memory_takes_no_space() {
    let dir = TempDir::new_in("/dev/shm").unwrap();
    let record = image(dir.path(), 1, 64);
    let (disk, other) = (opened(&record), opened(&image(dir.path(), 2, 64)));
    disk.write_at(&pattern(MIB), DiskOffset(8 * MIB)).unwrap();
    let taken = || std::fs::metadata(&record.path).unwrap().blocks();
    let before = taken();
    disk.populate(DiskOffset(MIB), 63 * MIB).unwrap();
    disk.copy_to(DiskOffset(7 * MIB), &other, DiskOffset(MIB), 3 * MIB)
        .unwrap();
    assert!(read(&other, 2 * MIB, MIB) == pattern(MIB));
    assert!(disk.mapped(DiskOffset(7 * MIB), 2 * MIB as usize).is_none());
    assert!(
        disk.resident(DiskOffset(7 * MIB), 2 * MIB as usize),
        "it waits for no device"
    );
    assert!(through_mapping(&disk, 8 * MIB, MIB as usize).unwrap() == pattern(MIB));
    assert_eq!(taken(), before);
}

/// A block device whose medium is full: the page cache accepts the write, and the flush has to report the error.
#[test]
fn a_write_back_error_is_reported_by_the_flush() {
    let Some(mount) = small_tmpfs() else { return };
    let path = mount.at.path().join("image");
    empty_file(&path, 64 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    let disk = opened(&added(1, &device.path));
    let fill = |from: u64| {
        let bytes = pattern(MIB);
        (from..from + 20).for_each(|mib| disk.write_at(&bytes, DiskOffset(mib * MIB)).unwrap());
    };
    let ledger = ledger(&disk);
    fill(1);
    ledger.written();
    assert!(disk.flush(&*ledger).is_err());
    assert!(ledger.is_dirty());
    assert_eq!((ledger.failures(), disk.faults().flushes), (1, 1));
    // The kernel has reported the error, and forgets it.
    disk.flush(&*ledger).unwrap();

    fill(30);
    assert!(disk.settle(DiskOffset(30 * MIB), 20 * MIB, &*ledger).is_err());
    assert_eq!(
        ledger.failures(),
        2,
        "the process may be killed before its next flush"
    );
    assert!(
        disk.flush_here(&*ledger).is_err(),
        "what settling took from the kernel was not passed on"
    );
    disk.flush_here(&*ledger).unwrap();
}

/// The kernel reports a lost page to the first call that syncs, which may be a label write: it
/// fails, and the ledger keeps the error for those to which the kernel does not report it any more.
#[test]
fn a_label_write_that_gets_the_error_of_a_lost_page_fails_and_the_ledger_keeps_it() {
    let Some(mount) = small_tmpfs() else { return };
    let path = mount.at.path().join("image");
    empty_file(&path, 64 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    let record = added(1, &device.path);
    let writer = opened(&record);
    let ledger = ledger(&writer);
    type Call = fn(&Disk, &dyn FlushLedger) -> Result<Label, Error>;
    let calls: [Call; 2] = [
        |disk, ledger| disk.set_layout(7, ledger),
        |disk, ledger| disk.set_extents(64, ledger),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let (failures, at) = (ledger.failures(), 1 + 20 * index as u64);
        (at..at + 20).for_each(|mib| writer.write_at(&pattern(MIB), DiskOffset(mib * MIB)).unwrap());
        // Another process's `sync`: the pages are lost, and no error has been reported.
        run("blockdev", &["--flushbufs", device.path.to_str().unwrap()]);
        let (first, later) = (opened(&record), opened(&record));
        let at = mount.at.path().to_str().unwrap();
        run("mount", &["-o", "remount,size=64m", at]).unwrap();
        assert!(call(&first, &*ledger).is_err());
        assert_eq!(ledger.failures(), failures + 1);
        later.flush_here(&*ledger).unwrap_err();
        opened(&record).flush_here(&*ledger).unwrap();
        assert!(ledger.has_lost());
        run("mount", &["-o", "remount,size=16m", at]);
    }
}

/// Nothing can be flushed with the ledger of another disk.
#[test]
fn another_disks_ledger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (opened(&image(dir.path(), 1, 4)), opened(&image(dir.path(), 2, 4)));
    let ledger = ledger(&one);
    assert!(other.flush_here(&*ledger).is_err());
    assert!(other.set_layout(3, &*ledger).is_err());
    assert_eq!(ledger.failures(), 0);
}

/// Data that the flush of a killed process has lost is written by the next flush if it is written again; otherwise the loss is not noticed.
#[test]
fn data_of_a_flush_with_unknown_result_is_written_again() {
    let Some(mount) = small_tmpfs() else { return };
    let path = mount.at.path().join("image");
    empty_file(&path, 64 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    let record = added(1, &device.path);
    let bytes = pattern(24 * MIB);
    let dying = opened(&record);
    dying.write_at(&bytes, DiskOffset(MIB)).unwrap();
    let ledger = ledger(&dying);
    assert!(dying.flush_here(&*ledger).is_err());
    let at = mount.at.path().to_str().unwrap();
    run("mount", &["-o", "remount,size=64m", at]).unwrap();
    let on_the_medium = || std::fs::read(&path).unwrap()[MIB as usize..25 * MIB as usize] == bytes;
    let disk = opened(&record);
    disk.flush_here(&*ledger).unwrap();
    assert!(!on_the_medium(), "nothing was lost, so nothing is tested");
    disk.rewrite(DiskOffset(MIB), 24 * MIB).unwrap();
    disk.flush_here(&*ledger).unwrap();
    assert!(on_the_medium());
    // A device that is not open any more forgets its pages, so nothing is left to be written again.
    drop(dying);
}

/// A block device that has lost its medium's end.
#[test]
fn a_read_error_of_a_device_is_an_error_and_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 8 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    if run("losetup", &["--direct-io=on", device.path.to_str().unwrap()]).is_none() {
        return;
    }
    let record = added(1, &device.path);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4 * MIB)
        .unwrap();
    // Data that was read while the disk was added is dropped with its last opening, which a child of another test may still have.
    if run("blockdev", &["--flushbufs", device.path.to_str().unwrap()]).is_none() {
        return;
    }
    let (disk, other) = (opened(&record), opened(&image(dir.path(), 2, 8)));
    let lost = DiskOffset(6 * MIB);
    assert!(through_mapping(&disk, lost.0, 4096).is_err());
    assert_eq!(
        disk.read_at(&mut [0; 4096], lost).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    assert!(disk.populate(lost, 4096).is_err());
    let copied = disk.copy_to(lost, &other, DiskOffset(MIB), MIB);
    assert!(matches!(copied, Err(CopyError::Read(_))), "{copied:?}");
    assert_eq!(disk.faults().last, libc::EIO);
    assert!(is_zero(&read(&disk, MIB, 3 * MIB)));
}

fn small_tmpfs() -> Option<Mount> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return None;
    }
    let at = tempfile::tempdir().unwrap();
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=16m",
            "none",
            at.path().to_str().unwrap(),
        ],
    )?;
    Some(Mount { at })
}
