//! A pause of all threads that serve requests of the kernel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Whether the threads may serve the requests that they read.
#[derive(Default)]
pub(super) struct Pause {
    is_on: AtomicBool,
    lock: Mutex<()>,
    ended: Condvar,
}

impl Pause {
    /// Begins the pause: a thread that has read a request and not begun to serve it waits from now on.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Ends the pause.
    pub(super) fn end(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_on.store(false, Ordering::SeqCst);
        drop(guard);
        self.ended.notify_all();
    }

    /// Waits for the end of the pause, if there is one. One load otherwise.
    #[inline]
    pub(super) fn pass(&self) {
        if self.is_on.load(Ordering::Relaxed) {
            self.wait();
        }
    }

    #[cold]
    fn wait(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.is_on.load(Ordering::SeqCst) {
            guard = self.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn threads_pass_before_and_after_and_wait_in_between() {
        let pause = Pause::default();
        pause.pass();
        pause.begin();
        thread::scope(|scope| {
            let (passed, waits_no_more) = channel();
            let (begun, has_begun) = channel();
            let pause = &pause;
            scope.spawn(move || {
                begun.send(()).unwrap();
                pause.pass();
                passed.send(()).unwrap();
            });
            has_begun.recv().unwrap();
            assert!(waits_no_more.try_recv().is_err());
            pause.end();
            waits_no_more.recv().unwrap();
        });
        pause.pass();
    }
}
