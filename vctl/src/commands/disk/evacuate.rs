//! `vctl disk evacuate`.

use crate::commands::job::{JobOptions, begin};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin::moving;
use apparatus::model::error::Result;
use clap::Args;

/// `vctl disk evacuate`
#[derive(Args, Debug)]
pub struct Evacuate {
    /// Its name; nothing new is placed on it from then on
    #[arg(value_name = "DISK")]
    disk: String,
    /// To this disk, or to those with this tag; can be repeated; by default to any disk with free space
    #[arg(long, value_name = "DISK|@TAG")]
    to: Vec<String>,
    /// Also use the reserve of the destinations
    #[arg(long)]
    use_reserve: bool,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    changing: Changing,
}

impl Evacuate {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = moving::of_disk(&mut *context.store()?, &self.disk, &self.to, self.use_reserve)?;
        let title = format!("disk evacuate {}", self.disk);
        begin(context, &self.changing, &self.job, &request, &title)
    }
}
