//! How a failure is told: `vctl: WHAT: WHY` and `hint: …` on standard error, and with `--json` an object besides.

use crate::exit::{self, Done};
use crate::output::{Output, Style, note, printable};
use apparatus::error::{Error, Kind};
use clap::error::ErrorKind;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;

/// Tells people of a failure.
pub fn tell_people(error: &Error) {
    note(&format!("vctl: {}", printable(&error.to_string())));
    if let Some(hint) = error.way_out() {
        note(&format!("hint: {}", printable(hint)));
    }
}

/// Tells a failure, and answers its exit status.
pub fn report(error: &Error, json: bool) -> u8 {
    tell_people(error);
    if json {
        tell_scripts(error);
    }
    exit::status_of(error.kind())
}

#[derive(Serialize)]
struct Told<'a> {
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

fn tell_scripts(error: &Error) {
    let mut out = Output::new(Style {
        json: true,
        ..Style::default()
    });
    let kind = exit::word_of(error.kind());
    let told = Failure {
        kind,
        what: error.what(),
        why: error.why(),
        hint: error.way_out(),
    };
    if out
        .object(&Told { error: told })
        .and_then(|()| out.flush())
        .is_err()
    {
        note("vctl: standard output: cannot be written");
    }
}

/// Tells what is wrong with the arguments, or the help that was asked for.
pub fn of_arguments(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() {
        let _ = write!(std::io::stdout(), "{}", error.render());
        return 0;
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    report(&usage(error), json)
}

/// As one line: our own error if a value was refused, else what the parser says without its usage.
fn usage(error: &clap::Error) -> Error {
    let source = std::error::Error::source(error);
    if let Some(own) = source.and_then(|source| source.downcast_ref::<Error>()) {
        let told = Error::new(Kind::Usage, own.what(), own.why());
        return own.way_out().map_or(told, |hint| {
            Error::new(Kind::Usage, own.what(), own.why()).hint(hint)
        });
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("arguments", "a command is missing").hint("vctl --help lists them");
    }
    let text = error.render().to_string();
    let mut words = Vec::new();
    let mut hint = "see 'vctl --help'".to_owned();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            tip.clone_into(&mut hint);
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

/// A line for each apparatus that was put out of the control range on the way.
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
