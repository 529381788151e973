//! Looks at the pool, in two threads: one reads the store as it changes, the other asks apparatuses and disks, which may take their
//! time. Neither is waited for by whoever draws.

use super::model::{Event, JobLook, PoolLook, Pulse, Told};
use apparatus::error::Result;
use apparatus::member::ArbitrationLock;
use apparatus::ops;
use apparatus::ops::job::Workers;
use apparatus::ops::status::Seen;
use apparatus::ops::usage::{Census, Usage};
use apparatus::ops::view::PoolView;
use apparatus::ops::watch::Watch;
use apparatus::pool::dir::PoolDir;
use apparatus::store::{JobRecord, JobState, Store};
use apparatus::sys;
use apparatus::units::JobId;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The store is not read more often than this, however fast it changes.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// Events that are read at the first look.
const EVENTS: usize = 200;

/// Looks at the store until nobody wants it any more.
pub fn store(pool: &PoolDir, tell: &Sender<Event>, ending: &Receiver<()>) {
    let mut eye = Eye::new(pool);
    loop {
        let event = match eye.look() {
            Ok(look) => Event::Pool(Box::new(look)),
            Err(error) => Event::Fault(Told::from(&error)),
        };
        if tell.send(event).is_err() || pause(ending, AT_MOST_EVERY) || !eye.wait(ending) {
            return;
        }
    }
}

/// Asks the apparatuses and looks at the disks every so often until nobody wants it any more.
pub fn pulse(pool: &PoolDir, every: Duration, tell: &Sender<Event>, ending: &Receiver<()>) {
    loop {
        let begun = Instant::now();
        let event = match take_pulse(pool) {
            Ok(pulse) => Event::Pulse(Box::new(pulse)),
            Err(error) => Event::Fault(Told::from(&error)),
        };
        if tell.send(event).is_err() || pause(ending, every.saturating_sub(begun.elapsed())) {
            return;
        }
    }
}

/// Waits a moment; true when it is time to end.
fn pause(ending: &Receiver<()>, long: Duration) -> bool {
    !matches!(
        ending.recv_timeout(long),
        Err(crossbeam_channel::RecvTimeoutError::Timeout)
    )
}

fn take_pulse(pool: &PoolDir) -> Result<Pulse> {
    let mut store = ops::open(pool)?;
    let seen = Seen::look(pool, &mut *store)?;
    let status = ops::status::of(pool, &mut *store, &seen)?;
    let census = Census::take(pool, &mut *store)?;
    let usage = store.volumes()?.into_iter().map(|volume| {
        let usage = census.usage(volume.id, &volume.name);
        (volume.id, usage)
    });
    Ok(Pulse {
        apparatuses: seen.apparatuses,
        status,
        usage: usage.filter(|(_, usage)| *usage != Usage::default()).collect(),
    })
}

/// What it takes to look at the store again and again.
struct Eye<'a> {
    pool: &'a PoolDir,
    open: Option<(Watch, Box<dyn Store>)>,
    /// The last event that was read; none before the first look.
    last: Option<u64>,
    /// Jobs that have ended are read once.
    ended: BTreeMap<JobId, ops::job::View>,
}

impl<'a> Eye<'a> {
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
            None => (Watch::new(self.pool)?, ops::open(self.pool)?),
        };
        // After a failure everything is opened anew.
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
        let (events, last) = ops::events::latest(store, self.last.unwrap_or(0), most)?;
        self.last = Some(last);
        Ok(PoolLook {
            at_us,
            view,
            jobs,
            controller: ArbitrationLock::holder(self.pool)?,
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
            None => ops::job::view(store, view, workers, record)?,
        };
        let state = view.record.state;
        if !ops::job::wants_work(state) && state != JobState::Paused {
            self.ended.insert(view.record.id, view.clone());
        }
        let phase = ops::job::phase(workers, &view.record);
        Ok(JobLook { view, phase })
    }

    /// Until something may have changed, a second at most. False when it is time to end.
    fn wait(&mut self, ending: &Receiver<()>) -> bool {
        let Some((watch, _)) = &mut self.open else {
            return !pause(ending, Duration::from_secs(1));
        };
        // A watch that fails is as good as a second that has passed.
        let _ = watch.changed(Instant::now() + Duration::from_secs(1));
        !pause(ending, Duration::ZERO)
    }
}
