//! An asymmetric memory barrier, with a cheap side and an expensive side.
//!
//! Two threads that each store one word and then load the other's word need a full fence between the two, on both sides:
//! otherwise both may load the old value. Here one side (every request) must cost nothing, so the other side (a hold, a switch
//! of versions) pays for both: it asks the kernel to run a full barrier on every processor that runs a thread of this process
//! (`membarrier`, private expedited). A thread that is not running executed one when it was switched out.
//!
//! This is what it guarantees. Let a request store `a`, call [`Barrier::light`] and load `b`; let the holding thread store `b`,
//! call [`Barrier::heavy`] and load `a`. Somewhere between the beginning and the end of `heavy` there is one point in the
//! request's instructions at which a full barrier ran.
//!
//! * If its load of `b` comes after that point, it sees the holding thread's `b`, which was stored before `heavy` began.
//! * If its load of `b` comes before that point, its store of `a` does so too: `light` keeps the compiler from swapping
//!   the two, and the barrier has made the store visible before `heavy` ends. So the holding thread's load of `a` sees it.
//!
//! The same is true of everything that the request stored before `a`, and of what another thread stored and handed over to it
//! (through a lock or a channel), because visibility is transitive.
//!
//! If the kernel has no such call, both sides are sequentially consistent fences, and the usual argument applies.

use rustix::thread::{MembarrierCommand, membarrier};
use std::sync::atomic::{Ordering, compiler_fence, fence};

/// The method that orders the two sides in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    kind: BarrierKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BarrierKind {
    /// The kernel's barrier on the expensive side, nothing on the cheap one.
    Membarrier,
    /// A fence on each side.
    Fences,
    /// No order at all, to show that a test can fail.
    #[cfg(test)]
    Missing,
}

impl Barrier {
    /// Registers this process with the kernel; uses fences if the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        let usable = registered && membarrier(MembarrierCommand::PrivateExpedited).is_ok();
        Self {
            kind: if usable {
                BarrierKind::Membarrier
            } else {
                BarrierKind::Fences
            },
        }
    }

    /// Returns a barrier that uses fences on both sides, whatever the kernel supports.
    #[must_use]
    pub fn fences() -> Self {
        Self {
            kind: BarrierKind::Fences,
        }
    }

    #[cfg(test)]
    pub(crate) fn missing() -> Self {
        Self {
            kind: BarrierKind::Missing,
        }
    }

    /// Returns whether the cheap side costs nothing.
    #[must_use]
    pub fn asymmetric(&self) -> bool {
        self.kind == BarrierKind::Membarrier
    }

    /// Orders a store before a load on the cheap side.
    #[inline]
    pub fn light(&self) {
        compiler_fence(Ordering::SeqCst);
        if self.kind == BarrierKind::Fences {
            fence(Ordering::SeqCst);
        }
    }

    /// Orders a store before a load on the expensive side; it takes some microseconds.
    pub fn heavy(&self) {
        fence(Ordering::SeqCst);
        if self.kind == BarrierKind::Membarrier && membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // The call worked when this process registered, and every request relies on it: going on without it could lose
            // data, aborting cannot.
            log::error!(
                "membarrier: the kernel refuses a call that it accepted before; the process aborts, because requests rely on it"
            );
            std::process::abort();
        }
        fence(Ordering::SeqCst);
    }
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}
