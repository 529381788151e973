//! Polls the pool in two threads: one reads the store when it changes, the other asks apparatuses and disks, which may take long. Drawing
//! waits for neither.

use super::model::{Event, FailureText, JobLook, Poll, PoolLook};
use super::work::Background;
use apparatus::admin;
use apparatus::admin::job::Workers;
use apparatus::admin::status::StatusInput;
use apparatus::admin::usage::{Census, Usage};
use apparatus::admin::view::PoolView;
use apparatus::admin::watch::Watch;
use apparatus::cluster;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::Result;
use apparatus::model::job::{JobRecord, JobState};
use apparatus::model::units::JobId;
use apparatus::store::Store;
use apparatus::sys;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The shortest interval between two reads of the store.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// Number of events that the first read returns.
const EVENTS: usize = 200;

/// Reads the store until `ending` closes.
pub fn store(pool: &PoolDir, sender: &Sender<Event>, ending: &Receiver<()>) {
    let mut poller = StorePoller::new(pool);
    loop {
        let event = match poller.look() {
            Ok(look) => Event::Pool(Box::new(look)),
            Err(error) => Event::Fault(FailureText::from(&error)),
        };
        if sender.send(event).is_err() || pause(ending, AT_MOST_EVERY) || !poller.wait(ending) {
            return;
        }
    }
}

/// Asks the apparatuses and probes the disks at an interval until `ending` closes.
pub fn pulse(
    pool: &PoolDir,
    every: Duration,
    sender: &Sender<Event>,
    (ending, background): (&Receiver<()>, &Background),
) {
    loop {
        let begun = Instant::now();
        background.collect();
        let event = match take_pulse(pool) {
            Ok(pulse) => Event::Pulse(Box::new(pulse)),
            Err(error) => Event::Fault(FailureText::from(&error)),
        };
        if sender.send(event).is_err() || pause(ending, every.saturating_sub(begun.elapsed())) {
            return;
        }
    }
}

/// Waits; returns true when it is time to end.
fn pause(ending: &Receiver<()>, long: Duration) -> bool {
    !matches!(
        ending.recv_timeout(long),
        Err(crossbeam_channel::RecvTimeoutError::Timeout)
    )
}

fn take_pulse(pool: &PoolDir) -> Result<Poll> {
    let mut store = admin::open(pool)?;
    let input = StatusInput::look(pool, &mut *store)?;
    let status = admin::status::of(pool, &mut *store, &input)?;
    let census = Census::take(pool, &mut *store)?;
    let usage = store.volumes()?.into_iter().map(|volume| {
        let usage = census.usage(volume.id, &volume.name);
        (volume.id, usage)
    });
    Ok(Poll {
        apparatuses: input.apparatuses,
        status,
        usage: usage.filter(|(_, usage)| *usage != Usage::default()).collect(),
    })
}

/// The state of the thread that reads the store.
struct StorePoller<'a> {
    pool: &'a PoolDir,
    open: Option<(Watch, Box<dyn Store>)>,
    /// The last event that was read; `None` before the first read.
    last: Option<u64>,
    /// Jobs that have ended, which are read once.
    ended: BTreeMap<JobId, admin::job::JobView>,
}

impl<'a> StorePoller<'a> {
    fn new(pool: &'a PoolDir) -> Self {
        Self {
            pool,
            open: None,
            last: None,
            ended: BTreeMap::new(),
        }
    }

    fn look(&mut self) -> Result<PoolLook> {
        let (watch, mut store) = match self.open.take() {
            Some(open) => open,
            None => (Watch::new(self.pool)?, admin::open(self.pool)?),
        };
        // After a failure the store is opened again.
        let look = self.read(&mut *store)?;
        self.open = Some((watch, store));
        Ok(look)
    }

    fn read(&mut self, store: &mut dyn Store) -> Result<PoolLook> {
        let at_us = sys::monotonic_us();
        let view = PoolView::load(store)?;
        let records = store.jobs()?;
        let workers = Workers::look(self.pool, store, &records)?;
        let jobs = records
            .into_iter()
            .map(|record| self.job(store, &view, &workers, record))
            .collect::<Result<_>>()?;
        let most = if self.last.is_none() { EVENTS } else { usize::MAX };
        let (events, last) = admin::events::latest(store, self.last.unwrap_or(0), None, most)?;
        self.last = Some(last);
        Ok(PoolLook {
            at_us,
            view,
            jobs,
            controller: cluster::open(self.pool)?.leader()?,
            events,
        })
    }

    fn job(
        &mut self,
        store: &mut dyn Store,
        view: &PoolView,
        workers: &Workers,
        record: JobRecord,
    ) -> Result<JobLook> {
        let known = self.ended.get(&record.id).filter(|known| known.record == record);
        let view = match known {
            Some(known) => known.clone(),
            None => admin::job::view(store, view, workers, record)?,
        };
        let state = view.record.state;
        if !admin::job::wants_work(state) && state != JobState::Paused {
            self.ended.insert(view.record.id, view.clone());
        }
        let phase = admin::job::phase(workers, &view.record);
        Ok(JobLook { view, phase })
    }

    /// Waits until something may have changed, at most a second. Returns false when it is time to end.
    fn wait(&mut self, ending: &Receiver<()>) -> bool {
        let Some((watch, _)) = &mut self.open else {
            return !pause(ending, Duration::from_secs(1));
        };
        // A watch that fails counts as a second that has passed.
        let _ = watch.changed(Instant::now() + Duration::from_secs(1));
        !pause(ending, Duration::ZERO)
    }
}
