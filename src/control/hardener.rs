//! What a host's flush calls, so that the changes its data rests on survive power loss too.
//!
//! No thread waits here for long. One at a time asks the store, which may keep it (another process writes, or there is no room); one at a time flushes
//! a set of disks, which may not answer. Whoever comes meanwhile and needs the same is told to come back ([`Hardening::Later`]), and is called when
//! that has ended. Nobody waits for a disk that his volume does not need.
//!
//! A store that cannot be asked or written passes, so it fails no flush: it is asked again, a few times a second, until it answers or the
//! apparatus ends. Only what is known to be lost is an error: a disk's write error, or one of the store's log.

use super::Runtime;
use super::server::OpenStore;
use crate::change::failpoint::hit;
use crate::change::harden::{Batch, Who};
use crate::data::{Harden, Hardening};
use crate::error::{Error, Result};
use crate::member::MemberTable;
use crate::store::Store;
use crate::units::{DiskId, Generation, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a thread waits for what mostly lasts shorter.
const MOMENT: Duration = Duration::from_millis(50);
/// A store that could not be used is tried again after so long.
const AGAIN: Duration = Duration::from_millis(200);
/// Connections to the store that are kept.
const KEPT: usize = 2;
/// All that wait try again after so long: what they wait for may be another's by now.
const RETRY: Duration = Duration::from_secs(2);

/// Hardens committed changes for an apparatus. Any thread may ask.
pub struct Hardener {
    open: OpenStore,
    kept: Mutex<Vec<Box<dyn Store>>>,
    members: Arc<MemberTable>,
    runtime: OnceLock<Weak<dyn Runtime>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Somebody asks the store.
    asking: bool,
    /// Those who flush disks, by ticket.
    working: BTreeMap<u64, Working>,
    tickets: u64,
    /// Goes up whenever somebody has flushed his disks.
    turns: u64,
    /// Why the store could not be used when it was last tried.
    trouble: Option<Trouble>,
    /// Somebody was told to come back because the store was being asked.
    turned_away: bool,
    retried: Option<Instant>,
}

struct Trouble {
    why: String,
    when: Instant,
    /// It can be read.
    writing: bool,
}

struct Working {
    disks: BTreeSet<DiskId>,
    since: Instant,
    /// They have been flushed, and the store is to be told.
    flushed: bool,
}

impl Hardener {
    /// Opens its own connections to the store when they are needed. Of use once it [`serves`](Self::serve).
    #[must_use]
    pub fn new(open: OpenStore, members: Arc<MemberTable>) -> Arc<Self> {
        Arc::new(Self {
            open,
            kept: Mutex::default(),
            members,
            runtime: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The data path whose disks it flushes. Once.
    pub fn serve(&self, runtime: &Arc<dyn Runtime>) {
        // A second data path has no business here, and the first stays.
        let _ = self.runtime.set(Arc::downgrade(runtime));
    }

    /// The store's turn, or the number of turns when it is another's or was in vain a moment ago.
    fn ask(&self) -> Result<Asking<'_>, u64> {
        let state = lock(&self.state);
        let another = |state: &mut State| state.asking && state.trouble.is_none();
        let waited = self.changed.wait_timeout_while(state, MOMENT, another);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let in_vain = |trouble: &Trouble| trouble.when.elapsed() < AGAIN;
        if state.asking || state.trouble.as_ref().is_some_and(in_vain) {
            state.turned_away = true;
            return Err(state.turns);
        }
        state.asking = true;
        Ok(Asking(self))
    }

    /// The turn to flush these disks, or the number of turns when somebody is at some of them and at no others.
    fn work(&self, disks: BTreeSet<DiskId>) -> Result<Flushing<'_>, u64> {
        let mut state = lock(&self.state);
        if state.working.values().any(|other| other.disks.is_subset(&disks)) {
            return Err(state.turns);
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

    /// Waits a moment for another's turn to end.
    fn later(&self, seen: u64) -> Hardening {
        let state = lock(&self.state);
        let waits = |state: &mut State| state.turns == seen && state.trouble.is_none();
        let waited = self.changed.wait_timeout_while(state, MOMENT, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Hardening::Later(seen)
    }

    /// The store could not be used. Nobody is called: it is tried again in a while.
    fn store_failed(&self, why: &Error, writing: bool) -> Hardening {
        let mut state = lock(&self.state);
        let why = why.to_string();
        if state.trouble.as_ref().is_none_or(|before| before.why != why) {
            log::warn!("flushes of hosts wait: {why}");
        }
        let when = Instant::now();
        state.trouble = Some(Trouble { why, when, writing });
        Hardening::Later(state.turns)
    }

    /// The store could be read, or written too.
    fn store_works(&self, written: bool) {
        let over = lock(&self.state)
            .trouble
            .take_if(|trouble| written || !trouble.writing);
        if let Some(trouble) = over {
            log::info!("flushes of hosts go on, after: {}", trouble.why);
        }
    }

    fn connection(&self) -> Result<Box<dyn Store>> {
        let kept = lock(&self.kept).pop();
        kept.map_or_else(|| (self.open)(), Ok)
    }

    /// Only one that works is kept: after a failure the next is opened anew.
    fn keep(&self, store: Box<dyn Store>) {
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT {
            kept.push(store);
        }
    }

    fn flush_and_record(
        &self,
        batch: &Batch,
        runtime: &dyn Runtime,
        mut store: Box<dyn Store>,
        flushing: &Flushing<'_>,
    ) -> Result<Hardening> {
        batch.make_safe(runtime.disks(), &self.members)?;
        flushing.is_over();
        hit(Who::Apparatus.points().0);
        // Writing to the store may last, too: one at a time.
        let _asking = match self.ask() {
            Ok(asking) => asking,
            Err(seen) => {
                self.keep(store);
                return Ok(Hardening::Later(seen));
            }
        };
        match batch.record(&mut *store, &self.members, Who::Apparatus) {
            Ok(()) => {
                self.store_works(true);
                self.keep(store);
                Ok(Hardening::Done)
            }
            Err(why) if store.lost().is_some() => Err(why),
            Err(why) => Ok(self.store_failed(&why, true)),
        }
    }
}

/// The store's turn, until it is dropped.
struct Asking<'a>(&'a Hardener);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).asking = false;
        self.0.changed.notify_all();
    }
}

/// The turn to flush disks, until it is dropped: those who wait for it are called then.
struct Flushing<'a> {
    of: &'a Hardener,
    ticket: u64,
}

