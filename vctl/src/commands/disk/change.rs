//! `vctl disk add`, `set`, `resize`, `remove`.

use super::list::Row;
use crate::arguments;
use crate::commands::{Effect, change, report};
use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{note, printable};
use apparatus::admin;
use apparatus::admin::disk::NewDisk;
use apparatus::admin::plan::DiskChange;
use apparatus::admin::view::PoolView;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::size;
use apparatus::model::units::ByteCount;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// `vctl disk add`
#[derive(Args, Debug)]
pub struct Add {
    /// The block device or image file
    path: PathBuf,
    /// Its name; by default the file's name without its extension
    #[arg(long, value_parser = arguments::name("disk"))]
    name: Option<Name>,
    /// Create a sparse image file of this size first
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    create: Option<ByteCount>,
    /// Allocate all space of the new image at once, so that no write to it fails because its file system is full
    #[arg(long, requires = "create")]
    preallocate: bool,
    /// Add this tag, for `@TAG`; can be repeated
    #[arg(long, value_parser = arguments::name("tag"))]
    tag: Vec<Name>,
    /// Place nothing on it until `disk set --allocate`
    #[arg(long)]
    no_allocate: bool,
    /// Keep this much of it free; only `disk evacuate --use-reserve` takes that
    #[arg(long, value_name = "SIZE", default_value = "0", hide_default_value = true, value_parser = size::parse)]
    reserve: ByteCount,
    /// Go on without asking when it contains data
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Add {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let new = NewDisk {
            path: admin::place::absolute(&self.path)?,
            name: self.name.clone(),
            create: self.create,
            preallocate: self.preallocate,
            tags: self.tag.iter().cloned().collect(),
            allocate: !self.no_allocate,
            reserve: self.reserve,
        };
        let title = format!("disk add {}", self.path.display());
        let promised = self.create.filter(|_| !self.preallocate);
        if self.changing.dry_run {
            let planned = admin::disk::plan_add(&mut *context.rehearsal()?, &new)?;
            if let Some(size) = promised {
                warn_if_short(context, &new.name()?, &new.path, size)?;
            }
            context.would_send(&planned.delta)?;
            return Ok(Done::Plainly);
        }
        if let Some(found) = admin::disk::content(&mut *context.store()?, &new)? {
            let what = format!("disk {}", self.path.display());
            context.confirm(self.yes, &what, &format!("holds {found}, which will be lost"))?;
        }
        let mut controller = context.controller(&title, &self.changing)?;
        let (name, sent) = admin::disk::add(&mut controller, &title, &new)?;
        let effect = Effect::of(sent, &controller);
        if let Some(size) = promised {
            warn_if_short(context, &name, &new.path, size)?;
        }
        print_state(context, Some(effect), name.as_str(), "added")
    }
}

/// `vctl disk set`
#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "requested",
        args = ["name", "tag", "untag", "allocate", "no_allocate", "path", "reserve"])]
pub struct Set {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// Its new name
    #[arg(long, value_parser = arguments::name("disk"))]
    name: Option<Name>,
    /// Add this tag; can be repeated
    #[arg(long, value_parser = arguments::name("tag"))]
    tag: Vec<Name>,
    /// Remove this tag; can be repeated
    #[arg(long, value_name = "TAG", value_parser = arguments::name("tag"))]
    untag: Vec<Name>,
    /// Place new volumes on it
    #[arg(long, conflicts_with = "no_allocate")]
    allocate: bool,
    /// Place nothing new on it
    #[arg(long)]
    no_allocate: bool,
    /// Keep this much of it free; only `disk evacuate --use-reserve` takes that
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    reserve: Option<ByteCount>,
    /// Its new path; the label there has to be that of this disk
    #[arg(long)]
    path: Option<PathBuf>,
    /// The path is that of this machine alone; the other nodes of the pool keep theirs
    #[arg(long, requires = "path",
        conflicts_with_all = ["name", "tag", "untag", "allocate", "no_allocate", "reserve"])]
    here: bool,
    #[command(flatten)]
    changing: Changing,
}

