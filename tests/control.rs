//! The control path with the parts of real processes and without a mount: the answers of a control socket to bad input of any kind, and
//! changes through apparatuses that answer, are silent, are slow, come, go, and lose their controller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "control/changes.rs"]
mod changes;
#[cfg(feature = "etcd")]
#[path = "control/nodes.rs"]
mod nodes;
#[path = "control/path.rs"]
mod path;
#[path = "control/refusals.rs"]
mod refusals;
#[path = "control/rig.rs"]
mod rig;
