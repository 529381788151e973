//! One ring: entries for requests are registered with it, and committed through it. Only the thread that enables it uses it.
#![allow(unsafe_code)]

use super::late::Late;
use super::memory::{Asked, Held, Memory};
use crate::frontend::fuse::device::Device;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Commands for the device (`enum fuse_uring_cmd`).
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Submissions that are collected at most before the kernel takes them.
const SUBMISSIONS: u32 = 64;
/// Entries that one piece of memory has.
const PIECE: usize = 16;
/// Marks the completion that says that there are late answers. All others are numbers of entries.
const EVENT: u64 = u64::MAX;

/// Argument of a command (`struct fuse_uring_cmd_req`, in the room of 80 bytes that a command has).
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Argument {
    flags: u64,
    commit_id: u64,
    queue: u16,
    padding: [u8; 6],
    rest: [u8; 56],
}

/// What a wait has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A request is in this entry.
    Request(u32),
    /// There are late answers, or the ring is to end.
    Late,
    /// The mount has ended.
    Over,
    /// The kernel has refused a command for this entry.
    Refused(u32, Errno),
}

/// An entry.
#[derive(Clone, Copy)]
struct Entry {
    /// The piece of memory, and the place in it.
    place: (usize, usize),
    /// Number of the kernel's queue that it is registered with.
    queue: u16,
}

/// A ring.
pub(super) struct Ring {
    ring: IoUring<Entry128, cqueue::Entry>,
    device: Arc<Device>,
    memory: Vec<Arc<Memory>>,
    entries: Vec<Entry>,
    most: usize,
    late: Arc<Late>,
    largest: usize,
}

impl Ring {
    /// Makes a ring for at most `most` entries, of requests with up to `largest` bytes of data. Any thread may enable it.
    ///
    /// # Errors
    /// Fails where the kernel does not support such rings, or this process may not use them.
    pub(super) fn new(device: Arc<Device>, most: usize, largest: usize) -> io::Result<Self> {
        let ring = build(most)?;
        Ok(Self {
            ring,
            device,
            memory: Vec::new(),
            entries: Vec::new(),
            most,
            late: Arc::new(Late::new(most)?),
            largest,
        })
    }

