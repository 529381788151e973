//! Text files written by operators.

use crate::model::error::{Error, Result};
use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Largest size of such a file in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads a file that an operator wrote. It refuses files that never end or block, such as devices and pipes, and files larger
/// than 1 MiB.
pub(crate) fn read_text(file: &Path, what: &str) -> Result<String> {
    let failed = |error| Error::because(what, error);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .map_err(|error| Error::of_named_file(what, error))?;
    check_regular(&opened.metadata().map_err(failed)?, what)?;
    let mut text = String::new();
    opened
        .take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::usage(what, "is longer than 1 MiB"));
    }
    Ok(text)
}

/// Fails if the file is not a regular file.
pub(crate) fn check_regular(found: &Metadata, what: &str) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::usage(what, "is not a regular file"))
}
