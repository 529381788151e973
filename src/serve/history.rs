//! The entry of an apparatus in its pool's history. That of a server that goes on with a mount is made beside its start, because hosts wait for that.

use super::Settings;
use crate::controller::history::Operation;
use crate::model::dir::PoolDir;
use std::thread::{self, JoinHandle};

/// The entry, which was made or is being made.
pub(super) enum Entry {
    Made(Box<Operation>),
    BeingMade(JoinHandle<Operation>),
    Missing,
}

impl Entry {
    /// Makes the entry, or begins to make it where hosts wait.
    pub(super) fn begin(pool: &PoolDir, settings: &Settings, hosts_wait: bool) -> Self {
        let (pool, by) = (pool.clone(), format!("apparatus {}", settings.name));
        let begin = move || Operation::begin(&pool, &by, command_line());
        if !hosts_wait {
            return Self::Made(Box::new(begin()));
        }
        match thread::Builder::new().name("history".into()).spawn(begin) {
            Ok(thread) => Self::BeingMade(thread),
            Err(why) => {
                log::info!("this start is not in the history: {why}");
                Self::Missing
            }
        }
    }

    /// Records the end, with this exit status; `why` is empty when nothing failed.
    pub(super) fn end(self, status: u8, why: &str) {
        let operation = match self {
            Self::Made(operation) => Some(*operation),
            // It takes no longer than recording may take.
            Self::BeingMade(thread) => thread.join().ok(),
            Self::Missing => None,
        };
        if let Some(operation) = operation {
            operation.end(status, why);
        }
    }
}

fn command_line() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}
