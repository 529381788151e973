//! Real mounts of the real program: the operations on a volume's file that hosts may and may not use, and the effects of failing disks and
//! processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod support;

use apparatus::model::records::{Edit, Span, VolumeRecord};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::thread;
use std::time::Duration;
use support::{Daemon, Random, TestPool, name_of, read_up_to};

const EXTENT: u64 = 64 << 10;

/// A volume in pieces: on two disks, forwards and backwards, with adjacent pieces that are one on the disk.
fn scattered(pool: &TestPool, name: &str, size: u64) -> u64 {
    let a = pool.add_disk("a", 40).id;
    let b = pool.add_disk("b", 40).id;
    pool.add_volume(
        name,
        size,
        &[(a, 5, 3), (b, 9, 2), (a, 8, 1), (a, 9, 1), (b, 1, 8), (a, 20, 4)],
    );
    19 * EXTENT
}

fn errno(result: io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn bytes_written_are_read_across_segments_and_disks() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    assert_eq!(file.metadata().unwrap().len(), size);
    assert_eq!(
        read_up_to(&file, size as usize, 0),
        vec![0; size as usize],
        "new space is zeroes"
    );
    let bytes = Random::new(1).bytes(size as usize);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(read_up_to(&file, size as usize, 0), bytes);
    for at in [EXTENT * 3 - 7, EXTENT * 5 - 4096, EXTENT * 15 - 1] {
        assert_eq!(read_up_to(&file, 9000, at), bytes[at as usize..][..9000]);
    }
    drop(file);
    daemon.stop();
    let again = pool.start("x");
    assert_eq!(fs::read(again.path("v")).unwrap(), bytes, "and after a restart");
    again.stop();
}

#[test]
fn random_operations_do_what_they_do_to_an_array() {
    let pool = TestPool::new(EXTENT);
    // The last extent is used in part.
    let size = 18 * EXTENT + 512 * 77;
    scattered(&pool, "v", size);
    let daemons = [pool.start("x"), pool.start_with("y", &["--threads", "4"])];
    let files = daemons.each_ref().map(|daemon| daemon.open("v"));
    let mut array = vec![0; size as usize];
    let mut random = Random::new(42);
    for step in 0..3000 {
        let at = random.below(size);
        let longest = if random.below(10) == 0 { 5 * EXTENT } else { 9000 };
        let len = (1 + random.below(longest)).min(size - at);
        let file = &files[random.below(2) as usize];
        let range = at as usize..(at + len) as usize;
        match random.below(8) {
            0..3 => assert_eq!(
                read_up_to(file, len as usize, at),
                array[range],
                "step {step} at {at}"
            ),
            3..6 => {
                let bytes = random.bytes(len as usize);
                file.write_all_at(&bytes, at).unwrap();
                array[range].copy_from_slice(&bytes);
            }
            6 => {
                let how = [
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                ];
                fallocate(file, how[random.below(3) as usize], at, len).unwrap();
                array[range].fill(0);
            }
            _ => file.sync_data().unwrap(),
        }
    }
    for daemon in &daemons {
        assert!(fs::read(daemon.path("v")).unwrap() == array);
    }
}

#[test]
fn a_volume_has_an_end() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 8).id;
    let size = 2 * EXTENT + 512;
    pool.add_volume("v", size, &[(a, 1, 3)]);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    assert_eq!(errno(file.write_at(b"x", size)), Some(Errno::NOSPC));
    assert_eq!(errno(file.write_at(b"x", size + (1 << 40))), Some(Errno::NOSPC));
    assert_eq!(
        file.write_at(&[7; 100], size - 60).unwrap(),
        60,
        "as much as fits"
    );
    assert_eq!(read_up_to(&file, 100, size - 60), [7; 60]);
    assert!(read_up_to(&file, 10, size).is_empty() && read_up_to(&file, 10, size * 9).is_empty());
    assert_eq!(file.metadata().unwrap().len(), size, "and it stays where it is");

    let whole = FallocateFlags::ZERO_RANGE;
    assert_eq!(fallocate(&file, whole, size - 512, 1024), Err(Errno::NOSPC));
    fallocate(&file, whole | FallocateFlags::KEEP_SIZE, size - 30, 1024).unwrap();
    assert_eq!(
        read_up_to(&file, 60, size - 60),
        [&[7; 30][..], &[0; 30]].concat()
    );
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        size,
        4096,
    )
    .unwrap();
    assert_eq!(
        fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(file.metadata().unwrap().len(), size);
}

