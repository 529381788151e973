//! Records for operators: options, the fullness of the pool, events, the audit log.

use crate::model::audit;
use crate::model::error::Result;
use crate::model::event::{Event, Severity};
use crate::model::options::{Fullness, Options};

/// Options, events and the audit log.
pub trait EventStore: Send {
    /// Returns the operator's settings of the pool.
    fn options(&mut self) -> Result<Options>;
    /// Sets them. They are durable when it returns.
    fn set_options(&mut self, options: &Options) -> Result<()>;
    /// Returns the fullness of the pool at the last check.
    fn fullness(&mut self) -> Result<Fullness>;
    /// Records the fullness that the holder of the controller lock has found.
    fn set_fullness(&mut self, fullness: Fullness) -> Result<()>;
    /// Appends an event.
    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()>;
    /// Returns events after `seq`, oldest first, at most `most`.
    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>>;
    /// Writes an entry of the audit log, or the end of an entry that has none. Only the newest [`audit::KEPT`] are kept.
    fn record(&mut self, entry: &audit::Entry) -> Result<()>;
    /// Returns entries written after the mark `after`, in the order of their marks, at most `most`.
    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<audit::Recorded>>;
}
