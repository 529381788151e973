//! Serves the volumes of a pool as files.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(apparatus::serve::daemon::main(std::env::args_os()))
}
