//! Answers what the kernel asks about the directory and its files: names, attributes, sizes.

use super::answer::{Answer, Entries};
use super::errno;
use super::filesystem::{Reader, Volumes, inode};
use super::incoming::Call;
use super::reply::{ResizeReply, TruncateReply};
use super::wire::{self, Attributes, AttributesAnswer, DirectoryEntry, Entry, ROOT, valid};
use crate::datapath::{Operation, Target};
use crate::model::records::{SECTOR, VolumeRecord};
use crate::model::units::{VolumeId, VolumeOffset};
use std::time::{Duration, SystemTime};

/// Longest time for which the kernel caches attributes of a volume whose data has not been counted yet. It is not zero, because the kernel would
/// then ask twice for each file of a long listing.
const UNCOUNTED_TTL: Duration = Duration::from_millis(100);
/// Maximum number of volumes that one `readdir` returns, whatever room the kernel has.
const ENTRIES: usize = 1024;
/// Preferred size of reads and writes (`st_blksize`); docs/PERFORMANCE.md has the measurement.
const BLOCK_SIZE: u32 = 256 << 10;
/// Permissions of the directory.
const DIRECTORY_MODE: u32 = 0o755;

/// One entry of the directory.
struct Listed {
    /// Where the next entry begins.
    next: u64,
    name: String,
    inode: u64,
    /// The type of file, as in a mode.
    kind: u32,
    /// The volume, except for the directory itself.
    volume: Option<VolumeRecord>,
}

impl Volumes {
    /// Answers a request about the directory, or about the attributes of a file.
    pub(super) fn look(&self, reader: &mut Reader, inode: u64, call: Call<'_>, answer: Answer) {
        match call {
            Call::Lookup(name) => self.lookup(reader, inode, name, answer),
            Call::Attributes => match self.attributes_of(reader, inode) {
                Some((attributes, ttl)) => answer.structure(&AttributesAnswer::new(attributes, ttl)),
                None => answer.error(errno::NO_SUCH_FILE),
            },
            Call::SetAttributes(wanted) => self.set_attributes(reader, inode, &wanted, answer),
            Call::OpenDirectory => answer.structure(&wire::Opened {
                handle: 0,
                flags: 0,
                backing: 0,
            }),
            Call::ReadDirectory { read, plus } => self.read_directory(reader, inode, read, plus, answer),
            Call::ReleaseDirectory | Call::FlushDirectory => answer.done(),
            Call::Statistics => self.statistics(reader, answer),
            _ => answer.error(errno::MISFIT),
        }
    }

    fn lookup(&self, reader: &mut Reader, parent: u64, name: &[u8], answer: Answer) {
        let found = match name {
            b"." => self.attributes_of(reader, parent),
            b".." => self.attributes_of(reader, ROOT),
            _ if parent != ROOT => return answer.error(errno::NOT_A_DIRECTORY),
            _ => str::from_utf8(name)
                .ok()
                .and_then(|name| self.with_context(reader, |apparatus, io| apparatus.lookup(io, name))?)
                .map(|volume| self.attributes(&volume)),
        };
        match found {
            Some((attributes, ttl)) => answer.structure(&self.entry(attributes, ttl)),
            None => answer.error(errno::NO_SUCH_FILE),
        }
    }

    /// Returns the answer to a lookup that has found a file with these attributes, which the kernel may cache for `ttl`.
    fn entry(&self, attributes: Attributes, ttl: Duration) -> Entry {
        Entry {
            inode: attributes.inode,
            generation: self.generation(attributes.inode),
            name_seconds: self.names_ttl.as_secs(),
            seconds: ttl.as_secs(),
            name_nanoseconds: self.names_ttl.subsec_nanos(),
            nanoseconds: ttl.subsec_nanos(),
            attributes,
        }
    }

    /// Returns a volume's attributes, and how long the kernel may cache them.
    fn attributes(&self, volume: &VolumeRecord) -> (Attributes, Duration) {
        let modified = self.apparatus.modified(volume.id);
        let occupied = self.apparatus.occupied(volume);
        let attributes = Attributes {
            inode: inode(volume.id),
            size: volume.size.0,
            // The count is a moment old, and GNU tar does not look for data in a file of no blocks.
            blocks: occupied.bytes.div_ceil(SECTOR).max(1),
            block_size: BLOCK_SIZE,
            mode: libc::S_IFREG | u32::from(volume.mode),
            links: 1,
            uid: volume.uid,
            gid: volume.gid,
            ..self.attributes_at(modified)
        };
        let ttl = self.options.attributes_ttl;
        match occupied.counted {
            true => (attributes, ttl),
            false => (attributes, ttl.min(UNCOUNTED_TTL)),
        }
    }

    /// Returns the attributes of the directory, with this time.
    fn attributes_at(&self, time: SystemTime) -> Attributes {
        let (seconds, nanoseconds) = wire::of_time(time);
        Attributes {
            inode: ROOT,
            size: 0,
            blocks: 0,
            times: [seconds; 3],
            nanoseconds: [nanoseconds; 3],
            mode: libc::S_IFDIR | DIRECTORY_MODE,
            links: 2,
            uid: self.owner.0,
            gid: self.owner.1,
            device: 0,
            block_size: 4096,
            flags: 0,
        }
    }

    /// Returns the inode generation for NFS handles. Volume numbers are never reused, so all volumes of a pool have the same generation. Each
    /// pool has its own, so that a handle of one pool never finds a volume of another.
    fn generation(&self, inode: u64) -> u64 {
        match inode {
            ROOT => 0,
            _ => self.options.generation.into(),
        }
    }

