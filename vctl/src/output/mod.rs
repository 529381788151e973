//! Standard output and standard error: tables and details as text, or one JSON object for scripts.
//!
//! A reader that goes away (`vctl events | head`) is no failure: the remaining output is dropped.

mod cell;
mod delta;
mod progress;
mod table;

pub use apparatus::model::words::count;
pub use cell::{Cell, Tone, duration, exact, printable, size};
pub use delta::PoolPreview;
pub use progress::{Display, Progress};
pub use table::{Column, TableOptions, details, table};

use apparatus::model::error::{Error, Result};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// Version of the JSON objects. Raised when a field changes its meaning; new fields leave it.
pub const FORMAT: u32 = 1;

/// The output style.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Print one JSON object instead of text.
    pub json: bool,
    /// Print sizes as integers.
    pub bytes: bool,
    /// Use colour.
    pub colour: bool,
}

impl Style {
    /// Enables colour only on a terminal, and never with `NO_COLOR`.
    #[must_use]
    pub fn new(json: bool, bytes: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            bytes,
            colour: io::stdout().is_terminal() && !unwanted && !dumb,
        }
    }
}

/// Standard output.
pub struct Output {
    style: Style,
    out: Box<dyn Write>,
    fault: Option<io::Error>,
}

impl Output {
    /// Returns the standard output of the process.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            style,
            out: Box::new(io::BufWriter::new(io::stdout())),
            fault: None,
        }
    }

    /// Returns the output style.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Returns whether the reader has gone.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.fault.is_some()
    }

    /// Writes a text unchanged.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Writes a line.
    pub fn line(&mut self, line: &str) {
        self.text(line);
        self.text("\n");
    }

    /// Writes bytes unchanged.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.out.write_all(bytes).err();
        }
    }

    /// Writes one JSON object on a line, with its format.
    ///
    /// # Errors
    /// Fails when `body` has no representation in JSON.
    pub fn object(&mut self, body: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(&Envelope { format: FORMAT, body })
            .map_err(|error| Error::because("output", error))?;
        self.line(&text);
        Ok(())
    }

    /// Writes `body` as JSON or as text, depending on the style.
    ///
    /// # Errors
    /// Fails when the chosen form cannot be written.
    pub fn say(
        &mut self,
        body: &impl Serialize,
        print_text: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if self.style.json {
            self.object(body)
        } else {
            print_text(self)
        }
    }

    /// Flushes the buffer.
    ///
    /// # Errors
    /// Fails when the output cannot be written, unless the reader has gone.
    pub fn flush(&mut self) -> Result<()> {
        if self.fault.is_none() {
            self.fault = self.out.flush().err();
        }
        match &self.fault {
            Some(fault) if fault.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::failed("standard output", fault.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A body preceded by the version of its format.
#[derive(Serialize)]
struct Envelope<'a, T> {
    format: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes a line to standard error. A failure cannot be reported and is ignored.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns the width of a terminal in columns, within limits; 80 for anything else.
pub fn width(terminal: impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(terminal);
    size.map_or(80, |size| usize::from(size.ws_col)).clamp(20, 200)
}
