//! `vctl volume create`, `resize`, `rename`, `set`, `remove`.

use super::list::Row;
use crate::arguments::{self, NewSize, Owner, Policy};
use crate::commands::{Effect, change, told};
use crate::context::{Changing, Context, Overriding};
use crate::exit::Done;
use crate::output::{Cell, note};
use apparatus::error::Result;
use apparatus::ops::plan::{NewVolume, Planned, VolumeChange};
use apparatus::ops::view::PoolView;
use apparatus::ops::{self, plan};
use apparatus::pool::names::Name;
use apparatus::pool::size;
use apparatus::store::Store;
use apparatus::units::ByteCount;
use clap::Args;

/// `vctl volume create`
#[derive(Args, Debug)]
pub struct Create {
    /// Its name, which is its file's in every mount
    #[arg(value_parser = arguments::name("volume"))]
    name: Name,
    /// Its size, a multiple of 512
    #[arg(value_parser = size::parse)]
    size: ByteCount,
    /// Only on this disk, or on those with this tag; may be said again
    #[arg(long, value_name = "DISK|@TAG")]
    on: Vec<String>,
    /// Which disk is taken first; as the pool has it, if not said
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Permissions of its file, in octal
    #[arg(long, default_value = "0600", value_parser = arguments::mode)]
    mode: u16,
    /// Owner of its file, by name or number; you, if not said
    #[arg(long, value_name = "USER[:GROUP]", value_parser = arguments::owner)]
    owner: Option<Owner>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Create {
    /// Does it.
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
        let effect = change(context, &self.changing, &title, |store| {
            ops::volume::plan_create(store, &new, &self.on, self.policy.map(Policy::into)).map(Some)
        })?;
        tell(context, effect, self.name.as_str(), "created")
    }
}

/// `vctl volume resize`
#[derive(Args, Debug)]
pub struct Resize {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// The new size, or `+S` for so much more
    #[arg(value_parser = arguments::new_size)]
    size: NewSize,
    /// New space only on this disk, or on those with this tag; may be said again
    #[arg(long, value_name = "DISK|@TAG")]
    on: Vec<String>,
    /// Which disk is taken first; as the pool has it, if not said
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Go on without asking when the end is cut off
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Overriding,
    #[command(flatten)]
    changing: Changing,
}

impl Resize {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if !self.changing.dry_run {
            self.confirm(context)?;
        }
        let title = format!("volume resize {}", self.volume);
        let effect = change(context, &self.changing, &title, |store| self.plan(store))?;
        if effect.as_ref().is_some_and(Effect::changed) {
            let untold = ops::attach::refresh(&context.pool, &mut *context.store()?, &self.volume)?;
            untold.iter().for_each(|error| note(&format!("vctl: {error}")));
        }
        tell(context, effect, &self.volume, "resized")
    }

    fn plan(&self, store: &mut dyn Store) -> Result<Option<Planned>> {
        let size = |old| self.size.from(old);
        let policy = self.policy.map(Policy::into);
        let planned = ops::volume::plan_resize(store, &self.volume, &size, &self.on, policy)?;
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
        check_unused(context, |store| self.plan(store))?;
        let lost = Cell::Size(old.0 - new.0).plain(context.out.style());
        context.confirm(
            self.yes,
            &format!("volume {}", self.volume),
            &format!("its last {lost} will be gone"),
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
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wish = VolumeChange {
            name: Some(self.new.clone()),
            ..VolumeChange::default()
        };
        let title = format!("volume rename {} {}", self.volume, self.new);
        let effect = change(context, &self.changing, &title, |store| {
            ops::volume::plan_set(store, &self.volume, &wish)
        })?;
        tell(context, effect, self.new.as_str(), "renamed")
    }
}

/// `vctl volume set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "wish", args = ["mode", "owner", "read_only", "read_write"])]
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
    overriding: Overriding,
    #[command(flatten)]
    changing: Changing,
}

impl Set {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let wish = VolumeChange {
            name: None,
            mode: self.mode,
            uid: self.owner.map(|owner| owner.user),
            gid: self.owner.and_then(|owner| owner.group),
            read_only: (self.read_only || self.read_write).then_some(self.read_only),
        };
        let title = format!("volume set {}", self.volume);
        let effect = change(context, &self.changing, &title, |store| {
            let planned = ops::volume::plan_set(store, &self.volume, &wish)?;
            Ok(planned.map(|planned| planned.regardless_of_users(self.overriding.cut_off_users)))
        })?;
        tell(context, effect, &self.volume, "set")
    }
}

/// `vctl volume remove`
#[derive(Args, Debug)]
pub struct Remove {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Go on without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Overriding,
    #[command(flatten)]
    changing: Changing,
}

impl Remove {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if !self.changing.dry_run {
            check_unused(context, |store| self.plan(store))?;
            context.confirm(
                self.yes,
                &format!("volume {}", self.volume),
                "all that it holds will be gone",
            )?;
        }
        let title = format!("volume remove {}", self.volume);
        let effect = change(context, &self.changing, &title, |store| self.plan(store))?;
        match effect {
            Some(change) => told::removed(context, change, "volume", &self.volume),
            None => Ok(Done::Plainly),
        }
    }
}

impl Remove {
    fn plan(&self, store: &mut dyn Store) -> Result<Option<Planned>> {
        let planned = ops::volume::plan_remove(store, &self.volume)?;
        Ok(Some(planned.regardless_of_users(self.overriding.cut_off_users)))
    }
}

/// Refuses before anybody is asked to confirm anything.
fn check_unused(
    context: &Context,
    plan: impl FnOnce(&mut dyn Store) -> Result<Option<Planned>>,
) -> Result<()> {
    let mut store = context.store()?;
    match plan(&mut *store)? {
        Some(planned) => ops::usage::check(&context.pool, &mut *store, &planned),
        None => Ok(()),
    }
}

/// Says what a volume has become.
fn tell(context: &mut Context, effect: Option<Effect>, name: &str, done: &str) -> Result<Done> {
    let Some(change) = effect else {
        return Ok(Done::Plainly);
    };
    let view = PoolView::load(&mut *context.store()?)?;
    let row = Row::new(view.volume(name)?);
    let words = row.in_words(context.out.style());
    told::became(context, change, ("volume", name), &row, (done, &words))
}
