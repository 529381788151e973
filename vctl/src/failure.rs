//! Reports failures: `vctl: WHAT: WHY` and `hint: …` on standard error, and with `--json` also an object.

use crate::exit::{self, Done};
use crate::output::{Output, Style, note, printable};
use apparatus::model::error::{Error, ErrorKind};
use serde::Serialize;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;

/// Writes a failure to standard error.
pub fn write_text(error: &Error) {
    note(&format!("vctl: {}", printable(&error.to_string())));
    if let Some(hint) = error.way_out() {
        note(&format!("hint: {}", printable(hint)));
    }
}

/// Reports a failure and returns its exit status.
pub fn report(error: &Error, json: bool) -> u8 {
    write_text(error);
    if json {
        write_json(error);
    }
    exit::status_of(error.kind())
}

#[derive(Serialize)]
struct FailureReport<'a> {
    error: Failure<'a>,
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'a str,
    what: &'a str,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

fn write_json(error: &Error) {
    let mut out = Output::new(Style {
        json: true,
        ..Style::default()
    });
    let kind = exit::word_of(error.kind());
    let failure = Failure {
        kind,
        what: error.what(),
        why: error.why(),
        hint: error.way_out(),
    };
    if out
        .object(&FailureReport { error: failure })
        .and_then(|()| out.flush())
        .is_err()
    {
        note("vctl: standard output: cannot be written");
    }
}

/// Reports invalid arguments, or prints the help that was asked for, and returns the exit status.
pub fn of_arguments(error: &clap::Error, commands: &clap::Command, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() {
        let _ = write!(std::io::stdout(), "{}", error.render());
        return 0;
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    report(&usage(error, &verb_of(commands, arguments)), json)
}

/// Returns the program and the command that arguments begin with, as far as there is one: `vctl volume move`.
fn verb_of(commands: &clap::Command, arguments: &[OsString]) -> String {
    let mut found = vec![commands.get_name()];
    let mut command = commands;
    for word in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(next) = command.find_subcommand(word) {
            found.push(next.get_name());
            command = next;
        }
    }
    found.join(" ")
}

/// Returns one line: the error of our own parser if a value was refused, otherwise the message of clap without its usage.
fn usage(error: &clap::Error, verb: &str) -> Error {
    let source = std::error::Error::source(error);
    if let Some(own) = source.and_then(|source| source.downcast_ref::<Error>()) {
        let failure = Error::new(ErrorKind::Usage, own.what(), own.why());
        return own.way_out().map_or(failure, |hint| {
            Error::new(ErrorKind::Usage, own.what(), own.why()).hint(hint)
        });
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("arguments", "a command is missing").hint(format!("{verb} --help lists them"));
    }
    let text = error.render().to_string();
    let mut words = Vec::new();
    let mut hint = match error.kind() {
        clap::error::ErrorKind::InvalidSubcommand => format!("{verb} --help lists the commands"),
        _ => format!("see '{verb} --help'"),
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            // What is no option of the verb is no value of it either.
            if !tip.starts_with("to pass ") {
                tip.clone_into(&mut hint);
            }
        } else if !line.starts_with("Usage:") && !line.starts_with("For more information") {
            words.push(line.strip_prefix("error: ").unwrap_or(line));
        } else if let Some(usage) = line.strip_prefix("Usage: ")
            && hint.starts_with("see ")
        {
            hint = format!("usage: {usage}");
        }
    }
    Error::usage("arguments", words.join(" ")).hint(hint)
}

/// Writes one line for each apparatus that was fenced on the way.
pub fn note_fenced(done: &Done) {
    if let Done::WithFenced(names) = done {
        for name in names.iter().collect::<BTreeSet<_>>() {
            note(&format!(
                "vctl: apparatus {name}: fenced, it did not answer; the change went on without it"
            ));
            note(&format!("hint: vctl apparatus show {name}"));
        }
    }
}
