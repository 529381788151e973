//! `vctl volume create`, `resize`, `rename`, `set`, `remove`.

use super::list::Row;
use crate::arguments::{self, NewSize, Owner, Policy};
use crate::commands::{Effect, change, report};
use crate::context::{Changing, Context, Override};
use crate::exit::Done;
use crate::output::{Cell, note};
use apparatus::admin::plan::{NewVolume, Planned, VolumeChange};
use apparatus::admin::view::PoolView;
use apparatus::admin::volume::Placing;
use apparatus::admin::{self, plan};
use apparatus::model::alloc::Faults;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::size;
use apparatus::model::units::ByteCount;
use apparatus::store::Store;
use clap::Args;

/// `vctl volume create`
#[derive(Args, Debug)]
pub struct Create {
    /// Its name, which is the file name in every mount
    #[arg(value_parser = arguments::name("volume"))]
    name: Name,
    /// Its size, a multiple of 512
    #[arg(value_parser = size::parse)]
    size: ByteCount,
    /// Only on this disk, or on those with this tag; can be repeated
    #[arg(long, value_name = "DISK|@TAG")]
    on: Vec<String>,
    /// Which disk is filled first; by default the pool's policy
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Permissions of its file, in octal
    #[arg(long, default_value = "0600", value_parser = arguments::mode)]
    mode: u16,
    /// Owner of its file, by name or number; by default you
    #[arg(long, value_name = "USER[:GROUP]", value_parser = arguments::owner)]
    owner: Option<Owner>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Create {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let caller = Owner::caller();
        let owner = self.owner.unwrap_or(caller);
        let new = NewVolume {
            name: self.name.clone(),
            size: self.size,
            mode: self.mode,
            uid: owner.user,
            gid: owner.group.or(caller.group).unwrap_or_default(),
            read_only: self.read_only,
        };
        plan::check_size(new.size)?;
        let title = format!("volume create {}", self.name);
        let faults = admin::health::faults_on(&context.pool, &mut *context.store()?, &self.on)?;
        let placing = Placing {
            on: &self.on,
            policy: self.policy.map(Policy::into),
            faults: &faults,
        };
        let effect = change(context, &self.changing, &title, |store| {
            admin::volume::plan_create(store, &new, placing).map(Some)
        })?;
        print_state(context, effect, self.name.as_str(), "created")
    }
}

/// `vctl volume resize`
#[derive(Args, Debug)]
pub struct Resize {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// The new size, or `+S` to grow by S and `-S` to shrink by S
    #[arg(value_parser = arguments::new_size, allow_negative_numbers = true, allow_hyphen_values = true)]
    size: NewSize,
    /// New space only on this disk, or on those with this tag; can be repeated
    #[arg(long, value_name = "DISK|@TAG")]
    on: Vec<String>,
    /// Which disk is filled first; by default the pool's policy
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Go on without asking when the end is cut off
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Override,
    #[command(flatten)]
    changing: Changing,
}

impl Resize {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if !self.changing.dry_run {
            self.confirm(context)?;
        }
        let title = format!("volume resize {}", self.volume);
        let faults = self.faults(context)?;
        let effect = change(context, &self.changing, &title, |store| self.plan(store, &faults))?;
        if effect.as_ref().is_some_and(Effect::changed) {
            let failures = admin::attach::refresh(&context.pool, &mut *context.store()?, &self.volume)?;
            failures.iter().for_each(|error| note(&format!("vctl: {error}")));
        }
        print_state(context, effect, &self.volume, "resized")
    }

    /// Returns the faults of the disks that may be used to grow.
    fn faults(&self, context: &Context) -> Result<Faults> {
        let mut store = context.store()?;
        let size = PoolView::load(&mut *store)?.volume(&self.volume)?.record.size;
        match self.size.from(size)? > size {
            true => admin::health::faults_on(&context.pool, &mut *store, &self.on),
            false => Ok(Faults::new()),
        }
    }

    fn plan(&self, store: &mut dyn Store, faults: &Faults) -> Result<Option<Planned>> {
        let size = |old| self.size.from(old);
        let placing = Placing {
            on: &self.on,
            policy: self.policy.map(Policy::into),
            faults,
        };
        let planned = admin::volume::plan_resize(store, &self.volume, &size, placing)?;
        Ok(planned.map(|planned| planned.regardless_of_users(self.overriding.cut_off_users)))
    }

    fn confirm(&self, context: &Context) -> Result<()> {
        let view = PoolView::load(&mut *context.store()?)?;
        let old = view.volume(&self.volume)?.record.size;
        let new = self.size.from(old)?;
        plan::check_size(new)?;
        if new >= old {
            return Ok(());
        }
        check_unused(context, |store| self.plan(store, &Faults::new()))?;
        let lost = Cell::Size(old.0 - new.0).plain(context.out.style());
        context.confirm(
            self.yes,
            &format!("volume {}", self.volume),
            &format!("its last {lost} will be lost"),
        )
    }
}

