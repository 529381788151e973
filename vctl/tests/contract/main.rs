//! The contract with scripts, tested on the built program: JSON of each verb, columns, exit statuses 0 to 8, dry runs that change nothing,
//! invalid input, help texts, and output that depends on neither locale nor terminal.

// Helpers of tests may fail a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod abandoned;
mod archive;
mod bad_input;
mod damage;
mod describe;
mod direct;
mod directory;
mod disk_files;
mod dry_run;
#[cfg(feature = "etcd")]
mod etcd;
mod every_verb;
mod help;
mod history;
mod import;
#[cfg(feature = "etcd")]
mod in_etcd;
mod in_use;
mod json;
mod live;
mod locale;
mod memory;
#[cfg(feature = "etcd")]
mod nodes;
mod older;
mod owners;
mod placement;
mod scheduling;
mod status;
mod style;
mod support;
mod tables;
mod undelete;
mod words;
