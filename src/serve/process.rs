//! What a storage daemon asks of the kernel for itself, and the signals that end it.

use crate::error::{Error, Result};
use crossbeam_channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::thread;

/// Killed last when memory runs out: hosts write their dirty pages through this process.
const OOM_SCORE: &str = "-900";

/// Sets up the process. Before any thread is started: threads inherit it. Each part works only with the privilege for it, and is a
/// matter of degree.
pub(super) fn set_up() {
    // Memory that this process needs while it serves must not be waited for by writing through itself.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        log::debug!("cannot become an I/O flusher: {error}");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        log::debug!("cannot lower the OOM score: {error}");
    }
}

/// Sends the number of each SIGTERM and SIGINT, from now on.
pub(super) fn forward_signals(to: Sender<i32>) -> Result<()> {
    let failed = |error| Error::because("signals", error);
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let forward = move || {
        for signal in signals.forever() {
            // Full: one waits already.
            let _ = to.try_send(signal);
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(forward);
    thread.map(drop).map_err(failed)
}

/// Tells the service manager, if there is one.
pub(super) fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
