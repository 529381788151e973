//! The terminal: taken over, drawn to, and given back as it was, also when this program panics.

use apparatus::error::{Error, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::{execute, terminal};

/// A terminal taken over; given back when dropped.
pub struct Screen {
    terminal: DefaultTerminal,
}

fn failed(error: std::io::Error) -> Error {
    Error::because("terminal", error)
}

impl Screen {
    /// Takes it over. From now on a panic gives it back before it is told.
    ///
    /// # Errors
    /// The terminal's.
    pub fn take() -> Result<Self> {
        Ok(Self {
            terminal: ratatui::try_init().map_err(failed)?,
        })
    }

    /// Draws.
    ///
    /// # Errors
    /// The terminal's.
    pub fn draw(&mut self, render: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<()> {
        self.terminal.draw(render).map(drop).map_err(failed)
    }

    /// Takes it over again, after somebody else had it, and forgets what it shows.
    ///
    /// # Errors
    /// The terminal's.
    pub fn retake(&mut self) -> Result<()> {
        terminal::enable_raw_mode().map_err(failed)?;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen).map_err(failed)?;
        // Not `clear`: it asks the terminal where the cursor is, and the answer would go to whoever reads the keys.
        let size = self.terminal.size().map_err(failed)?;
        self.terminal.resize(size.into()).map_err(failed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing given back.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}
