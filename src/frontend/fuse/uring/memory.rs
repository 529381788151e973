//! The memory of entries. An entry is a place for one request: the kernel puts a request into it, and takes the answer out of it when it is committed.
//!
//! At each moment an entry belongs to one side. The kernel writes to it only while its ring's thread is in a call to the kernel, and only from the
//! registration or commit of the entry until the completion that brings a request. From then on it is the server's: [`Memory::take`] gives out the
//! request, and [`Held`], the right to answer it. The answer may come from any thread; the ring's thread commits it.
#![allow(unsafe_code)]

use super::late::Late;
use crate::frontend::fuse::wire::{AnswerHeader, Header};
use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::mm::{MlockFlags, mlock_with};
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of the part of an entry before its payload: a page, so that the data of a write begins on a page.
const BEFORE_PAYLOAD: usize = 4096;
/// Bytes of a part of the kernel's header.
const PART: usize = 128;
/// Where the parts lie in an entry: the header of the request or the answer, the argument of the request, the kernel's figures.
const ARGUMENT: usize = PART;
const FIGURES: usize = 2 * PART;
/// Bytes of an entry that the kernel calls its header.
pub(super) const KERNELS_HEADER: usize = FIGURES + size_of::<Figures>();
/// Where the descriptions of both parts of the memory lie, which the kernel reads at the registration.
const DESCRIPTIONS: usize = 512;
/// Where a short answer lies until it is committed: the payload may still be read as the data of the request.
const SHORT: usize = 1024;
/// Bytes of the longest such answer.
const LONGEST_SHORT: usize = 512;

/// What the kernel and the server tell each other about an entry (`struct fuse_uring_ent_in_out`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Figures {
    flags: u64,
    /// Number by which the request is committed.
    commit_id: u64,
    /// Bytes of the payload, of the request or of the answer.
    payload: u32,
    padding: u32,
    reserved: u64,
}

/// State of an entry while it is the server's.
mod state {
    /// Its request is being served by the ring's thread.
    pub(super) const SERVED: u8 = 0;
    /// The ring's thread goes on, and the answer comes later.
    pub(super) const LATER: u8 = 1;
    /// The answer is in the entry.
    pub(super) const ANSWERED: u8 = 2;
    /// The answer is in the entry, its bytes in the place of short ones.
    pub(super) const ANSWERED_SHORTLY: u8 = 3;
}

/// Memory of several entries.
pub(super) struct Memory {
    map: MmapRaw,
    stride: usize,
    states: Box<[AtomicU8]>,
}

/// A request in an entry.
pub(super) struct Asked<'a> {
    pub(super) header: Header,
    argument: [u8; PART],
    argument_len: usize,
    pub(super) payload: &'a [u8],
}

impl Asked<'_> {
    pub(super) fn argument(&self) -> &[u8] {
        self.argument.get(..self.argument_len).unwrap_or_default()
    }
}

/// The right to answer the request in an entry.
pub(in crate::frontend::fuse) struct Held {
    memory: Arc<Memory>,
    at: usize,
    number: u32,
    late: Arc<Late>,
    /// Whether the request has no payload, so that nobody reads it while an answer is written there.
    may_place: bool,
}

impl Memory {
    /// Allocates memory for `entries` requests with up to `largest` bytes of data. Returns also whether it is locked. Pages appear when they are first used, and
    /// stay from then on.
    pub(super) fn new(entries: usize, largest: usize) -> io::Result<(Self, bool)> {
        let stride = BEFORE_PAYLOAD + largest.next_multiple_of(BEFORE_PAYLOAD);
        let len = stride * entries;
        let map: MmapRaw = MmapOptions::new().len(len).no_reserve_swap().map_anon()?.into();
        // SAFETY: the range is the mapping, and locking changes no byte.
        let locked = unsafe { mlock_with(map.as_mut_ptr().cast(), len, MlockFlags::ONFAULT) };
        let states = (0..entries).map(|_| AtomicU8::new(state::SERVED)).collect();
        let memory = Self { map, stride, states };
        Ok((memory, locked.is_ok()))
    }

