//! The identity of the running boot.

use crate::error::{Error, Result};
use crate::units::BootId;

const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's, read anew.
///
/// # Errors
/// When `/proc` is not there.
pub fn boot_id() -> Result<BootId> {
    let text = std::fs::read_to_string(FILE).map_err(|error| Error::because(FILE, error))?;
    let uuid = text
        .trim()
        .parse()
        .map_err(|error: uuid::Error| Error::because(FILE, error))?;
    Ok(BootId(uuid))
}

#[cfg(test)]
mod tests {
    #[test]
    fn stays_the_same_as_long_as_the_machine_runs() {
        assert_eq!(super::boot_id().unwrap(), super::boot_id().unwrap());
    }
}
