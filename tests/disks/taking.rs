//! Adding disks: created, labelled, found again, refused.

use super::*;

#[test]
fn an_image_is_made_labelled_opened_and_wiped() {
    for dir in places() {
        let path = dir.path().join("d1.img");
        create_image(&path, ByteCount(8 * MIB + 12345), EXTENT).unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < MIB, "not sparse");
        let candidate = inspect(&path, &[]).unwrap();
        assert_eq!(
            (candidate.size(), candidate.extents()),
            (ByteCount(8 * MIB + 12345), 8)
        );
        assert_eq!((candidate.content(), candidate.is_device()), (None, false));
        candidate.write_label(&header_at(3), Uuid::from_u128(1)).unwrap();
        drop(candidate);

        let record = record(1, &path, 8);
        let disk = opened(&record);
        assert_eq!(
            (disk.id(), disk.name(), disk.label().layout),
            (DiskId(1), "d1", 3)
        );
        assert!(disk.check_layout(3).is_ok());
        let (why, _) = refused(disk.check_layout(2));
        assert!(why.contains("disk d1") && why.contains("newer database"), "{why}");

        assert!(wipe_label(&record, pool()).unwrap());
        assert!(!wipe_label(&record, pool()).unwrap());
        let (why, hint) = refused(Disk::open(&record, &header()));
        assert!(
            why.contains("disk d1") && why.contains("has no label") && !hint.is_empty(),
            "{why}"
        );
        assert_eq!(inspect(&path, &[]).unwrap().content(), None);
    }
}

#[test]
fn what_cannot_be_a_disk_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let says = |path: &Path, expected: &str| {
        let (why, hint) = refused(inspect(path, &[]));
        assert!(why.starts_with(path.to_str().unwrap()), "{why}");
        assert!(why.contains(expected), "{why}");
        assert!(!hint.is_empty(), "{why}");
    };
    says(&at("none"), "No such file");
    assert_eq!(
        inspect(&at("none"), &[]).err().unwrap().kind(),
        ErrorKind::NotFound
    );
    says(dir.path(), "is a directory");
    says(Path::new("/dev/null"), "is a character device");
    for (len, name) in [(0, "empty"), (MIB, "one"), (2 * MIB - 1, "almost")] {
        empty_file(&at(name), len);
        says(&at(name), "is too small");
    }
    empty_file(&at("two"), 2 * MIB);
    assert_eq!(inspect(&at("two"), &[]).unwrap().extents(), 2);
    let pipe = at("pipe");
    run("mkfifo", &[pipe.to_str().unwrap()]).unwrap();
    says(&pipe, "is a pipe");
}

#[test]
fn an_image_is_not_made_over_something_nor_nowhere_nor_too_small_nor_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("there"), b"x").unwrap();
    assert!(
        refused(create_image(&at("there"), ByteCount(4 * MIB), EXTENT))
            .0
            .contains("exists already")
    );
    assert_eq!(fs::read(at("there")).unwrap(), b"x");
    let nowhere = create_image(&at("no/where"), ByteCount(4 * MIB), EXTENT);
    assert_eq!(nowhere.err().unwrap().kind(), ErrorKind::NotFound);
    assert!(
        refused(create_image(&at("tiny"), ByteCount(MIB), EXTENT))
            .0
            .contains("too few")
    );
    for size in [u64::MAX, 1 << 62] {
        assert!(create_image(&at("huge"), ByteCount(size), EXTENT).is_err());
        assert!(!at("huge").exists());
    }
}

#[test]
fn content_that_would_be_destroyed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    empty_file(&path, 16 * MIB);
    assert_eq!(inspect(&path, &[]).unwrap().content(), None);
    if run("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]).is_some() {
        let candidate = inspect(&path, &[]).unwrap();
        assert_eq!(candidate.content(), Some("an ext2, ext3 or ext4 file system"));
        candidate.write_label(&header_at(0), Uuid::from_u128(1)).unwrap();
        let mut head = vec![0; MIB as usize];
        File::open(&path).unwrap().read_exact_at(&mut head, 0).unwrap();
        assert!(is_zero(&head[8192..]), "a trace of the file system is left");
    }
    fs::write(&path, vec![7; 2 * MIB as usize]).unwrap();
    assert_eq!(
        inspect(&path, &[]).unwrap().content(),
        Some("data of an unknown kind")
    );
}

