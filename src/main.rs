//! Serves the volumes of a pool as files.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(apparatus::daemon::main(std::env::args_os()))
}
