//! Hidden verbs that vctl runs itself with: an apparatus where there is no `apparatus` program beside it, the step between a terminal and a
//! process that outlives it, and the requests of the completion scripts.

use crate::completion;
use crate::exit::Done;
use apparatus::model::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Serves as an apparatus.
const APPARATUS: &str = "__apparatus";
/// Leaves the session of the terminal, then executes the named program.
const DETACHED: &str = "__detached";

/// Runs a hidden verb if one is given. Help and completions do not list them.
pub fn intercept(arguments: &[OsString]) -> Option<Result<Done>> {
    let (word, rest) = arguments.get(1..)?.split_first()?;
    if word == APPARATUS {
        let program = std::iter::once(OsString::from("apparatus"));
        return Some(Ok(Done::Of(apparatus::serve::daemon::main(
            program.chain(rest.iter().cloned()),
        ))));
    }
    if word == completion::COMPLETE {
        return Some(completion::complete(rest));
    }
    if word == completion::ANSWER {
        return Some(completion::answer(rest));
    }
    (word == DETACHED).then(|| detached(rest))
}

fn detached(command: &[OsString]) -> Result<Done> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::usage(DETACHED, "names no program"))?;
    // The call fails only for a process that leads a group, such as one started by a shell; it has a session or group of its own already.
    let _ = rustix::process::setsid();
    Err(Error::because(
        program.to_string_lossy(),
        Command::new(program).args(arguments).exec(),
    ))
}

/// Returns the words that start an apparatus: the program beside this one, otherwise the one in `$PATH`, otherwise this program.
pub fn apparatus_program() -> Result<Vec<OsString>> {
    let this = std::env::current_exe().map_err(|error| Error::because("vctl", error))?;
    let beside = this.with_file_name("apparatus");
    let found = if is_program(&beside) {
        Some(beside)
    } else {
        in_path("apparatus")
    };
    let mut words: Vec<OsString> = vec![this.clone().into(), DETACHED.into()];
    match found {
        Some(program) => words.push(program.into()),
        None => words.extend([this.into(), APPARATUS.into()]),
    }
    Ok(words)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
}