#[test]
fn a_disk_is_in_one_pool_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = image(dir.path(), 1, 4);
    let at = |name: &str| dir.path().join(name);
    symlink(&first.path, at("soft")).unwrap();
    fs::hard_link(&first.path, at("hard")).unwrap();
    for path in [&first.path, &at("soft"), &at("hard")] {
        let (why, _) = refused(inspect(path, std::slice::from_ref(&first)));
        assert!(why.contains("is disk d1 of this pool already"), "{why}");
    }
    fs::copy(&first.path, at("copy")).unwrap();
    let (why, _) = refused(inspect(&at("copy"), std::slice::from_ref(&first)));
    assert!(why.contains("carries the label of disk d1"), "{why}");

    let other = Uuid::from_u128(0xb002);
    let (why, hint) = refused(Candidate::inspect(
        &at("copy"),
        &PoolHeader {
            uuid: other,
            ..header()
        },
        &[],
    ));
    assert!(
        why.contains("belongs to another pool") && why.contains(&pool().to_string()),
        "{why}"
    );
    assert!(hint.contains("remove it from that pool"), "{hint}");

    // A disk that was only labelled is left by an interrupted `disk add`; a disk that was written to shows that in its label.
    let unused = inspect(&at("copy"), &[]).unwrap();
    assert_eq!(unused.content(), None);
    drop(unused);
    let copy = DiskRecord {
        path: at("copy"),
        ..first
    };
    let disk = opened(&copy);
    disk.set_layout(1, &*ledger(&disk)).unwrap();
    drop(disk);
    let unknown = inspect(&at("copy"), &[]).unwrap();
    assert_eq!(
        unknown.content(),
        Some("a disk of this pool that its database does not know")
    );
    let (why, _) = refused(inspect(&at("copy"), &[]));
    assert!(why.contains("is being added by another process"), "{why}");
}

#[test]
fn a_disk_that_is_not_what_its_record_says_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (image(dir.path(), 1, 4), image(dir.path(), 2, 4));
    let says = |record: &DiskRecord, expected: &str| {
        let (why, hint) = refused(Disk::open(record, &header()));
        assert!(
            why.starts_with(&format!("disk {} ({})", record.name, record.path.display())),
            "{why}"
        );
        assert!(why.contains(expected), "{why}");
        assert!(!hint.is_empty(), "{why}");
    };
    says(
        &DiskRecord {
            path: two.path.clone(),
            ..one.clone()
        },
        "is disk 00000000-0000-0000-0000-000000000002 of this pool",
    );
    says(
        &DiskRecord {
            path: dir.path().join("gone"),
            ..one.clone()
        },
        "No such file",
    );
    says(
        &DiskRecord {
            path: dir.path().to_owned(),
            ..one.clone()
        },
        "is neither a regular file nor a block device",
    );
    says(
        &DiskRecord {
            extents: 5,
            ..one.clone()
        },
        "shorter than the 5242880 recorded",
    );
    let foreign = PoolHeader {
        uuid: Uuid::from_u128(9),
        ..header()
    };
    let small = PoolHeader {
        extent_size: ExtentSize::MIN,
        ..header()
    };
    let by = |header: &PoolHeader| refused(Disk::open(&one, header)).0;
    assert!(by(&foreign).contains("belongs to pool"));
    assert!(by(&small).contains("extents of 1048576 bytes"));
    let file = OpenOptions::new().write(true).open(&one.path).unwrap();
    file.set_len(8 * MIB).unwrap();
    says(
        &DiskRecord {
            extents: 8,
            ..one.clone()
        },
        "is labelled with 4 extents",
    );

    file.write_all_at(b"x", 40).unwrap();
    opened(&one);
    file.write_all_at(b"x", 4096 + 40).unwrap();
    says(&one, "damaged label");
    file.set_len(3 * MIB).unwrap();
    says(&one, "shorter than the 4194304 recorded");
}

