//! Virtual volumes as plain files, laid out on real disks and moved between them while in use.
//!
//! In the order a request flows: [`fuse`] → [`data`] → [`gate`] → [`table`] → [`disk`]. Beside it stand the formats
//! ([`wire`]), the control thread ([`control`]), who is in and who is fenced ([`member`]), the database ([`store`]), changes and moves
//! ([`change`]), and what all speak of ([`pool`], [`units`], [`error`]). [`serve`] puts it together to a process.

pub mod change;
pub mod config;
pub mod control;
pub mod daemon;
pub mod data;
pub mod disk;
pub mod error;
pub mod fuse;
pub mod gate;
pub mod held;
pub mod locks;
pub mod member;
pub mod mount_helper;
pub mod ops;
pub mod pool;
pub mod serve;
pub mod store;
pub mod sys;
pub mod table;
pub mod units;
pub mod wire;
