//! `vctl volume move`.

use crate::arguments::{self, ByteRange, Policy};
use crate::commands::job::{JobOptions, begin};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::change::jobs::Request;
use apparatus::error::Result;
use apparatus::ops::moving;
use clap::Args;

/// `vctl volume move`
#[derive(Args, Debug)]
pub struct Move {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// To this disk, or to those with this tag; may be said again, the first is preferred
    #[arg(long, value_name = "DISK|@TAG", required = true)]
    to: Vec<String>,
    /// Only what lies on this disk
    #[arg(long, value_name = "DISK")]
    from: Option<String>,
    /// Only this range of the volume, like 1G..2G
    #[arg(long, value_name = "A..B", value_parser = arguments::byte_range)]
    range: Option<ByteRange>,
    /// Which disk is taken first; as the pool has it, if not said
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    changing: Changing,
}

impl Move {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = self.request(context)?;
        let title = format!("volume move {} --to {}", self.volume, self.to.join(" --to "));
        begin(context, &self.changing, &self.job, &request, &title)
    }

    fn request(&self, context: &Context) -> Result<Request> {
        let wish = moving::Wish {
            volume: self.volume.clone(),
            to: self.to.clone(),
            from: self.from.clone(),
            range: self.range.map(|range| (range.start, range.end)),
            policy: self.policy.map(Policy::into),
        };
        moving::of_volume(&mut *context.store()?, &wish)
    }
}
