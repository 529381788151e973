//! Handles the signals that stop an apparatus, and notifies the service manager.

use crate::admin::apparatus;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::rpc::message::ApparatusMetrics;
use crate::sys;
use crossbeam_channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::thread;
use uuid::Uuid;

/// Identity of this apparatus, for those of its threads that ask it through its own control socket.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) pool: PoolDir,
    pub(super) uuid: Uuid,
    pub(super) name: Name,
}

impl Identity {
    /// Returns the figures that its control thread reports.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub(super) fn figures(&self) -> Result<ApparatusMetrics> {
        apparatus::figures(&self.pool, self.uuid, &self.name)
    }
}

/// Sends the number of each SIGTERM and SIGINT to the channel, from now on.
pub(super) fn forward_signals(to: Sender<i32>) -> Result<()> {
    let failed = |error| Error::because("signals", error);
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let forward = move || {
        for signal in signals.forever() {
            // If the channel is full, a request to stop is waiting already.
            let _ = to.try_send(signal);
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(forward);
    thread.map(drop).map_err(failed)
}

/// Logs when a step of the start was done, by the clock that all processes of the machine share.
pub(super) fn step(done: &str) {
    log::debug!("start: {done} at {} us", sys::monotonic_us());
}

/// Notifies the service manager, if there is one.
pub(super) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