#[test]
fn a_label_is_rewritten_copy_by_copy() {
    let dir = tempfile::tempdir().unwrap();
    let record = image(dir.path(), 1, 4);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&record.path)
        .unwrap();
    let copy = |index: u64| {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, index * 4096).unwrap();
        Label::decode(&bytes).unwrap()
    };
    let disk = opened(&record);
    for layout in 1..6 {
        let (before, label) = (
            [copy(0), copy(1)],
            disk.set_layout(layout, &*ledger(&disk)).unwrap(),
        );
        let after = [copy(0), copy(1)];
        let kept = after
            .iter()
            .zip(&before)
            .filter(|(after, before)| after == before)
            .count();
        assert_eq!((kept, label.layout), (1, layout));
        assert!(after.contains(&label));
        assert_eq!((opened(&record).label(), disk.label()), (label, label));
    }
    // The newest copy torn: the one before it counts, and the next rewriting repairs the torn one.
    let newest = u64::from(copy(1).sequence > copy(0).sequence);
    file.write_all_at(&[0xff; 512], newest * 4096 + 2048).unwrap();
    assert_eq!(opened(&record).label().layout, 4);
    disk.set_layout(9, &*ledger(&disk)).unwrap();
    assert_eq!(
        (copy(0).layout.max(copy(1).layout), opened(&record).label().layout),
        (9, 9)
    );
}

#[test]
fn a_disk_grows_by_its_label_first() {
    let dir = tempfile::tempdir().unwrap();
    let record = image(dir.path(), 1, 4);
    let disk = opened(&record);
    assert!(disk.set_extents(8, &*ledger(&disk)).is_err());
    grow_image(&record, ByteCount(8 * MIB), &*ledger(&disk)).unwrap();
    grow_image(&record, ByteCount(2 * MIB), &*ledger(&disk)).unwrap();
    assert_eq!(disk.found_extents().unwrap(), 8);
    disk.set_extents(8, &*ledger(&disk)).unwrap();
    opened(&record);
    let disks = Disks::new();
    disks.insert(Arc::new(disk));
    let view = disks.view();
    disks.insert(Arc::new(opened(&DiskRecord { extents: 8, ..record })));
    let at = DiskOffset(6 * MIB);
    // A hole of an image in memory is not read through the mapping.
    disks.get(DiskId(1)).unwrap().write_at(&[1; 4096], at).unwrap();
    assert!(view.get(DiskId(1)).unwrap().mapped(at, 4096).is_none());
    assert!(disks.get(DiskId(1)).unwrap().mapped(at, 4096).is_some());
    disks.remove(DiskId(1));
    assert!(disks.get(DiskId(1)).is_none() && disks.all().is_empty() && view.get(DiskId(1)).is_some());
}

#[test]
fn a_disk_is_not_taken_again_through_a_loop_device() {
    let dir = tempfile::tempdir().unwrap();
    let first = image(dir.path(), 1, 8);
    let Some(device) = Loop::over(&first.path) else {
        return;
    };
    let (why, _) = refused(inspect(&device.path, std::slice::from_ref(&first)));
    assert!(why.contains("is disk d1 of this pool already, as"), "{why}");
    let as_device = DiskRecord {
        path: device.path.clone(),
        ..first.clone()
    };
    let (why, _) = refused(inspect(&first.path, std::slice::from_ref(&as_device)));
    assert!(why.contains("is disk d1 of this pool already, as"), "{why}");
    if let Some(second) = Loop::over(&device.path) {
        let (why, _) = refused(inspect(&second.path, std::slice::from_ref(&first)));
        assert!(why.contains("is disk d1 of this pool already, as"), "{why}");
    }
    let fresh = dir.path().join("fresh");
    empty_file(&fresh, 8 * MIB);
    let over = Loop::over(&fresh).unwrap();
    let (why, hint) = refused(inspect(&fresh, &[]));
    assert!(why.contains("lies under the loop device"), "{why}");
    assert!(hint.contains(over.path.to_str().unwrap()), "{hint}");
    drop(over);
    inspect(&fresh, &[]).unwrap();
}

