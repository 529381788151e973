//! The console as an operator has it: the built program in a pseudo-terminal, a real pool, apparatuses that serve. What is asserted
//! is what stands on the screen, and what has become of the pool. Each wait is for that, and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "helpers of tests may fail a test, and are shared with other tests"
)]

mod acting;
mod drawing;
mod ending;
mod looking;
mod screenshots;
#[path = "../contract/support.rs"]
mod support;
mod terminal;
