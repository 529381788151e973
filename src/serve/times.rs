//! Exchanges the times of modification: publishes when volumes were written through this apparatus, and reads what other apparatuses and an
//! earlier incarnation have published. A thread does this once a second, so that neither requests nor lookups wait for the pool's
//! directory.

use crate::cluster::{ModificationTimes, SharedTimes, Times};
use crate::datapath::Apparatus;
use crate::model::units::Timestamp;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Period of the exchange.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the start waits for the published times, and the end for the last publication.
const PATIENCE: Duration = Duration::from_secs(2);

/// Handle of the thread.
pub(super) struct TimePublisher {
    end: Sender<()>,
    ended: Receiver<()>,
}

impl TimePublisher {
    /// Reads the published times, and starts the thread. A failure to read them is logged: times then begin now. Where hosts wait for this start, it does not wait
    /// for the times; until they are read, all that the server before it served counts as written now, as after any crash.
    ///
    /// # Errors
    /// Fails when the thread cannot be started.
    pub(super) fn start(
        apparatus: &Arc<Apparatus>,
        shared: Box<dyn SharedTimes>,
        hosts_wait: bool,
    ) -> io::Result<Self> {
        let (end, asked) = bounded(0);
        let (stopping, ended) = bounded(1);
        let (started, begun) = bounded::<()>(1);
        let mut state = TimesState {
            shared,
            published: None,
            failing: false,
        };
        let run = {
            let apparatus = Arc::downgrade(apparatus);
            move || {
                let _signals_when_dropped = stopping;
                if let Some(apparatus) = apparatus.upgrade() {
                    state.begin(&apparatus);
                }
                drop(started);
                while asked.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    let Some(apparatus) = apparatus.upgrade() else {
                        return;
                    };
                    state.exchange(&apparatus, true);
                }
                if let Some(apparatus) = apparatus.upgrade() {
                    state.exchange(&apparatus, false);
                }
            }
        };
        thread::Builder::new().name("times".into()).spawn(run)?;
        if !hosts_wait && begun.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the pool's directory does not answer: the times of earlier writes are not known yet");
        }
        Ok(Self { end, ended })
    }

    /// Publishes the last times, after the last write, if the pool's directory answers.
    pub(super) fn end(self) {
        drop(self.end);
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the times of the last writes could not be recorded in time");
        }
    }
}

/// State of the thread.
struct TimesState {
    shared: Box<dyn SharedTimes>,
    /// The times that this apparatus has published last.
    published: Option<ModificationTimes>,
    /// Whether the last exchange has failed, which is logged once.
    failing: bool,
}

impl TimesState {
    /// Reads this apparatus's own times. A killed process may have written
    /// after it published them, so all that it served counts as written now.
    fn begin(&mut self, apparatus: &Apparatus) {
        let own = self.shared.own().unwrap_or_else(|error| {
            log::warn!("times of modification: {error}");
            None
        });
        if let Some(mut own) = own {
            if own.serves {
                let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
                own.times.values_mut().for_each(|at| *at = now);
            }
            apparatus.learn_modified(&own.times);
        }
        self.exchange(apparatus, true);
    }

    fn exchange(&mut self, apparatus: &Apparatus, serves: bool) {
        let result = self.shared.observe().and_then(|others| {
            apparatus.learn_modified(&others);
            self.publish(apparatus.modified_here(), serves)
        });
        match result {
            Err(ref error) if !self.failing => log::warn!("times of modification: {error}"),
            _ => (),
        }
        self.failing = result.is_err();
        apparatus.recount();
    }

    fn publish(&mut self, times: Times, serves: bool) -> io::Result<()> {
        let new = ModificationTimes { serves, times };
        if self.published.as_ref() == Some(&new) {
            return Ok(());
        }
        self.shared.publish(&new)?;
        self.published = Some(new);
        Ok(())
    }
}
