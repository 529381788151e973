//! Puts the metadata of a pool into etcd, and takes it out of there again, while no apparatus runs.
//!
//! `DIR/pool.ron` leads each of both. It is written first, as begun, and from then on nothing changes the pool; then the log is written or removed; then
//! `pool.ron` is written as complete, or removed. So a pool has one place for its metadata at every moment, and a step that was interrupted is completed by the
//! same command, or taken back by the opposite one. Both raise the layout number, which is written to the disks' labels: a database that was copied before
//! is refused by the disks as an older one.

use super::backup::{check_no_job_runs, check_nobody_lives};
use super::disk;
use crate::cluster::{self, Role, WaitLimit};
use crate::controller::node;
use crate::controller::{Controller, Wait, pool};
use crate::failpoint::{Point, hit};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::store::{self, EtcdPlace, OwnNode, Place, Store, Transit};
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// What is done, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The pool's UUID.
    pub uuid: Uuid,
    /// The members of the etcd cluster.
    pub endpoints: Vec<String>,
    /// Whether an earlier attempt is completed.
    pub resumed: bool,
}

fn what(pool: &PoolDir) -> String {
    format!("pool {}", pool.display())
}

/// Where the metadata is to be.
pub struct Target {
    /// The cluster.
    pub etcd: EtcdPlace,
    /// This machine, if the pool is to know its machines by name.
    pub node: Option<OwnNode>,
}

/// Returns what an import would do.
///
/// # Errors
/// Fails when the pool has its metadata in etcd, when an apparatus runs, a disk cannot be used, etcd does not answer or has the pool already, and when an earlier
/// attempt had another target.
pub fn inspect_import(pool: &PoolDir, target: Target) -> Result<(Report, Place)> {
    let Target { etcd, node } = target;
    node.as_ref().map_or(Ok(()), node::check)?;
    check_nobody_lives(pool, "by the metadata in the pool's directory")?;
    let begun = Place::read(pool)?;
    let mut store = open_copy(pool)?;
    let header = store.header()?;
    let place = Place {
        pool: header.uuid,
        etcd,
        node,
        transit: Some(Transit::Importing),
    };
    let resumed = match begun {
        None => {
            refuse_unusable_disks(&mut *store)?;
            refuse_known(&place)?;
            false
        }
        Some(begun) if begun == place => true,
        Some(begun) if begun.transit == Some(Transit::Importing) => {
            let why = format!(
                "was begun with another target: {}",
                begun.etcd.endpoints.join(", ")
            );
            return Err(Error::failed(what(pool), format!("its import {why}"))
                .hint("complete it with the same options; or take it back: vctl pool export"));
        }
        Some(_) => {
            return Err(Error::failed(what(pool), "has its metadata in etcd already")
                .hint("look at it with vctl pool show"));
        }
    };
    let report = Report {
        uuid: header.uuid,
        endpoints: place.etcd.endpoints.clone(),
        resumed,
    };
    Ok((report, place))
}

fn open_copy(pool: &PoolDir) -> Result<Box<dyn Store>> {
    pool::refuse_file(pool)?;
    store::open_copy(pool, cluster::open(pool)?.epoch()?)
}

/// Refuses while a disk cannot be opened: its label would not tell an older database from this one.
fn refuse_unusable_disks(store: &mut dyn Store) -> Result<()> {
    let (records, header) = (store.disks()?, store.header()?);
    let faults = disk::faults(&mut *store, &records, &header);
    faults.into_iter().flatten().next().map_or(Ok(()), Err)
}

fn refuse_known(place: &Place) -> Result<()> {
    if !store::is_in_log(place)? {
        return Ok(());
    }
    let why = format!("has the metadata of pool {} already", place.pool);
    Err(Error::failed("etcd", why).hint(
        "if it is what an earlier attempt has left, remove it: etcdctl del --prefix /apparatus/UUID; else join the pool: vctl pool join",
    ))
}

