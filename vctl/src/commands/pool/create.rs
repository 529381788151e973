//! `vctl pool create`, `show`.

use crate::arguments;
use crate::commands::node::options::StoreOptions;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Column, details, note};
use apparatus::admin;
use apparatus::admin::view::PoolView;
use apparatus::model::alloc;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::records::{Delta, DiskAccess, NewPool};
use apparatus::model::units::{ByteCount, ExtentSize, Generation, Term};
use apparatus::store::Place;
use clap::Args;
use serde::Serialize;
use uuid::Uuid;

/// `vctl pool create`
#[derive(Args, Debug)]
pub struct Create {
    /// Unit of allocation: a power of two from 64K to 64M
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = arguments::extent_size)]
    extent_size: ExtentSize,
    /// Read and write the disks past the page cache (O_DIRECT)
    #[arg(long)]
    direct: bool,
    #[command(flatten)]
    store: StoreOptions,
    /// Say what would be created, and create nothing
    #[arg(long)]
    dry_run: bool,
}

impl Create {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Made {
            pool: Row,
        }
        let etcd = self.store.place()?;
        if self.dry_run {
            return self.would_make(context);
        }
        admin::pool::create(&context.pool, self.new_pool(), etcd)?;
        warn_if_cleaned(context);
        let body = Made {
            pool: Row::load(context)?,
        };
        context.out.say(&body, |out| {
            let size = Cell::Size(self.extent_size.bytes()).plain(out.style());
            let direct = direct(body.pool.access);
            out.line(&format!(
                "pool {}: created, extents of {size}{direct}",
                body.pool.path
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }

    fn new_pool(&self) -> NewPool {
        let access = if self.direct {
            DiskAccess::Direct
        } else {
            DiskAccess::Cached
        };
        NewPool {
            extent_size: self.extent_size,
            access,
        }
    }

    fn would_make(&self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct WouldMake {
            dry_run: bool,
            path: String,
            extent_size: u64,
            access: DiskAccess,
            #[serde(rename = "difference")]
            delta: Delta,
        }
        admin::pool::check_absent(&context.pool)?;
        let body = WouldMake {
            dry_run: true,
            path: context.pool.path().to_string_lossy().into_owned(),
            extent_size: self.extent_size.bytes(),
            access: self.new_pool().access,
            delta: Delta {
                from: Generation(0),
                edits: Vec::new(),
            },
        };
        context.out.say(&body, |out| {
            let size = Cell::Exact(body.extent_size).plain(out.style());
            let direct = direct(body.access);
            out.line(&format!(
                "would create pool {}: extents of {size}{direct}",
                body.path
            ));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// Warns where the pool's directory will be deleted by programs that nobody connects with it.
fn warn_if_cleaned(context: &Context) {
    if let Some(above) = admin::place::cleaned_above(context.pool.named()) {
        note(&format!(
            "vctl: warning: pool {}: is below {}, whose files are deleted at a restart or after some days: a pool to keep belongs elsewhere",
            context.pool.display(),
            above.display()
        ));
    }
}

/// Returns what a sentence on a new pool says of its access.
fn direct(access: DiskAccess) -> &'static str {
    if access.is_cached() {
        ""
    } else {
        ", disks past the page cache"
    }
}

/// A pool as scripts read it.
#[derive(Serialize)]
pub struct Row {
    path: String,
    uuid: Uuid,
    /// The members of the etcd cluster that has the pool's metadata, if one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<Vec<String>>,
    /// This machine's name among those of the pool, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Name>,
    extent_size: u64,
    access: DiskAccess,
    generation: Generation,
    layout: u64,
    membership: u64,
    term: Term,
    disks: u64,
    volumes: u64,
    apparatuses: u64,
    size: ByteCount,
    used: ByteCount,
    reserved: ByteCount,
    quarantined: ByteCount,
    free: ByteCount,
    policy: alloc::Policy,
    nearfull: u8,
    full: u8,
}

impl Row {
    /// Loads the current state.
    pub fn load(context: &Context) -> Result<Self> {
        let mut store = context.store()?;
        let view = PoolView::load(&mut *store)?;
        let (_, members) = store.members()?;
        let usage = view.usage();
        let options = store.options()?;
        let place = Place::read(&context.pool)?;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Ok(Self {
            path: context.pool.path().to_string_lossy().into_owned(),
            uuid: view.header.uuid,
            etcd: place.as_ref().map(|place| place.etcd.endpoints.clone()),
            node: place.and_then(|place| place.node).map(|node| node.name),
            extent_size: view.header.extent_size.bytes(),
            access: view.header.access,
            generation: view.header.generation,
            layout: view.header.layout,
            membership: view.header.membership.0,
            term: view.header.term,
            disks: count(view.disks.len()),
            volumes: count(view.volumes.len()),
            apparatuses: count(members.len()),
            size: usage.size,
            used: usage.used,
            reserved: usage.reserved,
            quarantined: usage.quarantined,
            free: usage.free,
            policy: options.policy,
            nearfull: options.thresholds.nearfull(),
            full: options.thresholds.full(),
        })
    }
}

const COLUMNS: &[Column<Row>] = &[
    Column::shown("PATH", |row| Cell::text(&row.path)),
    Column::shown("UUID", |row| Cell::text(row.uuid.to_string())),
    Column::shown("ETCD", |row| {
        row.etcd
            .as_ref()
            .map_or(Cell::None, |etcd| Cell::text(etcd.join(", ")))
    }),
    Column::shown("NODE", |row| {
        row.node
            .as_ref()
            .map_or(Cell::None, |node| Cell::text(node.as_str()))
    }),
    Column::shown("EXTENT-SIZE", |row| Cell::Size(row.extent_size)),
    Column::shown("ACCESS", |row| Cell::text(row.access.word())),
    Column::shown("GENERATION", |row| Cell::Number(row.generation.0)),
    Column::shown("LAYOUT", |row| Cell::Number(row.layout)),
    Column::shown("TERM", |row| Cell::Number(row.term.0)),
    Column::shown("DISKS", |row| Cell::Number(row.disks)),
    Column::shown("VOLUMES", |row| Cell::Number(row.volumes)),
    Column::shown("APPARATUSES", |row| Cell::Number(row.apparatuses)),
    Column::shown("SIZE", |row| Cell::Size(row.size.0)),
    Column::shown("USED", |row| Cell::Size(row.used.0)),
    Column::shown("RESERVED", |row| Cell::Size(row.reserved.0)),
    Column::shown("QUARANTINED", |row| Cell::Size(row.quarantined.0)),
    Column::shown("FREE", |row| Cell::Size(row.free.0)),
    Column::shown("POLICY", |row| Cell::text(row.policy.word())),
    Column::shown("NEARFULL", |row| Cell::text(format!("{}%", row.nearfull))),
    Column::shown("FULL", |row| Cell::text(format!("{}%", row.full))),
];

/// `vctl pool show`
#[derive(Args, Debug)]
pub struct Show {}

impl Show {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Pool {
            pool: Row,
        }
        let body = Pool {
            pool: Row::load(context)?,
        };
        context.out.say(&body, |out| {
            details(out, COLUMNS, &body.pool);
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
