//! A disk of the simulation as a block device: its label and its flushes. The blocks are copied by `copy.rs`.

use super::not_in_a_hold;
use crate::sim::Delay;
use crate::sim::driver::{pause, world};
use crate::sim::fault::Fault;
use apparatus::blockdev::device::{BlockDevice, Zeroing};
use apparatus::blockdev::label::{COPIES, COPY};
use apparatus::model::records::DiskRecord;
use apparatus::model::units::ExtentSize;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::LazyLock;

/// Locks of disks are not simulated: all openings share this one, so none excludes another.
static HANDLE: LazyLock<File> = LazyLock::new(|| File::open("/dev/null").expect("the null device opens"));

pub struct SimDevice {
    disk: usize,
    length: u64,
}

impl SimDevice {
    pub fn new(disk: usize, record: &DiskRecord) -> Self {
        let length = record.extents * ExtentSize::MIN.bytes();
        Self { disk, length }
    }

    fn copy_at(at: u64) -> io::Result<usize> {
        let copy = COPIES.iter().position(|&start| start == at);
        copy.ok_or_else(|| io::Error::other("only labels are read and written here"))
    }
}

fn killed() -> io::Error {
    io::Error::other("the process has been killed")
}

impl BlockDevice for SimDevice {
    fn handle(&self) -> &File {
        &HANDLE
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let copy = Self::copy_at(at)?;
        let label = world(|world| world.labels[self.disk][copy]).ok_or_else(killed)?;
        buf.copy_from_slice(&label);
        Ok(buf.len())
    }

    fn write_at(&self, _buf: &[u8], _at: u64) -> io::Result<usize> {
        Err(io::Error::other("only labels are written here, durably"))
    }

    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()> {
        not_in_a_hold("a label");
        let copy = Self::copy_at(at)?;
        let label: [u8; COPY] = buf.try_into().map_err(io::Error::other)?;
        pause(Delay::Disk);
        world(|world| {
            world.count("labels written");
            world.labels[self.disk][copy] = label;
        })
        .ok_or_else(killed)
    }

    fn write_apart(&self, _buf: &[u8], _at: u64) -> io::Result<()> {
        Err(io::Error::other(
            "disks of the simulation carry no copies of the metadata",
        ))
    }

    fn flush(&self) -> io::Result<()> {
        not_in_a_hold("a flush");
        let begun = world(|world| world.disks[self.disk].begin_flush()).ok_or_else(killed)?;
        pause(Delay::Disk);
        world(|world| {
            if !world.wrong(Fault::PersistWithoutFlush) {
                world.disks[self.disk].end_flush(begun);
            }
        })
        .ok_or_else(killed)
    }

    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        Ok(Some(range.start))
    }

    fn data_until(&self, range: Range<u64>) -> io::Result<u64> {
        Ok(range.end)
    }

    fn zero(&self, _range: Range<u64>, _how: Zeroing) -> io::Result<bool> {
        Ok(false)
    }
}
