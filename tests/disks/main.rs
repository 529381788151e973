//! Disks on real files and block devices: a disk is labelled and found again, is added once and to one pool, and errors name what
//! it refuses; reads, writes, zeroing and copies reach the right places on ext4, tmpfs, XFS, btrfs and loop devices; an image that
//! is truncated while it is open answers with errors, never with a signal. Only one database and one file can be a disk at a time.
//!
//! Loop devices need root; without it those tests print that and pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Sizes of a few MiB; and the runs of a disk are ranges, and often one.
#![allow(clippy::cast_possible_truncation, clippy::single_range_in_vec_init)]

mod access;
mod failing;
mod faulty;
mod metadata;
mod owning;
mod taking;
mod using;

use apparatus::blockdev::label::Label;
use apparatus::blockdev::{
    Candidate, CopyError, Disk, Disks, Unlabelled, Waived, create_image, grow_image, is_zero, wipe_label,
};
use apparatus::cluster::{self, FlushLedger};
use apparatus::model::error::{Error, ErrorKind};
use apparatus::model::names::Name;
use apparatus::model::records::{DiskRecord, Instance, PoolHeader};
use apparatus::model::units::{ByteCount, DiskId, DiskOffset, ExtentSize};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const EXTENT: ExtentSize = ExtentSize::DEFAULT;

fn pool() -> Uuid {
    Uuid::from_u128(0xb001)
}

fn header() -> PoolHeader {
    header_at(0)
}

/// Returns the header of a database with this layout number.
fn header_at(layout: u64) -> PoolHeader {
    PoolHeader {
        uuid: pool(),
        layout,
        ..PoolHeader::before(EXTENT)
    }
}

fn record(id: u32, path: &Path, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::from_u128(id.into()),
        path: path.to_owned(),
        extents,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

fn inspect(path: &Path, known: &[DiskRecord]) -> Result<Candidate, Error> {
    Candidate::inspect(path, &header(), known)
}

/// Labels the image or device at this path and returns its record.
fn added(id: u32, path: &Path) -> DiskRecord {
    let candidate = inspect(path, &[]).unwrap();
    candidate
        .write_label(&header(), Uuid::from_u128(id.into()))
        .unwrap();
    record(id, candidate.path(), candidate.extents())
}

fn opened(record: &DiskRecord) -> Disk {
    Disk::open(record, &header()).unwrap()
}

/// Makes a separate ledger of write errors for this disk.
fn ledger(disk: &Disk) -> Arc<dyn FlushLedger> {
    let run = tempfile::tempdir().unwrap();
    let cluster = cluster::open(&apparatus::model::dir::PoolDir::new(run.path())).unwrap();
    cluster.share(pool()).unwrap().ledgers.ledger(disk.id())
}

/// Makes a labelled image of `mib` MiB.
fn image(dir: &Path, id: u32, mib: u64) -> DiskRecord {
    let path = dir.join(format!("d{id}.img"));
    create_image(&path, ByteCount(mib * MIB), EXTENT).unwrap();
    added(id, &path)
}

/// Scratch directories on a disk file system and on tmpfs.
fn places() -> [TempDir; 2] {
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    [disk, Path::new("/dev/shm")].map(|place| TempDir::new_in(place).unwrap())
}

fn refused<T>(result: Result<T, Error>) -> (String, String) {
    let error = result.err().expect("was accepted");
    (error.to_string(), error.way_out().unwrap_or_default().to_owned())
}

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let bounded = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&bounded.stderr).into_owned();
    if !bounded.status.success() {
        println!("skipped: {program} {arguments:?}: {why}");
    }
    bounded.status.success().then_some(bounded)
}

/// A loop device over a file, detached on drop.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loop devices need root");
            return None;
        }
        let out = run("losetup", &["--find", "--show", file.to_str().unwrap()])?;
        Some(Self {
            path: PathBuf::from(String::from_utf8(out.stdout).unwrap().trim()),
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", self.path.to_str().unwrap()]);
    }
}

struct Mount {
    at: TempDir,
}

impl Mount {
    fn of(device: &Path) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        run("mount", &[device.to_str().unwrap(), at.path().to_str().unwrap()])?;
        Some(Self { at })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l", self.at.path().to_str().unwrap()]);
    }
}

fn empty_file(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap() + 1).collect()
}

fn read(disk: &Disk, at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    disk.read_at(&mut bytes, DiskOffset(at)).unwrap();
    bytes
}

/// Reads through the kernel, which gets the mapping.
fn through_mapping(disk: &Disk, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let bytes = disk.mapped(DiskOffset(at), len);
    (&file).write_all(bytes.ok_or(io::ErrorKind::NotFound)?.for_system_call())?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
