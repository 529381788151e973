//! The control side of an apparatus: the control thread (`server`), and persisting changes for flushes (`persister`).

pub mod persister;
pub mod server;

pub use persister::Persister;
pub use server::Server;
