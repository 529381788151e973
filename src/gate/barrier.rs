//! A fence with a cheap side and a dear side.
//!
//! Two threads that each store one word and then load the other's word need a full fence between the two, on both
//! sides: otherwise both may load the old value. Here one side (every request) is to pay nothing, so the other side (a hold, a
//! switch of faces) pays for both: it asks the kernel to run a full barrier on every processor that runs a thread of
//! this process (`membarrier`, private expedited). A thread that does not run has passed one when it was switched out.
//!
//! What that gives. Let a request store `a`, call [`Barrier::light`], load `b`; let the holder store `b`, call
//! [`Barrier::heavy`], load `a`. Somewhere between the beginning and the end of `heavy` there is one point in the
//! request's instructions at which a full barrier ran.
//!
//! * If its load of `b` comes after that point, it sees the holder's `b`, because that was stored before `heavy` began.
//! * If its load of `b` comes before that point, its store of `a` does so too: `light` keeps the compiler from swapping
//!   the two, and the barrier has made the store visible before `heavy` ends. So the holder's load of `a` sees it.
//!
//! The same holds for all that the request stored before `a`, and for what another thread stored and handed over to
//! it (through a lock or a channel), since visibility is transitive.
//!
//! Where the kernel has no such call, both sides are a sequentially consistent fence, and the argument is the usual one.

use rustix::thread::{MembarrierCommand, membarrier};
use std::sync::atomic::{Ordering, compiler_fence, fence};

/// How the two sides are kept in order in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The kernel's barrier on the dear side, nothing on the cheap one.
    Membarrier,
    /// A fence on each side.
    Fences,
    /// No order at all: shows that a test can fail.
    #[cfg(test)]
    Missing,
}

impl Barrier {
    /// Registers this process with the kernel; falls back to fences where that is refused.
    #[must_use]
    pub fn new() -> Self {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        let usable = registered && membarrier(MembarrierCommand::PrivateExpedited).is_ok();
        Self {
            kind: if usable { Kind::Membarrier } else { Kind::Fences },
        }
    }

    /// Fences on both sides, whatever the kernel can.
    #[must_use]
    pub fn fences() -> Self {
        Self { kind: Kind::Fences }
    }

    #[cfg(test)]
    pub(crate) fn missing() -> Self {
        Self { kind: Kind::Missing }
    }

    /// Whether the cheap side is free.
    #[must_use]
    pub fn asymmetric(&self) -> bool {
        self.kind == Kind::Membarrier
    }

    /// The cheap side, between a store and a load.
    #[inline]
    pub fn light(&self) {
        compiler_fence(Ordering::SeqCst);
        if self.kind == Kind::Fences {
            fence(Ordering::SeqCst);
        }
    }

    /// The dear side, between a store and a load: some microseconds.
    pub fn heavy(&self) {
        fence(Ordering::SeqCst);
        if self.kind == Kind::Membarrier && membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // It worked when this process registered, and every request relies on it: to go on without it could lose
            // data, to die cannot.
            log::error!("membarrier: the kernel refuses what it accepted before");
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
