//! Messages between controllers and apparatuses, their frames, and the control socket.

pub mod client;
pub mod frame;
pub mod listen;
pub mod message;
pub(crate) mod pipe;
pub mod transport;

pub use listen::Listener;
