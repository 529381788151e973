//! Direct pools: the tests of other files once more, on disks that are read and written past the page cache, and what only such pools do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "each of the files has its shared parts as modules of its own"
)]

#[path = "direct/hung.rs"]
mod hung;
#[path = "kill.rs"]
mod kill;
#[path = "mount.rs"]
mod mount;
#[path = "moves.rs"]
mod moves;
#[path = "direct/pages.rs"]
mod pages;
mod support;
