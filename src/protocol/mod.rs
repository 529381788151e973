//! The protocol of a change as pure state machines: events in, effects out, no clock, no I/O.
//!
//! [`crate::controller`] and [`crate::agent`] carry out the effects; the simulator and the explorer in `tests/` drive the same
//! machines.

pub mod agent;
pub mod controller;
pub mod lease;
pub mod participant;
pub mod parts;
pub mod recovery;
