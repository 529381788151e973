//! `vctl disk label`.

use super::change::print_state;
use crate::commands::{Effect, change};
use crate::context::{Changing, Context};
use crate::exit::Done;
use apparatus::admin;
use apparatus::admin::label::Cause;
use apparatus::model::error::Result;
use clap::Args;

/// `vctl disk label`
#[derive(Args, Debug)]
pub struct Label {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// Go on with an older copy of the disk: what was written to it since that copy was made is lost
    #[arg(long)]
    accept_older_data: bool,
    /// Go on without asking when the head of the disk contains something else
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Label {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let title = format!("disk label {}", self.disk);
        if self.changing.dry_run {
            let cause =
                admin::label::inspect(&mut *context.rehearsal()?, &self.disk, self.accept_older_data)?;
            if let Some(cause) = cause.filter(|_| !context.out.style().json) {
                context.out.line(&format!(
                    "would write the label of disk {}{}",
                    self.disk,
                    loss(&cause)
                ));
                return Ok(Done::Plainly);
            }
            let effect = change(context, &self.changing, &title, |store| {
                admin::label::plan(store, &self.disk, self.accept_older_data)
            })?;
            return print_state(context, effect, &self.disk, "labelled");
        }
        let cause = admin::label::inspect(&mut *context.store()?, &self.disk, self.accept_older_data)?;
        if let Some(Cause::Lost(Some(found))) = cause {
            let what = format!("disk {}", self.disk);
            let consequence =
                format!("its head holds {found}, so it may not be this disk; that will be overwritten");
            context.confirm(self.yes, &what, &consequence)?;
        }
        let mut controller = context.controller(&title, &self.changing)?;
        let sent = admin::label::write(&mut controller, &title, &self.disk, self.accept_older_data)?;
        let effect = match sent {
            Some(sent) => Effect::of(sent, &controller),
            None => Effect::none(controller.store().header()?.generation),
        };
        print_state(context, Some(effect), &self.disk, "labelled")
    }
}

/// Returns what is lost by writing the label.
fn loss(cause: &Cause) -> String {
    match cause {
        Cause::Lost(Some(found)) => format!(" over {found}"),
        Cause::Lost(None) => String::new(),
        Cause::Older => ", and go on with the data that is on it: what was written since is lost".to_owned(),
    }
}
