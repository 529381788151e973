//! P11, looked at while the code runs: who holds hosts' requests for a move waits for no disk.
//!
//! What may wait for one says so by [`may_wait`], and panics on a thread that has such a hold in place. What waits without saying so, a cold page, shows
//! in [`figures`], which count what the kernel read for that thread meanwhile. With debug assertions only, as the failpoints: elsewhere all of it is empty.

/// What this thread did inside its holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Holds that are over.
    pub holds: u64,
    /// Bytes read from disks for this thread inside them.
    pub read: u64,
    /// Page faults inside them that had to wait for a disk.
    pub faults: u64,
}

#[cfg(debug_assertions)]
pub use watched::{Held, figures, may_wait};

#[cfg(not(debug_assertions))]
pub use unwatched::{Held, figures, may_wait};

#[cfg(debug_assertions)]
mod watched {
    use super::Figures;
    use std::cell::Cell;
    use std::marker::PhantomData;

    thread_local! {
        static IN_PLACE: Cell<u32> = const { Cell::new(0) };
        static FIGURES: Cell<Figures> = const { Cell::new(Figures { holds: 0, read: 0, faults: 0 }) };
    }

    /// A hold of a move that this thread has asked for, until it is dropped.
    #[derive(Debug)]
    pub struct Held {
        before: (u64, u64),
        _of_this_thread: PhantomData<*const ()>,
    }

    impl Held {
        /// From now on.
        #[must_use]
        pub fn begin() -> Self {
            IN_PLACE.set(IN_PLACE.get() + 1);
            Self {
                before: waited(),
                _of_this_thread: PhantomData,
            }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            IN_PLACE.set(IN_PLACE.get() - 1);
            let ((read, faults), mut figures) = (waited(), FIGURES.get());
            figures.holds += 1;
            figures.read += read - self.before.0;
            figures.faults += faults - self.before.1;
            FIGURES.set(figures);
        }
    }

    /// What this thread has done so far.
    #[must_use]
    pub fn figures() -> Figures {
        FIGURES.get()
    }

    /// Here somebody may wait for a disk.
    ///
    /// # Panics
    /// Inside a hold of a move.
    pub fn may_wait(what: &str) {
        assert!(IN_PLACE.get() == 0, "P11: {what} inside a hold of a move");
    }

    /// Bytes read from disks for this thread, and its faults that waited for one; 0 where the kernel does not tell.
    fn waited() -> (u64, u64) {
        let proc =
            |file: &str| std::fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap_or_default();
        let (io, stat) = (proc("io"), proc("stat"));
        let read = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        // The 12th field; the second is a name in parentheses that may hold anything.
        let faults = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(9));
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        (number(read), number(faults))
    }
}

#[cfg(not(debug_assertions))]
mod unwatched {
    use super::Figures;

    /// This build does not watch.
    #[derive(Debug)]
    pub struct Held;

    impl Held {
        /// From now on.
        #[must_use]
        #[inline]
        pub fn begin() -> Self {
            Self
        }
    }

    /// Nothing is counted.
    #[must_use]
    pub fn figures() -> Figures {
        Figures::default()
    }

    /// Nobody looks.
    #[inline]
    pub fn may_wait(_: &str) {}
}
