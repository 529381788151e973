//! Tells a service manager that asks for it, again and again, that this process is well: it hears signals and the end of its mount (the
//! thread that beats does that), and its control thread answers as it answers a controller. A process whose control thread is stuck
//! cannot take part in changes nor come back from a fence, so it is better started anew. A slow disk or a fence makes nobody unwell.

use super::process::{self, Identity};
use super::report::Reporter;
use crossbeam_channel::{Receiver, never, tick};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Instant;

/// Beats in the time that the service manager waits for one.
const BEATS: u32 = 3;

pub(super) struct Heartbeat {
    due: Receiver<Instant>,
    who: Identity,
    reporter: Arc<Reporter>,
    well: bool,
}

impl Heartbeat {
    /// Of this process, as often as the service manager asks for it in the environment.
    pub(super) fn new(who: Identity, reporter: Arc<Reporter>) -> Self {
        let due = sd_notify::watchdog_enabled().map_or_else(never, |limit| tick(limit / BEATS));
        Self {
            due,
            who,
            reporter,
            well: true,
        }
    }

    /// Says when to beat.
    pub(super) fn due(&self) -> &Receiver<Instant> {
        &self.due
    }

    /// Looks whether all is well, and says so or what is not.
    pub(super) fn beat(&mut self) {
        match self.ill() {
            None if self.well => process::tell(&[NotifyState::Watchdog]),
            None => process::tell(&[NotifyState::Watchdog, NotifyState::Status("serves again")]),
            Some(why) => {
                log::error!("not well: {why}");
                process::tell(&[NotifyState::Status(&why)]);
                self.well = false;
                return;
            }
        }
        self.well = true;
    }

    fn ill(&self) -> Option<String> {
        if !self.reporter.lives() {
            return Some("the thread that records events has ended".into());
        }
        self.who.figures().err().map(|error| error.to_string())
    }
}
