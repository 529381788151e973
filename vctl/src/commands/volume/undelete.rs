//! `vctl volume undelete`, and the list of removed volumes.

use super::list::Row;
use crate::commands::{Effect, change, report};
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{Cell, Column, TableOptions};
use apparatus::admin::send;
use apparatus::admin::undelete::{self, RemovedView};
use apparatus::admin::view::PoolView;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use clap::Args;
use serde::Serialize;

/// `vctl volume undelete`
#[derive(Args, Debug)]
#[command(
    after_help = "The extents of a removed volume are given to others last, and keep their data until then: the newest 32 volumes of at \
most 4096 segments are remembered for 7 days. `vctl volume list --removed` shows them. `pool restore`, `pool import` and `pool adopt` forget them."
)]
pub struct Undelete {
    /// Its name or number
    #[arg(value_name = "REMOVED")]
    volume: String,
    /// Bring it back under another name
    #[arg(long = "as", value_name = "NEW", value_parser = crate::arguments::name("volume"))]
    new_name: Option<Name>,
    /// Discard what is left of it instead: it cannot be had back any more
    #[arg(long, conflicts_with = "new_name")]
    forget: bool,
    /// Go on without asking when it is to be forgotten
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Undelete {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.forget {
            return self.forget(context);
        }
        let title = format!("volume undelete {}", self.volume);
        let new_name = self.new_name.as_ref();
        if self.changing.dry_run {
            change(context, &self.changing, &title, |store| {
                undelete::plan(store, &self.volume, new_name).map(Some)
            })?;
            return Ok(Done::Plainly);
        }
        let mut controller = context.controller(&title, &self.changing)?;
        // The removal may have left its extents in quarantine.
        controller.free()?;
        let planned = undelete::plan(controller.store(), &self.volume, new_name)?;
        let removed = undelete::find(controller.store().removed()?, &self.volume)?;
        let sent = send::send(&mut controller, &title, &planned)?;
        let effect = Effect::of(sent, &controller);
        drop(controller);
        let name = new_name.unwrap_or(&removed.volume.name).as_str();
        let view = PoolView::load(&mut *context.store()?)?;
        let row = Row::new(view.volume(name)?);
        let words = row.in_words(context.out.style());
        report::became(context, effect, ("volume", name), &row, ("had back", &words))
    }

    fn forget(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Forgotten {
            forgotten: String,
            dry_run: bool,
        }
        let removed = undelete::find(context.store()?.removed()?, &self.volume)?;
        let name = removed.volume.name.to_string();
        if !self.changing.dry_run {
            let what = format!("volume {name}");
            context.confirm(self.yes, &what, "what is left of it will be lost")?;
            let title = format!("volume undelete {} --forget", self.volume);
            let mut controller = context.controller(&title, &self.changing)?;
            undelete::forget(&mut controller, &self.volume)?;
        }
        let body = Forgotten {
            forgotten: name,
            dry_run: self.changing.dry_run,
        };
        context.out.say(&body, |out| {
            let done = if body.dry_run {
                "would be forgotten"
            } else {
                "forgotten"
            };
            out.line(&format!("volume {}: {done}", body.forgotten));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

const COLUMNS: &[Column<RemovedView>] = &[
    Column::shown("NAME", |row| Cell::text(row.removed.volume.name.as_str())),
    Column::shown("ID", |row| Cell::Number(row.removed.volume.id.0)),
    Column::shown("SIZE", |row| Cell::Size(row.removed.volume.size.0)),
    Column::shown("LOST", |row| Cell::Size(row.lost.0)),
    Column::shown("REMOVED", |row| Cell::Time(row.removed.at)),
    Column::shown("DISKS", |row| Cell::List(row.disks.clone())),
];

/// Lists the removed volumes that are remembered.
///
/// # Errors
/// Returns the errors of the store, and fails when a requested column does not exist.
pub fn list(context: &mut Context, options: &TableOptions) -> Result<Done> {
    let rows = undelete::list(&mut *context.store()?)?;
    report::list(context, options, COLUMNS, "removed", rows)
}
