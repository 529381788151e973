//! Renews the lease of an apparatus, in a thread of its own, and lets requests go on that have found it run out.
//!
//! An apparatus of a pool in etcd that knows its machines by name renews from its start. It holds a lease from the first renewal on that finds several
//! nodes in the pool: from then on it acknowledges by it, and publishes that with its next renewals. Nobody may wait for the end of a lease that is not
//! published. In a pool of one node it holds none, so an etcd that is away makes no host wait. A lease is never given up while the process lives.

use crate::cluster::{Membership, OwnEntry};
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::units::{Incarnation, Slot};
use crate::protocol::lease::Lease;
use crate::store::leases::{LeaseHolder, Leases, Renewed};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Time until the next attempt, after one without an answer, or while the apparatus has no incarnation that could be renewed.
const RETRY: Duration = Duration::from_millis(200);

/// What a lease is renewed with.
pub struct Renewing {
    /// The store's side.
    pub leases: Box<dyn Leases>,
    /// The members, of which this apparatus is one.
    pub members: Arc<dyn Membership>,
    /// Its entry.
    pub entry: Arc<dyn OwnEntry>,
    /// Its slot.
    pub slot: Slot,
    /// Its node.
    pub node: Name,
    /// Length of the lease in microseconds.
    pub length_us: u64,
    /// Lets requests go on that have found the lease run out.
    pub go_on: Box<dyn Fn() + Send>,
}

/// A thread that renews the lease until this is dropped.
pub struct Renewer {
    _end: Sender<()>,
}

impl Renewer {
    /// Starts the thread. `holds` says that the pool had several nodes when the apparatus joined: then it acknowledges nothing before the first renewal.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start(renewing: Renewing, holds: bool) -> Result<Self> {
        let mut renewals = Renewals::new(renewing, holds);
        let (end, ended) = bounded(0);
        let work = move || {
            loop {
                let next = renewals.step();
                if ended.recv_timeout(next) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("lease".into()).spawn(work);
        thread.map_err(|why| Error::because("lease", why))?;
        Ok(Self { _end: end })
    }
}

/// The renewals of one process.
struct Renewals {
    with: Renewing,
    lease: Lease,
    holds: bool,
    /// The last failure, so that it is logged once.
    failed: bool,
}

impl Renewals {
    fn new(with: Renewing, holds: bool) -> Self {
        if holds {
            with.entry.set_lease(0);
        }
        Self {
            lease: Lease::new(with.length_us),
            with,
            holds,
            failed: false,
        }
    }

    /// Renews the lease once. Returns the time until the next renewal.
    fn step(&mut self) -> Duration {
        let incarnation = self.with.members.entry(self.with.slot).incarnation;
        if incarnation == Incarnation(0) {
            return RETRY;
        }
        let holder = LeaseHolder {
            slot: self.with.slot,
            incarnation,
            node: self.with.node.clone(),
        };
        let published = self.holds.then_some(self.with.length_us);
        let renewal = Lease::renewal(self.with.entry.lease_clock_us());
        match self.with.leases.renew(&holder, published) {
            Ok(Renewed::Yes { several }) => {
                self.failed = false;
                if !several && !self.holds {
                    return self.interval();
                }
                self.lease.renewed(renewal);
                self.with.entry.set_lease(self.lease.valid_until_us());
                (self.with.go_on)();
                // What is held now is published at once.
                match std::mem::replace(&mut self.holds, true) {
                    true => self.interval(),
                    false => Duration::ZERO,
                }
            }
            Ok(Renewed::No) => {
                // A later incarnation is not concerned: it has joined, or will.
                self.with.members.fence(self.with.slot, incarnation);
                RETRY
            }
            Err(why) => {
                if !std::mem::replace(&mut self.failed, true) && self.holds {
                    log::warn!("the lease is not renewed, so hosts wait when it has run out: {why}");
                }
                RETRY
            }
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_micros(Lease::interval_us(self.with.length_us))
    }
}

#[cfg(test)]
mod tests;