/// Programs treat a volume as a regular file: they truncate it and then skip zeroes. So old data must not remain visible.
#[test]
fn a_truncated_volume_keeps_its_size_and_reads_as_zeroes() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let other = pool.start("y");
    let fill = |daemon: &Daemon| daemon.open("v").write_all_at(&vec![7; size as usize], 0).unwrap();
    let content = |daemon: &Daemon| read_up_to(&daemon.open("v"), size as usize + 1, 0);
    let empty = vec![0; size as usize];

    let by_path = |daemon: &Daemon| drop(File::create(daemon.path("v")).unwrap());
    let by_handle = |daemon: &Daemon| daemon.open("v").set_len(0).unwrap();
    for truncate in [&by_path as &dyn Fn(&Daemon), &by_handle] {
        fill(&daemon);
        truncate(&daemon);
        assert_eq!(fs::metadata(daemon.path("v")).unwrap().len(), size);
        assert!(content(&daemon) == empty && content(&other) == empty);
    }

    let file = daemon.open("v");
    file.write_all_at(&[7; 100], 3 * EXTENT).unwrap();
    file.set_len(size).unwrap();
    file.set_len(4 * EXTENT).unwrap();
    assert_eq!(
        errno(file.set_len(3 * EXTENT)),
        Some(Errno::INVAL),
        "there is data beyond"
    );
    assert_eq!(errno(file.set_len(size + 512)), Some(Errno::FBIG));
    assert_eq!(file.metadata().unwrap().len(), size);
    assert_eq!(read_up_to(&file, 100, 3 * EXTENT), [7; 100]);
}

#[test]
fn space_is_allocated_inside_a_volume_and_changes_no_byte() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    file.write_all_at(b"abc", 5 * EXTENT).unwrap();
    let blocks = || fs::metadata(pool.image("a")).unwrap().blocks();
    let before = blocks();
    fallocate(&file, FallocateFlags::empty(), 0, size).unwrap();
    assert!(blocks() >= before + 8 * EXTENT / 512, "of its disks");
    fallocate(&file, FallocateFlags::KEEP_SIZE, size - 512, 1024).unwrap();
    assert_eq!(
        fallocate(&file, FallocateFlags::empty(), size - 512, 1024),
        Err(Errno::NOSPC)
    );
    assert_eq!(read_up_to(&file, 4, 5 * EXTENT), b"abc\0");
    assert_eq!(file.metadata().unwrap().len(), size);
}

#[test]
fn data_and_holes_are_found_across_segments() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    let find = |from| {
        (
            seek(&file, SeekFrom::Data(from)).ok(),
            seek(&file, SeekFrom::Hole(from)).ok(),
        )
    };
    assert_eq!(find(0), (None, Some(0)));
    // Over the border of two segments on two disks, and over one that is none on the disk.
    file.write_all_at(&vec![1; 2 * EXTENT as usize], 2 * EXTENT)
        .unwrap();
    file.write_all_at(&vec![1; EXTENT as usize], 18 * EXTENT).unwrap();
    assert_eq!(find(0), (Some(2 * EXTENT), Some(0)));
    assert_eq!(find(2 * EXTENT + 5), (Some(2 * EXTENT + 5), Some(4 * EXTENT)));
    assert_eq!(find(4 * EXTENT), (Some(18 * EXTENT), Some(4 * EXTENT)));
    assert_eq!(find(18 * EXTENT), (Some(18 * EXTENT), Some(size)));
    assert_eq!(seek(&file, SeekFrom::Data(size)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Hole(size)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::End(-1)), Ok(size - 1));
}

#[test]
#[allow(unsafe_code)]
fn hosts_may_map_a_volume() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    let bytes = Random::new(3).bytes(size as usize);
    file.write_all_at(&bytes, 0).unwrap();
    // SAFETY: no other code maps or shortens the file of this test.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    assert!(map[..] == bytes[..]);
    map[3 * EXTENT as usize - 2..][..4].copy_from_slice(b"abcd");
    map.flush().unwrap();
    assert_eq!(read_up_to(&file, 4, 3 * EXTENT - 2), b"abcd");
    file.write_all_at(b"ABCD", 100).unwrap();
    assert_eq!(
        &map[100..104],
        b"ABCD",
        "a write through the file shows in the map"
    );
}

