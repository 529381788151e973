//! `vctl man`.

mod examples;

use crate::context::Context;
use crate::exit::Done;
use apparatus::admin::place;
use apparatus::model::error::{Error, Result};
use clap::{Args, Command, CommandFactory};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// `vctl man`
#[derive(Args, Debug)]
pub struct Man {
    /// The directory to write them to; created if missing
    dir: PathBuf,
}

/// The section of the manual for user commands.
const USERS: &str = "1";
const ADMINISTRATORS: &str = "8";

#[derive(Serialize)]
struct Written {
    pages: Vec<String>,
}

impl Man {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let dir = place::absolute(&self.dir)?;
        fs::create_dir_all(&dir).map_err(|error| Error::because(dir.display().to_string(), error))?;
        let mut command = crate::cli::Cli::command().disable_help_subcommand(true);
        command.build();
        let mut written = Written { pages: Vec::new() };
        write_pages(&command, USERS, &dir, &mut written.pages)?;
        for program in apparatus::serve::daemon::commands() {
            write_pages(&program, ADMINISTRATORS, &dir, &mut written.pages)?;
        }
        context.out.say(&written, |out| {
            written.pages.iter().for_each(|page| out.line(page));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// Writes one page for the command and one for each verb below it, named like those of git: `vctl-volume-create.1`.
fn write_pages(command: &Command, section: &str, dir: &Path, written: &mut Vec<String>) -> Result<()> {
    let failed = |error: std::io::Error| Error::because(dir.display().to_string(), error);
    let page = clap_mangen::Man::new(command.clone())
        .section(section)
        .manual("apparatus");
    let mut text = Vec::new();
    page.render(&mut text).map_err(failed)?;
    let mut text = with_synopsis(&String::from_utf8_lossy(&text), command).into_bytes();
    text.extend(examples(command).into_bytes());
    let path = dir.join(page.get_filename());
    fs::write(&path, text).map_err(failed)?;
    written.push(path.to_string_lossy().into_owned());
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below
        .into_iter()
        .try_for_each(|below| write_pages(below, section, dir, written))
}

/// Replaces the synopsis of a page, which names options without their values, by the usage that `--help` prints.
fn with_synopsis(page: &str, command: &Command) -> String {
    const BEGIN: &str = "\n.SH SYNOPSIS\n";
    const END: &str = "\n.SH DESCRIPTION\n";
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage:").unwrap_or(&usage);
    let lines = usage
        .lines()
        .map(|line| line.trim().replace('\\', "\\\\").replace('-', "\\-"));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    match page
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)))
    {
        Some((before, after)) => format!("{before}{BEGIN}{}{END}{after}", lines.join("\n.br\n")),
        None => page.to_owned(),
    }
}

/// Returns the examples of a verb of `vctl`, found by its words.
fn examples(command: &Command) -> String {
    let called = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let verb = called.strip_prefix("vctl").map(str::trim_start);
    verb.map_or(String::new(), |verb| examples::as_roff(examples::of(verb)))
}