impl Flushing<'_> {
    /// The disks have answered.
    fn is_over(&self) {
        if let Some(working) = lock(&self.of.state).working.get_mut(&self.ticket) {
            working.flushed = true;
        }
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.of.state);
        state.working.remove(&self.ticket);
        state.turns += 1;
        let in_vain = state.trouble.is_some();
        drop(state);
        self.of.changed.notify_all();
        if !in_vain && let Some(runtime) = self.of.runtime.get().and_then(Weak::upgrade) {
            runtime.flush_again();
        }
    }
}

impl Harden for Hardener {
    fn harden(&self, volume: VolumeId, generation: Generation) -> Result<Hardening> {
        let runtime = self.runtime.get().and_then(Weak::upgrade);
        let runtime = runtime.ok_or_else(|| Error::failed("flush", "the apparatus is not serving"))?;
        let asking = match self.ask() {
            Ok(asking) => asking,
            Err(seen) => return Ok(Hardening::Later(seen)),
        };
        if self.members.hardened() >= generation {
            return Ok(Hardening::Done);
        }
        let asked = self.connection().and_then(|mut store| {
            let batch = Batch::of_volume(&mut *store, volume, generation)?;
            Ok((batch, store))
        });
        let (batch, store) = match asked {
            Ok(found) => found,
            Err(why) => return Ok(self.store_failed(&why, false)),
        };
        drop(asking);
        self.store_works(false);
        let Some(batch) = batch else {
            self.keep(store);
            return Ok(Hardening::Done);
        };
        match self.work(batch.disks()) {
            Ok(flushing) => self.flush_and_record(&batch, &*runtime, store, &flushing),
            Err(seen) => {
                self.keep(store);
                Ok(self.later(seen))
            }
        }
    }

    fn turns(&self) -> u64 {
        lock(&self.state).turns
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.state)
            .trouble
            .as_ref()
            .map(|trouble| trouble.why.clone())
    }

    fn wants_retry(&self) -> bool {
        let mut state = lock(&self.state);
        let lately = state.retried.is_some_and(|when| when.elapsed() < RETRY);
        let wanted = std::mem::take(&mut state.turned_away) || state.trouble.is_some() || !lately;
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
