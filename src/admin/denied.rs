//! Explains missing permissions on a pool: who owns it, and the way out.

use crate::controller::history::user_name;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Adds the pool's owner to an error where that is the reason, and a way out wherever permission is missing.
#[must_use]
pub fn explain(pool: &PoolDir, error: Error) -> Error {
    if !is_of_permission(&error) {
        return error;
    }
    match denied(pool) {
        Some((path, owner)) => {
            let (owner, me) = (named(owner), named(rustix::process::geteuid().as_raw()));
            let why = format!(
                "{}: {} belongs to user {owner}, and user {me} may not use it",
                error.why(),
                path.display()
            );
            Error::new(error.kind(), error.what(), why).hint(format!(
                "run this as user {owner}, or name a pool of your own with --pool DIR or $VCTL_POOL"
            ))
        }
        None if error.way_out().is_none() => {
            let me = named(rustix::process::geteuid().as_raw());
            error.hint(format!(
                "run this as a user with the permission, which user {me} does not have"
            ))
        }
        None => error,
    }
}

fn is_of_permission(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let words = [
        "Permission denied",
        "Operation not permitted",
        "readonly database",
        "unable to open database",
    ];
    source.is_some_and(|source| source.kind() == io::ErrorKind::PermissionDenied)
        || (error.kind() == ErrorKind::Failed && words.iter().any(|word| error.why().contains(word)))
}

/// Returns the first path on the way to the pool, or in it, that may not be used, with the number of its
/// owner. In the deepest existing directory the pool would have to be created, if it does not exist.
fn denied(pool: &PoolDir) -> Option<(PathBuf, u32)> {
    let dir = pool.path();
    let mut above: Vec<&Path> = dir.ancestors().skip(1).collect();
    above.reverse();
    let there = fs::symlink_metadata(dir).is_ok();
    let deepest = above.iter().rposition(|path| path.exists());
    let on_the_way = above.iter().enumerate().map(|(at, path)| {
        let makes = !there && Some(at) == deepest;
        (
            path.to_path_buf(),
            if makes {
                Access::WRITE_OK | Access::EXEC_OK
            } else {
                Access::EXEC_OK
            },
        )
    });
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let file = Access::READ_OK | Access::WRITE_OK;
    let inside = [(dir.to_owned(), all), (pool.database(), file), (pool.run(), all)];
    on_the_way
        .chain(inside)
        .find(|(path, wanted)| matches!(access(path, *wanted), Err(Errno::ACCESS | Errno::PERM)))
        .map(|(path, _)| {
            let owner = fs::symlink_metadata(&path).map_or(0, |meta| meta.uid());
            (path, owner)
        })
}

/// Returns a user's name, or the number if the system's user table does not have it.
fn named(uid: u32) -> String {
    user_name(uid).unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_permission_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path().join("pool"));
        let absent = || Error::because("file x", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(explain(&pool, absent()).way_out(), None);
        let denied = || Error::because("file x", io::Error::from_raw_os_error(13));
        assert!(explain(&pool, denied()).way_out().is_some());
        let explained = explain(&pool, denied().hint("do this"));
        assert_eq!(explained.way_out(), Some("do this"), "an existing hint is kept");
    }
}
