//! The control path with real processes' parts and no mount: what a control socket answers to bad input of any kind, and
//! that changes go through apparatuses that answer, are silent, are slow, come, go, and lose their controller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "control/changes.rs"]
mod changes;
#[path = "control/refusals.rs"]
mod refusals;
#[path = "control/rig.rs"]
mod rig;
