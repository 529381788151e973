//! The signals that end an apparatus, and the service manager that watches it.

use crate::error::{Error, Result};
use crate::ops::apparatus;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::wire::message::Figures;
use crossbeam_channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::thread;
use uuid::Uuid;

/// Which apparatus this process is, for those of its threads that ask it through its own control socket.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) pool: PoolDir,
    pub(super) uuid: Uuid,
    pub(super) name: Name,
}

impl Identity {
    /// What the control thread tells of it.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn figures(&self) -> Result<Figures> {
        apparatus::figures(&self.pool, self.uuid, &self.name)
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
