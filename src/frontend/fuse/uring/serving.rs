//! The thread of a ring: it takes requests out of entries, serves them, and commits the entries with their answers.

use super::processors;
use super::ring::{Event, Ring};
use crate::frontend::fuse::answer::Answer;
use crate::frontend::fuse::filesystem::{Reader, Volumes};
use crate::frontend::fuse::incoming::{Incoming, Malformed};
use crate::frontend::fuse::notices;
use crate::frontend::fuse::pause::Pause;
use crate::frontend::fuse::wire::{ROOT, opcode};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Entries of a queue that are to be free for requests; where fewer are, more are registered.
const FREE: usize = 4;
/// Commits that are collected before the kernel gets them.
const TOGETHER: usize = 8;

/// Numbers of the requests that are asked for have this bit, which the kernel's own never reach.
const ASKED_FOR: u64 = 1 << 62;

/// A ring and what its thread serves.
pub(super) struct Serving {
    ring: Ring,
    processor: u16,
    queues: Vec<Queue>,
    /// Whether no further entry can be registered.
    is_full: bool,
    /// Requests that the kernel was asked for, times two.
    asked_for: u64,
    /// Inode of the last request for a file: the kernel knows it as long as a host has it open.
    file: u64,
}

/// A queue of the kernel, as this ring has entries of it.
struct Queue {
    number: u16,
    entries: usize,
    /// Entries whose answers come late.
    later: usize,
    /// Whether requests may wait in the kernel for an entry.
    may_be_short: bool,
    /// The last entry that was committed since the last wait.
    committed: Option<u32>,
}

impl Serving {
    /// Makes it for a thread on this processor, with these queues.
    pub(super) fn new(ring: Ring, processor: u16, queues: Vec<u16>) -> Self {
        let queue = |number| Queue {
            number,
            entries: 0,
            later: 0,
            may_be_short: false,
            committed: None,
        };
        Self {
            ring,
            processor,
            queues: queues.into_iter().map(queue).collect(),
            is_full: false,
            asked_for: 0,
            file: 0,
        }
    }

    /// Registers the first entries: `first` for the processor's own queue, and some for each other. Returns whether their memory is locked. From now on
    /// the calling thread serves.
    pub(super) fn begin(&mut self, first: usize) -> io::Result<bool> {
        processors::stay_on(self.processor);
        // A host that sends several requests sends all of them before this thread has the processor.
        if let Err(error) = crate::sys::interrupt_nobody() {
            log::debug!("a ring's thread may interrupt hosts: {error}");
        }
        self.ring.enable()?;
        let mut is_locked = true;
        for at in 0..self.queues.len() {
            let is_own = self.queues[at].number == self.processor;
            for _ in 0..if is_own { first } else { FREE } {
                is_locked &= self.register(at)?;
            }
        }
        self.ring.flush()?;
        Ok(is_locked)
    }

    /// Registers an entry. Returns whether its memory is locked.
    fn register(&mut self, at: usize) -> io::Result<bool> {
        let queue = &mut self.queues[at];
        let registered = self.ring.register(queue.number)?;
        match registered {
            Some(_) => queue.entries += 1,
            None => self.is_full = true,
        }
        Ok(registered.unwrap_or(true))
    }

    /// Serves until the mount ends.
    pub(super) fn serve(mut self, volumes: &Volumes, pause: &Pause) -> io::Result<()> {
        let mut reader = Reader::Ring(None);
        let mut events = Vec::new();
        while !self.ring.late().is_over() {
            self.ring.wait(&mut events)?;
            self.look_at(&events);
            let mut together = 0;
            for event in events.drain(..) {
                match event {
                    Event::Request(entry) => {
                        pause.pass();
                        self.answer(volumes, &mut reader, entry);
                        self.end(entry)?;
                        together += 1;
                    }
                    Event::Late => self.commit_late()?,
                    Event::Over => return Ok(()),
                    Event::Refused(entry, errno) => {
                        log::error!("the kernel refused entry {entry} of a ring: {errno}");
                        return Err(errno.into());
                    }
                }
                if together == TOGETHER {
                    self.ring.flush()?;
                    together = 0;
                }
            }
            self.keep_free()?;
            self.fetch_waiting()?;
        }
        Ok(())
    }

