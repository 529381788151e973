//! Reads of data that is not in memory: sequential reads find the next range in memory already.
//!
//! These tests need root, loop devices and e2fsprogs; where those are missing they print that and pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
mod support;

use apparatus::blockdev::Disk;
use apparatus::model::units::DiskOffset;
use moving::devices::Mount;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, Instant};
use support::{Random, TestPool, read_up_to};

const MIB: u64 = 1 << 20;
/// For each read of this size it is checked whether it would wait.
const PART: u64 = MIB / 2;

/// On ext4 the kernel reads nothing ahead of a mapping that does cold reads.
#[test]
fn cold_reads_one_after_the_other_are_fetched_ahead_and_others_are_not() {
    let pool = TestPool::new(MIB);
    let Some(place) = Mount::made_by(&["mkfs.ext4", "-q", "-F"], 128 * MIB, pool.scratch()) else {
        return;
    };
    symlink(place.at.path().join("a.img"), pool.image("a")).unwrap();
    File::create(pool.image("a")).unwrap().set_len(40 * MIB).unwrap();
    let record = pool.adopt_disk("a", 40);
    pool.add_volume("v", 32 * MIB, &[(record.id, 1, 32)]);
    let daemon = pool.start_with("x", &["--threads", "1"]);
    let file = daemon.open("v");
    let bytes = Random::new(3).bytes(32 << 20);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let image = File::open(pool.image("a")).unwrap();
    fadvise(&image, 0, None, Advice::DontNeed).unwrap();

    let disk = Disk::open(&record, &pool.store().header().unwrap()).unwrap();
    let is_there = |at: u64| disk.resident(DiskOffset(MIB + at), PART as usize);
    let read = |at: u64| {
        let wanted = &bytes[at as usize..(at + PART) as usize];
        assert!(read_up_to(&file, PART as usize, at) == wanted);
    };
    assert!(
        (0..64).all(|part| !is_there(part * PART)),
        "the cache is not empty"
    );

    for at in [20 * MIB, 4 * MIB, 12 * MIB] {
        read(at);
        assert!(is_there(at) && !is_there(at + PART), "far from each other");
    }
    read(12 * MIB + PART);
    let ahead = [13 * MIB, 13 * MIB + PART];
    let since = Instant::now();
    while !ahead.into_iter().all(is_there) {
        assert!(
            since.elapsed() < Duration::from_secs(100),
            "nothing was fetched ahead"
        );
        std::thread::yield_now();
    }
    assert!(!is_there(14 * MIB), "more was fetched than 1 MiB ahead");
    drop((file, disk, image));
    daemon.stop();
}
