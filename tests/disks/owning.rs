//! One owner, one file, the newest copy: anything else at a disk's path is refused by name, with the way out.

use super::*;

/// A database of the pool, in a directory of its own.
fn database(dir: &TempDir, id: u128) -> PoolHeader {
    PoolHeader {
        instance: Instance {
            id: Uuid::from_u128(id),
            former: Uuid::nil(),
            dir: apparatus::model::dir::PoolDir::new(dir.path()),
            ..Instance::default()
        },
        ..header()
    }
}

fn relabelled(disk: &DiskRecord, layout: u64) -> Label {
    let disk = opened(disk);
    disk.set_layout(layout, &*ledger(&disk)).unwrap()
}

fn copied(from: &Path, to: &Path) {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    assert!(
        Command::new("cp")
            .args(["--sparse=always", from, to])
            .status()
            .unwrap()
            .success()
    );
}

/// Copies of this process's descriptors of these files, as a child of another thread has them between its fork and its exec.
fn copies_of(files: &[&Path]) -> Vec<std::os::fd::OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| files.contains(&&*file)));
    let numbers = ours.map(|fd| fd.file_name().to_str().unwrap().parse().unwrap());
    numbers
        .map(|number| pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).unwrap())
        .collect()
}

#[test]
fn a_disk_that_is_closed_is_free_though_a_child_has_its_descriptors() {
    let (a, b, images) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let (mine, other) = (database(&a, 1), database(&b, 2));
    let disk = image(images.path(), 1, 4);
    let held = Disk::open(&disk, &mine).unwrap();
    let copies = copies_of(&[&disk.path, a.path()]);
    assert!(copies.len() >= 2, "{copies:?}");
    drop(held);
    // Another database may use it, and another file may be it.
    drop(Disk::open(&disk, &other).unwrap());
    let moved = images.path().join("moved");
    copied(&disk.path, &moved);
    std::fs::rename(&moved, &disk.path).unwrap();
    Disk::open(&disk, &mine).unwrap();
    drop(copies);
}

#[test]
fn of_two_databases_one_has_the_disk_and_the_label_remembers_which() {
    for place in places() {
        let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (mine, other) = (database(&a, 1), database(&b, 2));
        let disk = image(place.path(), 1, 4);
        let held = Disk::open(&disk, &mine).unwrap();
        let again = Disk::open(&disk, &mine).unwrap();
        let error = Disk::open(&disk, &other).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let (why, hint) = refused::<Disk>(Err(error));
        assert!(
            why.contains("disk d1") && why.contains("in use by another pool, or by a copy"),
            "{why}"
        );
        assert!(hint.contains("only one database"), "{hint}");
        let adopting = Disk::check_adoptable(&disk, &other).unwrap_err();
        assert_eq!(adopting.kind(), ErrorKind::Busy);
        drop((held, again));

        // A copy in another directory has the same instance, and is refused too.
        let copy = database(&b, 1);
        let held = Disk::open(&disk, &mine).unwrap();
        assert_eq!(Disk::open(&disk, &copy).err().unwrap().kind(), ErrorKind::Busy);
        held.set_layout(1, &*ledger(&held)).unwrap();
        drop(held);

        let (why, hint) = refused(Disk::open(&disk, &other));
        assert!(
            why.contains("belongs to another copy of this pool's database"),
            "{why}"
        );
        assert!(hint.contains("vctl pool adopt"), "{hint}");
        let newer = PoolHeader { layout: 1, ..other };
        Disk::check_adoptable(&disk, &newer).unwrap();
        let waived = Waived {
            owner: true,
            ..Waived::default()
        };
        let adopted = Disk::open_waiving(waived, &disk, &newer).unwrap();
        adopted.take_over(0, &*ledger(&adopted)).unwrap();
        drop(adopted);
        assert!(refused(Disk::open(&disk, &mine)).0.contains("another copy"));
        // The database that adopted remembers the former names of the disks.
        let heir = PoolHeader {
            instance: Instance {
                former: newer.instance.id,
                ..database(&a, 3).instance
            },
            ..header()
        };
        Disk::open(&disk, &heir).unwrap();
    }
}

/// The database of a node of the pool, in a directory of its own: all of them have one instance.
fn of_node(dir: &TempDir, node: &str) -> PoolHeader {
    let mut header = database(dir, 1);
    header.instance.node = Some(apparatus::model::node::name_of_node(node).unwrap());
    header
}

