//! Persists changes for flushes of hosts, so that the changes that their data depends on survive power loss too.
//!
//! No thread waits here for long. One thread at a time uses the store, which may block it (another process writes, or there is no space); one at a
//! time flushes a set of disks, which may hang. Another flush that needs the same is queued ([`PersistState::Later`]), and retried when that
//! thread has finished. No flush waits for a disk that its volume does not need.
//!
//! A store that cannot be read or written is a transient condition, so it fails no flush: it is retried a few times a second, until it works or
//! the apparatus ends. Only known losses are errors: a write error of a disk, or one of the store's log.

use crate::cluster::FlushLedgers;
use crate::controller::metadata::bring_up;
use crate::controller::persist::{Batch, Who};
use crate::datapath::Runtime;
use crate::datapath::{Persist, PersistState};
use crate::failpoint::hit;
use crate::model::error::{Error, Result};
use crate::model::units::{DiskId, Generation, VolumeId};
use crate::store::{OpenStore, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Usual time that a thread waits for another one.
const SHORT_WAIT: Duration = Duration::from_millis(50);
/// Interval at which a store that could not be used is retried.
const RETRY_STORE: Duration = Duration::from_millis(200);
/// Number of idle connections to the store that are kept open.
const IDLE_CONNECTIONS: usize = 2;
/// Interval at which all waiting flushes are retried, because another process may have done what they wait for.
const RETRY_ALL: Duration = Duration::from_secs(2);

/// Persists committed changes for an apparatus. Any thread may call it.
pub struct Persister {
    open: OpenStore,
    kept: Mutex<Vec<Box<dyn Store>>>,
    ledgers: Arc<dyn FlushLedgers>,
    runtime: OnceLock<Weak<dyn Runtime>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Time that a thread waits for another one that mostly finishes sooner.
    short_wait: Duration,
}

#[derive(Default)]
struct State {
    /// Whether a thread is using the store.
    store_in_use: bool,
    /// Threads that flush disks, by ticket.
    working: BTreeMap<u64, Working>,
    tickets: u64,
    /// Number of times that a thread has finished flushing its disks.
    completions: u64,
    /// Reason why the store could not be used at the last attempt.
    trouble: Option<StoreTrouble>,
    /// Whether a flush was queued because the store was in use.
    deferred: bool,
    retried: Option<Instant>,
}

struct StoreTrouble {
    why: String,
    when: Instant,
    /// Whether the store can be read, so that only writing fails.
    writing: bool,
}

struct Working {
    disks: BTreeSet<DiskId>,
    since: Instant,
    /// Whether the disks have been flushed, so that the store is to be updated.
    flushed: bool,
}

impl Persister {
    /// Makes a persister that opens its own connections to the store as needed. It works after [`serve`](Self::serve) was called.
    #[must_use]
    pub fn new(open: OpenStore, ledgers: Arc<dyn FlushLedgers>) -> Arc<Self> {
        Self::waiting(open, ledgers, SHORT_WAIT)
    }

    /// Makes a persister as [`Persister::new`] does, whose threads wait for one another for this time before the flush is queued.
    #[must_use]
    pub fn waiting(open: OpenStore, ledgers: Arc<dyn FlushLedgers>, short_wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            open,
            kept: Mutex::default(),
            ledgers,
            runtime: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            short_wait,
        })
    }

    /// Sets the data path whose disks it flushes. Called once.
    pub fn serve(&self, runtime: &Arc<dyn Runtime>) {
        // There is one data path, so a second call changes nothing.
        let _ = self.runtime.set(Arc::downgrade(runtime));
    }

    /// Opens a connection to the store in the background, so that flushes continue where the database's file cannot be opened any more: the pool's
    /// directory may be frozen or deleted later.
    pub fn open_ahead(self: &Arc<Self>) {
        let persister = Arc::clone(self);
        let open = move || match (persister.open)() {
            Ok(store) => persister.keep(store),
            Err(why) => log::debug!("no connection to the store was opened ahead: {why}"),
        };
        // The first flush opens one otherwise.
        let _ = std::thread::Builder::new().name("open-ahead".into()).spawn(open);
    }

    /// Returns the permit to use the store, or the number of completions when another thread has it or the store failed a moment ago.
    fn use_store(&self) -> Result<StorePermit<'_>, u64> {
        let state = lock(&self.state);
        let another = |state: &mut State| state.store_in_use && state.trouble.is_none();
        let waited = self.changed.wait_timeout_while(state, self.short_wait, another);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let recently_failed = |trouble: &StoreTrouble| trouble.when.elapsed() < RETRY_STORE;
        if state.store_in_use || state.trouble.as_ref().is_some_and(recently_failed) {
            state.deferred = true;
            return Err(state.completions);
        }
        state.store_in_use = true;
        Ok(StorePermit(self))
    }

    /// Returns the permit to flush these disks, or the number of completions when another thread is flushing some of them and no others.
    fn use_disks(&self, disks: BTreeSet<DiskId>) -> Result<Flushing<'_>, u64> {
        let mut state = lock(&self.state);
        if state.working.values().any(|other| other.disks.is_subset(&disks)) {
            return Err(state.completions);
        }
        let ticket = state.tickets;
        state.tickets += 1;
        let since = Instant::now();
        state.working.insert(
            ticket,
            Working {
                disks,
                since,
                flushed: false,
            },
        );
        Ok(Flushing { of: self, ticket })
    }

    /// Waits a moment for another thread to finish.
    fn later(&self, seen: u64) -> PersistState {
        let state = lock(&self.state);
        let waits = |state: &mut State| state.completions == seen && state.trouble.is_none();
        let waited = self.changed.wait_timeout_while(state, self.short_wait, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        PersistState::Later(seen)
    }

    /// Records that the store could not be used. Wakes no flush: they are retried after an interval.
    fn store_failed(&self, why: &Error, writing: bool) -> PersistState {
        let mut state = lock(&self.state);
        let why = why.to_string();
        if state.trouble.as_ref().is_none_or(|before| before.why != why) {
            log::warn!("flushes of hosts wait for the store: {why}");
        }
        let when = Instant::now();
        state.trouble = Some(StoreTrouble { why, when, writing });
        PersistState::Later(state.completions)
    }

    /// Records that the store could be read, and whether it could be written too.
    fn store_works(&self, written: bool) {
        let over = lock(&self.state)
            .trouble
            .take_if(|trouble| written || !trouble.writing);
        if let Some(trouble) = over {
            log::info!("flushes of hosts continue, after: {}", trouble.why);
        }
    }

    fn connection(&self) -> Result<Box<dyn Store>> {
        let kept = lock(&self.kept).pop();
        kept.map_or_else(|| (self.open)(), Ok)
    }

    /// Keeps a working connection. After a failure the caller drops it, and the next one is opened again.
    fn keep(&self, store: Box<dyn Store>) {
        let mut kept = lock(&self.kept);
        if kept.len() < IDLE_CONNECTIONS {
            kept.push(store);
        }
    }

    fn flush_and_record(
        &self,
        batch: &Batch,
        runtime: &dyn Runtime,
        mut store: Box<dyn Store>,
        flushing: &Flushing<'_>,
    ) -> Result<PersistState> {
        batch.flush_disks(runtime.disks(), &*self.ledgers)?;
        flushing.flushed();
        hit(Who::Apparatus.points().0);
        // Writing to the store may take long too, so one thread at a time does it.
        let _permit = match self.use_store() {
            Ok(permit) => permit,
            Err(seen) => {
                self.keep(store);
                return Ok(PersistState::Later(seen));
            }
        };
        match batch.record(&mut *store, runtime.disks(), &*self.ledgers, Who::Apparatus) {
            Ok(()) => {
                self.store_works(true);
                self.keep(store);
                Ok(PersistState::Done)
            }
            Err(why) if store.lost().is_some() => Err(why),
            Err(why) => Ok(self.store_failed(&why, true)),
        }
    }
}

