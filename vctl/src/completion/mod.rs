//! Completion for shells: the script of a shell passes the words before the cursor and gets the candidates.
//!
//! The shell waits for the answer, so the answer is bounded: a child process computes it, and there are no candidates when it does not end
//! in time. Names are read from the pool's database alone, without creating a file and without a request to a disk or an apparatus.

mod line;
mod values;

use crate::exit::Done;
use apparatus::model::error::{Error, Result};
use clap::CommandFactory;
use clap_complete::CompletionCandidate;
use clap_complete::engine;
use line::CommandLine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use values::{Follow, Values};

/// The hidden verb that a shell's script runs: the shell, then the words from the command's name to the cursor.
pub const COMPLETE: &str = "__complete";
/// The hidden verb that [`COMPLETE`] runs in its child, with the same arguments.
pub const ANSWER: &str = "__answer";
/// The longest that a shell waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer in bytes.
const LONGEST: u64 = 16 << 20;

/// Runs the child, and prints its answer if that comes in time.
pub fn complete(words: &[OsString]) -> Result<Done> {
    let failed = |error: io::Error| Error::because(COMPLETE, error);
    let this = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(this)
        .arg(ANSWER)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(answer) = in_time(&mut child).map_err(failed)? {
        // The shell has gone if this fails, so there is no place to report it.
        let _ = io::stdout().write_all(&answer);
    }
    Ok(Done::Plainly)
}

/// Reads the output of the child to its end; `None` when it takes too long. The child is not waited for then, because it may wait for a
/// file system that does not answer.
fn in_time(child: &mut Child) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + PATIENCE;
    let Some(mut from) = child.stdout.take() else {
        return Ok(None);
    };
    let mut answer = Vec::new();
    while is_readable(&from, deadline)? {
        let mut part = [0; 64 << 10];
        let len = from.read(&mut part)?;
        if len == 0 {
            child.wait()?;
            return Ok(Some(answer));
        }
        answer.extend_from_slice(&part[..len]);
        if answer.len() as u64 > LONGEST {
            break;
        }
    }
    child.kill()?;
    Ok(None)
}

fn is_readable(pipe: &ChildStdout, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
        Err(rustix::io::Errno::INTR) => is_readable(pipe, deadline),
        ready => Ok(ready? > 0),
    }
}

/// Prints the candidates for the word at the cursor: one line with what else the shell has to do (see [`Follow`]), then a line for each
/// candidate, with its description after a tab.
pub fn answer(words: &[OsString]) -> Result<Done> {
    let line = CommandLine::of(words);
    let mut command = values::attach(crate::cli::Cli::command(), &Values::of(&line));
    if line.is_in_command(&command) {
        let _ = writeln!(io::stdout(), "{}", Follow::Files.word());
        return Ok(Done::Plainly);
    }
    let words = line.without_lone_options(&command);
    let index = words.len().saturating_sub(1);
    let found = engine::complete(&mut command, words, index, None).unwrap_or_default();
    let mut text = String::new();
    let kind = kind(&found);
    text.push_str(kind.word());
    text.push('\n');
    if !matches!(kind, Follow::Files | Follow::Directories) {
        for candidate in wanted(&found, line.current()) {
            text.push_str(&in_words(candidate));
            text.push('\n');
        }
    }
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(Done::Plainly)
}

fn kind(found: &[CompletionCandidate]) -> Follow {
    found.iter().find_map(Follow::of).unwrap_or(Follow::Words)
}

/// Keeps options only where the word begins with `-`, or where nothing else fits.
fn wanted<'a>(
    found: &'a [CompletionCandidate],
    current: &str,
) -> impl Iterator<Item = &'a CompletionCandidate> {
    let is_option =
        |candidate: &CompletionCandidate| candidate.get_value().as_encoded_bytes().starts_with(b"-");
    let options = current.starts_with('-') || found.iter().all(is_option);
    found
        .iter()
        .filter(move |candidate| options || !is_option(candidate))
        .filter(|candidate| !candidate.is_hide_set())
}

fn in_words(candidate: &CompletionCandidate) -> String {
    let plain = |text: &str| text.lines().next().unwrap_or_default().replace('\t', " ");
    let value = plain(&candidate.get_value().to_string_lossy());
    match candidate.get_help() {
        Some(help) => format!("{value}\t{}", plain(&help.to_string())),
        None => value,
    }
}
