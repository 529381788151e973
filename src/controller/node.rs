//! This machine as a node of the pool: its record, its certificates, and where its apparatuses listen for other nodes.

use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::node::Node;
use crate::model::units::{CacheEpoch, Timestamp};
use crate::rpc::NodeListener;
use crate::rpc::transport::Sockets;
use crate::store::{NodeStore, OwnNode, Place};
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
/// Fails when another machine has its name, and returns the errors of the store.
pub fn announce<S: NodeStore + ?Sized>(
    own: Option<&OwnNode>,
    epoch: CacheEpoch,
    store: &mut S,
) -> Result<()> {
    own.map_or(Ok(()), |own| store.set_node(&record(own, epoch)))
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
    use crate::rpc::tls::Identity;
    let described = own.and_then(|own| Some((own.listen?, own.tls.as_deref()?)));
    let listen = |(address, tls)| NodeListener::listen(address, &Identity::load(tls)?);
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

/// Returns a transport that reaches other nodes if this machine has certificates. They are read each time, so that new ones are used.
#[cfg(feature = "etcd")]
pub(super) fn transport(own: Option<&OwnNode>) -> Sockets {
    let Some(tls) = own.and_then(|own| own.tls.as_deref()) else {
        return Sockets::new();
    };
    match crate::rpc::tls::Identity::load(tls) {
        Ok(identity) => Sockets::with(identity),
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