    fn attributes_of(&self, reader: &mut Reader, inode: u64) -> Option<(Attributes, Duration)> {
        if inode == ROOT {
            let directory = self.attributes_at(self.apparatus.began());
            return Some((directory, self.options.attributes_ttl));
        }
        self.volume(reader, inode).map(|volume| self.attributes(&volume))
    }

    /// Ignores times, accepts values that do not change, handles truncation, and refuses the rest, which only `vctl` changes.
    fn set_attributes(&self, reader: &mut Reader, inode: u64, wanted: &wire::SetAttributes, answer: Answer) {
        let Some((now, ttl)) = self.attributes_of(reader, inode) else {
            return answer.error(errno::NO_SUCH_FILE);
        };
        let is_set = |bit| wanted.valid & bit != 0;
        let same = (!is_set(valid::MODE) || wanted.mode & 0o7777 == now.mode & 0o7777)
            && (!is_set(valid::UID) || wanted.uid == now.uid)
            && (!is_set(valid::GID) || wanted.gid == now.gid);
        if !same {
            return answer.error(errno::FOR_VCTL);
        }
        match is_set(valid::SIZE) && wanted.size != now.size {
            true => self.truncate(reader, inode, wanted.size, now, answer),
            false => answer.structure(&AttributesAnswer::new(now, ttl)),
        }
    }

    /// Handles a truncation; the volume keeps its size. Programs that replace a file's content truncate it to zero first (`O_TRUNC`) and then
    /// skip zeroes, so a truncation to zero makes the volume read as zeroes: otherwise old data would show through the holes of a new image.
    /// Some programs truncate to the size of the new content in the end, which succeeds where only a hole lies beyond.
    ///
    /// The mount does not use `FUSE_ATOMIC_O_TRUNC`: with it the kernel assumes a size of 0 until it asks again, and meanwhile fails the I/O of
    /// all other programs that have the volume open.
    fn truncate(&self, reader: &mut Reader, inode: u64, size: u64, now: Attributes, answer: Answer) {
        if inode == ROOT {
            return answer.error(errno::FOR_VCTL);
        }
        if self.volume(reader, inode).is_none_or(|volume| volume.read_only) {
            return answer.error(errno::READ_ONLY);
        }
        let whole = Operation::Zero {
            at: VolumeOffset(0),
            len: now.size,
            punch: true,
            clip: true,
        };
        let beyond = Operation::Seek {
            at: VolumeOffset(size),
            to: Target::Data,
        };
        match size {
            0 => self.run(reader, inode, whole, TruncateReply(answer, now)),
            _ if size > now.size => answer.error(errno::NO_LARGER),
            _ => self.run(reader, inode, beyond, ResizeReply(answer, now)),
        }
    }

    fn read_directory(&self, reader: &mut Reader, inode: u64, read: wire::Read, plus: bool, answer: Answer) {
        if inode != ROOT {
            return answer.error(errno::NOT_A_DIRECTORY);
        }
        let mut entries = Entries::new(read.size);
        let most = entries.most(if plus { size_of::<Entry>() } else { 0 });
        for listed in self.listed(reader, read.offset, most.clamp(1, ENTRIES)) {
            let entry = DirectoryEntry {
                inode: listed.inode,
                next: listed.next,
                name_len: 0,
                // The kernel wants the type without the bits of the permissions.
                kind: listed.kind >> 12,
            };
            let found = plus.then(|| self.found(listed.volume.as_ref()));
            if !entries.add(found.as_ref(), entry, &listed.name) {
                break;
            }
        }
        // If the mount has ended, nobody waits for the answer.
        answer.data(entries.as_bytes()).ok();
    }

    /// Returns what a lookup of a listed volume finds. Where the kernel may not cache names it would look the volume up again, so it gets
    /// nothing then.
    fn found(&self, volume: Option<&VolumeRecord>) -> Entry {
        let volume = volume.filter(|_| !self.names_ttl.is_zero());
        volume.map_or_else(Entry::default, |volume| {
            let (attributes, ttl) = self.attributes(volume);
            self.entry(attributes, ttl)
        })
    }

    /// Returns the directory's entries after `offset`. Returns at most `most` volumes; the kernel asks until none is left.
    fn listed(&self, reader: &mut Reader, offset: u64, most: usize) -> impl Iterator<Item = Listed> {
        let dots = [(1, "."), (2, "..")].map(|(next, name)| Listed {
            next,
            name: name.to_owned(),
            inode: ROOT,
            kind: libc::S_IFDIR,
            volume: None,
        });
        let next = VolumeId(offset.saturating_sub(2));
        let volumes = self.with_context(reader, |apparatus, io| apparatus.volumes_from(io, next, most));
        let volumes = volumes.unwrap_or_default().into_iter().map(|volume| Listed {
            next: volume.id.0 + 3,
            name: volume.name.to_string(),
            inode: inode(volume.id),
            kind: libc::S_IFREG,
            volume: Some(volume),
        });
        dots.into_iter()
            .chain(volumes)
            .filter(move |entry| entry.next > offset)
    }

    fn statistics(&self, reader: &mut Reader, answer: Answer) {
        const BLOCK: u32 = 4096;
        let volumes = self.with_context(reader, |apparatus, io| apparatus.volumes(io));
        let volumes = volumes.unwrap_or_default();
        let space = self.apparatus.space(&volumes);
        let (all, free) = (space.all.0 / u64::from(BLOCK), space.free.0 / u64::from(BLOCK));
        answer.structure(&wire::Statistics {
            blocks: all,
            free,
            available: free,
            files: volumes.len() as u64,
            block_size: BLOCK,
            longest_name: super::LONGEST_NAME,
            fragment_size: BLOCK,
            ..wire::Statistics::default()
        });
    }
}
