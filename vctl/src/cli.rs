//! The verbs of the command line and their dispatch.

use crate::commands::{
    apparatus, completions, console, demo, disk, events, hidden, history, job, man, metrics, node, pool,
    status, volume,
};
use crate::context::{Context, Global};
use crate::exit::{self, Done};
use crate::failure;
use ::apparatus::admin::denied;
use ::apparatus::controller::history::Operation;
use ::apparatus::model::error::Result;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;

/// Pools of virtual volumes: plain files, laid out on real disks, moved while in use
#[derive(Parser, Debug)]
#[command(
    name = "vctl",
    version,
    max_term_width = 100,
    propagate_version = true,
    infer_long_args = false
)]
#[command(after_help = "Sizes: 4096, 64K and 64KiB (both 1024), 64KB (1000), K to P. \
Exit status: 0 done, 1 failed, 2 usage, 3 no such thing, 4 busy, 5 done but an apparatus was fenced, \
6 timed out and nothing changed, 7 check found problems, 8 cancelled.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand, Debug)]
enum Noun {
    /// Run the main task from nothing to a verified move, with its figures
    Demo(demo::Demo),
    /// The pool as a whole
    #[command(subcommand)]
    Pool(pool::Verb),
    /// Disks: block devices and image files
    #[command(subcommand)]
    Disk(disk::Verb),
    /// Volumes: files in the mounts of the apparatuses
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Apparatuses: the processes that serve volumes
    #[command(subcommand)]
    Apparatus(apparatus::Verb),
    /// Nodes: the machines of a pool whose metadata is in etcd
    #[command(subcommand)]
    Node(node::Verb),
    /// Jobs: moves and evacuations
    #[command(subcommand)]
    Job(job::Verb),
    /// Show whether the pool is healthy, and what to do if not
    Status(status::Status),
    /// Show and change a pool on a full screen
    Console(console::Console),
    /// List events
    Events(events::Events),
    /// List recorded changes: when, by whom, by which command line, with what result
    History(history::History),
    /// Print all metrics as Prometheus text
    Metrics(metrics::Metrics),
    /// Write completions for a shell
    Completions(completions::Completions),
    /// Write manual pages
    Man(man::Man),
}

/// Runs the command line. All output and all messages have been written when this returns.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Result<Done, u8> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(done) = hidden::intercept(&arguments) {
        return done.map_err(|error| failure::report(&error, false));
    }
    let parsed = Cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Ok((changes_something(&matches), Cli::from_arg_matches(&matches)?)));
    let (changes, cli) =
        parsed.map_err(|error| failure::of_arguments(&error, &Cli::command(), &arguments))?;
    let json = cli.global.json;
    start_log(cli.global.verbose);
    let line = changes.then_some(&arguments[..]);
    run(cli, line).map_err(|error| failure::report(&error, json))
}

/// Returns whether the verb changes something and is not only rehearsed. Exactly such verbs have the option `--dry-run`; `pool check`
/// changes something with `--repair`.
fn changes_something(matches: &ArgMatches) -> bool {
    let verb = std::iter::successors(Some(matches), |matches| {
        matches.subcommand().map(|(_, matches)| matches)
    });
    let flag = |matches: &ArgMatches, name| matches.try_get_one::<bool>(name).ok().flatten().copied();
    verb.last()
        .is_some_and(|verb| flag(verb, "dry_run") == Some(false) && flag(verb, "repair") != Some(false))
}

/// Runs a verb. `recorded` is the command line if the history has to record it.
fn run(cli: Cli, recorded: Option<&[OsString]>) -> Result<Done> {
    let mut context = Context::new(&cli.global)?;
    let operation = recorded.map(|line| {
        let words = line
            .iter()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned());
        Operation::begin(&context.pool, "vctl", words)
    });
    let done = dispatch(cli.noun, &mut context).map_err(|error| denied::explain(&context.pool, error));
    if let Some(operation) = operation {
        match &done {
            Ok(done) => operation.end(done.status(), ""),
            Err(error) => operation.end(exit::status_of(error.kind()), &error.to_string()),
        }
    }
    let flushed = context.out.flush();
    let done = done?;
    // A script that reads only the exit status would repeat the command.
    flushed.map_err(|error| match recorded {
        Some(_) => error.but_done(),
        None => error,
    })?;
    failure::note_fenced(&done);
    Ok(done)
}

fn dispatch(noun: Noun, context: &mut Context) -> Result<Done> {
    match noun {
        Noun::Demo(demo) => demo.run(context),
        Noun::Pool(verb) => verb.run(context),
        Noun::Disk(verb) => verb.run(context),
        Noun::Volume(verb) => verb.run(context),
        Noun::Apparatus(verb) => verb.run(context),
        Noun::Node(verb) => verb.run(context),
        Noun::Job(verb) => verb.run(context),
        Noun::Status(status) => status.run(context),
        Noun::Console(console) => console.run(context),
        Noun::Metrics(metrics) => metrics.run(context),
        Noun::Events(events) => events.run(context),
        Noun::History(history) => history.run(context),
        Noun::Completions(completions) => completions.run(context),
        Noun::Man(man) => man.run(context),
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => simplelog::LevelFilter::Info,
        _ => simplelog::LevelFilter::Debug,
    };
    let config = simplelog::Config::default();
    let _ = simplelog::WriteLogger::init(level, config, std::io::stderr());
}