    /// Returns the address of a byte of an entry.
    fn byte(&self, at: usize, offset: usize) -> *mut u8 {
        assert!(
            at < self.states.len() && offset < self.stride,
            "outside the memory"
        );
        // SAFETY: the entry and the offset in it are inside the mapping, as just checked.
        unsafe { self.map.as_mut_ptr().add(at * self.stride + offset) }
    }

    fn largest(&self) -> usize {
        self.stride - BEFORE_PAYLOAD
    }

    /// Writes the descriptions of an entry's memory, which its registration needs, and returns their address. The entry is the server's.
    pub(super) fn describe(&self, at: usize) -> u64 {
        let part = |offset, len| libc::iovec {
            iov_base: self.byte(at, offset).cast(),
            iov_len: len,
        };
        let parts = [part(0, KERNELS_HEADER), part(BEFORE_PAYLOAD, self.largest())];
        let place = self.byte(at, DESCRIPTIONS).cast::<[libc::iovec; 2]>();
        // SAFETY: the place is aligned (its offset in a page is a multiple of 512), has room for both, and is used for nothing else. The caller's
        // thread registers the entry, so nobody else uses it now.
        unsafe { place.write(parts) };
        place.expose_provenance() as u64
    }

    /// Returns the request that a completion has brought, with the right to answer it. Called once for each, by the ring's thread, which commits the entry not before
    /// the request is no longer borrowed.
    pub(super) fn take(self: &Arc<Self>, at: usize, number: u32, late: &Arc<Late>) -> (Asked<'_>, Held) {
        let mut bytes = [0; KERNELS_HEADER];
        // SAFETY: the range is inside the entry, and the completion says that the kernel has written it and that it is the server's.
        unsafe { ptr::copy_nonoverlapping(self.byte(at, 0), bytes.as_mut_ptr(), KERNELS_HEADER) };
        let (header, _) = Header::read_from_prefix(&bytes).unwrap_or((Header::new_zeroed(), &[]));
        let mut argument = [0; PART];
        argument.copy_from_slice(&bytes[ARGUMENT..FIGURES]);
        let figures = Figures::read_from_bytes(&bytes[FIGURES..]).unwrap_or_default();
        let payload = (figures.payload as usize).min(self.largest());
        // What is left of the length; a wrong one is found when the request is parsed.
        let rest = (header.len as usize).saturating_sub(size_of::<Header>() + payload);
        // SAFETY: the range is inside the entry. Nobody writes to it while this is borrowed: the kernel does so only after the commit, and `Held`
        // places no answer in a payload that is not empty.
        let payload = unsafe { std::slice::from_raw_parts(self.byte(at, BEFORE_PAYLOAD), payload) };
        self.states[at].store(state::SERVED, Ordering::Relaxed);
        let held = Held {
            memory: self.clone(),
            at,
            number,
            late: late.clone(),
            may_place: payload.is_empty(),
        };
        let asked = Asked {
            header,
            argument,
            argument_len: rest.min(PART),
            payload,
        };
        (asked, held)
    }

    /// Returns whether the entry has its answer. Otherwise the thread that answers puts the entry on the list of late answers. Called once, by the ring's
    /// thread when it has served the request.
    pub(super) fn is_answered(&self, at: usize) -> bool {
        self.states[at]
            .compare_exchange(state::SERVED, state::LATER, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
    }

    /// Makes an answered entry ready for its commit, and returns the number by which the kernel knows the request. Called once for each answer, by the ring's thread.
    pub(super) fn complete(&self, at: usize) -> u64 {
        let mut figures = [0; size_of::<Figures>()];
        // SAFETY: all ranges are inside the entry, the short answer is no longer than its place and does not overlap the payload, and the entry is
        // answered: the thread that did it, and the borrower of the request, use it no more.
        unsafe {
            ptr::copy_nonoverlapping(self.byte(at, FIGURES), figures.as_mut_ptr(), size_of::<Figures>());
            let answer = Figures::read_from_bytes(&figures).unwrap_or_default();
            if self.states[at].load(Ordering::Relaxed) == state::ANSWERED_SHORTLY {
                let len = (answer.payload as usize).min(LONGEST_SHORT);
                ptr::copy_nonoverlapping(self.byte(at, SHORT), self.byte(at, BEFORE_PAYLOAD), len);
            }
            answer.commit_id
        }
    }
}

impl Held {
    /// Returns whether the request may wait for other requests of hosts.
    pub(in crate::frontend::fuse) fn may_wait(&self) -> bool {
        self.late.has_room()
    }