    /// Finds out whether requests still wait in the kernel for an entry: a commit brings the next of them at once, if there is one.
    fn look_at(&mut self, events: &[Event]) {
        for queue in &mut self.queues {
            let committed = queue.committed.take();
            if committed.is_some_and(|entry| !events.contains(&Event::Request(entry))) {
                queue.may_be_short = false;
            }
        }
    }

    /// Has the kernel hand out requests that may wait in the own queue where no commit does. It does that only when an entry is committed: entries that are
    /// registered later get new requests alone. So it is asked for a request, whose entry is committed at once. That one may itself have to wait, behind
    /// requests that have taken the new entries before it; these have brought the thread here again.
    fn fetch_waiting(&mut self) -> io::Result<()> {
        let waits = |queue: &Queue| {
            let has_free = queue.later < queue.entries;
            queue.number == self.processor && queue.may_be_short && queue.committed.is_none() && has_free
        };
        if !self.queues.iter().any(waits) {
            return Ok(());
        }
        // The new entries are there before the request.
        self.ring.flush()?;
        self.asked_for += 2;
        if let Err(error) = notices::request(self.ring.device(), self.file, ASKED_FOR | self.asked_for) {
            log::debug!("the kernel was not asked for waiting requests: {error}");
        }
        Ok(())
    }

    /// Serves the request in an entry. A request that panics fails, and the thread goes on: nobody else could serve its queues.
    fn answer(&mut self, volumes: &Volumes, reader: &mut Reader, entry: u32) {
        let Some((asked, held)) = self.ring.take(entry) else {
            return;
        };
        if asked.header.inode > ROOT {
            self.file = asked.header.inode;
        }
        let answer = Answer::in_entry(held, asked.header.unique);
        if asked.header.opcode == opcode::NOTICE_ANSWER {
            return answer.done();
        }
        match Incoming::of_parts(asked.header, asked.argument(), asked.payload) {
            Ok(incoming) => {
                let served = catch_unwind(AssertUnwindSafe(|| volumes.serve(reader, &incoming, answer)));
                if served.is_err() {
                    log::error!(
                        "a request of the kernel (operation {}) made its thread panic",
                        asked.header.opcode
                    );
                    *reader = Reader::Ring(None);
                }
            }
            Err(why) => refuse(asked.header.opcode, why, answer),
        }
    }

    fn end(&mut self, entry: u32) -> io::Result<()> {
        match self.ring.served(entry)? {
            true => self.count(entry, |queue| queue.committed = Some(entry)),
            false => self.count(entry, |queue| queue.later += 1),
        }
        Ok(())
    }

    fn commit_late(&mut self) -> io::Result<()> {
        self.ring.late().rest();
        while let Some(entry) = self.ring.commit_late()? {
            self.count(entry, |queue| {
                queue.later = queue.later.saturating_sub(1);
                queue.committed = Some(entry);
            });
        }
        self.ring.await_late()
    }

    fn count(&mut self, entry: u32, count: impl FnOnce(&mut Queue)) {
        let number = self.ring.queue_of(entry);
        if let Some(queue) = self.queues.iter_mut().find(|queue| Some(queue.number) == number) {
            count(queue);
        }
    }

    /// Registers more entries where most wait for late answers: requests that would end the wait must get through.
    fn keep_free(&mut self) -> io::Result<()> {
        let is_short = |queue: &Queue| queue.entries - queue.later < FREE;
        for at in 0..self.queues.len() {
            while is_short(&self.queues[at]) && !self.is_full {
                // Requests may have found no entry before this one.
                self.queues[at].may_be_short = true;
                if let Err(error) = self.register(at) {
                    log::warn!("no memory for more requests at once: {error}");
                    self.is_full = true;
                }
            }
        }
        // Nobody may wait for other hosts in the last entries.
        let has_room = !self.is_full || !self.queues.iter().any(is_short);
        self.ring.late().set_room(has_room);
        Ok(())
    }
}

#[cold]
fn refuse(opcode: u32, why: Malformed, answer: Answer) {
    log::error!("a request of the kernel (operation {opcode}): {why}");
    answer.error(crate::frontend::fuse::errno::MALFORMED);
}
