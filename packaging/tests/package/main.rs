//! The package is built from the programs of this build and installed with dpkg in a copy-on-write copy of this system; its files are
//! tested there, under systemd too, and removed again. Building needs dpkg-dev; installing needs root and overlay mounts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod deb;
mod scripts;
mod support;
mod units;
