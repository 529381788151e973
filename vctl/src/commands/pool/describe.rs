//! `vctl pool apply`, `dump`.

use crate::arguments::Owner;
use crate::commands::hidden;
use crate::context::{Changing, Context, Overriding, stop_flag};
use crate::exit::Done;
use crate::output::{Display, Progress, note};
use apparatus::change::driver::Controller;
use apparatus::error::Result;
use apparatus::ops::apply::{self, Wish};
use apparatus::ops::describe::{self, Description};
use apparatus::ops::view::PoolView;
use apparatus::ops::{self, apparatus as run};
use apparatus::pool::model::{Difference, Edit};
use apparatus::pool::names::Name;
use clap::Args;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// How long an apparatus may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// `vctl pool apply`
#[derive(Args, Debug)]
pub struct Apply {
    /// The description
    #[arg(value_name = "FILE.ron")]
    file: PathBuf,
    /// Remove volumes and disks that are not described
    #[arg(long)]
    prune: bool,
    /// Go on without asking where data will be gone
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Overriding,
    /// How to show the progress of moves
    #[arg(long, value_enum, default_value_t)]
    progress: Progress,
    #[command(flatten)]
    changing: Changing,
}

/// One thing done, or to be done.
#[derive(Serialize)]
struct Step {
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
}

#[derive(Serialize)]
struct Applied {
    dry_run: bool,
    created: bool,
    steps: Vec<Step>,
    started: Vec<Name>,
    /// Is there, is not described, and stays.
    unasked: Vec<String>,
    fenced: Vec<Name>,
}

impl Apply {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wanted = describe::read(&self.file)?;
        let caller = Owner::caller();
        let owner = describe::Owner {
            user: caller.user,
            group: caller.group.unwrap_or_default(),
        };
        let wish = Wish {
            prune: self.prune,
            owner,
            cut_off_users: self.overriding.cut_off_users,
        };
        if self.changing.dry_run {
            return would_do(context, &wanted, wish);
        }
        self.confirm(context, &wanted, wish)?;
        let created = !context.pool.database().exists();
        if created {
            ops::pool::create(&context.pool, wanted.extent_size()?)?;
        }
        let mut applied = Applied {
            dry_run: false,
            created,
            steps: Vec::new(),
            started: Vec::new(),
            unasked: Vec::new(),
            fenced: Vec::new(),
        };
        if !apply::next(&mut *context.store()?, &wanted, wish)?.is_empty() {
            let mut controller = context.controller("pool apply", &self.changing)?;
            applied.steps = self.act(context, &mut controller, &wanted, wish)?;
            applied.fenced = controller.fenced().to_vec();
        }
        applied.started = start_missing(context, &wanted)?;
        applied.unasked = apply::unasked(&mut *context.store()?, &wanted, wish)?;
        tell(context, &applied)?;
        Ok(Done::WithFenced(applied.fenced))
    }

    /// Asks for each thing that destroys data, as a rehearsal finds it.
    fn confirm(&self, context: &Context, wanted: &Description, wish: Wish) -> Result<()> {
        for (action, planned) in apply::rehearse(&context.pool, wanted, wish)? {
            check_unused(context, planned.clone(), wish)?;
            if let Some(loss) = apply::loss(&action, &planned) {
                context.confirm(self.yes, &action.title(), &loss)?;
            }
            if let Some(loss) = content(context, wanted, &action)? {
                context.confirm(self.yes, &action.title(), &loss)?;
            }
        }
        Ok(())
    }

    fn act(
        &self,
        context: &Context,
        controller: &mut Controller,
        wanted: &Description,
        wish: Wish,
    ) -> Result<Vec<Step>> {
        let extent_size = controller.store().header()?.extent_size.bytes();
        let mut display = Display::new(self.progress, context.out.style().json, extent_size, stop_flag()?);
        let mut steps = Vec::new();
        loop {
            let actions = apply::next(controller.store(), wanted, wish)?;
            if actions.is_empty() {
                return Ok(steps);
            }
            for action in &actions {
                let done = apply::carry_out(controller, action, wish, &mut display);
                display.finish();
                done?;
                let step = |title| Step {
                    title,
                    difference: None,
                };
                steps.extend(action.titles().into_iter().map(step));
                // Where both go to one terminal, the steps are told once, at the end.
                if !std::io::stdout().is_terminal() {
                    note(&format!("vctl: {}", action.title()));
                }
            }
        }
    }
}

