//! Messages between controllers and apparatuses, their frames, and the control socket.

mod bounded;
pub mod client;
pub mod frame;
pub mod listen;
pub mod message;
pub(crate) mod pipe;
pub mod transport;
pub mod written;

pub use listen::Listener;