#[test]
fn a_mounted_device_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 16 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    if run("mkfs.ext4", &["-q", device.path.to_str().unwrap()]).is_none() {
        return;
    }
    let Some(mount) = Mount::of(&device.path) else {
        return;
    };
    let (why, hint) = refused(inspect(&device.path, &[]));
    let expected = format!("is in use: mounted at {}", mount.at.path().display());
    assert!(why.contains(&expected) && hint.contains("unmount"), "{why}");
    drop(mount);
    let candidate = inspect(&device.path, &[]).unwrap();
    assert_eq!(candidate.content(), Some("an ext2, ext3 or ext4 file system"));
    // While it is inspected, no other process can use it.
    let mut mount = Command::new("mount");
    let busy = mount.arg(&device.path).arg(dir.path()).output().unwrap();
    assert!(!busy.status.success());
    assert!(refused(inspect(&device.path, &[])).0.contains("is in use"));
}

#[test]
fn partitions_of_one_disk_are_two_disks_and_none_with_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 64 * MIB);
    // A boot sector with two entries: 20 MiB from 1 MiB, 20 MiB from 21 MiB.
    let mut sector = [0; 512];
    for (at, start) in [(446, 2048_u32), (462, 2048 + 40960)] {
        sector[at + 4] = 0x83;
        sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&40960_u32.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&sector, 0)
        .unwrap();
    let Some(device) = Loop::over(&path) else { return };
    assert_eq!(
        inspect(&device.path, &[]).unwrap().content(),
        Some("a boot sector or partition table")
    );
    if run("partx", &["-a", device.path.to_str().unwrap()]).is_none() {
        return;
    }
    let part = |number: u32| PathBuf::from(format!("{}p{number}", device.path.display()));
    let first = added(1, &part(1));
    assert_eq!(
        inspect(&part(2), std::slice::from_ref(&first)).unwrap().extents(),
        20
    );
    for path in [&device.path, &part(1)] {
        let (why, _) = refused(inspect(path, std::slice::from_ref(&first)));
        assert!(why.contains("is disk d1 of this pool already"), "{why}");
    }
    let whole = DiskRecord {
        path: device.path.clone(),
        ..first
    };
    let (why, _) = refused(inspect(&part(2), &[whole]));
    assert!(why.contains("is disk d1 of this pool already"), "{why}");
    run("partx", &["-d", device.path.to_str().unwrap()]);
}

#[test]
fn data_behind_an_empty_head_is_found() {
    for place in places() {
        let path = place.path().join("image");
        let content = |write: &dyn Fn(&File)| {
            empty_file(&path, 400 * MIB);
            write(&OpenOptions::new().write(true).open(&path).unwrap());
            inspect(&path, &[]).unwrap().content()
        };
        let some = Some("data behind an empty head");
        assert_eq!(content(&|_| ()), None);
        assert_eq!(
            content(&|file| file.write_all_at(&[0; 8192], 30 * MIB).unwrap()),
            None,
            "zeroes"
        );
        assert_eq!(
            content(&|file| file.write_all_at(&[1], 30 * MIB + 7).unwrap()),
            some
        );
        assert_eq!(
            content(&|file| file.write_all_at(&[1], 400 * MIB - 1).unwrap()),
            some
        );
        let table = content(&|file| file.write_all_at(b"EFI PART", 400 * MIB - 512).unwrap());
        assert_eq!(table, Some("a partition table (GPT)"));
        let raid = |file: &File| {
            file.write_all_at(&[0xfc, 0x4e, 0x2b, 0xa9], 400 * MIB - 8192)
                .unwrap()
        };
        assert_eq!(content(&raid), Some("a member of a RAID array"));
        let mirror = content(&|file| file.write_all_at(b"_BHRfS_M", 64 * MIB + 64).unwrap());
        assert_eq!(mirror, Some("a btrfs file system"));
    }
}

#[test]
fn a_device_with_a_wiped_head_is_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 200 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    assert_eq!(inspect(&device.path, &[]).unwrap().content(), None);
    let node = device.path.to_str().unwrap();
    let Some(_) = run("mkfs.ext4", &["-q", "-b", "1024", node]) else {
        return;
    };
    run(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={node}"),
            "bs=1M",
            "count=1",
            "conv=fsync",
        ],
    )
    .unwrap();
    assert_eq!(
        inspect(&device.path, &[]).unwrap().content(),
        Some("an ext2, ext3 or ext4 file system")
    );
}
