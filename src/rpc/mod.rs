//! Messages between controllers and apparatuses, their frames, and where these are sent: the control socket of an apparatus, and its address for
//! other nodes.

mod bounded;
pub(crate) mod channel;
pub mod client;
pub mod frame;
pub mod listen;
pub mod message;
pub(crate) mod pipe;
#[cfg(feature = "etcd")]
pub mod tls;
pub mod transport;
pub mod written;

pub use channel::{Address, NodeListener};
pub use listen::Listener;
