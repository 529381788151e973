//! `vctl pool apply`, `dump`.

use crate::arguments::Owner;
use crate::commands::apparatus::warn;
use crate::commands::hidden;
use crate::context::{Changing, Context, Override, stop_flag};
use crate::exit::Done;
use crate::output::{Display, Output, PoolPreview, Progress, note, printable};
use apparatus::admin::apply::{self, ApplyRequest};
use apparatus::admin::describe::{self, Description};
use apparatus::admin::view::PoolView;
use apparatus::admin::{self, apparatus as run};
use apparatus::controller::Controller;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::records::{Delta, Edit};
use clap::Args;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// The longest time that an apparatus may take to serve.
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
    /// Go on without asking where data is lost
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Override,
    /// How to show the progress of moves
    #[arg(long, value_enum, default_value_t)]
    progress: Progress,
    #[command(flatten)]
    changing: Changing,
}

/// A step that was done, or would be done.
#[derive(Serialize)]
struct Step {
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "difference")]
    delta: Option<Delta>,
}

#[derive(Serialize)]
struct Applied {
    dry_run: bool,
    created: bool,
    steps: Vec<Step>,
    started: Vec<Name>,
    /// Objects that exist, are not described, and stay.
    unasked: Vec<String>,
    fenced: Vec<Name>,
}

impl Apply {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wanted = describe::read(&self.file)?;
        let caller = Owner::caller();
        let owner = describe::Owner {
            user: caller.user,
            group: caller.group.unwrap_or_default(),
        };
        let request = ApplyRequest {
            prune: self.prune,
            owner,
            cut_off_users: self.overriding.cut_off_users,
        };
        if self.changing.dry_run {
            return would_do(context, &wanted, request);
        }
        self.confirm(context, &wanted, request)?;
        let created = !context.pool.database().exists();
        if created {
            admin::pool::create(&context.pool, wanted.new_pool()?, None)?;
            say_done(context, &["pool create".to_owned()]);
        }
        let mut applied = Applied {
            dry_run: false,
            created,
            steps: Vec::new(),
            started: Vec::new(),
            unasked: Vec::new(),
            fenced: Vec::new(),
        };
        if !apply::next(&mut *context.store()?, &wanted, request)?.is_empty() {
            let mut controller = context.controller("pool apply", &self.changing)?;
            applied.steps = self.act(context, &mut controller, &wanted, request)?;
            applied.fenced = controller.fenced().to_vec();
        }
        applied.started = start_missing(context, &wanted)?;
        applied.unasked = apply::unasked(&mut *context.store()?, &wanted, request)?;
        print_outcome(context, &applied, None)?;
        Ok(Done::WithFenced(applied.fenced))
    }

    /// Asks for confirmation of each step that destroys data, as found by a rehearsal.
    fn confirm(&self, context: &Context, wanted: &Description, request: ApplyRequest) -> Result<()> {
        for (action, planned) in apply::rehearse(&context.pool, wanted, request)? {
            check_unused(context, planned.clone(), request)?;
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
        context: &mut Context,
        controller: &mut Controller,
        wanted: &Description,
        request: ApplyRequest,
    ) -> Result<Vec<Step>> {
        let extent_size = controller.store().header()?.extent_size.bytes();
        let mut display = Display::new(self.progress, context.out.style().json, extent_size, stop_flag()?);
        let mut steps = Vec::new();
        loop {
            let actions = apply::next(controller.store(), wanted, request)?;
            if actions.is_empty() {
                return Ok(steps);
            }
            for action in &actions {
                let done = apply::carry_out(controller, action, request, &mut display);
                display.finish();
                done?;
                let titles = action.titles();
                say_done(context, &titles);
                let step = |title| Step { title, delta: None };
                steps.extend(titles.into_iter().map(step));
            }
        }
    }
}

/// Prints each step once, when it is done, so that it is reported also if a later step fails. In JSON all steps are in the one object.
fn say_done(context: &mut Context, titles: &[String]) {
    if !context.out.style().json {
        titles
            .iter()
            .for_each(|title| context.out.line(&printable(title)));
        // A failed write is reported at the end of the command.
        let _ = context.out.flush();
    } else if std::io::stderr().is_terminal() {
        titles
            .iter()
            .for_each(|title| note(&format!("vctl: {}", printable(title))));
    }
}