#[test]
fn nodes_on_one_kernel_share_a_disk_and_a_copy_of_a_nodes_directory_does_not() {
    for place in places() {
        let [a, b, c] = [(); 3].map(|()| TempDir::new().unwrap());
        let disk = image(place.path(), 1, 4);
        let first = Disk::open(&disk, &of_node(&a, "n1")).unwrap();
        let second = Disk::open(&disk, &of_node(&b, "n2")).unwrap();
        Disk::open(&disk, &of_node(&a, "n1")).unwrap();
        let error = Disk::open(&disk, &of_node(&c, "n1")).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let (why, hint) = refused::<Disk>(Err(error));
        assert!(why.contains("another directory of the pool"), "{why}");
        assert!(hint.contains("one directory"), "{hint}");
        // Neither a database of the pool without nodes nor another one has it meanwhile.
        for other in [database(&a, 1), database(&c, 2)] {
            let (why, _) = refused(Disk::open(&disk, &other));
            assert!(why.contains("in use by another pool"), "{why}");
        }
        drop(first);
        // The other node still has it, and the first one may use another directory.
        drop(Disk::open(&disk, &of_node(&c, "n1")).unwrap());
        refused(Disk::open(&disk, &database(&a, 1)));
        drop(second);
        Disk::open(&disk, &database(&a, 1)).unwrap();
    }
}

#[test]
fn a_disk_has_another_path_on_this_machine_alone() {
    for place in places() {
        let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let disk = image(place.path(), 1, 4);
        let link = b.path().join("elsewhere");
        std::os::unix::fs::symlink(&disk.path, &link).unwrap();
        let gone = DiskRecord {
            path: b.path().join("gone"),
            ..disk.clone()
        };
        let mut header = of_node(&a, "n1");
        let (why, _) = refused(Disk::open(&gone, &header));
        assert!(why.contains("gone"), "{why}");
        header.instance.paths.insert(disk.uuid, link.clone());
        let open = Disk::open(&gone, &header).unwrap();
        assert_eq!((open.path(), open.recorded_path()), (&*link, &*gone.path));
        // The label decides there too.
        let other = image(b.path(), 2, 4);
        header.instance.paths.insert(disk.uuid, other.path);
        let (why, _) = refused(Disk::open(&gone, &header));
        assert!(why.contains("2.img") || why.contains("of this pool"), "{why}");
    }
}

#[test]
fn an_older_copy_of_a_disk_is_refused_until_its_data_is_accepted() {
    for place in places() {
        let mut disk = image(place.path(), 1, 4);
        let old = place.path().join("old.img");
        copied(&disk.path, &old);
        disk.label = relabelled(&disk, 1).sequence;
        opened(&disk);
        // Power was lost between label and record.
        relabelled(&disk, 2);
        opened(&disk);
        fs::rename(&old, &disk.path).unwrap();
        let (why, hint) = refused(Disk::open(&disk, &header()));
        assert!(why.contains("disk d1") && why.contains("older copy"), "{why}");
        assert!(why.contains("number 1") && why.contains("number 2"), "{why}");
        assert!(hint.contains("vctl disk label d1 --accept-older-data"), "{hint}");
        let waived = Waived {
            age: true,
            ..Waived::default()
        };
        let accepted = Disk::open_waiving(waived, &disk, &header()).unwrap();
        let label = accepted.take_over(disk.label, &*ledger(&accepted)).unwrap();
        assert_eq!(label.sequence, 3);
        opened(&disk);
    }
}

#[test]
fn another_file_is_not_taken_for_a_disk_that_is_open() {
    for place in places() {
        let dir = TempDir::new().unwrap();
        let mine = database(&dir, 1);
        let disk = image(place.path(), 1, 4);
        let copy = place.path().join("copy.img");
        copied(&disk.path, &copy);
        let held = Disk::open(&disk, &mine).unwrap();
        fs::rename(&copy, &disk.path).unwrap();
        let error = Disk::open(&disk, &mine).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let (why, hint) = refused::<Disk>(Err(error));
        assert!(why.contains("another file than the one that is in use"), "{why}");
        assert!(
            hint.contains("move away the file that is not to be used"),
            "{hint}"
        );
        drop(held);
        Disk::open(&disk, &mine).unwrap();
    }
}

