//! Open handles of volumes at this apparatus, with the processes that opened them; and a block on new opens, so that "nobody has it open" stays
//! true until a command that relies on it has finished.
//!
//! Only opening and closing a file use it, never reads and writes.

use super::lock;
use crate::model::units::VolumeId;
use crate::rpc::message::{Opens, VolumeOpens};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Mutex, OnceLock};

/// Number of opens that may wait for a blocked volume; more are refused.
const WAITING: usize = 256;

/// Number of processes that are listed for each volume.
const NAMED: usize = 32;

/// Number of volumes that one report lists.
const VOLUMES: usize = 65_536;

/// Request of a host to open a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The volume.
    pub volume: VolumeId,
    /// The thread that opens it, as the mount's PID namespace numbers it; 0 when it is not in that namespace.
    pub pid: u32,
    /// Whether the handle may write.
    pub writes: bool,
    /// Number of the request that opens it.
    pub request: u64,
    /// Whether a process before this one may have recorded the request already, and not answered it.
    pub is_repeated: bool,
}

/// Records which handles are open beyond this process. A handle is recorded before the host has it, and until it has closed it.
pub trait OpenRecords: Send {
    /// Records an open handle.
    ///
    /// # Errors
    /// Fails when there is no room; the open is refused then.
    fn opened(&mut self, handle: u64, opening: &Opening) -> io::Result<()>;
    /// Removes the record of a handle.
    fn closed(&mut self, handle: u64);
}

/// Why a host may not open a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The volume does not exist any more.
    Gone,
    /// The volume is read-only.
    ReadOnly,
    /// Too many opens are waiting already.
    Busy,
}

/// Completes an open with the handle's number, or with the reason why there is none.
pub type OpenReply = Box<dyn FnOnce(Result<u64, NotOpened>) + Send>;

/// Block on new opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenBlock {
    /// The volumes that are blocked; all if the set is empty.
    pub(super) volumes: BTreeSet<VolumeId>,
    /// Whether handles that only read are exempt.
    pub(super) writers_only: bool,
}

impl OpenBlock {
    fn covers(&self, opening: &Opening) -> bool {
        (self.volumes.is_empty() || self.volumes.contains(&opening.volume))
            && (opening.writes || !self.writers_only)
    }
}

/// Open handles of one apparatus.
#[derive(Default)]
pub(super) struct Handles {
    table: Mutex<HandleTable>,
    device: OnceLock<(u32, u32)>,
}

#[derive(Default)]
struct HandleTable {
    last: u64,
    open: HashMap<u64, Opening>,
    records: Option<Box<dyn OpenRecords>>,
    kept: BTreeMap<u64, OpenBlock>,
    waiting: Vec<(Opening, OpenReply)>,
}

impl HandleTable {
    fn covers(&self, opening: &Opening) -> bool {
        self.kept.values().any(|kept| kept.covers(opening))
    }

    /// Records a new handle, and returns its number. A request that comes again gets the handle that it has.
    fn add(&mut self, opening: Opening) -> io::Result<u64> {
        if opening.is_repeated
            && let Some((handle, _)) = self.open.iter().find(|(_, each)| each.request == opening.request)
        {
            return Ok(*handle);
        }
        self.last += 1;
        if let Some(records) = &mut self.records {
            records.opened(self.last, &opening)?;
        }
        self.open.insert(self.last, opening);
        Ok(self.last)
    }
}

/// Returns the handle and its reply, or refuses a handle that could not be recorded.
fn added_or_refused(added: io::Result<u64>, reply: OpenReply) -> Option<(u64, OpenReply)> {
    match added {
        Ok(handle) => Some((handle, reply)),
        Err(why) => {
            log::error!("an open handle cannot be recorded: {why}");
            reply(Err(NotOpened::Busy));
            None
        }
    }
}

impl Handles {
    /// Records the handle, and returns its number and the reply. Keeps the reply while the volume is blocked.
    pub(super) fn begin(&self, opening: Opening, reply: OpenReply) -> Option<(u64, OpenReply)> {
        let mut table = lock(&self.table);
        if !table.covers(&opening) {
            let added = table.add(opening);
            drop(table);
            return added_or_refused(added, reply);
        }
        if table.waiting.len() < WAITING {
            table.waiting.push((opening, reply));
        } else {
            drop(table);
            reply(Err(NotOpened::Busy));
        }
        None
    }

