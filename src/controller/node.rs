//! This machine as a node of the pool: its record, its certificates, and where its apparatuses listen for other nodes.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::node::Node;
use crate::model::records::DiskAccess;
use crate::model::units::{CacheEpoch, Timestamp};
use crate::rpc::NodeListener;
use crate::rpc::transport::Sockets;
use crate::store::{OwnNode, Place, Store};
use crate::sys::machine_id;

/// Returns this machine as a node, if the pool knows its machines by name.
///
/// # Errors
/// Fails when the description of the pool cannot be read.
pub fn own(dir: &PoolDir) -> Result<Option<OwnNode>> {
    Ok(Place::read(dir)?.and_then(|place| place.node))
}

/// Returns the record of this machine.
#[must_use]
pub fn record(own: &OwnNode, epoch: CacheEpoch) -> Node {
    Node {
        name: own.name.clone(),
        machine: machine_id(),
        epoch,
        certificate: own.certificate().to_owned(),
        address: own.listen,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        since: Timestamp::now(),
    }
}

/// Records this machine as it is now. It comes before the recovery of anything: members and changes of its earlier boots end by it.
///
/// # Errors
/// Fails when another machine has its name, and for a node that the pool does not take; returns the errors of the store.
pub fn announce(own: Option<&OwnNode>, epoch: CacheEpoch, store: &mut dyn Store) -> Result<()> {
    let Some(own) = own else { return Ok(()) };
    let nodes = store.nodes()?;
    if !nodes.is_empty() {
        admit(own, &nodes, store.header()?.access)?;
    }
    store.set_node(&record(own, epoch))
}

/// Refuses a machine that the pool does not take as a node: this is the only place that does. One that is a node already is taken.
///
/// # Errors
/// Fails for a pool whose machines have no names or that goes through the page cache, and for a second node.
pub fn admit(own: &OwnNode, nodes: &[Node], access: DiskAccess) -> Result<()> {
    if nodes.iter().any(|node| node.name == own.name) {
        return Ok(());
    }
    let refused = |why: &str| Error::failed(format!("node {}", own.name), why);
    let Some(first) = nodes.first() else {
        return Err(
            refused("cannot join: the machine that serves the pool has no name among its nodes")
                .hint("create the pool with --node, on its first machine"),
        );
    };
    if access.is_cached() {
        let why = "cannot join: the pool goes through the page cache, which two machines do not share";
        return Err(refused(why).hint("vctl pool create --direct makes a pool that does not"));
    }
    if takes_several() {
        return Ok(());
    }
    let why = format!(
        "cannot join: {} is the pool's node, and nothing would keep one that does not answer from writing after the other has taken over",
        first.name
    );
    Err(refused(&why).hint("a pool is served by one machine for now; docs/NODES.md says what is missing"))
}

/// Returns whether a pool may have several nodes: in debug builds only, for tests that do without leases and fences between machines.
fn takes_several() -> bool {
    cfg!(debug_assertions) && std::env::var_os("APPARATUS_SEVERAL_NODES").is_some()
}

/// Checks that the certificates can be used.
///
/// # Errors
/// Fails with the file that cannot.
#[cfg(feature = "etcd")]
pub fn check(own: &OwnNode) -> Result<()> {
    let tls = own.tls.as_deref();
    tls.map_or(Ok(()), |tls| crate::rpc::tls::Identity::load(tls).map(drop))
}

/// Checks nothing: without links between machines there are no certificates.
///
/// # Errors
/// Never fails.
#[cfg(not(feature = "etcd"))]
pub fn check(_: &OwnNode) -> Result<()> {
    Ok(())
}

/// Listens for other nodes where this machine's description says so. Whom it lets in is read when somebody comes.
///
/// # Errors
/// Fails when the certificates cannot be used, or no port is free.
#[cfg(feature = "etcd")]
pub fn listen(own: Option<&OwnNode>) -> Result<Option<NodeListener>> {
    use crate::rpc::tls::Certificates;
    let described = own.and_then(|own| Some((own.listen?, own.tls.as_deref()?)));
    let listen = |(address, tls)| NodeListener::listen(address, Certificates::load(tls)?);
    described.map(listen).transpose()
}

/// Listens nowhere: there are no links between machines.
///
/// # Errors
/// Never fails.
#[cfg(not(feature = "etcd"))]
pub fn listen(_: Option<&OwnNode>) -> Result<Option<NodeListener>> {
    Ok(None)
}

/// Returns a transport that reaches other nodes if this machine has certificates.
#[cfg(feature = "etcd")]
pub(super) fn transport(own: Option<&OwnNode>) -> Sockets {
    let Some(tls) = own.and_then(|own| own.tls.as_deref()) else {
        return Sockets::new();
    };
    match crate::rpc::tls::Certificates::load(tls) {
        Ok(certificates) => Sockets::with(certificates),
        Err(why) => {
            log::warn!("other nodes cannot be reached: {why}");
            Sockets::new()
        }
    }
}

#[cfg(not(feature = "etcd"))]
pub(super) fn transport(_: Option<&OwnNode>) -> Sockets {
    Sockets::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::Name;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn node(name: &str) -> OwnNode {
        OwnNode {
            name: Name::new("node", name).unwrap(),
            certificate: None,
            listen: None,
            tls: None,
            lease_s: None,
            paths: BTreeMap::new(),
        }
    }

    #[test]
    fn a_second_node_is_refused_in_words() {
        let first = record(&node("n1"), CacheEpoch(Uuid::nil()));
        let nodes = [first];
        admit(&node("n1"), &nodes, DiskAccess::Cached).unwrap();
        let refused = |nodes: &[Node], access, word: &str| {
            let error = admit(&node("n2"), nodes, access).unwrap_err().to_string();
            assert!(
                error.contains("node n2: cannot join") && error.contains(word),
                "{error}"
            );
        };
        refused(&nodes, DiskAccess::Direct, "n1 is the pool's node");
        refused(&nodes, DiskAccess::Cached, "page cache");
        refused(&[], DiskAccess::Direct, "has no name");
    }
}
