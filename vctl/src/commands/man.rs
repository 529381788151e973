//! `vctl man`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::{Error, Result};
use apparatus::ops::place;
use clap::{Args, Command, CommandFactory};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// `vctl man`
#[derive(Args, Debug)]
pub struct Man {
    /// The directory to write them to; made if missing
    dir: PathBuf,
}

/// Sections of the manual.
const USERS: &str = "1";
const ADMINISTRATORS: &str = "8";

#[derive(Serialize)]
struct Written {
    pages: Vec<String>,
}

impl Man {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let dir = place::absolute(&self.dir)?;
        fs::create_dir_all(&dir).map_err(|error| Error::because(dir.display().to_string(), error))?;
        let mut command = crate::cli::Cli::command().disable_help_subcommand(true);
        command.build();
        let mut written = Written { pages: Vec::new() };
        write_pages(&command, USERS, &dir, &mut written.pages)?;
        for program in apparatus::daemon::commands() {
            write_pages(&program, ADMINISTRATORS, &dir, &mut written.pages)?;
        }
        context.out.say(&written, |out| {
            written.pages.iter().for_each(|page| out.line(page));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// One page for the command and one for each below it, named as git's are: `vctl-volume-create.1`.
fn write_pages(command: &Command, section: &str, dir: &Path, written: &mut Vec<String>) -> Result<()> {
    let failed = |error: std::io::Error| Error::because(dir.display().to_string(), error);
    let page = clap_mangen::Man::new(command.clone())
        .section(section)
        .manual("apparatus")
        .generate_to(dir)
        .map_err(failed)?;
    written.push(page.to_string_lossy().into_owned());
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below
        .into_iter()
        .try_for_each(|below| write_pages(below, section, dir, written))
}
