//! Completes the value of each argument by its value name: names of the pool, columns of the verb, files.

use super::line::CommandLine;
use crate::commands::columns;
use crate::output::size;
use apparatus::admin::place;
use apparatus::store::{Names, names};
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What the shell has to do besides offering the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Each candidate is a whole word.
    Words,
    /// Keep the cursor at the word: more may follow a comma.
    List,
    /// Complete files as well.
    Files,
    /// Complete directories as well.
    Directories,
}

impl Follow {
    /// Returns the word that the scripts read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::List => "list",
            Self::Files => "files",
            Self::Directories => "directories",
        }
    }

    /// Returns what a candidate asks of the shell, if anything.
    pub fn of(candidate: &CompletionCandidate) -> Option<Self> {
        let tag = candidate.get_tag()?.to_string();
        [Self::List, Self::Files, Self::Directories]
            .into_iter()
            .find(|kind| tag == kind.word())
    }

    fn mark(self, candidate: CompletionCandidate) -> CompletionCandidate {
        candidate.tag(Some(self.word().into()))
    }
}

/// The kind of value that an argument takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Volume,
    /// A removed volume that is remembered.
    Removed,
    Attached,
    Disk,
    /// A disk, or `@TAG` for the disks with a tag.
    Place,
    Tag,
    Apparatus,
    Node,
    /// An apparatus that has left and can be started again.
    Former,
    Job,
    /// A job that has not ended.
    Open,
    Columns,
    Column,
    File,
    Directory,
    YesOrNo,
    User,
    /// A value that only the operator knows: a new name, a size, a time.
    Free,
}

/// The values that are known where the command line is completed. Names are read only on demand.
#[derive(Clone, Default)]
pub struct Values {
    pool: Option<std::path::PathBuf>,
    names: Arc<OnceLock<Names>>,
}

impl Values {
    /// Returns the values of the pool that the command line names.
    pub fn of(line: &CommandLine) -> Self {
        Self {
            pool: line.pool(),
            names: Arc::default(),
        }
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let pool = place::pool_dir(self.pool.as_deref());
            pool.and_then(|pool| names(&pool)).unwrap_or_default()
        })
    }

    fn candidates(&self, takes: Takes, columns: &[&str], current: &str) -> Vec<CompletionCandidate> {
        let named = |list: &[(String, String)]| list.iter().map(|(name, help)| new(name, help)).collect();
        let all: Vec<CompletionCandidate> = match takes {
            Takes::Volume => sized(&self.names().volumes),
            Takes::Removed => sized(&self.names().removed),
            Takes::Attached => self.attached(),
            Takes::Disk => named(&self.names().disks),
            Takes::Tag => self.tags(""),
            Takes::Place => {
                let disks: Vec<_> = named(&self.names().disks);
                disks.into_iter().chain(self.tags("@")).collect()
            }
            Takes::Apparatus => named(&self.names().apparatuses),
            Takes::Node => named(&self.names().nodes),
            Takes::Former => named(&self.names().former),
            Takes::Job => self.jobs(|_| true),
            Takes::Open => self.jobs(|state| !matches!(state, "done" | "cancelled" | "failed")),
            Takes::Columns => return list(columns, current),
            Takes::Column => return sorting(columns, current),
            Takes::File => return vec![Follow::Files.mark(CompletionCandidate::new(current))],
            Takes::Directory => return vec![Follow::Directories.mark(CompletionCandidate::new(current))],
            Takes::YesOrNo => ["yes", "no"].map(CompletionCandidate::new).into(),
            Takes::User => users(),
            Takes::Free => Vec::new(),
        };
        let begins = |candidate: &CompletionCandidate| {
            let value = candidate.get_value().as_encoded_bytes();
            value.starts_with(current.as_bytes())
        };
        all.into_iter().filter(begins).collect()
    }

    /// Returns volumes with a loop device on this machine, by the backing file that the kernel names.
    fn attached(&self) -> Vec<CompletionCandidate> {
        let names = self.names();
        let of = |(device, file): (String, std::path::PathBuf)| {
            let (dir, name) = (file.parent()?, file.file_name()?.to_str()?);
            let ours = names.apparatuses.iter().any(|(_, mount)| Path::new(mount) == dir);
            let known = names.volumes.iter().any(|(volume, _)| volume == name);
            (ours && known).then(|| new(name, &device))
        };
        loop_devices().filter_map(of).collect()
    }

    fn tags(&self, before: &str) -> Vec<CompletionCandidate> {
        let tags = self.names().tags.iter();
        tags.map(|tag| new(&format!("{before}{tag}"), "tag")).collect()
    }

    fn jobs(&self, wanted: impl Fn(&str) -> bool) -> Vec<CompletionCandidate> {
        let jobs = self.names().jobs.iter().filter(|job| wanted(&job.state));
        jobs.map(|job| new(&job.id.to_string(), &format!("{}: {}", job.state, job.title)))
            .collect()
    }
}

