//! [`EventStore`] of this store.

use crate::model::audit::{Entry, Recorded};
use crate::model::error::Result;
use crate::model::event::{Event, Severity};
use crate::model::options::{Fullness, Options};
use crate::store::EventStore;
use crate::store::memory::MemoryStore;

impl EventStore for MemoryStore {
    fn options(&mut self) -> Result<Options> {
        Ok(self.read().options)
    }

    fn set_options(&mut self, options: &Options) -> Result<()> {
        self.write(|state, _| {
            state.options = *options;
            Ok(())
        })?;
        self.sync();
        Ok(())
    }

    fn fullness(&mut self) -> Result<Fullness> {
        Ok(self.read().fullness)
    }

    fn set_fullness(&mut self, fullness: Fullness) -> Result<()> {
        self.write(|state, _| {
            state.fullness = fullness;
            Ok(())
        })
    }

    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()> {
        self.write(|state, _| {
            state.log(severity, subject, text);
            Ok(())
        })
    }

    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>> {
        let state = self.read();
        Ok(state
            .events
            .iter()
            .filter(|event| event.seq > after)
            .take(most)
            .cloned()
            .collect())
    }

    fn record(&mut self, entry: &Entry) -> Result<()> {
        self.write(|state, _| {
            state.record(entry);
            Ok(())
        })
    }

    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<Recorded>> {
        let mut all = self.read().audit.clone();
        all.retain(|each| each.mark > after);
        all.sort_by_key(|each| each.mark);
        all.truncate(most);
        Ok(all)
    }
}
