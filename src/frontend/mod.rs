//! Receives requests of hosts: the FUSE mount, and the scheduling of the threads that read from it.

pub mod fuse;
mod scheduler;
