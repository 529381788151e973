//! Renewals of leases: transactions that always write, so that each is decided by the cluster and not by what one member remembers.

use super::client::{Bytes, Client, Compare, Operation, Range, Transaction};
use super::damaged;
use crate::model::error::Result;
use crate::model::units::{Incarnation, Slot};
use crate::place::Place;
use crate::store::leases::{LeaseHolder, Leases, NODES, Renewed, member_key, member_value};

/// A key that no one ever puts. Deleting it is a write that changes nothing, which an etcd without space accepts too.
const NEVER: &str = "never";

/// Leases of the apparatuses of one pool.
pub(in crate::store) struct EtcdLeases {
    client: Client,
    prefix: String,
    /// What this handle has published last.
    published: Option<String>,
}

impl EtcdLeases {
    /// Returns the leases of a pool. It connects with the first request.
    ///
    /// # Errors
    /// Fails if a certificate cannot be read.
    pub(in crate::store) fn new(place: &Place) -> Result<Self> {
        Ok(Self {
            client: Client::new(place.etcd.endpoints.clone(), place.etcd.tls.as_deref())?,
            prefix: format!("/apparatus/{}", place.pool),
            published: None,
        })
    }

    fn key(&self, name: &str) -> Bytes {
        format!("{}/{name}", self.prefix).into()
    }

    fn read(&self, name: &str) -> Operation {
        Operation::Range(Range {
            key: self.key(name),
            range_end: None,
            limit: 1,
        })
    }

    /// Returns the write of a renewal: the new value of a life's key, or the one that changes nothing.
    fn write(&self, slot: Slot, value: &str) -> Operation {
        if self.published.as_deref() == Some(value) {
            return self.nothing();
        }
        Operation::Put {
            key: self.key(&live_key(slot)),
            value: value.to_owned().into(),
        }
    }

    fn nothing(&self) -> Operation {
        Operation::Delete {
            key: self.key(NEVER),
            range_end: Bytes::default(),
        }
    }

    /// Runs a transaction and returns whether it succeeded, and the value that it has read.
    fn run(&mut self, transaction: &Transaction) -> Result<(bool, Option<String>)> {
        let done = self.client.transact(transaction)?;
        let found = done
            .responses
            .into_iter()
            .find_map(|response| response.response_range);
        let value = found.and_then(|mut found| found.kvs.pop());
        let text = value.map(|found| String::from_utf8(found.value.0).map_err(|_| damaged()));
        Ok((done.succeeded, text.transpose()?))
    }
}

fn live_key(slot: Slot) -> String {
    format!("live/{slot}")
}

fn live_value(incarnation: Incarnation, lease_us: u64) -> String {
    format!("{incarnation} {lease_us}")
}

impl Leases for EtcdLeases {
    fn renew(&mut self, holder: &LeaseHolder, lease_us: Option<u64>) -> Result<Renewed> {
        let LeaseHolder {
            slot,
            incarnation,
            node,
        } = holder;
        let live = lease_us.map(|lease_us| live_value(*incarnation, lease_us));
        let write = match &live {
            Some(live) => self.write(*slot, live),
            None => self.nothing(),
        };
        let transaction = Transaction {
            compare: vec![Compare::Value {
                key: self.key(&member_key(slot.0)),
                value: member_value("joined", incarnation.0, Some(node.as_str())).into(),
            }],
            success: vec![write, self.read(NODES)],
            failure: vec![self.nothing()],
        };
        let (renewed, nodes) = self.run(&transaction)?;
        if !renewed {
            return Ok(Renewed::No);
        }
        self.published = live.or(self.published.take());
        let several = nodes.is_some_and(|nodes| nodes.contains(' '));
        Ok(Renewed::Yes { several })
    }

    fn published(&mut self, slot: Slot, incarnation: Incarnation) -> Result<Option<u64>> {
        let transaction = Transaction {
            success: vec![self.nothing(), self.read(&live_key(slot))],
            ..Transaction::default()
        };
        let (_, found) = self.run(&transaction)?;
        let Some(found) = found else { return Ok(None) };
        let (life, lease_us) = found.split_once(' ').ok_or_else(damaged)?;
        if life != incarnation.to_string() {
            return Ok(None);
        }
        lease_us.parse().map(Some).map_err(|_| damaged())
    }
}