/// Refuses an action that takes something away from users, unless that is overridden.
fn check_unused(context: &Context, planned: admin::plan::Planned, request: ApplyRequest) -> Result<()> {
    if !context.pool.database().exists() {
        return Ok(());
    }
    let planned = planned.regardless_of_users(request.cut_off_users);
    admin::usage::check(&context.pool, &mut *context.store()?, &planned)
}

/// Returns what a disk that is to be added contains.
fn content(context: &Context, wanted: &Description, action: &apply::Action) -> Result<Option<String>> {
    let apply::Action::AddDisk(new) = action else {
        return Ok(None);
    };
    let found = if context.pool.database().exists() {
        admin::disk::content(&mut *context.store()?, new)?
    } else {
        admin::disk::content_before(wanted.new_pool()?, new)?
    };
    Ok(found.map(|found| format!("holds {found}, which will be lost")))
}

fn would_do(context: &mut Context, wanted: &Description, request: ApplyRequest) -> Result<Done> {
    let created = !context.pool.database().exists();
    let steps = apply::rehearse(&context.pool, wanted, request)?;
    for (_, planned) in &steps {
        check_unused(context, planned.clone(), request)?;
    }
    let name = |apparatus: &describe::Apparatus| apparatus.name.clone();
    let (started, unasked) = if created {
        (wanted.apparatuses.iter().map(name).collect(), Vec::new())
    } else {
        let mut store = context.store()?;
        let missing = apply::to_start(&context.pool, &mut *store, wanted)?;
        let started = missing.into_iter().map(name).collect();
        (started, apply::unasked(&mut *store, wanted, request)?)
    };
    let applied = Applied {
        dry_run: true,
        created,
        steps: steps.iter().flat_map(of_action).collect(),
        started,
        unasked,
        fenced: Vec::new(),
    };
    let outlook = match created {
        true => PoolPreview::empty(wanted.extent_size()?, context.out.style()),
        false => PoolPreview::of(context.store()?.snapshot()?, context.out.style()),
    };
    print_outcome(context, &applied, Some(outlook))?;
    Ok(Done::Plainly)
}

/// Returns one step for each command that would do the same.
fn of_action((action, planned): &(apply::Action, admin::plan::Planned)) -> Vec<Step> {
    let titles = action.titles();
    let each = planned
        .delta
        .edits
        .chunk_by(|_, next| !matches!(next, Edit::AddVolume(_)));
    let each: Vec<&[Edit]> = match titles.len() {
        1 => vec![&planned.delta.edits],
        _ => each.collect(),
    };
    let step = |(title, edits): (String, &[Edit])| Step {
        title,
        delta: Some(Delta {
            from: planned.delta.from,
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
            supervisor: apparatus.supervisor.unwrap_or(false),
            transport: None,
            config: None,
            own_cgroup: run::is_memory_limited(),
            program: hidden::apparatus_program()?,
        };
        warn(&run::start(&context.pool, &start, PATIENCE)?);
        started.push(apparatus.name.clone());
    }
    Ok(started)
}

/// Prints the steps that would be done with their effects; or what remains to be reported beside the steps, which have been printed.
fn print_outcome(context: &mut Context, applied: &Applied, outlook: Option<PoolPreview>) -> Result<()> {
    context.out.say(applied, |out| {
        let would = if applied.dry_run { "would " } else { "" };
        if let Some(outlook) = outlook {
            say_steps(out, applied, outlook);
        }
        for name in &applied.started {
            out.line(&format!("{would}apparatus start {name}"));
        }
        for what in &applied.unasked {
            let way = if what.starts_with("apparatus") {
                ""
            } else {
                ": --prune removes it"
            };
            out.line(&format!("{what} is not described, and stays{way}"));
        }
        if !applied.created && applied.steps.is_empty() && applied.started.is_empty() {
            out.line("the pool is as described");
        }
        Ok(())
    })
}

fn say_steps(out: &mut Output, applied: &Applied, mut outlook: PoolPreview) {
    if applied.created {
        out.line("would pool create");
    }
    for step in &applied.steps {
        out.line(&printable(&format!("would {}", step.title)));
        let lines = step.delta.as_ref().map(|delta| outlook.describe(delta));
        for line in lines.unwrap_or_default() {
            out.line(&printable(&format!("  {line}")));
        }
    }
}

/// `vctl pool dump`
#[derive(Args, Debug)]
pub struct Dump {}

impl Dump {
    /// Runs the command.
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
