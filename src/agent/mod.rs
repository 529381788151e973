//! The control side of an apparatus: the control thread (`server`), rejoining in the store (`rejoining`), and persisting changes for flushes (`persister`).

pub mod lease;
pub mod persister;
mod rejoining;
pub mod server;

pub use persister::Persister;
pub use rejoining::rejoin;
pub use server::Server;
