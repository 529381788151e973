//! What a direct pool alone promises: nothing of its disks is in the page cache, and what cannot be used directly is refused by name.

use super::support::{Random, TestPool, access, read_up_to};
use apparatus::blockdev::{Candidate, create_image};
use apparatus::model::records::DiskAccess;
use apparatus::model::units::ByteCount;
use apparatus::sys::cached_pages;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const EXTENT: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn these_pools_are_direct() {
    assert_eq!(access(), DiskAccess::Direct);
    assert_eq!(
        TestPool::new(EXTENT).store().header().unwrap().access,
        DiskAccess::Direct
    );
}

#[test]
fn a_workload_leaves_no_page_of_any_image_in_the_page_cache() {
    let pool = TestPool::new(EXTENT);
    let disks = ["a", "b"].map(|name| pool.add_disk(name, 64).id);
    pool.add_volume("v", 2 * MIB, &[(disks[0], 1, 16), (disks[1], 1, 16)]);
    let daemon = pool.start("x");
    let file = daemon.open("v");
    let mut random = Random::new(7);
    let mut model = random.bytes(2 * MIB as usize);
    file.write_all_at(&model, 0).unwrap();
    for _ in 0..200 {
        let at = random.below(2 * MIB - 70_000);
        let bytes = random.bytes(random_len(at));
        file.write_all_at(&bytes, at).unwrap();
        model[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        100_001,
        300_003,
    )
    .unwrap();
    model[100_001..400_004].fill(0);
    file.sync_all().unwrap();
    assert!(read_up_to(&file, model.len(), 0) == model);
    assert_eq!(pages(&pool, &["a", "b"]), [0, 0]);
    drop(file);
    daemon.stop();
    assert_eq!(pages(&pool, &["a", "b"]), [0, 0], "nor do labels and metadata");
}

/// Returns a length that is sometimes whole blocks and mostly not.
fn random_len(at: u64) -> usize {
    match at % 4 {
        0 => 4096,
        1 => 1,
        2 => 70_000,
        _ => 513,
    }
}

fn pages(pool: &TestPool, disks: &[&str]) -> Vec<u64> {
    let of = |disk: &&str| cached_pages(File::open(pool.image(disk)).unwrap(), 0, 1 << 40).unwrap();
    disks.iter().map(of).collect()
}

#[test]
fn parts_of_blocks_that_hosts_write_at_once_are_all_there() {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("a", 8).id;
    pool.add_volume("v", EXTENT, &[(disk, 1, 1)]);
    let daemon = pool.start("x");
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        for host in 0..4_u64 {
            let (daemon, failed) = (&daemon, &failed);
            scope.spawn(move || {
                let file = daemon.open("v");
                for round in 0..50_u8 {
                    let bytes = [round + 1; 100];
                    file.write_all_at(&bytes, host * 100).unwrap();
                    let is_there = read_up_to(&file, 100, host * 100) == bytes;
                    failed.fetch_or(!is_there, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(!failed.into_inner());
    daemon.stop();
}

#[test]
fn a_file_in_memory_is_no_disk_of_a_direct_pool() {
    let pool = TestPool::new(EXTENT);
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("passed over: there is no /dev/shm");
        return;
    };
    let path = dir.path().join("image");
    create_image(&path, ByteCount(MIB), pool.extent_size).unwrap();
    let header = pool.store().header().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Candidate::inspect(&path, &header, &[]).unwrap_err().to_string();
    assert!(
        error.contains("tmpfs keeps its files in the page cache"),
        "{error}"
    );
    assert!(std::fs::read(&path).unwrap() == before);
    let cached = apparatus::model::records::PoolHeader {
        access: DiskAccess::Cached,
        ..header
    };
    Candidate::inspect(&path, &cached, &[]).unwrap();
}
