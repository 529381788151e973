//! `vctl completions`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::model::error::Result;
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

/// `vctl completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The program
    #[arg(long, value_enum, default_value_t = Program::Vctl)]
    program: Program,
}

/// A program whose command line shells can complete.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    /// This one
    Vctl,
    /// The program that serves volumes
    Apparatus,
}

impl Program {
    fn command(self) -> Command {
        let [apparatus, _] = apparatus::serve::daemon::commands();
        match self {
            Self::Vctl => crate::cli::Cli::command(),
            Self::Apparatus => apparatus,
        }
    }
}

/// Returns the script that asks `vctl` for names of the pool; `None` for shells that get static completions only.
fn script(shell: Shell) -> Option<&'static str> {
    match shell {
        Shell::Bash => Some(include_str!("../completion/vctl.bash")),
        Shell::Zsh => Some(include_str!("../completion/vctl.zsh")),
        Shell::Fish => Some(include_str!("../completion/vctl.fish")),
        _ => None,
    }
}

impl Completions {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if let (Program::Vctl, Some(script)) = (self.program, script(self.shell)) {
            context.out.text(script);
            return Ok(Done::Plainly);
        }
        let mut script = Vec::new();
        let mut command = self.program.command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        context.out.bytes(&script);
        Ok(Done::Plainly)
    }
}