fn sized(volumes: &[(String, u64)]) -> Vec<CompletionCandidate> {
    let volumes = volumes.iter();
    volumes.map(|(name, bytes)| new(name, &size(*bytes))).collect()
}

fn new(value: &str, help: &str) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.to_owned().into()))
}

/// Returns loop devices with their backing files.
fn loop_devices() -> impl Iterator<Item = (String, std::path::PathBuf)> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    blocks.filter_map(|block| {
        let file = fs::read_to_string(block.path().join("loop/backing_file")).ok()?;
        let device = format!("/dev/{}", block.file_name().to_str()?);
        let file = file.trim_end_matches('\n');
        // So the kernel shows a name that it has looked up again since.
        let file = file.strip_suffix(" (deleted)").unwrap_or(file);
        Some((device, file.into()))
    })
}

fn users() -> Vec<CompletionCandidate> {
    let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split(':').next());
    names
        .filter(|name| !name.is_empty())
        .map(CompletionCandidate::new)
        .collect()
}

/// Completes a comma-separated list of columns, `A,B` or `+A,B`.
fn list(columns: &[&str], current: &str) -> Vec<CompletionCandidate> {
    let begun = current.rfind([',', '+']).map_or(0, |at| at + 1);
    let (before, partial) = current.split_at(begun);
    let named: Vec<&str> = before.trim_start_matches('+').split(',').collect();
    let left = columns
        .iter()
        .filter(|column| named.iter().all(|named| !named.eq_ignore_ascii_case(column)));
    in_case(left.copied(), partial)
        .map(|column| Follow::List.mark(CompletionCandidate::new(format!("{before}{column}"))))
        .collect()
}

/// Completes a column to sort by, or `-COL` for descending order.
fn sorting(columns: &[&str], current: &str) -> Vec<CompletionCandidate> {
    let (sign, partial) = current.split_at(usize::from(current.starts_with('-')));
    in_case(columns.iter().copied(), partial)
        .map(|column| CompletionCandidate::new(format!("{sign}{column}")))
        .collect()
}

/// Returns the columns that begin with `partial`, in the case that was typed.
fn in_case<'a>(columns: impl Iterator<Item = &'a str>, partial: &str) -> impl Iterator<Item = String> {
    let lower = partial.contains(|letter: char| letter.is_ascii_lowercase());
    let cased = columns.map(move |column| {
        if lower {
            column.to_lowercase()
        } else {
            column.to_owned()
        }
    });
    cased.filter(move |column| column.starts_with(partial))
}

/// Attaches a completer to each argument of the command.
pub fn attach(command: Command, values: &Values) -> Command {
    attach_below(command, &mut Vec::new(), values)
}

