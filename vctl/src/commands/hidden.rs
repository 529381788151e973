//! What vctl runs itself as: an apparatus where no `apparatus` program is beside it, and the step between a
//! terminal and a process that outlives it.

use crate::exit::Done;
use apparatus::error::{Error, Result};
use clap::Subcommand;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Not for people.
#[derive(Subcommand, Debug)]
pub enum Hidden {
    /// Serve as an apparatus
    #[command(name = "__apparatus", hide = true, disable_help_flag = true)]
    Apparatus {
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<OsString>,
    },
    /// Leave the terminal's session, then become the program named
    #[command(name = "__detached", hide = true, disable_help_flag = true)]
    Detached {
        #[arg(allow_hyphen_values = true, trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
}

impl Hidden {
    /// Does it.
    pub fn run(self) -> Result<Done> {
        match self {
            Self::Apparatus { arguments } => {
                let program = OsString::from("apparatus");
                Ok(Done::Of(apparatus::daemon::main(
                    std::iter::once(program).chain(arguments),
                )))
            }
            Self::Detached { command } => detached(&command),
        }
    }
}

fn detached(command: &[OsString]) -> Result<Done> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(Done::Plainly);
    };
    // It fails only for a process that leads a group, as one started from a shell would: then it is what is wanted already.
    let _ = rustix::process::setsid();
    Err(Error::because(
        program.to_string_lossy(),
        Command::new(program).args(arguments).exec(),
    ))
}

/// The words that start an apparatus: the program beside this one, else the one in `$PATH`, else this one itself.
pub fn apparatus_program() -> Result<Vec<OsString>> {
    let this = std::env::current_exe().map_err(|error| Error::because("vctl", error))?;
    let beside = this.with_file_name("apparatus");
    let found = if is_program(&beside) {
        Some(beside)
    } else {
        in_path("apparatus")
    };
    let mut words: Vec<OsString> = vec![this.clone().into(), "__detached".into(), "--".into()];
    match found {
        Some(program) => words.push(program.into()),
        None => words.extend([this.into(), "__apparatus".into(), "--".into()]),
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
