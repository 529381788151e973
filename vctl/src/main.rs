//! The command line of a pool.

// Nothing of a program is reachable from outside it: `pub` says what a module offers to the others.
#![allow(unreachable_pub)]

mod arguments;
mod cli;
mod commands;
mod context;
mod exit;
mod failure;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    apparatus::disk::ask_disks_in_children();
    exit::code(cli::main(std::env::args_os()))
}