#[test]
fn the_directory_shows_volumes_and_only_vctl_changes_it() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let mut record = pool.volume_record("first", 2 * EXTENT);
    record.mode = 0o640;
    pool.add(&record, &[(a, 1, 2)]);
    pool.add_volume("second", EXTENT, &[(a, 3, 1)]);
    let daemon = pool.start("x");
    let mut names: Vec<_> = fs::read_dir(daemon.mount())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["first", "second"]);
    let meta = fs::metadata(daemon.path("first")).unwrap();
    assert!(meta.is_file());
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 1));
    assert_eq!((meta.uid(), meta.gid()), (record.uid, record.gid));
    assert_eq!(errno(fs::metadata(daemon.path("third"))), Some(Errno::NOENT));

    let space = rustix::fs::statvfs(daemon.mount()).unwrap();
    assert_eq!((space.f_blocks * space.f_frsize, space.f_files), (8 * EXTENT, 2));
    assert_eq!(
        (space.f_bfree * space.f_frsize, space.f_bavail * space.f_frsize),
        (5 * EXTENT, 5 * EXTENT)
    );

    let refused = Some(Errno::PERM);
    assert_eq!(errno(File::create(daemon.path("third"))), refused);
    assert_eq!(errno(fs::create_dir(daemon.path("dir"))), refused);
    assert_eq!(errno(fs::remove_file(daemon.path("first"))), refused);
    assert_eq!(
        errno(fs::rename(daemon.path("first"), daemon.path("third"))),
        refused
    );
    assert_eq!(
        errno(fs::hard_link(daemon.path("first"), daemon.path("third"))),
        refused
    );
    let mode = |mode| fs::set_permissions(daemon.path("first"), fs::Permissions::from_mode(mode));
    assert_eq!((errno(mode(0o600)), errno(mode(0o640))), (refused, None));
    daemon
        .open("first")
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
}

/// The kernel caches what a listing has shown; none of it outlives a change.
#[test]
fn a_renamed_volume_shows_at_once_in_every_mount_and_its_hosts_keep_it() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let mut volume = pool.add_volume("v0", EXTENT, &[(a, 1, 1)]);
    let other = pool.add_volume("w", EXTENT, &[(a, 2, 1)]);
    let daemons = [pool.start("x"), pool.start("y")];
    let file = daemons[0].open("v0");
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let listed = |daemon: &Daemon| -> Vec<(String, u64, u32)> {
        let entries = fs::read_dir(daemon.mount()).unwrap().map(Result::unwrap);
        let mut all: Vec<_> = entries
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    entry.metadata().unwrap(),
                )
            })
            .map(|(name, meta)| (name, meta.ino(), meta.mode() & 0o7777))
            .collect();
        all.sort();
        all
    };
    let inode = file.metadata().unwrap().ino();
    for round in 1..=20_u16 {
        let before = volume.name.to_string();
        // Again and again, because the kernel trusts a listing more when its files were looked at before.
        daemons.iter().for_each(|daemon| {
            assert_eq!(listed(daemon), listed(daemon));
        });
        volume.name = name_of(&format!("v{round}"));
        volume.mode = 0o600 + round % 8;
        pool.change(vec![Edit::SetVolume(volume.clone())], Vec::new());
        let now = volume.name.to_string();
        for daemon in &daemons {
            assert_eq!(errno(fs::metadata(daemon.path(&before))), Some(Errno::NOENT));
            let meta = fs::metadata(daemon.path(&now)).unwrap();
            assert_eq!(
                (meta.ino(), meta.mode() & 0o7777),
                (inode, u32::from(volume.mode))
            );
            let of_other = (other.name.to_string(), other.id.0 + 2, u32::from(other.mode));
            assert_eq!(
                listed(daemon),
                [(now.clone(), inode, meta.mode() & 0o7777), of_other]
            );
        }
        let bytes = [round as u8; 512];
        file.write_all_at(&bytes, 0).unwrap();
        let through = daemons[1].open(&now);
        assert_eq!(read_up_to(&through, 512, 0), bytes);
        let locked = flock(&through, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Err(Errno::WOULDBLOCK), "the lock is kept");
    }
    pool.change(vec![Edit::RemoveVolume(other.id)], Vec::new());
    for daemon in &daemons {
        assert_eq!(errno(fs::metadata(daemon.path("w"))), Some(Errno::NOENT));
        assert_eq!(listed(daemon).len(), 1);
    }
}

#[test]
fn a_write_shows_in_the_time_of_modification() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    pool.add_volume("v", EXTENT, &[(a, 1, 1)]);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    let modified = || fs::metadata(daemon.path("v")).unwrap().modified().unwrap();
    let before = modified();
    assert_eq!(modified(), before);
    file.write_all_at(b"x", 0).unwrap();
    assert!(modified() > before);
}