    /// Enables the ring: the calling thread is the one that uses it from now on.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        self.await_late()
    }

    /// Returns the device.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the list of late answers.
    pub(super) fn late(&self) -> &Arc<Late> {
        &self.late
    }

    /// Returns the queue of an entry.
    pub(super) fn queue_of(&self, entry: u32) -> Option<u16> {
        Some(self.entries.get(entry as usize)?.queue)
    }

    /// Registers one more entry with a queue of the kernel. Returns false when there are as many as there may be, and otherwise whether its memory is locked.
    ///
    /// # Errors
    /// Fails when there is no memory.
    pub(super) fn register(&mut self, queue: u16) -> io::Result<Option<bool>> {
        let number = self.entries.len();
        if number >= self.most {
            return Ok(None);
        }
        let mut is_locked = true;
        let place = (number / PIECE, number % PIECE);
        if place.0 == self.memory.len() {
            let (memory, locked) = Memory::new(PIECE, self.largest)?;
            let memory = Arc::new(memory);
            // The kernel may write to it as long as the connection exists, which is as long as the process.
            std::mem::forget(memory.clone());
            self.memory.push(memory);
            is_locked = locked;
        }
        self.entries.push(Entry { place, queue });
        let address = self.memory[place.0].describe(place.1);
        let argument = Argument::new(0, queue);
        self.push(&self.command(REGISTER, &argument, number as u64, Some(address)))?;
        Ok(Some(is_locked))
    }

    /// Returns the request that has come in an entry, with the right to answer it.
    pub(super) fn take(&self, entry: u32) -> Option<(Asked<'_>, Held)> {
        let Entry { place, .. } = *self.entries.get(entry as usize)?;
        Some(self.memory.get(place.0)?.take(place.1, entry, &self.late))
    }

    /// Ends the serving of an entry's request by this thread. Commits the entry and returns true if it has its answer; the answer comes late otherwise.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn served(&mut self, entry: u32) -> io::Result<bool> {
        let Some(&Entry { place, .. }) = self.entries.get(entry as usize) else {
            return Ok(true);
        };
        let is_answered = self.memory[place.0].is_answered(place.1);
        if is_answered {
            self.commit(entry)?;
        }
        Ok(is_answered)
    }

    /// Returns the next entry that was answered late, and commits it.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn commit_late(&mut self) -> io::Result<Option<u32>> {
        let Some(entry) = self.late.take() else {
            return Ok(None);
        };
        self.commit(entry)?;
        Ok(Some(entry))
    }

    /// Has [`Event::Late`] come when there is something on the list of late answers.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn await_late(&mut self) -> io::Result<()> {
        let event = types::Fd(self.late.event().as_raw_fd());
        let readable = opcode::PollAdd::new(event, libc::POLLIN as u32).build();
        self.push(&readable.user_data(EVENT).into())
    }

    fn commit(&mut self, entry: u32) -> io::Result<()> {
        let Some(&Entry { place, queue }) = self.entries.get(entry as usize) else {
            return Ok(());
        };
        let argument = Argument::new(self.memory[place.0].complete(place.1), queue);
        self.push(&self.command(COMMIT_AND_FETCH, &argument, entry.into(), None))
    }

    fn command(&self, command: u32, argument: &Argument, number: u64, address: Option<u64>) -> Entry128 {
        let device = types::Fd(self.device.descriptor().as_raw_fd());
        let mut room = [0; 80];
        room.copy_from_slice(argument.as_bytes());
        let built = opcode::UringCmd80::new(device, command).cmd(room).addr(address);
        let mut entry = built.build().user_data(number);
        if address.is_some() {
            set_length(&mut entry, 2);
        }
        entry
    }

    fn push(&mut self, submission: &Entry128) -> io::Result<()> {
        loop {
            // SAFETY: what a submission refers to lives as long as the ring and longer: the device and the event belong to `self`, the memory of entries is
            // never freed.
            let pushed = unsafe { self.ring.submission().push(submission) };
            match pushed {
                Ok(()) => return Ok(()),
                Err(_) => self.submit(0)?,
            }
        }
    }

    /// Submits what was collected.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let is_empty = self.ring.submission().is_empty();
        match is_empty {
            true => Ok(()),
            false => self.submit(0),
        }
    }

    fn submit(&mut self, wanted: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // Completions have to be taken first.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Submits what was collected, waits for at least one event, and puts all that there are into `events`.
    ///
    /// # Errors
    /// Fails with the kernel's error.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.submit(1)?;
        events.extend(self.ring.completion().map(|completion| event_of(&completion)));
        Ok(())
    }
}

impl Argument {
    fn new(commit_id: u64, queue: u16) -> Self {
        Self {
            flags: 0,
            commit_id,
            queue,
            padding: [0; 6],
            rest: [0; 56],
        }
    }
}

fn event_of(completion: &cqueue::Entry) -> Event {
    if completion.user_data() == EVENT {
        return Event::Late;
    }
    let entry = u32::try_from(completion.user_data()).unwrap_or(u32::MAX);
    match completion.result() {
        0.. => Event::Request(entry),
        error => match Errno::from_raw_os_error(-error) {
            Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV | Errno::CANCELED => Event::Over,
            errno => Event::Refused(entry, errno),
        },
    }
}

/// Makes a ring of the kind that entries need: submissions of 128 bytes, one thread, which does the kernel's work for it when it asks.
pub(super) fn build(most: usize) -> io::Result<IoUring<Entry128, cqueue::Entry>> {
    let completions = u32::try_from(most + 1).unwrap_or(u32::MAX);
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_r_disabled()
        .setup_submit_all()
        .setup_cqsize(completions.next_power_of_two().max(2 * SUBMISSIONS))
        .build(SUBMISSIONS)
}

/// Sets the field `len` of a submission, which the library sets for no command.
fn set_length(entry: &mut Entry128, len: u32) {
    /// Where `struct io_uring_sqe` has it.
    const LEN: usize = 24;
    // SAFETY: an `Entry128` begins with a `struct io_uring_sqe` and has its layout (`repr(C)`), which is the kernel's: four bytes at this place are
    // the field.
    unsafe {
        std::ptr::from_mut(entry)
            .cast::<u8>()
            .add(LEN)
            .cast::<u32>()
            .write(len);
    }
}
