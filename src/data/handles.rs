//! Which volumes hosts have open through this apparatus, and by whom; and keeping new opens out for a moment, so that "nobody has it open" stays
//! true until what was asked for has been done.
//!
//! Touched when a file is opened or closed, never by reads and writes.

use super::lock;
use crate::units::VolumeId;
use crate::wire::message::{Opens, VolumeOpens};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock};

/// Opens that wait at once until a vacated volume may be opened again; more are refused.
const WAITING: usize = 256;

/// Processes that are named for each volume.
const NAMED: usize = 32;

/// Volumes that are told of at once.
const VOLUMES: usize = 65_536;

/// A host wants to open a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The volume.
    pub volume: VolumeId,
    /// The thread that opens it, as the mount's PID namespace numbers it; 0 when it is not in that namespace.
    pub pid: u32,
    /// The handle may write.
    pub writes: bool,
}

/// Why a host may not open a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// It is not there any more.
    Gone,
    /// It must not be written.
    ReadOnly,
    /// Too many opens wait already.
    Busy,
}

/// Answers an open: with the handle's number, or why there is none.
pub type OpenReply = Box<dyn FnOnce(Result<u64, NotOpened>) + Send>;

/// What somebody asked to be kept closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// These volumes; all when there is none.
    pub(super) volumes: BTreeSet<VolumeId>,
    /// Handles that only read do not matter.
    pub(super) writers_only: bool,
}

impl Kept {
    fn covers(&self, opening: &Opening) -> bool {
        (self.volumes.is_empty() || self.volumes.contains(&opening.volume))
            && (opening.writes || !self.writers_only)
    }
}

/// The open handles of one apparatus.
#[derive(Default)]
pub(super) struct Handles {
    book: Mutex<Book>,
    device: OnceLock<(u32, u32)>,
}

#[derive(Default)]
struct Book {
    last: u64,
    open: HashMap<u64, Opening>,
    kept: BTreeMap<u64, Kept>,
    waiting: Vec<(Opening, OpenReply)>,
}

impl Book {
    fn covers(&self, opening: &Opening) -> bool {
        self.kept.values().any(|kept| kept.covers(opening))
    }

    fn add(&mut self, opening: Opening) -> u64 {
        self.last += 1;
        self.open.insert(self.last, opening);
        self.last
    }
}

impl Handles {
    /// Records the handle and gives the reply back with its number; keeps the reply while the volume is to stay closed.
    pub(super) fn begin(&self, opening: Opening, reply: OpenReply) -> Option<(u64, OpenReply)> {
        let mut book = lock(&self.book);
        if !book.covers(&opening) {
            return Some((book.add(opening), reply));
        }
        if book.waiting.len() < WAITING {
            book.waiting.push((opening, reply));
        } else {
            drop(book);
            reply(Err(NotOpened::Busy));
        }
        None
    }

    /// Forgets a handle. Answers which volume it was open on.
    pub(super) fn end(&self, handle: u64) -> Option<VolumeId> {
        lock(&self.book)
            .open
            .remove(&handle)
            .map(|opening| opening.volume)
    }

    /// Keeps these volumes from being opened until [`Handles::let_in`], on behalf of `who`.
    ///
    /// # Errors
    /// What is open of them; nothing is kept then.
    pub(super) fn keep_closed(&self, who: u64, kept: Kept) -> Result<(), Opens> {
        let mut book = lock(&self.book);
        let open: Vec<Opening> = book
            .open
            .values()
            .copied()
            .filter(|each| kept.covers(each))
            .collect();
        if open.is_empty() {
            book.kept.insert(who, kept);
            return Ok(());
        }
        drop(book);
        Err(self.told(&open))
    }

    /// The end of [`Handles::keep_closed`]: the opens that have waited for it, each with its number.
    pub(super) fn let_in(&self, who: u64) -> Vec<(Opening, u64, OpenReply)> {
        let mut book = lock(&self.book);
        if book.kept.remove(&who).is_none() {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut book.waiting);
        let mut free = Vec::new();
        for (opening, reply) in waiting {
            if book.covers(&opening) {
                book.waiting.push((opening, reply));
            } else {
                free.push((opening, book.add(opening), reply));
            }
        }
        free
    }

