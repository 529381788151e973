//! Messages of the FUSE protocol, as the kernel lays them out in memory (`linux/fuse.h`): what it sends, what it is answered, and notices.
//!
//! The kernel and this process run on one machine, so integers have its byte order. No structure has padding that the compiler chooses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Inode of the mount's root.
pub(super) const ROOT: u64 = 1;

/// Numbers of the operations that are told apart. All others are answered in the same way.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const GETLK: u32 = 31;
    pub(in super::super) const SETLK: u32 = 32;
    pub(in super::super) const SETLKW: u32 = 33;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const IOCTL: u32 = 39;
    pub(in super::super) const NOTICE_ANSWER: u32 = 41;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
}

/// Numbers of the notices, in the place of the error of an answer.
pub(super) mod notice {
    pub(in super::super) const INVALIDATE_INODE: i32 = 2;
    pub(in super::super) const INVALIDATE_ENTRY: i32 = 3;
    pub(in super::super) const RETRIEVE: i32 = 5;
    pub(in super::super) const DELETE: i32 = 6;
    pub(in super::super) const RESEND: i32 = 7;
    pub(in super::super) const INCREASE_EPOCH: i32 = 8;
}

/// Bits of [`SetAttributes::valid`].
pub(super) mod valid {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
}

/// The ioctl was made by a program that lets the file system read its memory, which only character devices do.
pub(super) const IOCTL_UNRESTRICTED: u32 = 1 << 1;

/// Flags of an opened file: the mount has no page cache, so that two apparatuses agree (`FOPEN_DIRECT_IO`); writes run in parallel
/// (`FOPEN_PARALLEL_DIRECT_WRITES`); closing flushes nothing (`FOPEN_NOFLUSH`).
pub(super) const OPENED: u32 = 1 << 0 | 1 << 6 | 1 << 5;

/// Begins each request of the kernel.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Header {
    /// Length of the request, with this header.
    pub(super) len: u32,
    pub(super) opcode: u32,
    /// Number of the request, which its answer repeats.
    pub(super) unique: u64,
    pub(super) inode: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The thread that asks, as the mount's PID namespace numbers it.
    pub(super) pid: u32,
    pub(super) padding: u32,
}

/// Argument of a change of attributes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct SetAttributes {
    pub(super) valid: u32,
    pub(super) padding: u32,
    pub(super) handle: u64,
    pub(super) size: u64,
    pub(super) lock_owner: u64,
    pub(super) times: [u64; 3],
    pub(super) nanoseconds: [u32; 3],
    pub(super) mode: u32,
    pub(super) unused: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) unused_too: u32,
}

/// Argument of an open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Open {
    pub(super) flags: i32,
    pub(super) unused: u32,
}

/// Argument of the end of a handle.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Release {
    pub(super) handle: u64,
    pub(super) flags: u32,
    pub(super) release_flags: u32,
    pub(super) lock_owner: u64,
}

/// Argument of a read, of a file or of a directory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Read {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) read_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: i32,
    pub(super) padding: u32,
}

/// Argument of a write; the bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Write {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) write_flags: u32,
    pub(super) lock_owner: u64,
    pub(super) flags: i32,
    pub(super) padding: u32,
}

/// Argument of a request for a lock. The lock itself is at its end, before the flags.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Lock {
    pub(super) handle: u64,
    pub(super) owner: u64,
    pub(super) lock: FileLock,
    pub(super) lock_flags: u32,
    pub(super) padding: u32,
}

/// A lock, in a request and in the answer to a test.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct FileLock {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: i32,
    pub(super) pid: u32,
}

/// Argument of an allocation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Allocate {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) mode: i32,
    pub(super) padding: u32,
}

/// Argument of a seek.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Seek {
    pub(super) handle: u64,
    pub(super) offset: i64,
    pub(super) whence: i32,
    pub(super) padding: u32,
}

/// Beginning of the argument of an ioctl; its data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Ioctl {
    pub(super) handle: u64,
    pub(super) flags: u32,
    pub(super) command: u32,
    pub(super) argument: u64,
    pub(super) in_size: u32,
    pub(super) out_size: u32,
}

/// Begins each answer and each notice.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct AnswerHeader {
    /// Length of the answer, with this header.
    pub(super) len: u32,
    /// 0 or a negative errno; in a notice, its number.
    pub(super) error: i32,
    /// Number of the request; 0 in a notice.
    pub(super) unique: u64,
}

/// Attributes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Attributes {
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Blocks of 512 bytes.
    pub(super) blocks: u64,
    /// Seconds of the times of access, modification and change.
    pub(super) times: [i64; 3],
    pub(super) nanoseconds: [u32; 3],
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u32,
    pub(super) block_size: u32,
    pub(super) flags: u32,
}

