//! The part of an apparatus's start that comes before it serves: pool, name, control socket, disks, shared state, table, join.

use super::kept::Kept;
use super::report::Reporter;
use super::{Settings, disks, process, standby};
use crate::admin::place;
use crate::blockdev::Disks;
use crate::cluster::{NameClaim, OwnEntry, SharedState};
use crate::controller::metadata::is_current;
use crate::controller::node;
use crate::controller::persist::{disks_at_risk, refuse_lost};
use crate::controller::pool::PoolHandle;
use crate::datapath::calibrate;
use crate::map::Draft;
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::member::{Joined, Joiner, Member};
use crate::model::records::PoolHeader;
use crate::rpc::{Listener, NodeListener};
use crate::store::{self, Store};
use crate::supervisor;
use std::sync::Arc;
use std::time::Duration;

/// How long the server before this one may take to end once its supervisor has.
const ENDING: Duration = Duration::from_secs(5);

/// Name of an apparatus in its pool, which no other process has as long as this lives, and its control socket.
pub(super) struct Endpoint {
    pub(super) claim: Arc<dyn NameClaim>,
    pub(super) listener: Listener,
    /// Where it listens for other nodes, if it does.
    pub(super) node_listener: Option<NodeListener>,
}

impl Endpoint {
    /// Returns its sockets and the claim.
    pub(super) fn parts(self) -> (Listener, Option<NodeListener>, Arc<dyn NameClaim>) {
        (self.listener, self.node_listener, self.claim)
    }

    /// Returns the port at which it listens for other nodes, if it does.
    pub(super) fn port(&self) -> Option<u16> {
        self.node_listener
            .as_ref()
            .map(|node_listener| node_listener.port)
    }

    /// Claims the name. `goes_on` says that there was a server before this one.
    fn claim(settings: &Settings, pool: &PoolHandle, goes_on: bool) -> Result<Self> {
        let name = &settings.name;
        let runs_already = || {
            Error::failed(format!("apparatus {name}"), "runs already")
                .hint("stop that one first, or choose another name")
        };
        let is_anothers = !settings.is_kept
            && supervisor::supervisor_of(&pool.dir, name).is_ok_and(|supervisor| supervisor.is_some());
        let claim = match pool.cluster.claim(name.as_str())? {
            // The server before this one may still be ending, if its supervisor was killed.
            None if goes_on && pool.cluster.await_end(name.as_str(), ENDING)? => {
                pool.cluster.claim(name.as_str())?
            }
            other => other,
        };
        let claim = claim.filter(|_| !is_anothers).ok_or_else(runs_already)?;
        let listener = Listener::bind(&pool.dir, name, &*claim)?;
        let node_listener = node::listen(pool.node.as_ref())?;
        Ok(Self {
            claim,
            listener,
            node_listener,
        })
    }
}

/// Everything that is opened before the apparatus joins the pool.
pub(super) struct Startup {
    pub(super) pool: PoolHandle,
    pub(super) store: Box<dyn Store>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) shared: SharedState,
    pub(super) disks: Disks,
    header: PoolHeader,
}

impl Startup {
    /// Opens the pool, and then claims the name and prepares everything else; the table is that of this moment. A server that is to replace a living one
    /// has everything prepared before that one ends and gives the name back.
    ///
    /// # Errors
    /// Fails when the pool cannot be used, or another process has the name.
    pub(super) fn new(settings: &Settings, kept: Option<&mut Kept>) -> Result<(Self, Draft, Endpoint)> {
        let pool = PoolHandle::of(&place::pool_dir(settings.pool.as_deref())?)?;
        match kept {
            Some(kept) if kept.stands_by() => {
                let (mut store, mut table) = Self::read_beside(&pool)?;
                standby::await_turn(&pool, &mut *store, &mut table, kept)?;
                process::step("turn");
                let endpoint = Endpoint::claim(settings, &pool, true)?;
                process::step("claimed");
                let (prepared, table) = Self::prepare(settings, pool, store, Some(table))?;
                Ok((prepared, table, endpoint))
            }
            Some(kept) if kept.is_successor() => {
                let read = Self::read_beside(&pool);
                let prepared =
                    read.and_then(|(store, table)| Self::prepare(settings, pool, store, Some(table)));
                let (prepared, table) = prepared.inspect_err(|error| kept.failed(error))?;
                calibrate();
                kept.succeed()?;
                let endpoint = Endpoint::claim(settings, &prepared.pool, true)?;
                Ok((prepared, table, endpoint))
            }
            kept => {
                let goes_on = kept.is_some_and(|kept| kept.previous().is_some());
                let mut store = (pool.open_store)()?;
                pool.own(&mut *store)?;
                let endpoint = Endpoint::claim(settings, &pool, goes_on)?;
                process::step("claimed");
                let (prepared, table) = Self::prepare(settings, pool, store, None)?;
                Ok((prepared, table, endpoint))
            }
        }
    }

