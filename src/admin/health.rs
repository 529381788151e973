//! The faults of disks that are known now, for the choice of a place for new data.

use super::usage::ask::ask;
use super::{disk, select};
use crate::cluster;
use crate::controller::persist::{disks_at_risk, refuse_lost};
use crate::controller::pool;
use crate::model::alloc::{Fault, Faults};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::DiskId;
use crate::rpc::message::{Answer, ApparatusMetrics, Request};
use crate::store::Store;
use std::time::Duration;

/// How long all apparatuses together may take to report how their disks do.
const PATIENCE: Duration = Duration::from_millis(500);

/// Returns the faults of the disks that `on` names (`DISK`, `@TAG`), or of all if it is empty: those that hosts wait for, on which requests have
/// failed, or that cannot be opened for writing.
///
/// # Errors
/// Fails with `NotFound` for an unknown name; returns the errors of the store.
pub fn faults_on(pool: &PoolDir, store: &mut dyn Store, on: &[String]) -> Result<Faults> {
    let on = select::disks(&store.disks()?, on)?;
    faults(pool, store, &on)
}

/// Returns the faults of these disks, or of all if none are named. One disk that is named alone is not inspected, because there is no choice.
///
/// # Errors
/// Fails when root asks about another user's pool; returns the errors of the store.
pub fn faults(pool: &PoolDir, store: &mut dyn Store, on: &[DiskId]) -> Result<Faults> {
    pool::refuse_users_pool(pool)?;
    if on.len() == 1 {
        return Ok(Faults::new());
    }
    let header = store.header()?;
    let mut disks = store.disks()?;
    disks.retain(|disk| disk.allocate && (on.is_empty() || on.contains(&disk.id)));
    let reports = reports(pool, store, &header)?;
    let lost = losing(pool, store, &header, &disks)?;
    let unusable = disk::faults(store, &disks, &header);
    let faults = disks.iter().zip(unusable).filter_map(|(disk, unusable)| {
        let unusable = unusable.as_ref().map(fault_of);
        let fault = unusable.or_else(|| lost.get(&disk.id).cloned());
        Some((disk.id, fault.or_else(|| reported(&reports, disk))?))
    });
    Ok(faults.collect())
}

fn fault_of(error: &Error) -> Fault {
    Fault::Unusable {
        why: error.why().to_owned(),
        way_out: error.way_out().map(str::to_owned),
    }
}

/// Returns the disks that have lost writes of data that was moved to them.
fn losing(
    pool: &PoolDir,
    store: &mut dyn Store,
    header: &PoolHeader,
    disks: &[DiskRecord],
) -> Result<Faults> {
    let at_risk = disks_at_risk(store)?;
    let Some(shared) = cluster::open(pool)?.share_existing(header.uuid)? else {
        return Ok(Faults::new());
    };
    let at_risk = disks.iter().filter(|disk| at_risk.contains(&disk.id));
    let lost = at_risk.filter_map(|disk| {
        let refused = refuse_lost(disk.name.as_str(), &*shared.ledgers.ledger(disk.id));
        Some((disk.id, fault_of(&refused.err()?)))
    });
    Ok(lost.collect())
}

/// Returns the figures of the apparatuses that report them in time.
fn reports(pool: &PoolDir, store: &mut dyn Store, header: &PoolHeader) -> Result<Vec<ApparatusMetrics>> {
    let cluster = cluster::open(pool)?;
    let (_, mut members) = store.members()?;
    members.retain(|member| !cluster.has_ended(member).unwrap_or(true));
    let asked = ask(pool, header.uuid, &members, &Request::Status, PATIENCE);
    let figures = asked.answers.into_values().filter_map(|answer| match answer {
        Ok(Answer::Status(figures)) => Some(*figures),
        _ => None,
    });
    Ok(figures.collect())
}

/// Returns the fault of a disk by the apparatuses' reports.
fn reported(reports: &[ApparatusMetrics], disk: &DiskRecord) -> Option<Fault> {
    let name = disk.name.as_str();
    let waits = |report: &ApparatusMetrics| {
        let mut waiting = report.waiting.values();
        waiting.any(|requests| requests.disks.iter().any(|disk| disk == name))
    };
    if reports.iter().any(waits) {
        return Some(Fault::Waits);
    }
    let errors = |report: &ApparatusMetrics| report.disks.get(name).map_or(0, |io| io.errors);
    let failed: u64 = reports.iter().map(errors).sum();
    (failed > 0).then_some(Fault::Fails(failed))
}
