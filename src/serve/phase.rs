//! Whether an apparatus that runs still serves new hosts. Its process sees neither that its mount was detached while files there are open, nor do others see
//! that it was asked to stop: it reports both.

use super::heartbeat::Heartbeat;
use crate::agent::server::Setup;
use crate::frontend::fuse;
use crate::model::event::Severity;
use crate::rpc::message::Ending;
use crossbeam_channel::{Receiver, tick};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the mount is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What an apparatus that serves is about.
#[derive(Default)]
pub(super) struct Phase {
    is_stopping: AtomicBool,
    is_detached: AtomicBool,
}

impl Phase {
    /// Makes one that the figures of an apparatus show.
    pub(super) fn shown_by(setup: &mut Setup) -> Arc<Self> {
        let phase = Arc::<Self>::default();
        let shown = phase.clone();
        setup.ending = Arc::new(move || shown.ending());
        phase
    }

    /// Returns a channel that signals when the mount is to be looked for.
    pub(super) fn due() -> Receiver<Instant> {
        tick(LOOK)
    }

    /// Records that it was asked to stop.
    pub(super) fn stops(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    /// Looks for the mount in this mount namespace, and reports when it is there no more.
    pub(super) fn look_for_mount(&self, heartbeat: &Heartbeat) {
        let who = heartbeat.who();
        let mounts = fuse::mounts_of(&fuse::source(&who.name, who.uuid));
        let is_gone = mounts.is_ok_and(|mounts| mounts.is_empty());
        if is_gone && !self.is_detached.swap(true, Relaxed) {
            let subject = format!("apparatus {}", who.name);
            let next = format!("when they are done: vctl apparatus stop {}", who.name);
            heartbeat.report(
                Severity::Warning,
                subject,
                format!("{}; {next}", Ending::Detached),
            );
        }
    }

    /// Returns why it is about to end, if it is.
    fn ending(&self) -> Option<Ending> {
        match (self.is_stopping.load(Relaxed), self.is_detached.load(Relaxed)) {
            (true, _) => Some(Ending::Stopping),
            (false, true) => Some(Ending::Detached),
            (false, false) => None,
        }
    }
}