#[test]
fn a_lost_label_is_written_again_where_nothing_speaks_against_it() {
    for place in places() {
        let disk = DiskRecord {
            label: 7,
            ..image(place.path(), 1, 4)
        };
        let other = image(place.path(), 2, 4);
        let known = [disk.clone(), other];
        let file = OpenOptions::new().write(true).open(&disk.path).unwrap();
        file.write_all_at(&[0xaa; 8192], 0).unwrap();
        let (why, hint) = refused(Disk::open(&disk, &header()));
        assert!(
            why.contains("label") && hint.contains("vctl disk label d1"),
            "{why}: {hint}"
        );
        let lost = Unlabelled::inspect(&disk, &header(), &known).unwrap().unwrap();
        assert_eq!(lost.content(), None);
        assert_eq!(
            lost.write_label(
                &*cluster::open(&apparatus::model::dir::PoolDir::new(place.path()))
                    .unwrap()
                    .share(pool())
                    .unwrap()
                    .ledgers
                    .ledger(disk.id)
            )
            .unwrap()
            .sequence,
            8
        );
        drop(lost);
        opened(&disk);
        assert!(Unlabelled::inspect(&disk, &header(), &known).unwrap().is_none());

        file.write_all_at(&[0xaa; 9000], 0).unwrap();
        let foreign = Unlabelled::inspect(&disk, &header(), &known).unwrap().unwrap();
        assert_eq!(foreign.content(), Some("data of an unknown kind"));
        drop(foreign);
        let swapped = DiskRecord {
            path: known[1].path.clone(),
            ..disk.clone()
        };
        fs::write(&known[1].path, []).unwrap();
        file.write_all_at(&[0xaa; 8192], 0).unwrap();
        assert!(
            refused(Unlabelled::inspect(&swapped, &header(), &known))
                .0
                .contains("is disk d2")
        );
        file.set_len(MIB).unwrap();
        assert!(
            refused(Unlabelled::inspect(&disk, &header(), &known))
                .0
                .contains("shorter")
        );
    }
}

/// A read-only device; made writable on drop, because the kernel keeps the setting.
struct ReadOnly(Loop);

impl ReadOnly {
    fn of(device: Loop) -> Self {
        run("blockdev", &["--setro", device.path.to_str().unwrap()]).unwrap();
        Self(device)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        run("blockdev", &["--setrw", self.0.path.to_str().unwrap()]);
    }
}

#[test]
fn a_device_that_has_turned_read_only_can_be_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    empty_file(&path, 4 * MIB);
    let Some(device) = Loop::over(&path) else { return };
    let record = added(1, &device.path);
    let bytes = pattern(4096);
    opened(&record).write_at(&bytes, DiskOffset(MIB)).unwrap();
    assert!(!opened(&record).is_read_only());
    let _device = ReadOnly::of(device);
    let disk = opened(&record);
    assert!(disk.is_read_only());
    assert_eq!(read(&disk, MIB, 4096), bytes);
    assert_eq!(through_mapping(&disk, MIB, 4096).unwrap(), bytes);
    assert_eq!(
        disk.write_at(&bytes, DiskOffset(MIB)).unwrap_err().kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    assert!(disk.zero(DiskOffset(MIB), 4096, true).is_err());
    assert!(
        refused(disk.set_layout(3, &*ledger(&disk)))
            .0
            .contains("read-only")
    );
    let target = image(dir.path(), 2, 4);
    disk.copy_to(DiskOffset(MIB), &opened(&target), DiskOffset(MIB), 4096)
        .unwrap();
    assert_eq!(read(&opened(&target), MIB, 4096), bytes);
}

/// Root may not write it either.
#[test]
fn an_immutable_image_can_be_read() {
    let dir = TempDir::new().unwrap();
    let record = image(dir.path(), 1, 4);
    let chattr = |flag: &str| {
        let status = Command::new("chattr").arg(flag).arg(&record.path).status();
        status.is_ok_and(|status| status.success())
    };
    if !chattr("+i") {
        return eprintln!("skipped: files cannot be made immutable here");
    }
    let disk = Disk::open(&record, &header()).map(|disk| disk.is_read_only());
    assert!(chattr("-i"));
    assert!(disk.unwrap());
    assert!(!opened(&record).is_read_only());
}