/// Permit to use the store, until it is dropped.
struct StorePermit<'a>(&'a Persister);

impl Drop for StorePermit<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).store_in_use = false;
        self.0.changed.notify_all();
    }
}

/// Permit to flush disks, until it is dropped; that wakes the flushes that wait for it.
struct Flushing<'a> {
    of: &'a Persister,
    ticket: u64,
}

impl Flushing<'_> {
    /// Records that the disks have been flushed.
    fn flushed(&self) {
        if let Some(working) = lock(&self.of.state).working.get_mut(&self.ticket) {
            working.flushed = true;
        }
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.of.state);
        state.working.remove(&self.ticket);
        state.completions += 1;
        let store_failed = state.trouble.is_some();
        drop(state);
        self.of.changed.notify_all();
        if !store_failed && let Some(runtime) = self.of.runtime.get().and_then(Weak::upgrade) {
            runtime.flush_again();
        }
    }
}

impl Persist for Persister {
    fn persist(&self, volume: VolumeId, generation: Generation) -> Result<PersistState> {
        let runtime = self.runtime.get().and_then(Weak::upgrade);
        let runtime = runtime.ok_or_else(|| Error::failed("flush", "the apparatus is not serving"))?;
        let permit = match self.use_store() {
            Ok(permit) => permit,
            Err(seen) => return Ok(PersistState::Later(seen)),
        };
        if self.ledgers.persisted() >= generation {
            return Ok(PersistState::Done);
        }
        let asked = self.connection().and_then(|mut store| {
            let batch = Batch::of_volume(&mut *store, volume, generation)?;
            if batch.is_none() {
                // Another process has persisted them, and may have died before it wrote the copies of the metadata.
                bring_up(&mut *store, runtime.disks())?;
            }
            Ok((batch, store))
        });
        let (batch, store) = match asked {
            Ok(found) => found,
            Err(why) => return Ok(self.store_failed(&why, false)),
        };
        drop(permit);
        self.store_works(false);
        let Some(batch) = batch else {
            self.keep(store);
            return Ok(PersistState::Done);
        };
        match self.use_disks(batch.disks()) {
            Ok(flushing) => self.flush_and_record(&batch, &*runtime, store, &flushing),
            Err(seen) => {
                self.keep(store);
                Ok(self.later(seen))
            }
        }
    }

    fn completions(&self) -> u64 {
        lock(&self.state).completions
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.state)
            .trouble
            .as_ref()
            .map(|trouble| trouble.why.clone())
    }

    fn wants_retry(&self) -> bool {
        let mut state = lock(&self.state);
        let lately = state.retried.is_some_and(|when| when.elapsed() < RETRY_ALL);
        let wanted = std::mem::take(&mut state.deferred) || state.trouble.is_some() || !lately;
        if wanted {
            state.retried = Some(Instant::now());
        }
        wanted
    }

    fn flushing(&self) -> Vec<(DiskId, Duration)> {
        let state = lock(&self.state);
        let each = |working: &Working| {
            let age = working.since.elapsed();
            let disks: Vec<_> = working.disks.iter().map(|disk| (*disk, age)).collect();
            disks
        };
        let at_disks = state.working.values().filter(|working| !working.flushed);
        at_disks.flat_map(each).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
