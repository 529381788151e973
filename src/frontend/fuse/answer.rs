//! Answers to requests of the kernel.

use super::device::Device;
use super::errno;
use super::uring::Held;
use super::wire::{AnswerHeader, DirectoryEntry, Entry};
use rustix::io::Errno;
use std::io::IoSlice;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// The answer to one request, still to be sent: any thread may send it, once. An answer that is dropped unsent is EIO.
pub(super) struct Answer {
    way: Way,
    unique: u64,
    is_sent: bool,
}

/// The way that an answer takes.
enum Way {
    /// It is written to the device.
    Device(Arc<Device>),
    /// It is put into the memory of the request's entry, which is committed.
    Entry(Held),
}

impl Answer {
    /// Makes the answer to the request with this number, which came from `device`.
    pub(super) fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self {
            way: Way::Device(device.clone()),
            unique,
            is_sent: false,
        }
    }

    /// Makes the answer to the request with this number, which came in an entry of a ring.
    pub(super) fn in_entry(entry: Held, unique: u64) -> Self {
        Self {
            way: Way::Entry(entry),
            unique,
            is_sent: false,
        }
    }

    /// Returns whether the request may wait for other requests of hosts. It may not where it occupies one of the last places for them.
    pub(super) fn may_wait(&self) -> bool {
        match &self.way {
            Way::Device(_) => true,
            Way::Entry(entry) => entry.may_wait(),
        }
    }

    /// Returns memory of this length, which the kernel reads as the answer: see [`Answer::placed`]. There is none where answers are written to the device.
    pub(super) fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        match &mut self.way {
            Way::Device(_) => None,
            Way::Entry(entry) => entry.space(len),
        }
    }

    /// Sends the first bytes of [`Answer::space`].
    pub(super) fn placed(mut self, len: usize) {
        self.is_sent = true;
        match &mut self.way {
            Way::Entry(entry) => entry.answer_placed(self.unique, len),
            Way::Device(_) => drop(self.write(-errno::MISFIT.raw_os_error(), &[])),
        }
    }

    /// Sends that the request is done.
    pub(super) fn done(self) {
        self.data(&[]).ok();
    }

    /// Sends that the request has failed.
    pub(super) fn error(mut self, errno: Errno) {
        self.write(-errno.raw_os_error(), &[]).ok();
    }

    /// Sends a structure.
    pub(super) fn structure(self, structure: &(impl IntoBytes + Immutable)) {
        self.data(structure.as_bytes()).ok();
    }

    /// Sends bytes, which may be a mapping.
    ///
    /// # Errors
    /// Fails with EFAULT when the kernel could not read the bytes; the host gets EIO then. Any other error means that nobody waits for the
    /// answer any more.
    pub(super) fn data(mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.write(0, bytes)
    }

    /// Sends no answer, to a request that expects none.
    pub(super) fn none(mut self) {
        match &self.way {
            Way::Device(_) => self.is_sent = true,
            // Such requests come from the device. An entry would be lost without an answer.
            Way::Entry(_) => self.done(),
        }
    }

    fn write(&mut self, error: i32, bytes: &[u8]) -> Result<(), Errno> {
        self.is_sent = true;
        let len = size_of::<AnswerHeader>() + bytes.len();
        let header = AnswerHeader {
            len: u32::try_from(len).map_err(|_| Errno::TOOBIG)?,
            error,
            unique: self.unique,
        };
        match (&mut self.way, bytes) {
            (Way::Entry(entry), _) => entry.answer(header, bytes),
            (Way::Device(device), []) => device.send(&[IoSlice::new(header.as_bytes())]),
            (Way::Device(device), _) => device.send(&[IoSlice::new(header.as_bytes()), IoSlice::new(bytes)]),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_sent {
            // If the mount has ended, nobody waits for it.
            self.write(-errno::MISFIT.raw_os_error(), &[]).ok();
        }
    }
}

/// Entries of a directory, as many as the kernel has room for.
pub(super) struct Entries {
    bytes: Vec<u8>,
    room: usize,
}

