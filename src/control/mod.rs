//! The control socket: the apparatus side (`server`) and the links of a controller or client (`client`).

pub mod bell;
pub mod client;
pub mod hardener;
pub mod listen;
mod pipe;
pub mod runtime;
pub mod server;

pub use bell::Bell;
pub use hardener::Hardener;
pub use listen::Listener;
pub use runtime::Runtime;
pub use server::Server;
