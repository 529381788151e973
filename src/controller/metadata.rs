//! Keeps the metadata copies on the disks up to date with the persisted changes.
//!
//! A change counts as persisted once every copy that is kept current covers it. The process that persists it updates all copies in parallel, after the store is durable
//! and before it acknowledges anything: so whatever a host was promised, and the owner of every extent, can be found on the disks alone. A disk that does not finish within
//! [`PATIENCE`] is not waited for again: the store records that its copy lags, and `vctl status` reports that. Apparatuses try such a copy again
//! ([`catch_up`]), and so does each controller (`placing.rs`). A pool without any writable copy continues with its database alone.

use crate::blockdev::metadata::{CopyState, Update, Updated};
use crate::blockdev::{Disk, Disks, Pending, waiting_for};
use crate::model::error::{Error, Result};
use crate::model::event::Severity;
use crate::model::units::{DiskId, Generation};
use crate::store::Store;
use crate::store::metadata::{CopyRecord, Persisted};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time limit for all copies together, if each gets a record.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Number of passes, each for the changes that other processes persisted during the one before.
const ROUNDS: usize = 3;

/// Makes the current copies cover all persisted changes. Returns the generation of the last of them.
///
/// # Errors
/// Returns the errors of the store. A copy that cannot be written is marked as lagging, which is not an error.
pub(crate) fn bring_up(store: &mut dyn Store, disks: &Disks) -> Result<Generation> {
    let mut covered = Generation(u64::MAX);
    for _ in 0..ROUNDS {
        let Some(persisted) = store.persisted()? else {
            return Ok(Generation(u64::MAX));
        };
        covered = persisted.position.generation;
        let due: Vec<CopyRecord> = persisted.due().cloned().collect();
        if due.is_empty() {
            break;
        }
        update_all(store, disks, &due, persisted)?;
    }
    Ok(covered)
}

/// Updates these copies, with a checkpoint for those that need one.
fn update_all(
    store: &mut dyn Store,
    disks: &Disks,
    copies: &[CopyRecord],
    persisted: Persisted,
) -> Result<()> {
    let stale = update(store, disks, copies, persisted, None)?;
    if !stale.is_empty()
        && let Some((persisted, body)) = store.persisted_table()?
    {
        update(store, disks, &stale, persisted, Some(body))?;
    }
    Ok(())
}

/// Tries to update the lagging copies on disks that are open and answer. Returns whether all copies are current afterwards.
///
/// # Errors
/// Returns the errors of the store.
pub(crate) fn catch_up(store: &mut dyn Store, disks: &Disks) -> Result<bool> {
    let lagging = |persisted: &Persisted| -> Vec<CopyRecord> {
        let copies = persisted.copies.iter();
        copies.filter(|copy| copy.lag.is_some()).cloned().collect()
    };
    let Some(persisted) = store.persisted()? else {
        return Ok(true);
    };
    let mut behind = lagging(&persisted);
    if behind.is_empty() {
        return Ok(true);
    }
    behind.retain(|copy| disks.get(copy.disk).is_some_and(|disk| answers(&disk)));
    if !behind.is_empty() {
        update_all(store, disks, &behind, persisted)?;
        bring_up(store, disks)?;
    }
    let persisted = store.persisted()?;
    Ok(persisted.is_none_or(|persisted| lagging(&persisted).is_empty()))
}

/// Returns the time limit for the copies, which grows with the length of a checkpoint.
pub(super) fn patience(body: Option<&Vec<u8>>) -> Duration {
    let megabytes = body.map_or(0, |body| body.len() >> 20);
    PATIENCE + Duration::from_millis(50) * u32::try_from(megabytes).unwrap_or(u32::MAX)
}

/// Returns whether no operation on the disk is being waited for.
pub(super) fn answers(disk: &Disk) -> bool {
    !disk.is_read_only() && waiting_for(disk.path()).is_none()
}

/// Returns whether the current copies cover all persisted changes.
///
/// # Errors
/// Returns the errors of the store.
pub(crate) fn is_current(store: &mut dyn Store) -> Result<bool> {
    Ok(store
        .persisted()?
        .is_none_or(|persisted| persisted.due().next().is_none()))
}

/// Updates these copies. Returns those that need a checkpoint.
fn update(
    store: &mut dyn Store,
    disks: &Disks,
    copies: &[CopyRecord],
    persisted: Persisted,
    body: Option<Vec<u8>>,
) -> Result<Vec<CopyRecord>> {
    let (target, update) = (persisted.position, Arc::new(as_update(persisted, body)));
    let begin = |copy: &CopyRecord| {
        let disk = disks.get(copy.disk)?;
        let update = Arc::clone(&update);
        let reported = CopyState {
            place: copy.place,
            position: copy.position,
        };
        Some(on_disk(&disk, move |disk| disk.update_copy(reported, &update)))
    };
    let asked: Vec<_> = copies.iter().map(|copy| (copy, begin(copy))).collect();
    let patience = patience(update.body.as_ref());
    let until = Instant::now() + patience;
    let (mut stale, mut written) = (Vec::new(), Vec::new());
    for (copy, asked) in asked {
        match asked.map_or_else(|| Err(not_open()), |mut asked| asked.wait(until, patience)) {
            Ok(Updated::Current) => written.push(copy),
            Ok(Updated::WantsCheckpoint) => stale.push(copy.clone()),
            Ok(Updated::Unplaced) => leave_behind(store, copy, "its label names no place for it")?,
            Err(why) => leave_behind(store, copy, why.why())?,
        }
    }
    if !written.is_empty() {
        let places: Vec<_> = written.iter().map(|copy| (copy.disk, copy.place)).collect();
        store.copies_written(&places, target)?;
    }
    for copy in written.into_iter().filter(|copy| copy.lag.is_some()) {
        is_back(store, copy.disk)?;
    }
    Ok(stale)
}

pub(super) fn as_update(persisted: Persisted, body: Option<Vec<u8>>) -> Update {
    Update {
        pool: persisted.pool,
        lineage: persisted.lineage,
        target: persisted.position,
        facts: persisted.facts,
        steps: persisted.steps,
        body,
    }
}

pub(super) fn on_disk<T: Send + 'static>(
    disk: &Arc<Disk>,
    work: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
) -> Pending<T> {
    let own = Arc::clone(disk);
    Pending::begin(format!("disk {}", disk.name()), disk.path(), move || work(&own))
}

fn not_open() -> Error {
    Error::failed("disk", "is not open")
}

/// Records that nobody waits for this copy any more, and tells the operator, unless that has been done.
pub(super) fn leave_behind(store: &mut dyn Store, copy: &CopyRecord, why: &str) -> Result<()> {
    if copy.lag.as_deref() == Some(why) {
        return Ok(());
    }
    store.copy_lags(copy.disk, why)?;
    let text = format!("its copy of the pool's metadata is left behind: {why}");
    report(store, copy.disk, Severity::Warning, &text)
}

/// Tells the operator that a copy that was left behind is current again.
pub(super) fn is_back(store: &mut dyn Store, id: DiskId) -> Result<()> {
    let text = "carries a current copy of the pool's metadata again";
    report(store, id, Severity::Info, text)
}

fn report(store: &mut dyn Store, id: DiskId, severity: Severity, text: &str) -> Result<()> {
    let records = store.disks()?;
    let Some(record) = records.iter().find(|record| record.id == id) else {
        return Ok(());
    };
    let subject = format!("disk {}", record.name);
    log::log!(severity.level(), "{subject}: {text}");
    store.log(severity, &subject, text)
}
