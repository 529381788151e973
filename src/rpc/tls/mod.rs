//! Links between nodes: TCP with TLS 1.3, in which both sides prove by a certificate of the pool's authority which node they are on.
//!
//! The side that connects knows whom it wants to reach: the name in the certificate has to be that of the node's record. The side that accepts
//! takes whoever has the name of some node of the pool. Only this folder and the client of etcd know TLS.

mod acceptor;
mod certificates;
mod identity;
pub mod issue;
mod session;
#[cfg(test)]
mod tests;

pub use certificates::Certificates;
pub use identity::Identity;
