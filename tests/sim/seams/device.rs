//! A disk of the simulation as a block device: its label, its flushes, and the blocks that hosts read and write. Moved blocks are copied by
//! `copy.rs`.

use super::not_in_a_hold;
use crate::sim::copy::At;
use crate::sim::fault::Fault;
use crate::sim::host::BLOCK;
use crate::sim::request::{self, Content};
use crate::sim::thread::{me, pause, suspend, this, world};
use crate::sim::{Delay, World};
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
        copy.ok_or_else(|| io::Error::other("only labels are in the first extent"))
    }

    fn is_label(at: u64) -> bool {
        at < ExtentSize::MIN.bytes()
    }

    /// The blocks of the disk at these bytes.
    fn blocks(&self, at: u64, len: usize) -> impl Iterator<Item = At> + use<> {
        let first = at / BLOCK;
        let disk = self.disk;
        (first..first + len as u64 / BLOCK).map(move |block| (disk, block))
    }
}

fn killed() -> io::Error {
    io::Error::other("the process has been killed")
}

/// The thread of a reader or worker: it waits for its accesses.
fn wait_for_accesses() -> io::Result<Vec<crate::sim::access::Access>> {
    suspend();
    world(|world| world.end_accesses(this())).ok_or_else(killed)
}

impl BlockDevice for SimDevice {
    fn handle(&self) -> &File {
        &HANDLE
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if Self::is_label(at) {
            let copy = Self::copy_at(at)?;
            let label = world(|world| world.labels[self.disk][copy]).ok_or_else(killed)?;
            buf.copy_from_slice(&label);
            return Ok(buf.len());
        }
        let blocks: Vec<At> = self.blocks(at, buf.len()).collect();
        let rooms = buf.chunks_mut(BLOCK as usize);
        if world(|world| world.rng.permille(500)).ok_or_else(killed)? {
            for (room, at) in rooms.zip(blocks) {
                request::is_mapped(at);
                Content::Mapped(at).put(room);
            }
            return Ok(buf.len());
        }
        world(|world| {
            let mine = (me(), this());
            blocks.iter().for_each(|&at| world.begin_access(mine, at, None));
        })
        .ok_or_else(killed)?;
        let read = wait_for_accesses()?;
        for (room, access) in rooms.zip(read) {
            Content::Read(access.tag).put(room);
        }
        Ok(buf.len())
    }

    /// Sometimes it writes less than it is asked to.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let contents = request::contents(buf).ok_or_else(|| io::Error::other("this is no host's data"))?;
        let whole = contents.len();
        let begin = |world: &mut World| {
            let short = whole > 1 && world.rng.permille(200);
            let written = if short { 1 } else { whole };
            let mut begun = false;
            for (content, at) in contents.iter().zip(self.blocks(at, buf.len())).take(written) {
                if let Content::Written(id, block) = *content {
                    begun |= world.begin_write((me(), this()), id, block, at);
                }
            }
            if short {
                world.count("short writes");
            }
            let wrong = world.wrong(Fault::ShortWriteTaken);
            (begun, if wrong { whole } else { written })
        };
        let (begun, written) = world(begin).ok_or_else(killed)?;
        if begun {
            wait_for_accesses()?;
        } else {
            pause(Delay::Disk);
        }
        Ok(written * BLOCK as usize)
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
            if !(world.wrong(Fault::PersistWithoutFlush) && world.drivers.contains_key(&me())) {
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