    /// Opens the database and reads the table beside the living server. A database of another format is refused: to convert it would be no matter of this apparatus alone.
    fn read_beside(pool: &PoolHandle) -> Result<(Box<dyn Store>, Draft)> {
        if !store::has_present_format(&pool.dir)? {
            return Err(Error::failed(
                "pool database",
                "has another format than this program's, which the other processes of the pool may not know",
            )
            .hint("stop all apparatuses of the pool, and start them with the new program"));
        }
        let mut store = (pool.open_store)()?;
        pool.own(&mut *store)?;
        let table = Draft::new(&store.snapshot()?)?;
        Ok((store, table))
    }

    /// Opens everything but the database. `table` is one that was read before; it is read otherwise.
    fn prepare(
        settings: &Settings,
        pool: PoolHandle,
        mut store: Box<dyn Store>,
        table: Option<Draft>,
    ) -> Result<(Self, Draft)> {
        let name = &settings.name;
        let reporter = Reporter::start(pool.open_store.clone())
            .map_err(|error| Error::because(format!("apparatus {name}"), error))?;
        let header = store.header()?;
        let disks = Disks::new();
        disks::open(&disks, &store.disks()?, &header, &reporter);
        process::step("disks");
        let shared = pool.cluster.share(header.uuid)?;
        // The table may be large: it is read before the apparatus joins, so that other processes do not wait for the store meanwhile, and controllers
        // do not wait long for an apparatus that has joined and does not answer yet.
        process::step("shared");
        let table = match table {
            Some(table) => table,
            None => Draft::new(&store.snapshot()?)?,
        };
        let mut startup = Self {
            pool,
            store,
            reporter,
            header,
            shared,
            disks,
        };
        startup.check_layout()?;
        startup.report_losses()?;
        Ok((startup, table))
    }

    /// Reports disks that have lost writes: hosts may read wrong data there once the page cache has dropped the pages.
    fn report_losses(&mut self) -> Result<()> {
        for id in disks_at_risk(&mut *self.store)? {
            if let Some(disk) = self.disks.get(id)
                && let Err(lost) = refuse_lost(disk.name(), &*self.shared.ledgers.ledger(id))
            {
                let way_out = lost.way_out().unwrap_or_default();
                let text = format!("{}; hosts may read wrong data there; {way_out}", lost.why());
                log::error!("{}: {text}", lost.what());
                self.reporter.report(Severity::Error, lost.what(), text);
            }
        }
        Ok(())
    }

    /// Joins the control range, and returns the table of that moment. `read` is an earlier one; `port` is the one for other nodes.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(super) fn join(
        &mut self,
        settings: &Settings,
        read: Draft,
        port: Option<u16>,
    ) -> Result<(Joined, Draft)> {
        let mount = place::absolute(&settings.mount)?;
        let cluster = self.pool.cluster.clone();
        // This process has claimed its name, so an earlier owner has ended. A member whose state is unknown counts as alive.
        let alive =
            |member: &Member| member.name != settings.name && !cluster.has_ended(member).unwrap_or(false);
        let joiner = Joiner {
            origin: self.pool.cluster.origin(),
            node: self.pool.node.as_ref().map(|node| node.name.clone()),
            port,
            known: Some(read.generation()),
            ..Joiner::new(&settings.name, std::process::id(), mount)
        };
        let joined = self.store.join(&joiner, &alive)?;
        process::step("join");
        let unopened = disks::open(&self.disks, &joined.snapshot.disks, &self.header, &self.reporter);
        disks::warn(&unopened);
        let table = read.joined(&joined.snapshot, joined.since.as_deref())?;
        Ok((joined, table))
    }

    /// Refuses a database that is older than the disks' labels, which would map volumes to the wrong places. The header
    /// is read after the labels, so that a change persisted meanwhile is not taken for one that the database has lost.
    fn check_layout(&mut self) -> Result<()> {
        let layout = self.store.header()?.layout;
        self.disks
            .all()
            .iter()
            .try_for_each(|disk| disk.check_layout(layout))
    }

    /// Begins the entry of this apparatus in the member table.
    pub(super) fn entry(&mut self, joined: &Joined) -> Arc<dyn OwnEntry> {
        // The member table may be new and contain no persisted generation: every flush would ask the store then. A generation that the copies of the
        // metadata lack does not count.
        let recorded = is_current(&mut *self.store).unwrap_or_default();
        if joined.unfinished.is_empty() && recorded {
            self.shared
                .ledgers
                .set_persisted(joined.snapshot.header.generation);
        }
        let entry = self.shared.members.own(joined.member.slot);
        entry.begin(joined.member.incarnation, joined.snapshot.header.generation);
        entry
    }
}
