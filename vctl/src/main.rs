//! The command line of a pool.

// Other crates cannot reach any item of a program: `pub` marks what a module offers to the other modules.
#![allow(unreachable_pub)]

mod arguments;
mod cli;
mod commands;
mod completion;
mod context;
mod exit;
mod failure;
mod output;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    apparatus::blockdev::probe_if_asked(&arguments);
    apparatus::blockdev::ask_disks_in_children();
    exit::code(cli::main(arguments))
}
