//! Text of a lock file, which names the process that holds the lock, the purpose, and since when.

use crate::model::units::Timestamp;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longest purpose that is written, in bytes.
const LONGEST: usize = 200;

/// Line of text for a lock file.
pub(super) struct LockNotice {
    text: String,
}

impl LockNotice {
    /// Makes the line for a lock that is taken now: `job 7 by pid 123 since 2026-01-31T10:02:00Z`.
    pub(super) fn new(purpose: &str) -> Self {
        let (pid, now) = (std::process::id(), Timestamp::now());
        let text = format!("{} by pid {pid} since {now:.0}\n", plain(purpose));
        Self { text }
    }

    /// Writes the line, unless the file has it already.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let mut present = [0; 2 * LONGEST];
        let read = file.read_at(&mut present, 0)?;
        if present.get(..read) == Some(self.text.as_bytes()) {
            return Ok(());
        }
        file.write_all_at(self.text.as_bytes(), 0)?;
        file.set_len(self.text.len() as u64)
    }
}

/// Reads the line of a lock file, or returns `None` when that is empty.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(2 * LONGEST as u64)
        .read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let line = plain(text.lines().next().unwrap_or_default());
    Ok((!line.is_empty()).then_some(line))
}

/// Removes control characters, and bounds the length.
fn plain(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).collect();
    while line.len() > LONGEST {
        line.pop();
    }
    line
}
