//! Learns that the kernel could not read a reply's bytes from a disk's mapping.
//!
//! A read is answered straight from the mapping, so a disk error (or an image cut short) shows as EFAULT when the reply is sent.
//! The kernel answers EIO to the host by itself. fuser tells of it in the log only, on the thread that sends: so this
//! stands in front of the program's logger. Without it the host's answer is the same, and only the count is missing.

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use std::cell::Cell;

/// Where fuser logs replies that could not be sent.
const SENDER: &str = "fuser::reply";

thread_local! {
    static UNREADABLE: Cell<bool> = const { Cell::new(false) };
}

/// Makes `logger` the program's, with the witness in front.
///
/// # Errors
/// When the program has one already.
pub fn set_logger(logger: Box<dyn Log>, level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(Witness(logger)))?;
    log::set_max_level(level.max(LevelFilter::Error));
    Ok(())
}

/// Runs `send` and answers whether the kernel could not read what was sent.
pub(super) fn saw_unreadable(send: impl FnOnce()) -> bool {
    send();
    UNREADABLE.take()
}

struct Witness(Box<dyn Log>);

impl Log for Witness {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() == Level::Error && record.target() == SENDER {
            let why = record.args().to_string();
            UNREADABLE.set(why.contains("os error 14"));
            // The others are hosts that have gone away.
            return;
        }
        self.0.log(record);
    }

    fn flush(&self) {
        self.0.flush();
    }
}