    /// Returns memory of this length for the answer, if the request leaves it free.
    pub(in crate::frontend::fuse) fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.may_place || len == 0 || len > self.memory.largest() {
            return None;
        }
        // SAFETY: the range is inside the entry, which is this one's until it is answered. The request has no payload, so nobody has borrowed it.
        Some(unsafe { std::slice::from_raw_parts_mut(self.memory.byte(self.at, BEFORE_PAYLOAD), len) })
    }

    /// Answers with the first bytes of [`Held::space`].
    pub(in crate::frontend::fuse) fn answer_placed(&mut self, unique: u64, len: usize) {
        let header = AnswerHeader {
            len: 0,
            error: 0,
            unique,
        };
        self.finish(header, len, false);
    }

    /// Answers with these bytes.
    ///
    /// # Errors
    /// Fails when they are more than the kernel has asked for, and answers with an error then.
    pub(in crate::frontend::fuse) fn answer(
        &mut self,
        header: AnswerHeader,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        if bytes.len() <= LONGEST_SHORT {
            // SAFETY: the range is inside the entry, is used for nothing else, and is this one's until it is answered.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.byte(self.at, SHORT), bytes.len());
            }
            self.finish(header, bytes.len(), true);
            return Ok(());
        }
        match self.space(bytes.len()) {
            Some(space) => {
                space.copy_from_slice(bytes);
                self.finish(header, bytes.len(), false);
                Ok(())
            }
            None => {
                let error = -super::super::errno::MISFIT.raw_os_error();
                self.finish(AnswerHeader { error, ..header }, 0, false);
                Err(Errno::TOOBIG)
            }
        }
    }

    /// Writes the headers of the answer, and gives the entry back to its ring.
    fn finish(&mut self, header: AnswerHeader, len: usize, is_short: bool) {
        let figures = Figures {
            commit_id: header.unique,
            payload: u32::try_from(len).unwrap_or(0),
            ..Figures::default()
        };
        let (memory, at) = (&self.memory, self.at);
        // SAFETY: both ranges are inside the entry, which is this one's until the state changes below.
        unsafe {
            let header = header.as_bytes();
            ptr::copy_nonoverlapping(header.as_ptr(), memory.byte(at, 0), header.len());
            let figures = figures.as_bytes();
            ptr::copy_nonoverlapping(figures.as_ptr(), memory.byte(at, FIGURES), figures.len());
        }
        let answered = if is_short {
            state::ANSWERED_SHORTLY
        } else {
            state::ANSWERED
        };
        if memory.states[at].swap(answered, Ordering::AcqRel) == state::LATER {
            self.late.add(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LARGEST: usize = 8192;

    /// Does what the kernel does: puts a request into an entry.
    fn ask(memory: &Memory, at: usize, argument: &[u8], payload: &[u8]) {
        let header = Header {
            len: u32::try_from(size_of::<Header>() + argument.len() + payload.len()).unwrap(),
            opcode: 15,
            unique: 6,
            inode: 1,
            uid: 2,
            gid: 3,
            pid: 4,
            padding: 0,
        };
        let figures = Figures {
            commit_id: 6,
            payload: u32::try_from(payload.len()).unwrap(),
            ..Figures::default()
        };
        for (offset, bytes) in [
            (0, header.as_bytes()),
            (ARGUMENT, argument),
            (FIGURES, figures.as_bytes()),
            (BEFORE_PAYLOAD, payload),
        ] {
            // SAFETY: no request is in the entry, and all ranges are inside it.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.byte(at, offset), bytes.len()) };
        }
    }

    /// Returns what the kernel takes out of an answered entry: error, number and bytes.
    fn taken(memory: &Memory, at: usize) -> (i32, u64, Vec<u8>) {
        let number = memory.complete(at);
        let mut header = [0; size_of::<AnswerHeader>()];
        let mut figures = [0; size_of::<Figures>()];
        let mut bytes = vec![0; LARGEST];
        for (offset, place) in [
            (0, &mut header[..]),
            (FIGURES, &mut figures[..]),
            (BEFORE_PAYLOAD, &mut bytes[..]),
        ] {
            // SAFETY: the entry is answered and committed to nobody, and all ranges are inside it.
            unsafe { ptr::copy_nonoverlapping(memory.byte(at, offset), place.as_mut_ptr(), place.len()) };
        }
        let header = AnswerHeader::read_from_bytes(&header).unwrap();
        let figures = Figures::read_from_bytes(&figures).unwrap();
        assert_eq!((figures.commit_id, header.unique), (number, number));
        bytes.truncate(figures.payload as usize);
        (header.error, number, bytes)
    }

    fn header(error: i32) -> AnswerHeader {
        AnswerHeader {
            len: 0,
            error,
            unique: 6,
        }
    }

    fn scene() -> (Arc<Memory>, Arc<Late>) {
        let (memory, _) = Memory::new(2, LARGEST).unwrap();
        (Arc::new(memory), Arc::new(Late::new(2).unwrap()))
    }

    #[test]
    fn a_request_is_taken_as_it_was_put_and_its_data_begins_on_a_page() {
        let (memory, late) = scene();
        ask(&memory, 1, &[5; 40], b"data");
        let (asked, _held) = memory.take(1, 9, &late);
        assert_eq!((asked.header.unique, asked.argument()), (6, &[5; 40][..]));
        assert_eq!(asked.payload, b"data");
        assert_eq!(asked.payload.as_ptr().addr() % 4096, 0);
    }

    #[test]
    fn figures_that_the_memory_cannot_have_are_cut() {
        let (memory, late) = scene();
        ask(&memory, 0, &[5; 128], b"");
        let figures = Figures {
            payload: u32::MAX,
            ..Figures::default()
        };
        let bytes = figures.as_bytes();
        // SAFETY: no request is in the entry, and the range is inside it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.byte(0, FIGURES), bytes.len()) };
        let (asked, _held) = memory.take(0, 0, &late);
        assert_eq!((asked.payload.len(), asked.argument().len()), (LARGEST, 0));
    }

    #[test]
    fn a_short_answer_does_not_touch_the_data_of_the_request_before_the_commit() {
        let (memory, late) = scene();
        ask(&memory, 0, &[0; 40], b"data");
        let (asked, mut held) = memory.take(0, 0, &late);
        assert!(held.space(4).is_none(), "the data may still be read");
        held.answer(header(0), b"answer").unwrap();
        assert_eq!(asked.payload, b"data");
        assert!(memory.is_answered(0) && late.take().is_none());
        assert_eq!(taken(&memory, 0), (0, 6, b"answer".to_vec()));
    }

    #[test]
    fn a_long_answer_lies_in_the_payload_and_is_an_error_where_that_is_not_free() {
        let (memory, late) = scene();
        let long: Vec<u8> = (0..LARGEST).map(|at| at.to_le_bytes()[0]).collect();
        ask(&memory, 0, &[0; 40], b"");
        let (_, mut held) = memory.take(0, 0, &late);
        held.answer(header(0), &long).unwrap();
        assert!(memory.is_answered(0));
        assert_eq!(taken(&memory, 0), (0, 6, long.clone()));

        ask(&memory, 0, &[0; 40], b"");
        let (_, mut held) = memory.take(0, 0, &late);
        held.space(5).unwrap().copy_from_slice(b"place");
        held.answer_placed(6, 5);
        assert!(memory.is_answered(0));
        assert_eq!(taken(&memory, 0), (0, 6, b"place".to_vec()));

        ask(&memory, 0, &[0; 40], b"data");
        let (_, mut held) = memory.take(0, 0, &late);
        assert_eq!(held.answer(header(0), &long), Err(Errno::TOOBIG));
        assert!(memory.is_answered(0));
        assert_eq!(taken(&memory, 0), (-5, 6, vec![]));
    }

    #[test]
    fn an_answer_after_the_thread_has_gone_on_is_on_the_list() {
        let (memory, late) = scene();
        ask(&memory, 1, &[0; 40], b"");
        let (_, mut held) = memory.take(1, 7, &late);
        assert!(!memory.is_answered(1));
        thread::scope(|scope| {
            scope
                .spawn(|| held.answer(header(-4), b""))
                .join()
                .unwrap()
                .unwrap();
        });
        assert_eq!(late.take(), Some(7));
        assert_eq!(taken(&memory, 1), (-4, 6, vec![]));
    }
}
