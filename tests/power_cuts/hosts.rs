//! Hosts that write and sync, the record of what was acknowledged to them, and what must be on the disks for it.

use crate::support::Random;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const SECTOR: usize = 512;
const MAGIC: u32 = 0x6376_7772;

/// Where hosts and commands note what they begin and what is acknowledged: a recorded file, so that the notes have their place in the record.
#[derive(Clone)]
pub(crate) struct Notes(Arc<File>);

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The next version of a block is going to be written.
    Writes { volume: u32, block: u32 },
    /// A durable write of the block was acknowledged.
    Durable { volume: u32, block: u32 },
    /// A sync of the volume was acknowledged.
    Synced { volume: u32 },
    /// The creation of the volume was acknowledged.
    Created { volume: u32 },
    /// The volume is going to be removed.
    Removes { volume: u32 },
    /// The removal was acknowledged.
    Removed { volume: u32 },
}

impl Notes {
    pub(crate) fn new(file: File) -> Self {
        Self(Arc::new(file))
    }

    pub(crate) fn add(&self, note: Note) {
        let (kind, volume, block) = match note {
            Note::Writes { volume, block } => (1, volume, block),
            Note::Durable { volume, block } => (2, volume, block),
            Note::Synced { volume } => (3, volume, 0),
            Note::Created { volume } => (4, volume, 0),
            Note::Removes { volume } => (5, volume, 0),
            Note::Removed { volume } => (6, volume, 0),
        };
        let numbers: [u32; 3] = [kind, volume, block];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.0.write_all_at(&bytes, 0).unwrap();
    }
}

impl Note {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let number = |index: usize| u32::from_le_bytes(*bytes[index * 4..].first_chunk().unwrap());
        let (volume, block) = (number(1), number(2));
        match number(0) {
            1 => Self::Writes { volume, block },
            2 => Self::Durable { volume, block },
            3 => Self::Synced { volume },
            4 => Self::Created { volume },
            5 => Self::Removes { volume },
            6 => Self::Removed { volume },
            other => panic!("a note of kind {other}"),
        }
    }
}

/// Returns a sector of this version of a block.
pub(crate) fn sector(volume: u32, block: u32, sector: u32, version: u32) -> [u8; SECTOR] {
    let mut bytes = [u8::try_from(version & 0xff).unwrap(); SECTOR];
    let head = [MAGIC, volume, block, sector, version];
    for (place, number) in bytes.chunks_exact_mut(4).zip(head) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Returns the version of a sector: zero where nobody has written.
pub(crate) fn version(bytes: &[u8], volume: u32, block: u32, index: u32) -> Result<u32, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let version = u32::from_le_bytes(*bytes[16..].first_chunk().unwrap());
    if bytes == sector(volume, block, index, version) {
        return Ok(version);
    }
    let head: Vec<u32> = bytes[..20]
        .chunks_exact(4)
        .map(|number| u32::from_le_bytes(number.try_into().unwrap()))
        .collect();
    Err(format!("foreign bytes: {head:08x?}"))
}

/// A volume at work: its files at each apparatus, and one more of each that writes durably.
pub(crate) struct Host {
    pub(crate) volume: u32,
    pub(crate) blocks: u32,
    pub(crate) files: Vec<File>,
    pub(crate) durable: Vec<File>,
    pub(crate) notes: Notes,
    pub(crate) seed: u64,
}

impl Host {
    /// Writes blocks, in bursts, one for each item, each of which ends with a sync.
    pub(crate) fn work(&self, bursts: impl IntoIterator<Item = ()>) {
        let mut random = Random::new(self.seed);
        let mut versions: BTreeMap<u32, u32> = BTreeMap::new();
        for () in bursts {
            for _ in 0..=random.below(6) {
                let block = u32::try_from(random.below(self.blocks.into())).unwrap();
                let version = versions.entry(block).or_default();
                *version += 1;
                self.write(block, *version, &mut random);
            }
            // A sync covers what was acknowledged through the other apparatus too.
            any(&self.files, &mut random).sync_data().unwrap();
            self.notes.add(Note::Synced { volume: self.volume });
        }
    }

    fn write(&self, block: u32, version: u32, random: &mut Random) {
        let volume = self.volume;
        let bytes: Vec<u8> = (0..8)
            .flat_map(|index| sector(volume, block, index, version))
            .collect();
        let at = u64::from(block) * BLOCK;
        self.notes.add(Note::Writes { volume, block });
        if random.below(8) > 0 {
            any(&self.files, random).write_all_at(&bytes, at).unwrap();
        } else {
            any(&self.durable, random).write_all_at(&bytes, at).unwrap();
            self.notes.add(Note::Durable { volume, block });
        }
    }
}

fn any<'a>(files: &'a [File], random: &mut Random) -> &'a File {
    let index = random.below(files.len() as u64);
    &files[usize::try_from(index).unwrap()]
}

/// What was begun and acknowledged up to some point of the record.
#[derive(Clone, Default)]
pub(crate) struct Reported {
    pub(crate) volumes: BTreeMap<u32, Volume>,
}

#[derive(Clone, Default)]
pub(crate) struct Volume {
    /// By block: the version that must be there at least, and the last one that was begun.
    pub(crate) blocks: BTreeMap<u32, (u32, u32)>,
    pub(crate) created: bool,
    pub(crate) being_removed: bool,
    pub(crate) removed: bool,
}

impl Reported {
    pub(crate) fn note(&mut self, note: Note) {
        match note {
            Note::Writes { volume, block } => {
                self.volume(volume).blocks.entry(block).or_default().1 += 1;
            }
            Note::Durable { volume, block } => {
                let versions = self.volume(volume).blocks.entry(block).or_default();
                versions.0 = versions.1;
            }
            Note::Synced { volume } => {
                let blocks = self.volume(volume).blocks.values_mut();
                blocks.for_each(|(least, latest)| *least = *latest);
            }
            Note::Created { volume } => self.volume(volume).created = true,
            Note::Removes { volume } => self.volume(volume).being_removed = true,
            Note::Removed { volume } => self.volume(volume).removed = true,
        }
    }

    fn volume(&mut self, volume: u32) -> &mut Volume {
        self.volumes.entry(volume).or_default()
    }
}
