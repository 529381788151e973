//! What an apparatus does at intervals, whatever it is asked: its heartbeat, and the checks of its disks and of the run directory.

use super::helpers::{Helpers, Work};
use crate::cluster::OwnEntry;
use crate::datapath::Runtime;
use crate::rpc::listen::SocketFile;
use std::sync::Arc;
use std::time::Duration;

/// Interval of the heartbeat, and of checking the fence word when there is no other event.
pub(super) const BEAT: Duration = Duration::from_millis(100);

/// Interval at which disks without requests are checked.
pub(super) const DISKS: Duration = Duration::from_secs(1);

/// Interval at which the files in the run directory are checked.
pub(super) const RUN: Duration = Duration::from_millis(250);

/// Heartbeat and checks.
pub(super) struct Upkeep {
    runtime: Arc<dyn Runtime>,
    entry: Arc<dyn OwnEntry>,
    helpers: Helpers,
    /// The control socket, as other processes have to find it.
    socket_file: SocketFile,
}

impl Upkeep {
    /// Makes it for an apparatus whose control socket is this one.
    pub(super) fn new(
        runtime: Arc<dyn Runtime>,
        entry: Arc<dyn OwnEntry>,
        helpers: Helpers,
        socket_file: SocketFile,
    ) -> Self {
        Self {
            runtime,
            entry,
            helpers,
            socket_file,
        }
    }

    /// Shows the other members that this apparatus lives, and the oldest table that it uses.
    pub(super) fn beat(&self) {
        self.entry.set_oldest(self.runtime.oldest());
        self.entry.beat();
        self.runtime.note();
    }

    /// Has a helper check the disks, because a disk may hang. Returns the time after which this is to be called again, if none could be asked.
    pub(super) fn check_disks(&self) -> Option<Duration> {
        (!self.helpers.give(Work::CheckDisks)).then_some(DISKS)
    }

    /// Has a helper check the run directory, because the pool's file system may hang. Returns the time after which this is to be called again,
    /// if none could be asked.
    pub(super) fn check_run(&self) -> Option<Duration> {
        let work = Work::CheckRun(self.socket_file.clone());
        (!self.helpers.give(work)).then_some(RUN)
    }

    /// Sets the control socket, which a helper has created again.
    pub(super) fn set_socket(&mut self, socket_file: SocketFile) {
        self.socket_file = socket_file;
    }
}
