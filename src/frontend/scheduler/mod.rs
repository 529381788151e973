//! Schedules the FUSE reader threads: decides how many take requests, and which.

mod concurrency;
mod governor;
pub(super) mod readers;
