//! [`EventStore`] of this store.

use crate::model::audit::{Entry, Recorded};
use crate::model::error::Result;
use crate::model::event::{Event, Severity};
use crate::model::options::{Fullness, Options};
use crate::store::EventStore;
use crate::store::sqlite::{SqliteStore, audit, events, options};

impl EventStore for SqliteStore {
    fn options(&mut self) -> Result<Options> {
        options::read(self.current()?)
    }

    fn set_options(&mut self, options: &Options) -> Result<()> {
        self.write(|db| options::write(db, options))?;
        self.log.sync()
    }

    fn fullness(&mut self) -> Result<Fullness> {
        options::fullness(self.current()?)
    }

    fn set_fullness(&mut self, fullness: Fullness) -> Result<()> {
        self.write(|db| options::set_fullness(db, fullness))
    }

    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()> {
        self.write(|db| events::log(db, severity, subject, text))
    }

    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>> {
        events::events(self.current()?, after, most)
    }

    fn record(&mut self, entry: &Entry) -> Result<()> {
        self.write(|db| audit::record(db, entry))
    }

    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<Recorded>> {
        audit::recorded(self.current()?, after, most)
    }
}
