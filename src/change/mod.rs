//! A change of the table under running hosts, and the moves made of such changes.
//!
//! `controller` and `participant` are the two halves of the protocol as pure state machines: event in, effects out,
//! no clock, no I/O. The driver in `driver` (controller's side) and `control::server` (apparatus's side) carry the
//! effects out; the simulator and the explorer in `tests/` drive the very same machines.

pub mod controller;
pub mod driver;
pub mod failpoint;
pub mod harden;
pub mod jobs;
pub mod participant;
pub mod parts;
pub mod recovery;
pub mod space;
pub(crate) mod survey;
