//! etcd clusters for tests of the store.

#[path = "../../../tests/support/etcd.rs"]
#[allow(unreachable_pub, dead_code, reason = "integration tests use it too")]
mod process;

use super::{EtcdJournal, EtcdLeases};
use crate::place::{EtcdPlace, Place};
use process::Cluster;
use std::sync::OnceLock;
use uuid::Uuid;

/// A running cluster.
pub(crate) struct EtcdCluster {
    place: EtcdPlace,
    cluster: Cluster,
}

impl EtcdCluster {
    /// Returns a running cluster that all tests of this process share; `None`, with a message, where etcd is not installed.
    pub(crate) fn shared(members: usize) -> Option<&'static Self> {
        static OF_ONE: OnceLock<Option<EtcdCluster>> = OnceLock::new();
        static OF_THREE: OnceLock<Option<EtcdCluster>> = OnceLock::new();
        let shared = if members == 1 { &OF_ONE } else { &OF_THREE };
        shared.get_or_init(|| Self::start(members)).as_ref()
    }

    /// Starts a cluster. Returns `None`, with a message, where etcd is not installed.
    pub(crate) fn start(members: usize) -> Option<Self> {
        let cluster = Cluster::start(members)?;
        let place = EtcdPlace::parse(&format!("etcd://{}", cluster.addresses.join(",")), None).unwrap();
        Some(Self { place, cluster })
    }

    /// Returns a handle on the log of a pool.
    pub(crate) fn log(&self, pool: Uuid) -> EtcdJournal {
        let etcd = self.place.clone();
        let node = None;
        EtcdJournal::new(&Place {
            pool,
            etcd,
            node,
            transit: None,
        })
        .unwrap()
    }

    /// Returns a handle on the leases of a pool.
    pub(crate) fn leases(&self, pool: Uuid) -> EtcdLeases {
        let etcd = self.place.clone();
        let (node, transit) = (None, None);
        EtcdLeases::new(&Place {
            pool,
            etcd,
            node,
            transit,
        })
        .unwrap()
    }

    /// Ends a member.
    pub(crate) fn end(&mut self, member: usize) {
        self.cluster.end(member);
    }
}
