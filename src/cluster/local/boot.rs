//! The kernel's boot as the epoch of page caches: another boot means that memory was lost.

use crate::model::error::{Error, Result};
use crate::model::units::CacheEpoch;
use uuid::Uuid;

/// Returns the epoch of the running boot.
///
/// # Errors
/// Fails if `/proc` is not mounted.
pub fn boot_epoch() -> Result<CacheEpoch> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|why| {
        Error::because(path, why).hint("mount /proc: it distinguishes a crash from a power loss")
    })?;
    let id = Uuid::parse_str(text.trim()).map_err(|why| Error::because(path, why))?;
    Ok(CacheEpoch(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_one_epoch() {
        assert_eq!(boot_epoch().unwrap(), boot_epoch().unwrap());
    }
}
