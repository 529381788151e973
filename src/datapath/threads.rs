//! Starts the threads of the data path. A simulation starts them its own way, and lets one of them run at a time.

use std::io;
use std::thread;

/// Starts threads.
pub trait Threads: Send + Sync {
    /// Starts a thread of this name that runs `body`. Returns before it runs.
    ///
    /// # Errors
    /// Fails when the process can have no more threads.
    fn start(&self, name: &'static str, body: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// Returns whether threads may wait for work. Where they may not, each ends when it finds none, and none is started to wait for a time.
    fn may_wait(&self) -> bool;
}

/// Threads of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemThreads;

impl Threads for SystemThreads {
    fn start(&self, name: &'static str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        thread::Builder::new().name(name.into()).spawn(body).map(drop)
    }

    fn may_wait(&self) -> bool {
        true
    }
}
