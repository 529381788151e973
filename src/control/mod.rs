//! The control socket: the apparatus side (`server`) and the links of a controller or client (`client`).

pub mod bell;
pub mod runtime;

pub use bell::Bell;
pub use runtime::Runtime;
