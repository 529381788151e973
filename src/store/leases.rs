//! Leases of apparatuses, in pools whose metadata is in etcd: each renews its own by one transaction, and publishes that it holds one.
//!
//! [`crate::protocol::lease`] has the rules. The keys that a renewal is decided by are set by the same transaction as the entry of the log that records
//! a join or a fence. So a renewal that succeeds was decided before the fence.

use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::units::{Incarnation, Slot};
use crate::place::Place;

/// Key of the nodes' names, separated by spaces.
pub(super) const NODES: &str = "nodes";

/// Returns the key of the member in a slot.
pub(super) fn member_key(slot: u32) -> String {
    format!("member/{slot}")
}

/// Returns what the key of a member has: its state, its incarnation, and its node if it has one.
pub(super) fn member_value(state: &str, incarnation: u64, node: Option<&str>) -> String {
    format!("{state} {incarnation} {}", node.unwrap_or("-"))
}

/// A life of an apparatus, as its renewals name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Its slot among the members.
    pub slot: Slot,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its node.
    pub node: Name,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// This life is in the control range.
    Yes {
        /// Whether the pool has several nodes.
        several: bool,
    },
    /// It is fenced, or has left.
    No,
}

/// Renewals of leases, over a connection of its own: they wait for no transaction of the store.
pub trait Leases: Send {
    /// Renews the lease of a life that is in the control range, by a transaction that writes. `lease_us` is the length of the lease that it holds; it is
    /// published with the renewal, and `None` while it holds none.
    ///
    /// # Errors
    /// Fails with `TimedOut` if there is no answer in time.
    fn renew(&mut self, holder: &LeaseHolder, lease_us: Option<u64>) -> Result<Renewed>;

    /// Returns the length of the lease that this life has published; `None` if it holds none, as far as is known. Whoever fences may wait for the end of a
    /// lease alone.
    ///
    /// # Errors
    /// Fails with `TimedOut` if there is no answer in time.
    fn published(&mut self, slot: Slot, incarnation: Incarnation) -> Result<Option<u64>>;
}

/// Returns the leases of a pool; `None` if its metadata is on this machine alone.
///
/// # Errors
/// Fails if the description of the pool, or a certificate, cannot be read.
pub fn leases(dir: &PoolDir) -> Result<Option<Box<dyn Leases>>> {
    Place::read(dir)?.as_ref().map(leases_of).transpose()
}

#[cfg(feature = "etcd")]
fn leases_of(place: &Place) -> Result<Box<dyn Leases>> {
    Ok(Box::new(super::etcd::EtcdLeases::new(place)?))
}

#[cfg(not(feature = "etcd"))]
fn leases_of(_: &Place) -> Result<Box<dyn Leases>> {
    Err(crate::model::error::Error::failed(
        "store",
        "is in etcd, and this program was built without that",
    ))
}
