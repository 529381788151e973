//! `vctl volume move`.

use crate::arguments::{self, ByteRange, Policy};
use crate::commands::job::{JobOptions, begin};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin::moving;
use apparatus::jobs::Request;
use apparatus::model::error::Result;
use clap::Args;

/// `vctl volume move`
#[derive(Args, Debug)]
pub struct Move {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// To this disk, or to those with this tag; can be repeated, the first is preferred
    #[arg(long, value_name = "DISK|@TAG", required = true)]
    to: Vec<String>,
    /// Only what is on this disk
    #[arg(long, value_name = "DISK")]
    from: Option<String>,
    /// Only this range of the volume, like 1G..2G
    #[arg(long, value_name = "A..B", value_parser = arguments::byte_range)]
    range: Option<ByteRange>,
    /// Which disk is filled first; by default the pool's policy
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    changing: Changing,
}

impl Move {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = self.request(context)?;
        let title = format!("volume move {} --to {}", self.volume, self.to.join(" --to "));
        begin(context, &self.changing, &self.job, &request, &title)
    }

    fn request(&self, context: &Context) -> Result<Request> {
        let request = moving::MoveRequest {
            volume: self.volume.clone(),
            to: self.to.clone(),
            from: self.from.clone(),
            range: self.range.map(|range| (range.start, range.end)),
            policy: self.policy.map(Policy::into),
        };
        moving::of_volume(&mut *context.store()?, &request)
    }
}