impl Entries {
    /// Makes an empty list for `room` bytes.
    pub(super) fn new(room: u32) -> Self {
        let room = room as usize;
        Self {
            bytes: Vec::new(),
            room,
        }
    }

    /// Returns how many entries can have room at most, `with` a structure before each.
    pub(super) fn most(&self, with: usize) -> usize {
        self.room / (with + size_of::<DirectoryEntry>() + 1).next_multiple_of(align_of::<u64>())
    }

    /// Adds an entry, after the answer to a lookup of it if there is one, and returns true. Returns false when there is no room for it.
    pub(super) fn add(&mut self, found: Option<&Entry>, entry: DirectoryEntry, name: &str) -> bool {
        let Ok(name_len) = u32::try_from(name.len()) else {
            return false;
        };
        let found = found.map_or(&[][..], IntoBytes::as_bytes);
        let end = self.bytes.len() + found.len() + size_of::<DirectoryEntry>() + name.len();
        let end = end.next_multiple_of(align_of::<u64>());
        if end > self.room {
            return false;
        }
        let entry = DirectoryEntry { name_len, ..entry };
        self.bytes.extend_from_slice(found);
        self.bytes.extend_from_slice(entry.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.resize(end, 0);
        true
    }

    /// Returns the entries as the kernel reads them.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn entries_are_aligned_and_stay_within_their_room() {
        let entry = |inode| DirectoryEntry {
            inode,
            next: inode + 1,
            name_len: 0,
            kind: 8,
        };
        let mut entries = Entries::new(63);
        assert_eq!(entries.most(0), 1);
        assert!(entries.add(None, entry(5), "v"));
        assert_eq!(entries.as_bytes().len(), 32);
        assert_eq!(entries.as_bytes()[16..25], [1, 0, 0, 0, 8, 0, 0, 0, b'v']);
        assert!(!entries.add(None, entry(6), "w"), "no room");
        assert_eq!(entries.as_bytes().len(), 32);
        assert!(!Entries::new(31).add(None, entry(5), "v"));
        assert!(Entries::new(32).add(None, entry(5), "v"));

        let found = Entry {
            inode: 5,
            ..Entry::default()
        };
        let mut entries = Entries::new(320);
        assert_eq!(entries.most(size_of::<Entry>()), 2);
        assert!(entries.add(Some(&found), entry(5), "v") && entries.add(Some(&found), entry(5), "w"));
        assert!(!entries.add(Some(&found), entry(5), "x"), "no room");
        assert_eq!((entries.as_bytes()[0], entries.as_bytes()[160]), (5, 5));
        assert_eq!(
            (entries.as_bytes()[128 + 24], entries.as_bytes()[160 + 128 + 24]),
            (b'v', b'w')
        );
    }

    #[test]
    fn an_answer_has_the_number_of_its_request_and_one_that_is_dropped_is_an_error() {
        let (mut read, write) = std::io::pipe().unwrap();
        let device = Arc::new(Device::new(write.into()));
        let mut next = || {
            let mut bytes = [0; 64];
            let len = read.read(&mut bytes).unwrap();
            bytes[..len].to_vec()
        };
        let header = |len, error, unique| AnswerHeader { len, error, unique }.as_bytes().to_vec();
        let again = 4 | 1 << 63;
        Answer::new(&device, again).done();
        assert_eq!(next(), header(16, 0, again));
        Answer::new(&device, 6).error(Errno::NOSPC);
        assert_eq!(next(), header(16, -28, 6));
        drop(Answer::new(&device, 8));
        assert_eq!(next(), header(16, -5, 8));
        Answer::new(&device, 10).data(b"abc").unwrap();
        assert_eq!(next(), [&header(19, 0, 10)[..], b"abc"].concat());
        Answer::new(&device, 12).none();
        Answer::new(&device, 14).done();
        assert_eq!(next(), header(16, 0, 14), "nothing for the one before");
    }
}
