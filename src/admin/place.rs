//! Chooses the pool's directory, and a default when none is named.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};

/// Environment variable that names the pool's directory for every program of this project.
pub const VARIABLE: &str = "VCTL_POOL";

/// Returns the pool's directory: the one given, else `$VCTL_POOL`, else the user's own. It is always absolute.
///
/// # Errors
/// Fails when there is no home directory, or the working directory is gone.
pub fn pool_dir(given: Option<&Path>) -> Result<PoolDir> {
    let named = given.map(Path::to_owned).or_else(|| variable(VARIABLE));
    let dir = match named {
        Some(dir) => dir,
        None => users_own(rustix::process::geteuid().is_root(), &variable)?,
    };
    absolute(&dir).map(PoolDir::new)
}

/// Returns the absolute path; it need not exist.
///
/// # Errors
/// Fails when the path is empty or the working directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::because(format!("path {path:?}"), error))
}

/// Returns the directory above this one whose files are deleted at a restart, or when they have not been used for some days.
#[must_use]
pub fn cleaned_above(dir: &Path) -> Option<&'static Path> {
    const CLEANED: [&str; 3] = ["/tmp", "/var/tmp", "/run"];
    CLEANED
        .into_iter()
        .map(Path::new)
        .find(|cleaned| dir.starts_with(cleaned))
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn users_own(root: bool, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if root {
        return Ok("/var/lib/apparatus/pool".into());
    }
    let state = variable("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
    let state = state.or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map(|dir| dir.join("apparatus/pool")).ok_or_else(|| {
        Error::usage("pool", "neither $HOME nor $XDG_STATE_HOME is set").hint("name the pool with --pool DIR")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<PathBuf> {
        move |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| PathBuf::from(value))
        }
    }

    #[test]
    fn a_directory_that_is_cleaned_is_known() {
        let above = |dir: &str| cleaned_above(Path::new(dir)).and_then(Path::to_str);
        assert_eq!(above("/tmp/pool"), Some("/tmp"));
        assert_eq!(above("/var/tmp/a/pool"), Some("/var/tmp"));
        assert_eq!(above("/run/user/1000/pool"), Some("/run"));
        assert_eq!(above("/tmpfiles/pool"), None);
        assert_eq!(above("/var/lib/apparatus/pool"), None);
    }

    #[test]
    fn each_user_has_a_pool() {
        assert_eq!(
            users_own(true, &with(&[("HOME", "/r")])).unwrap(),
            Path::new("/var/lib/apparatus/pool")
        );
        let home = with(&[("HOME", "/h/u")]);
        assert_eq!(
            users_own(false, &home).unwrap(),
            Path::new("/h/u/.local/state/apparatus/pool")
        );
        let state = with(&[("HOME", "/h/u"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!(users_own(false, &state).unwrap(), Path::new("/s/apparatus/pool"));
        let relative = with(&[("HOME", "/h/u"), ("XDG_STATE_HOME", "s")]);
        assert_eq!(
            users_own(false, &relative).unwrap(),
            Path::new("/h/u/.local/state/apparatus/pool")
        );
        assert!(users_own(false, &with(&[])).is_err());
    }
}
