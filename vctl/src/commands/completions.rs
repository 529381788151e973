//! `vctl completions`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

/// `vctl completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
    /// For which program
    #[arg(long, value_enum, default_value_t = Program::Vctl)]
    program: Program,
}

/// A program that shells can complete.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    /// This one
    Vctl,
    /// The one that serves volumes
    Apparatus,
}

impl Program {
    fn command(self) -> Command {
        let [apparatus, _] = apparatus::daemon::commands();
        match self {
            Self::Vctl => crate::cli::Cli::command(),
            Self::Apparatus => apparatus,
        }
    }
}

impl Completions {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut script = Vec::new();
        let mut command = self.program.command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        context.out.bytes(&script);
        Ok(Done::Plainly)
    }
}
