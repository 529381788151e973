//! The terminal: set up, drawn to, and restored, also when this program panics.

use apparatus::model::error::{Error, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::{execute, terminal};

/// A terminal that the console has set up; dropping it restores the terminal.
pub struct Screen {
    terminal: DefaultTerminal,
}

fn failed(error: std::io::Error) -> Error {
    Error::because("terminal", error)
}

impl Screen {
    /// Sets the terminal up. From then on a panic restores it before the panic is reported.
    ///
    /// # Errors
    /// Fails when the terminal fails.
    pub fn take() -> Result<Self> {
        Ok(Self {
            terminal: ratatui::try_init().map_err(failed)?,
        })
    }

    /// Draws a frame.
    ///
    /// # Errors
    /// Fails when the terminal fails.
    pub fn draw(&mut self, render: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<()> {
        self.terminal.draw(render).map(drop).map_err(failed)
    }

    /// Sets the terminal up again after another program used it, and forgets what it shows.
    ///
    /// # Errors
    /// Fails when the terminal fails.
    pub fn retake(&mut self) -> Result<()> {
        terminal::enable_raw_mode().map_err(failed)?;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen).map_err(failed)?;
        // `clear` would ask the terminal for the cursor's position, and the thread that reads keys would receive the answer.
        let size = self.terminal.size().map_err(failed)?;
        self.terminal.resize(size.into()).map_err(failed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has closed needs no restoring.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}
