//! Replaces the server of an apparatus while hosts use it.

use super::member;
use crate::admin::open_images;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::store::Store;
use crate::supervisor;
use rustix::fs::{Access, access};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Replaces the server of an apparatus by one of this program, which is the present one's path if `None`, and returns how long hosts waited. The present
/// server goes on when the new one does not come up.
///
/// # Errors
/// Fails with the errors of [`check_upgrade`], and with the reason why the server was not replaced.
pub fn upgrade(
    pool: &PoolDir,
    store: &mut dyn Store,
    name: &Name,
    program: Option<&Path>,
    lost: &[String],
    within: Duration,
) -> Result<Duration> {
    check_upgrade(pool, store, name, program, lost)?;
    let what = || format!("apparatus {name}");
    let text = program.map(|program| {
        program
            .to_str()
            .ok_or_else(|| not_a_program(program, "its path is not UTF-8"))
    });
    match supervisor::ask_for_upgrade(pool, name, text.transpose()?, within) {
        Ok(Ok(waited)) => Ok(waited),
        Ok(Err(why)) => {
            let error = Error::failed(what(), format!("its server was not replaced: {why}"));
            Err(error.hint(format!("its log says more: {}", pool.log(name).display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = Error::failed(
                what(),
                "its supervisor takes no requests: it is of an older version",
            );
            Err(error.hint("stop the apparatus, and start it with the new program"))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let why = format!("its server has not been replaced after {} s", within.as_secs());
            let hint = format!("its log says how it goes on: {}", pool.log(name).display());
            Err(Error::new(ErrorKind::TimedOut, what(), why).hint(hint))
        }
        Err(error) => Err(Error::because(what(), error)),
    }
}

/// Checks what can be checked before a server is replaced.
///
/// # Errors
/// Fails with `NotFound`, when the apparatus has no supervisor, and when the program cannot be executed; fails with `Busy` when the present server has a
/// disk open that another one could not open, unless it is one of those that may be `lost`.
pub fn check_upgrade(
    pool: &PoolDir,
    store: &mut dyn Store,
    name: &Name,
    program: Option<&Path>,
    lost: &[String],
) -> Result<()> {
    let what = || format!("apparatus {name}");
    let supervisor = supervisor::supervisor_of(pool, name);
    if supervisor
        .map_err(|error| Error::because(what(), error))?
        .is_none()
    {
        member(store, name.as_str())?;
        let why = "has no supervisor, so its server cannot be replaced while hosts use it";
        return Err(Error::failed(what(), why).hint(format!(
            "stop it, and start it with one: vctl apparatus start {name} MOUNTPOINT --supervisor"
        )));
    }
    // Without a record of the server there is none that has a disk open.
    if let Ok(member) = member(store, name.as_str()) {
        open_images::check_replacement(store, &member, lost)?;
    }
    let Some(program) = program else {
        return Ok(());
    };
    match std::fs::metadata(program) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::NotFound,
            format!("program {}", program.display()),
            "does not exist",
        )),
        Err(error) => Err(Error::because(format!("program {}", program.display()), error)),
        Ok(found) if !found.is_file() => Err(not_a_program(program, "is not a file")),
        Ok(_) if access(program, Access::EXEC_OK).is_err() => {
            Err(not_a_program(program, "may not be executed"))
        }
        Ok(_) => Ok(()),
    }
}

fn not_a_program(program: &Path, why: &str) -> Error {
    Error::failed(format!("program {}", program.display()), why)
}