    /// Removes a handle, and returns the volume that it was open on.
    pub(super) fn end(&self, handle: u64) -> Option<VolumeId> {
        let mut table = lock(&self.table);
        let opening = table.open.remove(&handle)?;
        if let Some(records) = &mut table.records {
            records.closed(handle);
        }
        Some(opening.volume)
    }

    /// Goes on with the handles that a process before this one has left, and has `records` record all from now on. The numbers of new handles
    /// begin after `last`.
    pub(super) fn go_on(&self, records: Box<dyn OpenRecords>, left: Vec<(u64, Opening)>, last: u64) {
        let mut table = lock(&self.table);
        table.records = Some(records);
        table.open.extend(left);
        table.last = table.last.max(last);
    }

    /// Blocks opens of these volumes until [`Handles::allow_opens`], on behalf of `owner`.
    ///
    /// # Errors
    /// Fails with the open handles of these volumes if there are any. Nothing is blocked then.
    pub(super) fn block_opens(&self, owner: u64, kept: OpenBlock) -> Result<(), Opens> {
        let mut table = lock(&self.table);
        let open: Vec<Opening> = table
            .open
            .values()
            .copied()
            .filter(|each| kept.covers(each))
            .collect();
        if open.is_empty() {
            table.kept.insert(owner, kept);
            return Ok(());
        }
        drop(table);
        Err(self.report(&open))
    }

    /// Ends a block of [`Handles::block_opens`]. Returns the opens that were waiting for it, each with its number.
    pub(super) fn allow_opens(&self, owner: u64) -> Vec<(Opening, u64, OpenReply)> {
        let mut table = lock(&self.table);
        if table.kept.remove(&owner).is_none() {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut table.waiting);
        let mut added = Vec::new();
        for (opening, reply) in waiting {
            if table.covers(&opening) {
                table.waiting.push((opening, reply));
            } else {
                added.push((opening, table.add(opening), reply));
            }
        }
        drop(table);
        let free = added.into_iter().filter_map(|(opening, added, reply)| {
            added_or_refused(added, reply).map(|(handle, reply)| (opening, handle, reply))
        });
        free.collect()
    }

    /// Sets the device number of the mount. With a volume's inode it identifies what a loop device or a descriptor refers to.
    pub(super) fn set_device(&self, device: (u32, u32)) {
        // An apparatus has one mount for its whole life, so a second call changes nothing.
        let _ = self.device.set(device);
    }

    /// Reports the open handles.
    pub(super) fn opens(&self) -> Opens {
        let open: Vec<Opening> = lock(&self.table).open.values().copied().collect();
        self.report(&open)
    }

