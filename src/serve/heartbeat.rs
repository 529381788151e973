//! Notifies a service manager that asks for it, periodically, that this process is healthy: it handles signals
//! and the end of its mount (the thread that sends the heartbeat does that), and its control thread answers as
//! it answers a controller. A process whose control thread is stuck can neither take part in changes nor
//! rejoin after a fence, so a restart is better. A slow disk or a fence does not make a process unhealthy.

use super::process::{self, Identity};
use super::report::Reporter;
use crate::admin::open_images;
use crate::model::event::Severity;
use crossbeam_channel::{Receiver, never, tick};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Instant;

/// Heartbeats within the service manager's timeout.
const BEATS: u32 = 3;

pub(super) struct Heartbeat {
    due: Receiver<Instant>,
    who: Identity,
    reporter: Arc<Reporter>,
    well: bool,
}

impl Heartbeat {
    /// Creates the heartbeat of this process, with the period that the service manager requests in the environment.
    pub(super) fn new(who: Identity, reporter: Arc<Reporter>) -> Self {
        let due = sd_notify::watchdog_enabled().map_or_else(never, |limit| tick(limit / BEATS));
        Self {
            due,
            who,
            reporter,
            well: true,
        }
    }

    /// Returns the identity of this process.
    pub(super) fn who(&self) -> &Identity {
        &self.who
    }

    /// Reports an event to the operator.
    pub(super) fn report(&self, severity: Severity, subject: String, text: String) {
        self.reporter.report(severity, subject, text);
    }

    /// Reports disks whose images were deleted and that nobody else has open: they are gone when this process ends. It ends all the same, because whoever
    /// sends a signal, or unmounts, does not wait for an answer: a service manager would kill it.
    pub(super) fn report_lost_disks(&self) {
        for (disk, text) in open_images::lost_with_this_process(&self.who.pool, &self.who.name) {
            self.report(Severity::Error, disk, text);
        }
    }

    /// Returns the channel that signals when to send a heartbeat.
    pub(super) fn due(&self) -> &Receiver<Instant> {
        &self.due
    }

    /// Checks the health of the process, and notifies the service manager of it or of the fault.
    pub(super) fn beat(&mut self) {
        match self.fault() {
            None if self.well => process::notify(&[NotifyState::Watchdog]),
            None => process::notify(&[NotifyState::Watchdog, NotifyState::Status("serves again")]),
            Some(why) => {
                log::error!("the process is not healthy: {why}");
                process::notify(&[NotifyState::Status(&why)]);
                self.well = false;
                return;
            }
        }
        self.well = true;
    }

    fn fault(&self) -> Option<String> {
        if !self.reporter.is_running() {
            return Some("the thread that records events has ended".into());
        }
        self.who.figures().err().map(|error| error.to_string())
    }
}
