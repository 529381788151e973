//! Writes events about failures on the data path to the store, from a thread of its own and at a limited rate.

use crate::datapath::Report;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::store::{OpenStore, Store};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Events that wait to be written, at most; more are dropped, but still counted by the counters.
const MOST: usize = 64;
/// The same failure is reported once in this time.
const QUIET: Duration = Duration::from_secs(10);

/// The sending end, for the data path.
pub(super) struct Reporter {
    events: Mutex<Option<Sender<QueuedEvent>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct QueuedEvent {
    severity: Severity,
    subject: String,
    text: String,
}

impl Reporter {
    /// Starts the thread.
    pub(super) fn start(open_store: OpenStore) -> io::Result<Arc<Self>> {
        let (events, queued) = bounded(MOST);
        let write = move || write_all(&queued, &open_store);
        let thread = thread::Builder::new().name("events".into()).spawn(write)?;
        Ok(Arc::new(Self {
            events: Mutex::new(Some(events)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Reports an event to the operator.
    pub(super) fn report(&self, severity: Severity, subject: impl Into<String>, text: impl Into<String>) {
        let event = QueuedEvent {
            severity,
            subject: subject.into(),
            text: text.into(),
        };
        if let Some(events) = &*lock(&self.events) {
            // The event is dropped when too many wait: a failing disk must not stop the others.
            let _ = events.try_send(event);
        }
    }

    /// Returns whether the thread that writes events still runs.
    pub(super) fn is_running(&self) -> bool {
        lock(&self.thread)
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Writes the waiting events, and ends the thread.
    pub(super) fn end(&self) {
        drop(lock(&self.events).take());
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that records events has panicked");
        }
    }
}

impl Report for Reporter {
    fn disk_failed(&self, disk: &str, what: &str, why: &str) {
        self.report(
            Severity::Error,
            format!("disk {disk}"),
            format!("{what} failed: {why}"),
        );
    }

    fn persist_failed(&self, why: &str) {
        self.report(
            Severity::Error,
            "flush",
            format!("a change could not be persisted: {why}"),
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(events: &Receiver<QueuedEvent>, open_store: &OpenStore) {
    let mut store = None;
    let mut last: HashMap<(String, String), Instant> = HashMap::new();
    for QueuedEvent {
        severity,
        subject,
        text,
    } in events
    {
        last.retain(|_, at| at.elapsed() < QUIET);
        if last
            .insert((subject.clone(), text.clone()), Instant::now())
            .is_some()
        {
            continue;
        }
        log::log!(severity.level(), "{subject}: {text}");
        if let Err(error) = write(&mut store, open_store, severity, &subject, &text) {
            log::warn!("event not recorded: {error}");
            store = None;
        }
    }
}

fn write(
    store: &mut Option<Box<dyn Store>>,
    open_store: &OpenStore,
    severity: Severity,
    subject: &str,
    text: &str,
) -> Result<()> {
    let store = match store {
        Some(store) => store,
        None => store.insert(open_store()?),
    };
    store.log(severity, subject, text)
}
