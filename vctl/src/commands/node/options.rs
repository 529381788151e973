//! Options that describe where a pool's metadata is, and this machine as a node of the pool.

use crate::arguments;
use apparatus::admin::place::absolute;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::store::{EtcdPlace, OwnNode};
use clap::Args;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the metadata is, besides the pool's directory.
#[derive(Args, Debug)]
pub struct StoreOptions {
    /// Keep the metadata in an etcd cluster too: etcd://HOST:PORT[,HOST:PORT...]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Directory with ca.pem, cert.pem and key.pem, for an etcd that requires TLS
    #[arg(long, value_name = "DIR", requires = "store")]
    store_tls: Option<PathBuf>,
    /// The name of this machine among those of the pool
    #[arg(long, value_name = "NODE", requires = "store", value_parser = arguments::node)]
    node: Option<Name>,
    #[command(flatten)]
    options: NodeOptions,
}

impl StoreOptions {
    /// Returns the cluster, and this machine as a node; `None` where the metadata is in the pool's directory alone.
    ///
    /// # Errors
    /// Fails when the options do not fit each other.
    pub fn place(&self) -> Result<Option<(EtcdPlace, Option<OwnNode>)>> {
        let Some(store) = &self.store else {
            return Ok(None);
        };
        let tls = self.store_tls.as_deref();
        let etcd = EtcdPlace::parse(store, tls.map(absolute).transpose()?)?;
        let named = self.node.as_ref();
        let node = named.map(|name| self.options.of(name, tls)).transpose()?;
        Ok(Some((etcd, node)))
    }
}

/// What a node has besides its name.
#[derive(Args, Debug)]
pub struct NodeOptions {
    /// Where apparatuses of this machine listen for other nodes: each takes the first free one of 64 ports from this one on
    #[arg(long, value_name = "IP:PORT", requires = "node")]
    listen: Option<SocketAddr>,
    /// Directory with ca.pem, cert.pem and key.pem for links to other nodes [default: that of --store-tls]
    #[arg(long, value_name = "DIR", requires = "node")]
    node_tls: Option<PathBuf>,
    /// The name in this machine's certificate, if it is not that of the node
    #[arg(long, value_name = "NAME", requires = "node")]
    certificate: Option<String>,
    /// How long its apparatuses acknowledge without a renewal [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration, requires = "node")]
    lease: Option<Duration>,
}

impl NodeOptions {
    /// Returns the node with this name. `store_tls` is the directory of certificates for etcd.
    ///
    /// # Errors
    /// Fails when the options do not fit each other.
    pub fn of(&self, name: &Name, store_tls: Option<&Path>) -> Result<OwnNode> {
        let tls = self.node_tls.as_deref().or(store_tls);
        let node = OwnNode {
            name: name.clone(),
            certificate: self.certificate.clone(),
            listen: self.listen,
            tls: tls.map(absolute).transpose()?,
            // One that is longer than what the number can be is refused as too long.
            lease_s: self
                .lease
                .map(|lease| u16::try_from(lease.as_secs()).unwrap_or(u16::MAX)),
            paths: BTreeMap::new(),
        };
        node.checked()
    }
}
