//! The lease of an apparatus in a pool of several nodes, pure: what its holder may acknowledge, how long whoever fences it waits, how long reads go
//! on by an old table, and when a life is known to have ended.
//!
//! ```text
//!            renewed: valid until (clock before the renewal was sent) + L
//!               +----+
//!               v    |
//!  Lapsed --> Valid -+--- its time is over ---> Lapsed     requests are parked; the next renewal lets them go on
//!     |         |
//!     +---------+--- the store has another state of this life ---> Fenced     it rejoins
//! ```
//!
//! All times are microseconds of the clock of one node: one that goes on while the process or the machine is stopped. The clocks of two nodes run at
//! rates that differ by less than 2 %. Nothing compares times of two clocks: a lease is counted by its holder from before a renewal was sent, and by
//! whoever fences from the answer of the store to the fence. A renewal that succeeds was decided before the fence, so it was sent before that answer.
//!
//! A lease that has run out ends acknowledgements. It does not end writes, so it is no evidence that a life has ended.

use crate::model::names::Name;
use crate::model::units::{CacheEpoch, Incarnation};

/// What is added to a lease by whoever waits for its end, in parts of a hundred: clocks of two nodes differ by less.
const DRIFT: u64 = 2;
/// What is added to the wait for a lease beside that.
const MARGIN_US: u64 = 1_000_000;
/// What is added to the wait for the end of reads by an old table beside that.
const READ_MARGIN_US: u64 = 50_000;
/// A lease is renewed so many times in its length.
const RENEWALS: u64 = 6;

/// Shortest length of a lease.
pub const SHORTEST_US: u64 = 6_000_000;
/// Longest length of a lease.
pub const LONGEST_US: u64 = 300_000_000;
/// Length of a lease unless the pool says otherwise.
pub const USUAL_US: u64 = 30_000_000;

/// What a lease allows its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Requests are served and acknowledged.
    Valid,
    /// Its time is over: requests are parked until it is renewed.
    Lapsed,
    /// The store has another state of this life: nothing is acknowledged until the apparatus has rejoined.
    Fenced,
}

/// Lease of a life, as its holder has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    length_us: u64,
    valid_until_us: u64,
    fenced: bool,
}

/// A renewal that is about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the lease is renewed when the store has answered"]
pub struct Renewal {
    before_us: u64,
}

impl Lease {
    /// Returns a lease of this length that has not been given yet. Joining gives it: its transaction counts as a renewal.
    #[must_use]
    pub const fn new(length_us: u64) -> Self {
        Self {
            length_us,
            valid_until_us: 0,
            fenced: false,
        }
    }

    /// Begins a renewal. The clock is read before this is called, and the renewal sent after it.
    pub const fn renewal(now_us: u64) -> Renewal {
        Renewal { before_us: now_us }
    }

    /// Handles the store's answer that it has renewed this life. An answer that is late never shortens the lease.
    pub fn renewed(&mut self, renewal: Renewal) {
        let until = renewal.before_us.saturating_add(self.length_us);
        self.valid_until_us = self.valid_until_us.max(until);
    }

    /// Handles the store's answer that this life is not in the control range any more.
    pub fn fenced(&mut self) {
        self.fenced = true;
    }

    /// Returns the time from which nothing may be acknowledged.
    #[must_use]
    pub const fn valid_until_us(&self) -> u64 {
        match self.fenced {
            true => 0,
            false => self.valid_until_us,
        }
    }

    /// Returns what the lease allows now.
    #[must_use]
    pub fn standing(&self, now_us: u64) -> Standing {
        match self.fenced {
            true => Standing::Fenced,
            false if now_us < self.valid_until_us => Standing::Valid,
            false => Standing::Lapsed,
        }
    }

    /// Returns the time between two renewals.
    #[must_use]
    pub const fn interval_us(length_us: u64) -> u64 {
        length_us / RENEWALS
    }
}

