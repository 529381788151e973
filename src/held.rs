//! Checks promise P11 at run time: a thread that holds hosts' requests for a move never waits for a disk.
//!
//! Code that may wait for a disk calls [`may_wait`], which panics on a thread that has such a hold in place. Waits that no code
//! announces, such as page faults, appear in [`figures`], which count what the kernel read for that thread during its holds.
//! Like failpoints, this exists with debug assertions only: in other builds all of it is empty.

/// Disk activity of this thread during its holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldFigures {
    /// Number of holds that have ended.
    pub holds: u64,
    /// Bytes read from disks for this thread during them.
    pub read: u64,
    /// Page faults during them that had to wait for a disk.
    pub faults: u64,
}

#[cfg(debug_assertions)]
pub use watched::{HoldScope, figures, may_wait};

#[cfg(not(debug_assertions))]
pub use unwatched::{HoldScope, figures, may_wait};

#[cfg(debug_assertions)]
mod watched {
    use super::HoldFigures;
    use std::cell::Cell;
    use std::marker::PhantomData;

    thread_local! {
        static IN_PLACE: Cell<u32> = const { Cell::new(0) };
        static FIGURES: Cell<HoldFigures> = const { Cell::new(HoldFigures { holds: 0, read: 0, faults: 0 }) };
    }

    /// Marks a hold of a move that this thread has requested; the hold ends when the scope is dropped.
    #[derive(Debug)]
    pub struct HoldScope {
        before: (u64, u64),
        _of_this_thread: PhantomData<*const ()>,
    }

    impl HoldScope {
        /// Begins a hold.
        #[must_use]
        pub fn begin() -> Self {
            IN_PLACE.set(IN_PLACE.get() + 1);
            Self {
                before: waited(),
                _of_this_thread: PhantomData,
            }
        }
    }

    impl Drop for HoldScope {
        fn drop(&mut self) {
            IN_PLACE.set(IN_PLACE.get() - 1);
            let ((read, faults), mut figures) = (waited(), FIGURES.get());
            figures.holds += 1;
            figures.read += read - self.before.0;
            figures.faults += faults - self.before.1;
            FIGURES.set(figures);
        }
    }

    /// Returns the figures of this thread so far.
    #[must_use]
    pub fn figures() -> HoldFigures {
        FIGURES.get()
    }

    /// Declares that the caller may wait for a disk; `what` names the operation.
    ///
    /// # Panics
    /// Panics during a hold of a move.
    pub fn may_wait(what: &str) {
        assert!(IN_PLACE.get() == 0, "P11: {what} inside a hold of a move");
    }

    /// Returns the bytes read from disks for this thread and its page faults that waited for a disk; 0 where the kernel does
    /// not report them.
    fn waited() -> (u64, u64) {
        let proc =
            |file: &str| std::fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap_or_default();
        let (io, stat) = (proc("io"), proc("stat"));
        let read = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        // Major faults are the 12th field; the second is a name in parentheses that may contain anything.
        let faults = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(9));
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        (number(read), number(faults))
    }
}

#[cfg(not(debug_assertions))]
mod unwatched {
    use super::HoldFigures;

    /// Stands for a hold; this build watches none.
    #[derive(Debug)]
    pub struct HoldScope;

    impl HoldScope {
        /// Begins a hold, which nothing watches.
        #[must_use]
        #[inline]
        pub fn begin() -> Self {
            Self
        }
    }

    /// Returns zeros: nothing is counted.
    #[must_use]
    pub fn figures() -> HoldFigures {
        HoldFigures::default()
    }

    /// Does nothing: this build does not check.
    #[inline]
    pub fn may_wait(_: &str) {}
}
