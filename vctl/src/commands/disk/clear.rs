//! `vctl disk clear`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::admin::clear;
use apparatus::admin::view::PoolView;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use clap::Args;
use serde::Serialize;

/// `vctl disk clear`
#[derive(Args, Debug)]
#[command(
    after_help = "An image that was truncated and has its size again is used again from then on: the part that was cut off \
reads as its present content, zeroes unless it has been restored."
)]
pub struct Clear {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// Say which apparatuses would be asked, and ask none
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct ClearReport {
    disk: String,
    dry_run: bool,
    apparatuses: Vec<Name>,
}

impl Clear {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let pool = context.pool.clone();
        let mut store = context.store()?;
        let name = PoolView::load(&mut *store)?.disk(&self.disk)?.record.name.clone();
        let apparatuses: Vec<Name> = if self.dry_run {
            let members = clear::serving(&mut *store)?;
            members.into_iter().map(|member| member.name).collect()
        } else {
            clear::clear(&pool, &mut *store, &self.disk)?
        };
        let body = ClearReport {
            disk: name.to_string(),
            dry_run: self.dry_run,
            apparatuses,
        };
        context.out.say(&body, |out| {
            let names: Vec<&str> = body.apparatuses.iter().map(Name::as_str).collect();
            let names = match names[..] {
                [] => "no apparatus serves, so there are no counts".to_owned(),
                _ => format!("apparatus {}", names.join(", ")),
            };
            let done = if body.dry_run {
                "would be cleared"
            } else {
                "cleared"
            };
            out.line(&format!("disk {name}: {done}: {names}"));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
