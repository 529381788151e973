//! What scripts rely on, on the built program: each verb's JSON, columns, exit statuses 0 to 8, dry runs that change nothing,
//! input that cannot be used, help texts, and that output depends on neither locale nor terminal.

// Helpers of tests may fail a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod abandoned;
mod bad_input;
mod describe;
mod dry_run;
mod every_verb;
mod help;
mod history;
mod in_use;
mod json;
mod live;
mod locale;
mod owners;
mod placement;
mod status;
mod style;
mod support;
mod tables;