fn attach_below(mut command: Command, verb: &mut Vec<String>, values: &Values) -> Command {
    let path: Vec<&str> = verb.iter().map(String::as_str).collect();
    let columns = columns(&path);
    let attached = command.get_arguments().filter(|arg| takes_value(arg)).map(|arg| {
        let takes = takes(&path, arg);
        (arg.get_id().clone(), takes)
    });
    let attached: Vec<_> = attached.filter_map(|(id, takes)| Some((id, takes?))).collect();
    for (id, takes) in attached {
        let (values, columns) = (values.clone(), columns.clone());
        let completer = move |current: &OsStr| values.candidates(takes, &columns, &current.to_string_lossy());
        command = command.mut_arg(id, |arg| arg.add(ArgValueCompleter::new(completer)));
    }
    let below: Vec<String> = command
        .get_subcommands()
        .map(|below| below.get_name().to_owned())
        .collect();
    for name in below {
        verb.push(name.clone());
        command = command.mut_subcommand(name, |below| attach_below(below, verb, values));
        verb.pop();
    }
    command
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Returns the kind of value that an argument of a verb takes; `None` if clap knows its possible values.
fn takes(verb: &[&str], arg: &Arg) -> Option<Takes> {
    if !arg.get_possible_values().is_empty() {
        return None;
    }
    let called = arg.get_value_names().and_then(|names| names.first());
    let called = called.map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string);
    let takes = match (called.as_str(), verb) {
        ("VOLUME", ["volume", "detach"]) => Takes::Attached,
        ("VOLUME", _) => Takes::Volume,
        ("REMOVED", _) => Takes::Removed,
        ("DISK", _) => Takes::Disk,
        ("DISK|@TAG", _) => Takes::Place,
        ("TAG", _) => Takes::Tag,
        ("APPARATUS", _) | ("NAME", ["apparatus", "stop" | "show" | "fence" | "rejoin" | "upgrade"]) => {
            Takes::Apparatus
        }
        ("NAME", ["apparatus", "start"]) => Takes::Former,
        ("NODE", ["node", ..]) => Takes::Node,
        ("JOB", ["job", "show"]) => Takes::Job,
        ("JOB", _) => Takes::Open,
        ("COL,…", _) => Takes::Columns,
        ("COL", _) => Takes::Column,
        ("PATH" | "FILE" | "FILE.ron" | "CMD", _) => Takes::File,
        ("DIR" | "MOUNTPOINT", _) => Takes::Directory,
        ("YES|NO", _) => Takes::YesOrNo,
        ("USER[:GROUP]", _) => Takes::User,
        _ => Takes::Free,
    };
    Some(takes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    fn free(command: &Command, verb: &mut Vec<String>, found: &mut BTreeSet<String>) {
        for arg in command.get_arguments().filter(|arg| takes_value(arg)) {
            let path: Vec<&str> = verb.iter().map(String::as_str).collect();
            if takes(&path, arg) == Some(Takes::Free) {
                let names = arg.get_value_names().and_then(|names| names.first());
                let id = arg.get_id().as_str().to_uppercase();
                found.insert(names.map_or(id, ToString::to_string));
            }
        }
        for below in command.get_subcommands() {
            verb.push(below.get_name().to_owned());
            free(below, verb, found);
            verb.pop();
        }
    }

    /// A new argument has to be listed: here, if only the operator can know its value.
    #[test]
    fn only_values_that_the_operator_alone_knows_are_not_completed() {
        let mut found = BTreeSet::new();
        free(&crate::cli::Cli::command(), &mut Vec::new(), &mut found);
        let known = [
            "A..B", "IP:PORT", "MODE", "N", "NAME", "NEW", "NODE", "PERCENT", "SEQ", "SIZE", "TIME", "URL",
            "UUID",
        ];
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn lists_of_columns_are_completed_after_the_last_comma() {
        let columns = ["NAME", "SIZE", "SEGMENTS"];
        let values = |current: &str| -> Vec<String> {
            let found = list(&columns, current);
            found
                .iter()
                .map(|candidate| candidate.get_value().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(values(""), columns);
        assert_eq!(values("s"), ["size", "segments"]);
        assert_eq!(values("S"), ["SIZE", "SEGMENTS"]);
        assert_eq!(values("name,S"), ["name,SIZE", "name,SEGMENTS"]);
        assert_eq!(values("+"), ["+NAME", "+SIZE", "+SEGMENTS"]);
        assert_eq!(values("+size,"), ["+size,NAME", "+size,SEGMENTS"]);
        assert!(values("x").is_empty() && values("NAME,x").is_empty());
    }
}
