//! `vctl disk evacuate`.

use crate::commands::job::{JobOptions, begin};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::error::Result;
use apparatus::ops::moving;
use clap::Args;

/// `vctl disk evacuate`
#[derive(Args, Debug)]
pub struct Evacuate {
    /// Its name; nothing new is placed on it from then on
    #[arg(value_name = "DISK")]
    disk: String,
    /// To this disk, or to those with this tag; may be said again; wherever there is room, if not said
    #[arg(long, value_name = "DISK|@TAG")]
    to: Vec<String>,
    /// Take what the destinations keep free, too
    #[arg(long)]
    use_reserve: bool,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    changing: Changing,
}

impl Evacuate {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = moving::of_disk(&mut *context.store()?, &self.disk, &self.to, self.use_reserve)?;
        let title = format!("disk evacuate {}", self.disk);
        begin(context, &self.changing, &self.job, &request, &title)
    }
}