/// Backups use the time of modification, through any mount.
#[test]
fn a_write_shows_in_the_time_of_modification_through_other_apparatuses_and_after_a_restart() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    pool.add_volume("v", EXTENT, &[(a, 1, 1)]);
    let (one, two) = (pool.start("x"), pool.start("y"));
    let modified = |daemon: &Daemon| fs::metadata(daemon.path("v")).unwrap().modified().unwrap();
    let agree = |one: &Daemon, two: &Daemon| {
        (0..300).any(|_| {
            thread::park_timeout(Duration::from_millis(100));
            modified(one) == modified(two)
        })
    };
    assert!(agree(&one, &two), "what was never written");
    let before = modified(&two);
    one.open("v").write_all_at(b"x", 0).unwrap();
    assert!(agree(&one, &two), "what was written through one");
    let written = modified(&one);
    assert!(written > before);
    one.stop();
    two.stop();
    let again = pool.start("z");
    assert_eq!(modified(&again), written, "another apparatus, later");
    again.kill();
    let again = pool.start("z");
    assert!(modified(&again) > written, "nobody knows what it wrote last");
}

#[test]
fn what_is_read_only_is_not_written() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let mut record = pool.volume_record("r", EXTENT);
    record.read_only = true;
    pool.add(&record, &[(a, 1, 1)]);
    pool.add_volume("w", EXTENT, &[(a, 2, 1)]);
    let one = pool.start("x");
    let two = pool.start_with("y", &["--read-only"]);
    let writing = |path| errno(OpenOptions::new().write(true).open(path));
    assert_eq!(writing(one.path("r")), Some(Errno::ROFS));
    assert_eq!(writing(one.path("w")), None);
    assert_eq!(writing(two.path("w")), Some(Errno::ROFS));
    assert_eq!(fs::read(two.path("r")).unwrap().len() as u64, EXTENT);
}

/// As on a disk that turns read-only: a process that has it open for writing gets the error at the next write.
#[test]
fn a_volume_that_becomes_read_only_takes_no_write_by_handles_that_are_open() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let mut record = pool.volume_record("v", 2 * EXTENT);
    pool.add(&record, &[(a, 1, 2)]);
    let daemons = [pool.start("x"), pool.start("y")];
    let files = daemons.each_ref().map(|daemon| daemon.open("v"));
    let set = |record: &VolumeRecord| {
        pool.change(
            vec![Edit::SetVolume(record.clone())],
            vec![Span::whole(record.id)],
        );
    };
    files[0].write_all_at(b"before", 0).unwrap();
    record.read_only = true;
    set(&record);
    for (daemon, file) in daemons.iter().zip(&files) {
        assert_eq!(errno(file.write_at(b"after", 0)), Some(Errno::ROFS));
        assert_eq!(
            fallocate(file, FallocateFlags::ZERO_RANGE, 0, 512),
            Err(Errno::ROFS)
        );
        assert_eq!(errno(file.set_len(0)), Some(Errno::ROFS));
        assert_eq!(errno(File::create(daemon.path("v"))), Some(Errno::ROFS));
        assert_eq!(read_up_to(file, 6, 0), b"before");
        file.sync_all().unwrap();
    }
    record.read_only = false;
    set(&record);
    files[1].write_all_at(b"after", 0).unwrap();
}

#[test]
fn holes_do_not_count_as_blocks() {
    let pool = TestPool::new(EXTENT);
    let size = scattered(&pool, "v", 19 * EXTENT);
    let daemon = pool.start("x");
    let (file, path) = (daemon.open("v"), daemon.path("v"));
    let blocks = || fs::metadata(&path).unwrap().blocks();
    assert!(blocks() < size / 512, "even before they are counted");
    let becomes = |bytes: u64| {
        let found = (0..300).any(|_| {
            thread::park_timeout(Duration::from_millis(100));
            blocks() == (bytes / 512).max(1)
        });
        assert!(found, "{} blocks, not those of {bytes} bytes", blocks());
    };
    becomes(0);
    file.write_all_at(&vec![1; 3 * EXTENT as usize], 2 * EXTENT)
        .unwrap();
    // The count is that of before, and tar does not look for data in a file without blocks.
    assert_ne!(blocks(), 0);
    becomes(3 * EXTENT);
    file.set_len(0).unwrap();
    becomes(0);
}

#[test]
fn writes_that_ask_for_it_are_durable() {
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    pool.add_volume("v", 4 * EXTENT, &[(a, 1, 4)]);
    let daemon = pool.start("x");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_DSYNC);
    let file = file.open(daemon.path("v")).unwrap();
    let bytes = Random::new(5).bytes(3 * EXTENT as usize);
    file.write_all_at(&bytes, 1000).unwrap();
    assert_eq!(read_up_to(&file, bytes.len(), 1000), bytes);
    assert_eq!(file.write_at(&[1; 5000], 4 * EXTENT - 10).unwrap(), 10);
}
