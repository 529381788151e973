//! `vctl completions`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// `vctl completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::Cli::command(), "vctl", &mut script);
        context.out.bytes(&script);
        Ok(Done::Plainly)
    }
}
