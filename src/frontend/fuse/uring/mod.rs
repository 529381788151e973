//! FUSE over io_uring: the second way on which requests of the kernel come and answers go (Linux 6.14 and later).
//!
//! The kernel has a queue for each processor. A request goes to the queue of the processor on which the host runs, and into an entry that is
//! registered there; the answer is put into the same entry, which is committed and thereby free for the next request. Both take one call of the
//! kernel, and the host's processor need not change. There is a ring, and a thread that stays on it, for each processor (`serving`). An answer that comes from another thread, or later,
//! waits for the ring's thread (`late`), because the kernel delivers the next request of an entry to the thread that has committed it.
//!
//! An entry is occupied until its request is answered, also while it is parked or waits for a lock. So more are registered when most are occupied, up to a
//! bound; near it, requests do not wait for locks.
//!
//! What the kernel forgets, interrupts and is notified of goes by the device as before.

mod late;
mod memory;
mod processors;
mod ring;
mod serving;

pub(super) use memory::Held;

use super::device::Device;
use super::filesystem::{LARGEST, Volumes};
use super::pause::Pause;
use crate::model::error::{Error, Result};
use crossbeam_channel::{Sender, bounded};
use late::Late;
use ring::Ring;
use serving::Serving;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Tells whether the kernel offers the transport.
const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";
/// Entries of all queues together at the beginning, and of one queue at least and at most.
const ENTRIES: usize = 64;
const ENTRIES_OF_QUEUE: (usize, usize) = (4, 16);
/// Bytes of the first entries of one ring, at most.
pub(super) const BYTES: u64 = ENTRIES_OF_QUEUE.1 as u64 * (LARGEST as u64 + 4096);
/// Entries of one ring at most.
const MOST: usize = 1024;
/// How long the registration of the first entries may take.
const REGISTRATION: Duration = Duration::from_secs(10);

/// Returns an error that says why the transport cannot be used, if it cannot.
pub(super) fn refusal() -> Result<()> {
    let what = "transport uring";
    match fs::read_to_string(ENABLED) {
        Ok(enabled) if enabled.trim() == "Y" => (),
        Ok(_) => {
            return Err(Error::failed(
                what,
                "the kernel does not offer FUSE over io_uring: it is switched off",
            )
            .hint(format!("as root: echo Y > {ENABLED}; or --transport dev")));
        }
        Err(_) => {
            return Err(Error::failed(
                what,
                "the kernel has no FUSE over io_uring (Linux 6.14 and later can have it)",
            )
            .hint("--transport dev"));
        }
    }
    ring::build(1).map(drop).map_err(|error| {
        Error::because(format!("{what}: io_uring"), error).hint(
            "allow io_uring_setup (containers and the setting kernel.io_uring_disabled may forbid it), or --transport dev",
        )
    })
}

/// The rings of a mount, before it is negotiated: once the kernel was asked for the transport, requests wait until all entries are registered.
pub(super) struct Rings {
    servings: Vec<Serving>,
    lates: Lates,
    first: usize,
}

/// Has the threads of all rings end.
#[derive(Clone)]
pub(super) struct Lates(Arc<[Arc<Late>]>);

impl Lates {
    /// Has them end.
    pub(super) fn end(&self) {
        self.0.iter().for_each(|late| late.end());
    }
}

/// Returns how many threads [`Rings`] start.
pub(super) fn threads() -> usize {
    processors::queues().map_or(1, |queues| {
        processors::shares(queues, &processors::usable()).len()
    })
}

impl Rings {
    /// Makes the rings of the mount that `devices` belong to.
    ///
    /// # Errors
    /// Fails when the kernel does not allow them.
    pub(super) fn new(device: &Arc<Device>) -> io::Result<Self> {
        let queues = processors::queues();
        let queues = queues
            .ok_or_else(|| io::Error::other("the kernel does not say how many processors there may be"))?;
        let shares = processors::shares(queues, &processors::usable());
        let (least, most) = ENTRIES_OF_QUEUE;
        let first = (ENTRIES / shares.len()).clamp(least, most);
        let mut lates = Vec::with_capacity(shares.len());
        let mut servings = Vec::with_capacity(shares.len());
        for (processor, queues) in shares {
            // The other queues are those of processors that are not there.
            let most = MOST.max(first + queues.len() * ENTRIES_OF_QUEUE.1);
            let ring = Ring::new(device.clone(), most, LARGEST as usize)?;
            lates.push(ring.late().clone());
            servings.push(Serving::new(ring, processor, queues));
        }
        Ok(Self {
            servings,
            lates: Lates(lates.into()),
            first,
        })
    }

    /// Returns what ends the threads.
    pub(super) fn lates(&self) -> Lates {
        self.lates.clone()
    }

    /// Starts the threads, and waits until the kernel has all entries. Each thread drops `alive` at its end.
    ///
    /// # Errors
    /// Fails when an entry cannot be registered.
    pub(super) fn start(
        self,
        volumes: &Arc<Volumes>,
        pause: &Arc<Pause>,
        alive: &Sender<io::Result<()>>,
    ) -> io::Result<()> {
        let (registered, registrations) = bounded(self.servings.len());
        let threads = self.servings.len();
        for (number, mut serving) in self.servings.into_iter().enumerate() {
            let (volumes, pause, registered) = (volumes.clone(), pause.clone(), registered.clone());
            let (first, over) = (self.first, Over(self.lates.clone(), alive.clone()));
            let serve = move || {
                let over = over;
                let begun = serving.begin(first);
                let goes_on = begun.is_ok();
                let _ = registered.send(begun);
                if goes_on && let Err(error) = serving.serve(&volumes, &pause) {
                    log::error!("a ring of the mount failed, which ends it: {error}");
                    let _ = over.1.try_send(Err(error));
                }
            };
            let thread = thread::Builder::new().name(format!("ring-{number}"));
            thread.spawn(serve)?;
        }
        let mut is_locked = true;
        for _ in 0..threads {
            let registration = registrations.recv_timeout(REGISTRATION);
            is_locked &= registration.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
        if !is_locked {
            log::warn!(
                "the memory for requests could not be locked: under memory pressure requests may wait for it; allow it (ulimit -l, LimitMEMLOCK=)"
            );
        }
        Ok(())
    }
}

/// Ends all rings with the first of them, in whatever way it ends: no other can serve its queues.
struct Over(Lates, Sender<io::Result<()>>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.end();
    }
}
