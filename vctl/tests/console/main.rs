//! The console under realistic conditions: the built program in a pseudo-terminal, a real pool, apparatuses that serve. The tests assert
//! the content of the screen and the state of the pool. Each wait is for one of these, and is bounded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "helpers of tests may fail a test, and are shared with other tests"
)]

mod acting;
mod changing;
mod drawing;
mod ending;
mod looking;
mod screenshots;
mod sizes;
#[path = "../contract/support.rs"]
mod support;
mod terminal;