/// `vctl volume rename`
#[derive(Args, Debug)]
pub struct Rename {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Its new name
    #[arg(value_name = "NEW", value_parser = arguments::name("volume"))]
    new: Name,
    #[command(flatten)]
    changing: Changing,
}

impl Rename {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = VolumeChange {
            name: Some(self.new.clone()),
            ..VolumeChange::default()
        };
        let title = format!("volume rename {} {}", self.volume, self.new);
        let effect = change(context, &self.changing, &title, |store| {
            admin::volume::plan_set(store, &self.volume, &request)
        })?;
        print_state(context, effect, self.new.as_str(), "renamed")
    }
}

/// `vctl volume set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "requested", args = ["mode", "owner", "read_only", "read_write"])]
pub struct Set {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Permissions of its file, in octal
    #[arg(long, value_parser = arguments::mode)]
    mode: Option<u16>,
    /// Owner of its file, by name or number
    #[arg(long, value_name = "USER[:GROUP]", value_parser = arguments::owner)]
    owner: Option<Owner>,
    /// Refuse writes
    #[arg(long, conflicts_with = "read_write")]
    read_only: bool,
    /// Allow writes
    #[arg(long)]
    read_write: bool,
    #[command(flatten)]
    overriding: Override,
    #[command(flatten)]
    changing: Changing,
}

impl Set {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let request = VolumeChange {
            name: None,
            mode: self.mode,
            uid: self.owner.map(|owner| owner.user),
            gid: self.owner.and_then(|owner| owner.group),
            read_only: (self.read_only || self.read_write).then_some(self.read_only),
        };
        let title = format!("volume set {}", self.volume);
        let effect = change(context, &self.changing, &title, |store| {
            let planned = admin::volume::plan_set(store, &self.volume, &request)?;
            Ok(planned.map(|planned| planned.regardless_of_users(self.overriding.cut_off_users)))
        })?;
        print_state(context, effect, &self.volume, "set")
    }
}

/// `vctl volume remove`
#[derive(Args, Debug)]
pub struct Remove {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Discard its data at once: it cannot be had back by `vctl volume undelete`
    #[arg(long)]
    discard: bool,
    /// Go on without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Override,
    #[command(flatten)]
    changing: Changing,
}

impl Remove {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let id = PoolView::load(&mut *context.store()?)?
            .volume(&self.volume)?
            .record
            .id;
        if !self.changing.dry_run {
            check_unused(context, |store| self.plan(store))?;
            context.confirm(
                self.yes,
                &format!("volume {}", self.volume),
                "all its data will be lost",
            )?;
        }
        let title = format!("volume remove {}", self.volume);
        let effect = change(context, &self.changing, &title, |store| self.plan(store))?;
        if self.discard && effect.is_some() {
            let mut controller = context.controller(&title, &self.changing)?;
            admin::undelete::forget_number(&mut controller, id)?;
        }
        match effect {
            Some(change) => report::removed(context, change, "volume", &self.volume),
            None => Ok(Done::Plainly),
        }
    }
}

impl Remove {
    fn plan(&self, store: &mut dyn Store) -> Result<Option<Planned>> {
        let planned = admin::volume::plan_remove(store, &self.volume)?;
        Ok(Some(planned.regardless_of_users(self.overriding.cut_off_users)))
    }
}

/// Refuses a volume in use, before the operator is asked to confirm.
fn check_unused(
    context: &Context,
    plan: impl FnOnce(&mut dyn Store) -> Result<Option<Planned>>,
) -> Result<()> {
    let mut store = context.store()?;
    match plan(&mut *store)? {
        Some(planned) => admin::usage::check(&context.pool, &mut *store, &planned),
        None => Ok(()),
    }
}

/// Prints the new state of a volume.
fn print_state(context: &mut Context, effect: Option<Effect>, name: &str, done: &str) -> Result<Done> {
    let Some(change) = effect else {
        return Ok(Done::Plainly);
    };
    let view = PoolView::load(&mut *context.store()?)?;
    let row = Row::new(view.volume(name)?);
    let words = row.in_words(context.out.style());
    report::became(context, change, ("volume", name), &row, (done, &words))
}
