//! Looks for content on a disk whose head is empty, where that is cheap to find, so that data is not overwritten without a confirmation.

use super::open::DiskKind;
use super::{is_zero, signature};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Up to this many bytes of data are read whole; of more, only the ends and samples.
const WHOLE: u64 = 256 << 20;
/// Bytes read at each end.
const END: u64 = 1 << 20;
/// Number of samples of [`SAMPLE`] bytes, spread evenly.
const SAMPLES: u64 = 256;
const SAMPLE: usize = 4096;
/// Maximum number of runs of data that are examined: a file with more has content.
const RUNS: usize = 4096;
const BUFFER: usize = 1 << 20;

/// Places where file systems and RAID members keep copies of their head.
const COPIES: [(u64, usize, &[u8], &str); 4] = [
    (0x400_0040, 0, b"_BHRfS_M", "a btrfs file system"),
    (
        8193 << 10,
        0x38,
        &[0x53, 0xef],
        "an ext2, ext3 or ext4 file system",
    ),
    (
        16385 << 11,
        0x38,
        &[0x53, 0xef],
        "an ext2, ext3 or ext4 file system",
    ),
    (
        32768 << 12,
        0x38,
        &[0x53, 0xef],
        "an ext2, ext3 or ext4 file system",
    ),
];

/// Returns what lies on the disk, or `None` when nothing was found.
pub(super) fn of(file: &File, kind: DiskKind, size: u64) -> io::Result<Option<&'static str>> {
    if let Some(found) = signature::content(&head(file)?) {
        return Ok(Some(found));
    }
    if let Some(found) = copies(file, size)? {
        return Ok(Some(found));
    }
    let runs = match kind {
        DiskKind::Image { .. } => data(file, size)?,
        DiskKind::Device => std::iter::once(0..size).collect(),
    };
    let found = runs.len() >= RUNS || any(file, &runs)?;
    Ok(found.then_some("data behind an empty head"))
}

/// Reads the first bytes.
pub(super) fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; signature::HEAD];
    let filled = read(file, &mut head, 0)?;
    head.truncate(filled);
    Ok(head)
}

fn copies(file: &File, size: u64) -> io::Result<Option<&'static str>> {
    let mut tail = vec![0; usize::try_from(END.min(size)).unwrap_or_default()];
    let from = size - tail.len() as u64;
    let filled = read(file, &mut tail, from)?;
    if let Some(found) = at_the_end(&tail[..filled]) {
        return Ok(Some(found));
    }
    for (at, skipped, magic, name) in COPIES {
        let mut found = vec![0; magic.len()];
        let whole = read(file, &mut found, at + skipped as u64)? == magic.len();
        if whole && found == magic {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Returns what the last bytes identify.
fn at_the_end(tail: &[u8]) -> Option<&'static str> {
    let before = |back: usize, magic: &[u8]| {
        let at = tail.len().checked_sub(back)?;
        tail[at..].starts_with(magic).then_some(())
    };
    // The backup of a partition table is in the last sector, of 512 or 4096 bytes. A RAID member of format 1.0 has its head
    // 8 to 12 KiB, one of format 0.90 64 to 128 KiB before the end.
    let table = [512, 4096]
        .into_iter()
        .find_map(|sector| before(sector, b"EFI PART"));
    let raid = |from: usize, to: usize| {
        (from..=to)
            .step_by(4096)
            .find_map(|back| before(back, &[0xfc, 0x4e, 0x2b, 0xa9]))
    };
    match (
        table,
        raid(8 << 10, 12 << 10).or_else(|| raid(64 << 10, 128 << 10)),
    ) {
        (Some(()), _) => Some("a partition table (GPT)"),
        (None, Some(())) => Some("a member of a RAID array"),
        (None, None) => None,
    }
}

/// Returns the runs of an image that hold data, or the whole image where the file system does not know.
fn data(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut runs = Vec::new();
    let mut from = 0;
    while from < size && runs.len() < RUNS {
        let start = match seek(file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => from,
            Err(why) => return Err(why.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            found => found?,
        };
        from = end.clamp(start + 1, size.max(start + 1));
        runs.push(start..from);
    }
    Ok(runs)
}

/// Returns whether one of the examined bytes of the runs is not zero.
fn any(file: &File, runs: &[Range<u64>]) -> io::Result<bool> {
    let total: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let mut buffer = vec![0; BUFFER];
    for run in runs {
        let len = run.end - run.start;
        let found = if total <= WHOLE || len <= 2 * END {
            span(file, run.clone(), &mut buffer)?
        } else {
            let ends = [run.start..run.start + END, run.end - END..run.end];
            let mut found = false;
            for end in ends {
                found = found || span(file, end, &mut buffer)?;
            }
            found || samples(file, run, &mut buffer[..SAMPLE])?
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn span(file: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let part = usize::try_from(range.end - at).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let filled = read(file, &mut buffer[..part], at)?;
        if !is_zero(&buffer[..filled]) {
            return Ok(true);
        }
        if filled == 0 {
            break;
        }
        at += filled as u64;
    }
    Ok(false)
}

fn samples(file: &File, run: &Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let step = (run.end - run.start) / SAMPLES;
    for n in 0..SAMPLES {
        let filled = read(file, buffer, run.start + n * step)?;
        if !is_zero(&buffer[..filled]) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes.
fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(filled)
}
