//! What goes to standard output and standard error: tables and details for people, one object for scripts.
//!
//! A reader that goes away (`vctl events | head`) is no failure: what is left to say is dropped quietly.

mod cell;
mod progress;
mod table;

pub use cell::{Cell, Tone, count, duration, printable, size};
pub use progress::{Display, Progress};
pub use table::{Column, TableOptions, details, table};

use apparatus::error::{Error, Result};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// Version of the JSON objects. Raised when a field changes its meaning; new fields leave it.
pub const FORMAT: u32 = 1;

/// How to say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// One JSON object instead of text.
    pub json: bool,
    /// Sizes as integers.
    pub bytes: bool,
    /// With colour.
    pub colour: bool,
}

impl Style {
    /// Colour only on a terminal, and never with `NO_COLOR`.
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
    /// On the process's standard output.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            style,
            out: Box::new(io::BufWriter::new(io::stdout())),
            fault: None,
        }
    }

    /// How to say it.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Nobody reads any more.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.fault.is_some()
    }

    /// Writes text as it is.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Writes a line.
    pub fn line(&mut self, line: &str) {
        self.text(line);
        self.text("\n");
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.out.write_all(bytes).err();
        }
    }

    /// Writes one JSON object on a line, with its format.
    ///
    /// # Errors
    /// When `body` has no JSON.
    pub fn object(&mut self, body: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(&Envelope { format: FORMAT, body })
            .map_err(|error| Error::because("output", error))?;
        self.line(&text);
        Ok(())
    }

    /// Says it one way or the other.
    ///
    /// # Errors
    /// Those of the way chosen.
    pub fn say(&mut self, body: &impl Serialize, people: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.style.json {
            self.object(body)
        } else {
            people(self)
        }
    }

    /// Hands over what is buffered.
    ///
    /// # Errors
    /// When it cannot be written, except for want of a reader.
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

/// A body with the version of its format before it.
#[derive(Serialize)]
struct Envelope<'a, T> {
    format: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes a line to standard error; nothing can be done if that fails.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// How many columns a terminal has, within reason; 80 for what is none.
pub fn width(terminal: impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(terminal);
    size.map_or(80, |size| usize::from(size.ws_col)).clamp(20, 200)
}