    /// The device number of the mount: with a volume's inode it tells what a loop device or a descriptor lies on.
    pub(super) fn set_device(&self, device: (u32, u32)) {
        // There is one mount for each life of an apparatus.
        let _ = self.device.set(device);
    }

    /// What is open now.
    pub(super) fn opens(&self) -> Opens {
        let open: Vec<Opening> = lock(&self.book).open.values().copied().collect();
        self.told(&open)
    }

    fn told(&self, open: &[Opening]) -> Opens {
        let mut volumes: BTreeMap<VolumeId, VolumeOpens> = BTreeMap::new();
        let mut left_out = 0;
        for opening in open {
            if volumes.len() >= VOLUMES && !volumes.contains_key(&opening.volume) {
                left_out += 1;
                continue;
            }
            let told = volumes.entry(opening.volume).or_default();
            told.handles += 1;
            told.writers += u64::from(opening.writes);
            if told.pids.len() < NAMED {
                told.pids.insert(opening.pid);
            }
        }
        Opens {
            device: self.device.get().copied(),
            volumes,
            left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn opening(volume: u64, writes: bool) -> Opening {
        Opening {
            volume: VolumeId(volume),
            pid: 7,
            writes,
        }
    }

    fn kept(volumes: &[u64], writers_only: bool) -> Kept {
        Kept {
            volumes: volumes.iter().map(|volume| VolumeId(*volume)).collect(),
            writers_only,
        }
    }

    fn reply() -> (OpenReply, Receiver<Result<u64, NotOpened>>) {
        let (tell, told) = channel();
        (Box::new(move |answer| tell.send(answer).unwrap()), told)
    }

    fn open(handles: &Handles, volume: u64, writes: bool) -> Option<u64> {
        let (reply, _told) = reply();
        handles
            .begin(opening(volume, writes), reply)
            .map(|(handle, _)| handle)
    }

    #[test]
    fn counts_handles_by_volume_and_forgets_them_once() {
        let handles = Handles::default();
        let one = open(&handles, 1, true).unwrap();
        let two = open(&handles, 1, false).unwrap();
        assert_ne!(one, two);
        let told = handles.opens();
        let volume = &told.volumes[&VolumeId(1)];
        assert_eq!((volume.handles, volume.writers, volume.pids.len()), (2, 1, 1));
        assert_eq!(handles.end(one), Some(VolumeId(1)));
        assert_eq!(handles.end(one), None);
        assert_eq!(handles.opens().volumes[&VolumeId(1)].handles, 1);
    }

    #[test]
    fn what_is_open_cannot_be_vacated_and_what_is_vacated_stays_closed_until_it_is_let_in() {
        let handles = Handles::default();
        let reader = open(&handles, 1, false).unwrap();
        assert!(handles.keep_closed(9, kept(&[1], false)).is_err());
        assert!(handles.keep_closed(9, kept(&[], false)).is_err());
        handles.keep_closed(9, kept(&[1], true)).unwrap();
        assert!(open(&handles, 1, false).is_some(), "only writers stay out");
        assert!(open(&handles, 2, true).is_some(), "another volume");
        let (wait, told) = reply();
        assert!(handles.begin(opening(1, true), wait).is_none());
        assert!(told.try_recv().is_err());
        assert!(handles.let_in(8).is_empty(), "somebody else");
        let free = handles.let_in(9);
        assert_eq!(free.len(), 1);
        assert_eq!(handles.end(free[0].1), Some(VolumeId(1)));
        assert!(handles.end(reader).is_some());
    }

    #[test]
    fn no_more_than_a_bounded_number_waits() {
        let handles = Handles::default();
        handles.keep_closed(1, kept(&[], false)).unwrap();
        handles.keep_closed(2, kept(&[5], false)).unwrap();
        for _ in 0..WAITING {
            assert!(open(&handles, 5, true).is_none());
        }
        let (last, told) = reply();
        assert!(handles.begin(opening(5, true), last).is_none());
        assert_eq!(told.recv(), Ok(Err(NotOpened::Busy)));
        assert!(handles.let_in(1).is_empty(), "the other still keeps it closed");
        assert_eq!(handles.let_in(2).len(), WAITING);
    }
}
