use super::*;
use crate::blockdev::device::read_exact_at;
use std::sync::Mutex;

const SIZE: u64 = 4 << 20;
const LEN: usize = 4 << 20;

/// Returns a direct device on a file of the temporary directory, with blocks of this size at least, and the file through the page cache; `None`
/// where that directory's file system has no direct reads and writes.
fn device(block: usize) -> Option<(DirectDevice, File)> {
    let named = tempfile::NamedTempFile::new().unwrap();
    let file = named.reopen().unwrap();
    file.set_len(SIZE).unwrap();
    let kind = DiskKind::of(&file.metadata().unwrap()).unwrap();
    if let Err(why) = bypass_cache("test", &file, kind) {
        println!("passed over: {why}");
        return None;
    }
    let mut device = DirectDevice::new(file, kind).unwrap();
    device.alignment.block = device.alignment.block.max(block);
    Some((device, named.into_file()))
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..251).cycle().skip(seed.into()).take(len).collect()
}

fn pages(file: &File) -> u64 {
    sys::cached_pages(file, 0, SIZE).unwrap()
}

#[test]
fn whatever_is_written_is_read_at_any_place_of_any_length() {
    for block in [512, 4096] {
        let Some((device, file)) = device(block) else {
            return;
        };
        let mut model = vec![0; LEN];
        for (round, (at, len)) in [
            (0, 4096),
            (1, 1),
            (510, 4),
            (4095, 2),
            (4096, 8192),
            (5000, 20_000),
            (511, 1),
            (70_000, 1 << 20),
            (1 << 20, (2 << 20) + 7),
            (LEN - 1, 1),
            (LEN - 5000, 5000),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = pattern(u8::try_from(round).unwrap(), len);
            model[at..at + len].copy_from_slice(&bytes);
            write_all_at(&device, &bytes, at as u64).unwrap();
            let mut read = vec![0; len];
            read_exact_at(&device, &mut read, at as u64).unwrap();
            assert!(read == bytes, "{block}: {len} at {at}");
        }
        let mut all = AlignedBytes::zeroed(model.len());
        read_exact_at(&device, &mut all, 0).unwrap();
        assert!(all[..] == model[..], "{block}: the rest stays");
        assert_eq!(pages(&file), 0);
    }
}

#[test]
fn parts_of_one_block_that_threads_write_at_once_are_all_there() {
    let Some((device, _)) = device(4096) else { return };
    // Each thread writes its own bytes; one writes whole blocks beside them, which overlap none.
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let device = &device;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let at = (thread * 100) as u64;
                    write_all_at(device, &[round + 1; 100], at).unwrap();
                    let mut read = [0; 100];
                    read_exact_at(device, &mut read, at).unwrap();
                    assert_eq!(read, [round + 1; 100], "thread {thread}");
                }
            });
        }
    });
}

#[test]
fn a_whole_block_that_was_written_is_not_undone_by_a_part_of_it() {
    let Some((device, _)) = device(4096) else { return };
    let acknowledged = Mutex::new(0_u8);
    std::thread::scope(|scope| {
        let device = &device;
        scope.spawn(|| {
            let block = |value: u8| AlignedBytes::copy_of(&[value; 4096]);
            for value in 1..100 {
                write_all_at(device, &block(value), 0).unwrap();
                *acknowledged.lock().unwrap() = value;
            }
        });
        for _ in 0..100 {
            let before = *acknowledged.lock().unwrap();
            write_all_at(device, &[255; 10], 100).unwrap();
            let mut read = [0; 1];
            read_exact_at(device, &mut read, 4095).unwrap();
            assert!(read[0] >= before, "{} before {before}", read[0]);
        }
    });
}

#[test]
fn zeroes_and_durable_writes_leave_nothing_in_the_page_cache() {
    let Some((device, file)) = device(512) else { return };
    write_all_at(&device, &pattern(3, 100_000), 4096).unwrap();
    device
        .write_durably(&AlignedBytes::copy_of(&pattern(1, 4096)), 0)
        .unwrap();
    device.write_durably(&pattern(2, 100), 50).unwrap();
    let range = device.zeroing_alignment()..2 * device.zeroing_alignment();
    device.zero(range.clone(), Zeroing::Punch).unwrap();
    device.flush().unwrap();
    let mut read = vec![1; 100];
    read_exact_at(&device, &mut read, range.start).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    assert_eq!(pages(&file), 0);
}

#[test]
fn what_cannot_be_used_directly_is_refused_by_name() {
    for (memory, block, why) in [
        (0, 0, "has no direct reads"),
        (512, 16384, "blocks of 16384 bytes are larger"),
        (8192, 512, "memory at multiples of 8192"),
    ] {
        let found = accepted(memory, block).unwrap_err();
        assert!(found.contains(why), "{found}");
    }
    assert_eq!(
        accepted(4, 512),
        Ok(Alignment {
            memory: 4,
            block: 512
        })
    );
    let Ok(in_memory) = tempfile::tempfile_in("/dev/shm") else {
        return;
    };
    in_memory.set_len(SIZE).unwrap();
    let kind = DiskKind::of(&in_memory.metadata().unwrap()).unwrap();
    let error = check("image", &in_memory, kind).unwrap_err().to_string();
    assert!(
        error.contains("tmpfs keeps its files in the page cache"),
        "{error}"
    );
    assert!(bypass_cache("image", &in_memory, kind).is_err());
}

#[test]
fn a_write_of_a_part_of_a_block_waits_for_the_others_of_that_block() {
    let Some((device, _)) = device(512) else { return };
    let block = device.alignment.block as u64;
    let whole = device.locks.lock(0..block, Share::Shared);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| device.write_at(&[7; 10], 3).unwrap());
        while device.locks.waiting() == 0 {
            assert!(!writing.is_finished(), "it has waited for nothing");
            std::thread::yield_now();
        }
        drop(whole);
        assert_eq!(writing.join().unwrap(), 10);
    });
}