impl Set {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        if self.here {
            return self.set_path_here(context);
        }
        let request = DiskChange {
            name: self.name.clone(),
            tag: self.tag.iter().cloned().collect(),
            untag: self.untag.iter().cloned().collect(),
            allocate: (self.allocate || self.no_allocate).then_some(self.allocate),
            path: self.path.as_deref().map(admin::place::absolute).transpose()?,
            extents: None,
            reserve: self.reserve,
        };
        let title = format!("disk set {}", self.disk);
        let effect = change(context, &self.changing, &title, |store| {
            admin::disk::plan_set(store, &self.disk, &request)
        })?;
        let name = self.name.map_or(self.disk, |name| name.to_string());
        print_state(context, effect, &name, "set")
    }

    fn set_path_here(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct DryRun {
            dry_run: bool,
            path: Option<PathBuf>,
        }
        let given = self.path.unwrap_or_default();
        let path = admin::place::absolute(&given)?;
        if self.changing.dry_run {
            let pool = context.pool.clone();
            let changed = admin::disk_path::check(&pool, &mut *context.rehearsal()?, &self.disk, &path)?;
            let body = DryRun {
                dry_run: true,
                path: changed.map(|_| path),
            };
            let words = match &body.path {
                Some(path) => format!("disk {}: would be at {} here", self.disk, path.display()),
                None => "nothing would change".to_owned(),
            };
            context.out.say(&body, |out| {
                out.line(&printable(&words));
                Ok(())
            })?;
            return Ok(Done::Plainly);
        }
        admin::disk_path::set(&context.pool, &self.disk, &path, self.changing.within())?;
        let effect = Effect::none(context.store()?.header()?.generation);
        print_state(context, Some(effect), &self.disk, "set")
    }
}

/// `vctl disk resize`
#[derive(Args, Debug)]
pub struct Resize {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    /// The size to use, to which an image file is extended; by default the size that it has
    #[arg(value_parser = size::parse)]
    size: Option<ByteCount>,
    #[command(flatten)]
    changing: Changing,
}

impl Resize {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let title = format!("disk resize {}", self.disk);
        if let Some(size) = self.size {
            let view = PoolView::load(&mut *context.store()?)?;
            let record = &view.disk(&self.disk)?.record;
            warn_if_short(context, &record.name, &record.path, size)?;
        }
        if self.changing.dry_run {
            let effect = change(context, &self.changing, &title, |store| {
                admin::disk::plan_resize(store, &self.disk, self.size)
            })?;
            return print_state(context, effect, &self.disk, "resized");
        }
        let mut controller = context.controller(&title, &self.changing)?;
        let sent = admin::disk::resize(&mut controller, &title, &self.disk, self.size)?;
        let effect = match sent {
            Some(sent) => Effect::of(sent, &controller),
            None => Effect::none(controller.store().header()?.generation),
        };
        print_state(context, Some(effect), &self.disk, "resized")
    }
}

/// `vctl disk remove`
#[derive(Args, Debug)]
pub struct Remove {
    /// Its name
    #[arg(value_name = "DISK")]
    disk: String,
    #[command(flatten)]
    changing: Changing,
}

impl Remove {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let title = format!("disk remove {}", self.disk);
        if self.changing.dry_run {
            let planned = admin::disk::plan_remove(&mut *context.rehearsal()?, &self.disk)?;
            context.would_send(&planned.delta)?;
            return Ok(Done::Plainly);
        }
        let mut controller = context.controller(&title, &self.changing)?;
        let (sent, left) = admin::disk::remove(&mut controller, &title, &self.disk)?;
        if let Some(error) = left {
            note(&printable(&format!(
                "vctl: {}: {}",
                error.what(),
                admin::disk::label_left(&error)
            )));
        }
        let change = Effect::of(sent, &controller);
        report::removed(context, change, "disk", &self.disk)
    }
}

/// Warns if an image of that size may need more space of its file system than is free there.
fn warn_if_short(context: &mut Context, name: &Name, path: &Path, size: ByteCount) -> Result<()> {
    let view = PoolView::load(&mut *context.store()?)?;
    if let Some(short) = admin::room::short_with(&view, name, path, size) {
        note(&format!("vctl: warning: disk {name}: {}", short.words()));
    }
    Ok(())
}

/// Prints the new state of a disk.
pub(super) fn print_state(
    context: &mut Context,
    effect: Option<Effect>,
    name: &str,
    done: &str,
) -> Result<Done> {
    let Some(change) = effect else {
        return Ok(Done::Plainly);
    };
    let mut store = context.store()?;
    let view = PoolView::load(&mut *store)?;
    let row = Row::new(&mut *store, &view, view.disk(name)?);
    let words = row.in_words(context.out.style());
    report::became(context, change, ("disk", name), &row, (done, &words))
}