    fn report(&self, open: &[Opening]) -> Opens {
        let mut volumes: BTreeMap<VolumeId, VolumeOpens> = BTreeMap::new();
        let mut left_out = 0;
        for opening in open {
            if volumes.len() >= VOLUMES && !volumes.contains_key(&opening.volume) {
                left_out += 1;
                continue;
            }
            let of_volume = volumes.entry(opening.volume).or_default();
            of_volume.handles += 1;
            of_volume.writers += u64::from(opening.writes);
            if of_volume.pids.len() < NAMED {
                of_volume.pids.insert(opening.pid);
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
            request: 0,
            is_repeated: false,
        }
    }

    fn kept(volumes: &[u64], writers_only: bool) -> OpenBlock {
        OpenBlock {
            volumes: volumes.iter().map(|volume| VolumeId(*volume)).collect(),
            writers_only,
        }
    }

    fn reply() -> (OpenReply, Receiver<Result<u64, NotOpened>>) {
        let (sender, replies) = channel();
        (Box::new(move |answer| sender.send(answer).unwrap()), replies)
    }

    fn open(handles: &Handles, volume: u64, writes: bool) -> Option<u64> {
        let (reply, _replies) = reply();
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
        let reported = handles.opens();
        let volume = &reported.volumes[&VolumeId(1)];
        assert_eq!((volume.handles, volume.writers, volume.pids.len()), (2, 1, 1));
        assert_eq!(handles.end(one), Some(VolumeId(1)));
        assert_eq!(handles.end(one), None);
        assert_eq!(handles.opens().volumes[&VolumeId(1)].handles, 1);
    }

    #[test]
    fn an_open_volume_cannot_be_blocked_and_a_blocked_one_stays_closed_until_the_block_ends() {
        let handles = Handles::default();
        let reader = open(&handles, 1, false).unwrap();
        assert!(handles.block_opens(9, kept(&[1], false)).is_err());
        assert!(handles.block_opens(9, kept(&[], false)).is_err());
        handles.block_opens(9, kept(&[1], true)).unwrap();
        assert!(open(&handles, 1, false).is_some(), "only writers stay out");
        assert!(open(&handles, 2, true).is_some(), "another volume");
        let (wait, replies) = reply();
        assert!(handles.begin(opening(1, true), wait).is_none());
        assert!(replies.try_recv().is_err());
        assert!(handles.allow_opens(8).is_empty(), "another owner");
        let free = handles.allow_opens(9);
        assert_eq!(free.len(), 1);
        assert_eq!(handles.end(free[0].1), Some(VolumeId(1)));
        assert!(handles.end(reader).is_some());
    }

    #[test]
    fn a_bounded_number_of_opens_waits() {
        let handles = Handles::default();
        handles.block_opens(1, kept(&[], false)).unwrap();
        handles.block_opens(2, kept(&[5], false)).unwrap();
        for _ in 0..WAITING {
            assert!(open(&handles, 5, true).is_none());
        }
        let (last, replies) = reply();
        assert!(handles.begin(opening(5, true), last).is_none());
        assert_eq!(replies.recv(), Ok(Err(NotOpened::Busy)));
        assert!(
            handles.allow_opens(1).is_empty(),
            "the other still keeps it closed"
        );
        assert_eq!(handles.allow_opens(2).len(), WAITING);
    }

    #[derive(Default, Clone)]
    struct Recorded(std::sync::Arc<Mutex<BTreeMap<u64, Opening>>>);

    impl OpenRecords for Recorded {
        fn opened(&mut self, handle: u64, opening: &Opening) -> io::Result<()> {
            if opening.volume == VolumeId(13) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            lock(&self.0).insert(handle, *opening);
            Ok(())
        }

        fn closed(&mut self, handle: u64) {
            lock(&self.0).remove(&handle);
        }
    }

    #[test]
    fn handles_go_on_in_the_next_process_and_an_open_that_comes_again_has_one() {
        let recorded = Recorded::default();
        let first = Handles::default();
        first.go_on(Box::new(recorded.clone()), Vec::new(), 0);
        let request = |request, is_repeated| Opening {
            request,
            is_repeated,
            ..opening(1, true)
        };
        let number = |handles: &Handles, opening| {
            let (reply, _replies) = reply();
            handles.begin(opening, reply).map(|(handle, _)| handle)
        };
        let (one, two) = (
            number(&first, request(10, false)).unwrap(),
            number(&first, request(12, false)).unwrap(),
        );
        first.end(one);
        let left = || {
            lock(&recorded.0)
                .iter()
                .map(|(handle, opening)| (*handle, *opening))
                .collect()
        };
        let next = Handles::default();
        next.go_on(Box::new(recorded.clone()), left(), 1 << 40);
        assert_eq!(next.opens().volumes[&VolumeId(1)].handles, 1);
        assert_eq!(
            number(&next, request(12, true)),
            Some(two),
            "the host has not had it yet"
        );
        let new = number(&next, request(14, true)).unwrap();
        assert!(new > 1 << 40);
        assert_eq!(next.end(one), None, "closed before");
        assert!(next.end(two).is_some() && next.end(new).is_some());
        assert!(lock(&recorded.0).is_empty());
        assert!(open(&next, 13, false).is_none(), "cannot be recorded");
        assert!(next.opens().volumes.is_empty());
    }
}