/// Answer to a request for attributes.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct AttributesAnswer {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
    pub(super) padding: u32,
    pub(super) attributes: Attributes,
}

/// Answer to a lookup. In a listing it stands before each entry; one with inode 0 says nothing.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) generation: u64,
    pub(super) name_seconds: u64,
    pub(super) seconds: u64,
    pub(super) name_nanoseconds: u32,
    pub(super) nanoseconds: u32,
    pub(super) attributes: Attributes,
}

/// Answer to an open.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Opened {
    pub(super) handle: u64,
    pub(super) flags: u32,
    pub(super) backing: u32,
}

/// Answer to a write.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Written {
    pub(super) size: u32,
    pub(super) padding: u32,
}

/// Answer to `statfs`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Statistics {
    pub(super) blocks: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) files: u64,
    pub(super) free_files: u64,
    pub(super) block_size: u32,
    pub(super) longest_name: u32,
    pub(super) fragment_size: u32,
    pub(super) padding: u32,
    pub(super) spare: [u32; 6],
}

/// Beginning of an entry of a directory; the name follows, and zeroes up to the next multiple of 8.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct DirectoryEntry {
    pub(super) inode: u64,
    /// Where the entry after this one begins.
    pub(super) next: u64,
    pub(super) name_len: u32,
    pub(super) kind: u32,
}

/// Notice that cached attributes and pages of an inode are not valid any more.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct InvalidInode {
    pub(super) inode: u64,
    pub(super) offset: i64,
    pub(super) len: i64,
}

/// Notice that a name may not be valid any more; the name follows, with a zero at its end.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct InvalidEntry {
    pub(super) parent: u64,
    pub(super) name_len: u32,
    pub(super) flags: u32,
}

/// Notice that a name has been removed; the name follows, with a zero at its end.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Deleted {
    pub(super) parent: u64,
    pub(super) inode: u64,
    pub(super) name_len: u32,
    pub(super) padding: u32,
}

impl AttributesAnswer {
    /// Makes an answer that the kernel may cache for `ttl`.
    pub(super) fn new(attributes: Attributes, ttl: Duration) -> Self {
        Self {
            seconds: ttl.as_secs(),
            nanoseconds: ttl.subsec_nanos(),
            padding: 0,
            attributes,
        }
    }
}

/// Returns the seconds since 1970, and the nanoseconds after them. A time before 1970 has negative seconds.
pub(super) fn of_time(time: SystemTime) -> (i64, u32) {
    let seconds = |passed: Duration| i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (seconds(since), since.subsec_nanos()),
        Err(before) => {
            let until = before.duration();
            match until.subsec_nanos() {
                0 => (-seconds(until), 0),
                nanoseconds => (-seconds(until) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// A notice that asks for cached bytes, which the kernel sends as a request.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Retrieve {
    /// Number of the request.
    pub(super) unique: u64,
    pub(super) inode: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) padding: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_lengths_of_the_protocol() {
        assert_eq!(size_of::<Header>(), 40);
        assert_eq!(size_of::<SetAttributes>(), 88);
        assert_eq!(size_of::<Release>(), 24);
        assert_eq!((size_of::<Read>(), size_of::<Write>()), (40, 40));
        assert_eq!((size_of::<Lock>(), size_of::<FileLock>()), (48, 24));
        assert_eq!((size_of::<Allocate>(), size_of::<Seek>()), (32, 24));
        assert_eq!((size_of::<Ioctl>(), size_of::<Open>()), (32, 8));
        assert_eq!((size_of::<AnswerHeader>(), size_of::<Attributes>()), (16, 88));
        assert_eq!((size_of::<AttributesAnswer>(), size_of::<Entry>()), (104, 128));
        assert_eq!((size_of::<Opened>(), size_of::<Written>()), (16, 8));
        assert_eq!((size_of::<Statistics>(), size_of::<DirectoryEntry>()), (80, 24));
        assert_eq!((size_of::<InvalidInode>(), size_of::<Deleted>()), (24, 24));
        assert_eq!((size_of::<InvalidEntry>(), size_of::<Retrieve>()), (16, 32));
    }

    #[test]
    fn times_before_1970_have_negative_seconds() {
        let before = |millis| of_time(UNIX_EPOCH - Duration::from_millis(millis));
        assert_eq!(before(0), (0, 0));
        assert_eq!(before(1000), (-1, 0));
        assert_eq!(before(1200), (-2, 800_000_000));
        assert_eq!(
            of_time(UNIX_EPOCH + Duration::from_millis(1200)),
            (1, 200_000_000)
        );
    }
}