/// That nobody uses what an action takes away, unless that is overridden.
fn check_unused(context: &Context, planned: ops::plan::Planned, wish: Wish) -> Result<()> {
    if !context.pool.database().exists() {
        return Ok(());
    }
    let planned = planned.regardless_of_users(wish.cut_off_users);
    ops::usage::check(&context.pool, &mut *context.store()?, &planned)
}

/// What a disk that is to join holds.
fn content(context: &Context, wanted: &Description, action: &apply::Action) -> Result<Option<String>> {
    let apply::Action::AddDisk(new) = action else {
        return Ok(None);
    };
    let found = if context.pool.database().exists() {
        ops::disk::content(&mut *context.store()?, new)?
    } else {
        ops::disk::content_before(wanted.extent_size()?, new)?
    };
    Ok(found.map(|found| format!("holds {found}, which will be gone")))
}

fn would_do(context: &mut Context, wanted: &Description, wish: Wish) -> Result<Done> {
    let created = !context.pool.database().exists();
    let steps = apply::rehearse(&context.pool, wanted, wish)?;
    for (_, planned) in &steps {
        check_unused(context, planned.clone(), wish)?;
    }
    let name = |apparatus: &describe::Apparatus| apparatus.name.clone();
    let (started, unasked) = if created {
        (wanted.apparatuses.iter().map(name).collect(), Vec::new())
    } else {
        let mut store = context.store()?;
        let missing = apply::to_start(&context.pool, &mut *store, wanted)?;
        let started = missing.into_iter().map(name).collect();
        (started, apply::unasked(&mut *store, wanted, wish)?)
    };
    let applied = Applied {
        dry_run: true,
        created,
        steps: steps.iter().flat_map(of_action).collect(),
        started,
        unasked,
        fenced: Vec::new(),
    };
    tell(context, &applied)?;
    Ok(Done::Plainly)
}

/// A step for each command that would do the same.
fn of_action((action, planned): &(apply::Action, ops::plan::Planned)) -> Vec<Step> {
    let titles = action.titles();
    let each = planned
        .difference
        .edits
        .chunk_by(|_, next| !matches!(next, Edit::AddVolume(_)));
    let each: Vec<&[Edit]> = match titles.len() {
        1 => vec![&planned.difference.edits],
        _ => each.collect(),
    };
    let step = |(title, edits): (String, &[Edit])| Step {
        title,
        difference: Some(Difference {
            from: planned.difference.from,
            edits: edits.to_vec(),
        }),
    };
    titles.into_iter().zip(each).map(step).collect()
}

fn start_missing(context: &Context, wanted: &Description) -> Result<Vec<Name>> {
    let missing = apply::to_start(&context.pool, &mut *context.store()?, wanted)?;
    let mut started = Vec::new();
    for apparatus in missing {
        let start = run::Start {
            name: apparatus.name.clone(),
            mount: apparatus.mount.clone(),
            threads: apparatus.threads,
            allow_other: apparatus.allow_other,
            config: None,
            program: hidden::apparatus_program()?,
        };
        run::start(&context.pool, &start, PATIENCE)?;
        started.push(apparatus.name.clone());
    }
    Ok(started)
}

fn tell(context: &mut Context, applied: &Applied) -> Result<()> {
    context.out.say(applied, |out| {
        let would = if applied.dry_run { "would " } else { "" };
        if applied.created {
            out.line(&format!("// {would}pool create"));
        }
        for step in &applied.steps {
            out.line(&format!("// {would}{}", step.title));
            if let Some(difference) = &step.difference {
                out.line(&ops::plan::as_ron(difference)?);
            }
        }
        for name in &applied.started {
            out.line(&format!("// {would}apparatus start {name}"));
        }
        for what in &applied.unasked {
            let way = if what.starts_with("apparatus") {
                ""
            } else {
                ": --prune removes it"
            };
            out.line(&format!("// {what} is not described, and stays{way}"));
        }
        if !applied.created && applied.steps.is_empty() && applied.started.is_empty() {
            out.line("all is as described");
        }
        Ok(())
    })
}

/// `vctl pool dump`
#[derive(Args, Debug)]
pub struct Dump {}

impl Dump {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Dumped {
            description: Description,
        }
        let mut store = context.store()?;
        let serving = run::list(&context.pool, &mut *store)?;
        let options = store.options()?;
        let body = Dumped {
            description: Description::of(&PoolView::load(&mut *store)?, options, &serving),
        };
        context.out.say(&body, |out| {
            out.line(&body.description.as_ron()?);
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
