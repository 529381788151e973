//! Virtual volumes as plain files, laid out on real disks and moved between them while in use.
//!
//! In the order in which a request flows: [`frontend`] → [`datapath`] → [`gate`] → [`map`] → [`blockdev`]. Beside it stand the messages
//! ([`rpc`]), the control thread ([`agent`]), membership and fences ([`cluster`]), the database ([`store`]), the protocol's state machines
//! ([`protocol`]), the controller that drives them ([`controller`]), moves and other jobs ([`jobs`]), the operations behind the verbs
//! ([`admin`]), and the records that all use ([`model`]). [`serve`] puts an apparatus process together.

pub mod admin;
pub mod agent;
pub mod blockdev;
pub mod cluster;
pub mod controller;
pub mod datapath;
pub mod failpoint;
pub mod frontend;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod gate;
pub mod held;
pub mod jobs;
pub mod locks;
pub mod map;
pub mod metadata;
pub mod model;
pub mod place;
pub mod protocol;
pub mod rpc;
pub mod serve;
pub mod store;
pub mod supervisor;
pub mod sys;