/// Returns a span of another node's clock as the longest that it can be on one's own.
const fn at_most(us: u64) -> u64 {
    us.saturating_add(us.saturating_mul(DRIFT).div_ceil(100))
}

/// Returns the time from which something may rest on a fence if nothing but the lease is known: nothing is acknowledged by the fenced life any more.
/// `answered_us` is the time at which the store's answer to the fence was received.
#[must_use]
pub const fn lease_has_run_out_us(answered_us: u64, length_us: u64) -> u64 {
    answered_us
        .saturating_add(at_most(length_us))
        .saturating_add(MARGIN_US)
}

/// How long an apparatus lets new reads of a held range in by the table that it has.
///
/// A hold of writes widens to all requests when it is over. So an apparatus that falls silent after it has confirmed a hold makes nobody wait for its
/// lease: when its grace is over it serves no request of the range by the old table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadGrace {
    until_us: u64,
}

impl ReadGrace {
    /// Returns the grace of a hold that was received at this time.
    #[must_use]
    pub const fn of_hold(received_us: u64, reads_us: u64) -> Self {
        Self {
            until_us: received_us.saturating_add(reads_us),
        }
    }

    /// Returns whether a new read of the range is let in.
    #[must_use]
    pub const fn admits(self, now_us: u64) -> bool {
        now_us < self.until_us
    }

    /// Returns the time at which the hold covers reads too.
    #[must_use]
    pub const fn until_us(self) -> u64 {
        self.until_us
    }

    /// Returns the time from which the apparatus lets no such read in, for the controller. `held_us` is the time at which its confirmation of the hold was
    /// received: it had received the hold before that.
    #[must_use]
    pub const fn is_over_us(held_us: u64, reads_us: u64) -> u64 {
        held_us
            .saturating_add(at_most(reads_us))
            .saturating_add(READ_MARGIN_US)
    }
}

/// A life of an apparatus, and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its node.
    pub node: Name,
    /// The boot of that node in which it joined.
    pub boot: CacheEpoch,
}

/// What somebody knows that bears on the end of a life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// A process of this node, in this boot, has found that the apparatus's process has ended.
    ProcessEnded {
        /// The node.
        node: Name,
        /// Its boot.
        boot: CacheEpoch,
    },
    /// This node is in this boot.
    Booted {
        /// The node.
        node: Name,
        /// Its boot.
        boot: CacheEpoch,
        /// Whether it has opened the pool's disks in it, so that no command of an earlier boot reaches them any more.
        has_opened_disks: bool,
    },
    /// The apparatus has joined with this incarnation; it had drained before.
    Rejoined(Incarnation),
    /// The node's key was removed from every disk of the pool.
    PreemptedEverywhere,
    /// An operator has said that this node, in this boot, is off.
    ConfirmedOff {
        /// The node.
        node: Name,
        /// The boot that was meant.
        boot: CacheEpoch,
    },
    /// The lease of the life has run out. That is no evidence: a write that it has begun may arrive at any time.
    LeaseRanOut,
}

/// Returns whether a life is known to have ended: no write of it reaches a disk any more.
pub fn has_ended<'e>(life: &Life, evidence: impl IntoIterator<Item = &'e Evidence>) -> bool {
    evidence.into_iter().any(|evidence| shows_end(life, evidence))
}

fn shows_end(life: &Life, evidence: &Evidence) -> bool {
    match evidence {
        Evidence::ProcessEnded { node, boot } | Evidence::ConfirmedOff { node, boot } => {
            *node == life.node && *boot == life.boot
        }
        Evidence::Booted {
            node,
            boot,
            has_opened_disks,
        } => *node == life.node && *boot != life.boot && *has_opened_disks,
        Evidence::Rejoined(incarnation) => *incarnation > life.incarnation,
        Evidence::PreemptedEverywhere => true,
        Evidence::LeaseRanOut => false,
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
