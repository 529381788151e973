//! The package is built from the programs of this build and installed with dpkg in a copy-on-write copy of this system; what it installs is
//! tried there, under systemd too, and taken away again. Building needs dpkg-dev; installing needs root and overlay mounts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that cannot go on fails"
)]

mod deb;
mod support;
mod units;