/// Puts the metadata into etcd.
///
/// # Errors
/// Returns the errors of [`inspect_import`]; fails when another controller holds the lock, a change is unfinished, or a file cannot be written.
pub fn import(pool: &PoolDir, target: Target, within: Option<Duration>) -> Result<Report> {
    let (report, place) = inspect_import(pool, target)?;
    if !report.resumed {
        persist(pool, "pool import", within)?;
    }
    let cluster = cluster::open(pool)?;
    let leadership = cluster.lead(Role::Command, "pool import", WaitLimit::of(within))?;
    check_no_job_runs(pool)?;
    check_nobody_lives(pool, "by the metadata in the pool's directory")?;
    if !report.resumed {
        refuse_unfinished(&mut *open_copy(pool)?)?;
        place.write(pool)?;
    }
    hit(Point::ImportBegun);
    store::enter_log(pool, cluster.epoch()?, &place)?;
    hit(Point::ImportLogged);
    let transit = None;
    Place { transit, ..place }.write(pool)?;
    hit(Point::ImportDone);
    drop(leadership);
    persist(pool, "pool import", within)?;
    Ok(report)
}

/// Persists all changes, and writes the labels.
fn persist(pool: &PoolDir, purpose: &str, within: Option<Duration>) -> Result<()> {
    Controller::acquire(pool, purpose, Wait::For(within))?
        .persist()
        .map(drop)
}

fn refuse_unfinished(store: &mut dyn Store) -> Result<()> {
    if store.unfinished()?.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, "pool", "was changed meanwhile").hint("try again"))
}

/// Returns what an export would do.
///
/// # Errors
/// Fails when the pool has its metadata in its directory alone, when it has other nodes or an apparatus runs, and when etcd does not answer.
pub fn inspect_export(pool: &PoolDir) -> Result<Report> {
    drop(open_copy(pool)?);
    let Some(place) = Place::read(pool)? else {
        return Err(Error::failed(
            what(pool),
            "has its metadata in its directory alone: there is nothing to export",
        ));
    };
    check_nobody_lives(pool, "by the metadata in etcd")?;
    let in_log = store::is_in_log(&place).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => {
            error.hint("if it does not come back, use the copy of this machine: vctl pool rescue")
        }
        _ => error,
    })?;
    if in_log && place.transit.is_none() {
        refuse_other_nodes(pool, &place)?;
    }
    Ok(Report {
        uuid: place.pool,
        endpoints: place.etcd.endpoints,
        resumed: place.transit.is_some(),
    })
}

fn refuse_other_nodes(pool: &PoolDir, place: &Place) -> Result<()> {
    let own = place.node.as_ref().map(|own| &own.name);
    let nodes = pool::open(pool)?.nodes()?;
    let other = nodes.into_iter().find(|node| Some(&node.name) != own);
    other.map_or(Ok(()), |node| {
        let why = format!("node {} is one of its machines", node.name);
        Err(Error::new(ErrorKind::Busy, what(pool), why).hint(format!(
            "stop its apparatuses there, and remove it: vctl node remove {}",
            node.name
        )))
    })
}

/// Takes the metadata out of etcd: the pool is one of this machine alone. An import that was interrupted is taken back.
///
/// # Errors
/// Returns the errors of [`inspect_export`]; fails when another controller holds the lock, a change is unfinished, or a file cannot be written.
pub fn export(pool: &PoolDir, within: Option<Duration>) -> Result<Report> {
    let report = inspect_export(pool)?;
    if !report.resumed {
        persist(pool, "pool export", within)?;
    }
    let cluster = cluster::open(pool)?;
    let leadership = cluster.lead(Role::Command, "pool export", WaitLimit::of(within))?;
    check_no_job_runs(pool)?;
    check_nobody_lives(pool, "by the metadata in etcd")?;
    if let Some(place) = Place::read(pool)?.filter(|place| place.transit.is_none()) {
        refuse_other_nodes(pool, &place)?;
        refuse_unfinished(&mut *pool::open(pool)?)?;
        let transit = Some(Transit::Exporting);
        Place { transit, ..place }.write(pool)?;
    }
    hit(Point::ExportBegun);
    store::end_log(pool, cluster.epoch()?)?;
    hit(Point::ExportLogGone);
    store::leave_log(pool, cluster.epoch()?, None)?;
    hit(Point::ExportDone);
    drop(leadership);
    persist(pool, "pool export", within)?;
    Ok(report)
}
