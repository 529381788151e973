//! Options that describe this machine as a node of a pool.

use apparatus::admin::place::absolute;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::store::OwnNode;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
        };
        node.checked()
    }
}
