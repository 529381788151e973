//! Disks: taken in, looked at, changed, let go.

use super::plan::{self, DiskChange, Planned};
use super::select;
use super::send::{Sent, send, write_within};
use crate::change::driver::Controller;
use crate::disk::{Candidate, Disk, ask_first, create_image, grow_image, preallocate, wipe_label, within};
use crate::error::{Error, Result};
use crate::pool::model::{DiskRecord, Edit, PoolHeader, Snapshot};
use crate::pool::names::Name;
use crate::store::{Owner, Store};
use crate::units::{ByteCount, DiskId, ExtentSize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// How long a look at a disk may take: it is not what was asked for, or not all.
const GLANCE: Duration = Duration::from_secs(2);

/// How long a disk that is to be changed may take to answer: one that slept does.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// What a new disk shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// From the root.
    pub path: PathBuf,
    /// The file's name without its extension, if not said.
    pub name: Option<Name>,
    /// Make a sparse image of this size first.
    pub create: Option<ByteCount>,
    /// Give the new image all its space at once, for good.
    pub preallocate: bool,
    /// Its tags.
    pub tags: BTreeSet<Name>,
    /// Whether anything is placed on it.
    pub allocate: bool,
    /// How much of it stays free.
    pub reserve: ByteCount,
}

impl NewDisk {
    /// What it will be called.
    ///
    /// # Errors
    /// When its file's name is none for a disk.
    pub fn name(&self) -> Result<Name> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let stem = self
            .path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        Name::new("disk", &stem.unwrap_or_default())
            .map_err(|error| Error::usage(error.what(), error.why()).hint("give it another name with --name"))
    }

    fn record(&self, id: DiskId, uuid: Uuid, extents: u64, extent_size: ExtentSize) -> Result<DiskRecord> {
        let mut record = DiskRecord {
            id,
            name: self.name()?,
            uuid,
            path: self.path.clone(),
            extents,
            tags: self.tags.clone(),
            allocate: self.allocate,
            reserve: 0,
            label: 0,
        };
        record.reserve = plan::reserve_extents(extent_size, &record, self.reserve)?;
        Ok(record)
    }
}

/// Why a disk cannot be used as its record says; one that does not answer is not waited for any longer than [`GLANCE`].
/// `header` may have been read before: a label that is later than it is held against the store as it is now.
#[must_use]
pub fn fault(store: &mut dyn Store, record: &DiskRecord, header: &PoolHeader) -> Option<Error> {
    faults(store, std::slice::from_ref(record), header)
        .pop()
        .flatten()
}

/// The same for several disks, in their order, all looked at at once.
#[must_use]
pub fn faults(store: &mut dyn Store, records: &[DiskRecord], header: &PoolHeader) -> Vec<Option<Error>> {
    let seen = Disk::with_all_within(GLANCE, records, header, look);
    seen.into_iter()
        .zip(records)
        .map(|(disk, record)| fault_of(store, disk, record, header))
        .collect()
}

fn fault_of(
    store: &mut dyn Store,
    disk: Result<Disk>,
    record: &DiskRecord,
    header: &PoolHeader,
) -> Option<Error> {
    let disk = match disk {
        Ok(disk) => disk,
        Err(error) => return Some(error),
    };
    if disk.check_layout(header.layout).is_err()
        && let Err(error) = store.header().and_then(|now| disk.check_layout(now.layout))
    {
        return Some(error);
    }
    disk.is_read_only().then(|| read_only(record))
}

/// Why the controller does not have a disk open.
pub(super) fn not_open(controller: &mut Controller, id: DiskId) -> Error {
    let store = controller.store();
    let found = store.header().and_then(|header| {
        let disks = store.disks()?;
        let record = disks.iter().find(|record| record.id == id);
        Ok(record.and_then(|record| fault(store, record, &header)))
    });
    let unknown = || {
        Error::failed(format!("disk #{id}"), "is not open").hint("see what is wrong with it: vctl pool check")
    };
    found.unwrap_or_else(Some).unwrap_or_else(unknown)
}

fn read_only(record: &DiskRecord) -> Error {
    let what = format!("disk {} ({})", record.name, record.path.display());
    let why = "has turned read-only: what is on it can be read and moved elsewhere, and writes to it fail";
    Error::failed(what, why).hint(format!("vctl disk evacuate {}", record.name))
}

fn look(record: &DiskRecord, header: &PoolHeader) -> Result<Disk> {
    let disk = Disk::open(record, header)?;
    disk.ask_medium()?;
    Ok(disk)
}

pub(super) fn described(record: &DiskRecord) -> String {
    format!("disk {} ({})", record.name, record.path.display())
}

/// What would be lost by taking the disk in: `an XFS file system`.
///
/// # Errors
/// When it cannot be taken in at all.
pub fn content(store: &mut dyn Store, new: &NewDisk) -> Result<Option<&'static str>> {
    match new.create {
        Some(_) => Ok(None),
        None => Ok(inspect(&store.snapshot()?, new)?.content()),
    }
}

/// The same, before there is a pool.
///
/// # Errors
/// When it cannot be taken in at all.
pub fn content_before(extent_size: ExtentSize, new: &NewDisk) -> Result<Option<&'static str>> {
    match new.create {
        Some(_) => Ok(None),
        None => Ok(candidate(&new.path, &PoolHeader::before(extent_size), &[])?.content()),
    }
}

fn inspect(snapshot: &Snapshot, new: &NewDisk) -> Result<Candidate> {
    candidate(&new.path, &snapshot.header, &snapshot.disks)
}

fn candidate(path: &Path, header: &PoolHeader, known: &[DiskRecord]) -> Result<Candidate> {
    let (wanted, header, known) = (path.to_owned(), header.clone(), known.to_vec());
    adding(path, move || Candidate::inspect(&wanted, &header, &known))
}

/// What is done with a disk before it is one of the pool's. Beside what else is asked of the disk at this path, because that may be part of it.
pub(super) fn adding<T: Send + 'static>(
    path: &Path,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut key = path.as_os_str().to_owned();
    key.push(" (adding)");
    let asked = path.to_owned();
    within(ANSWER, &path.display().to_string(), Path::new(&key), move || {
        ask_first(&asked);
        operation()
    })
}

/// The disk joins; nothing is touched. Its UUID is drawn when it joins; here a number
/// stands in its place.
///
/// # Errors
/// When it cannot join.
pub fn plan_add(store: &mut dyn Store, new: &NewDisk) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let extents = match new.create {
        Some(size) => image_extents(new, size, snapshot.header.extent_size)?,
        None => inspect(&snapshot, new)?.extents(),
    };
    plan::check_disk_name(&snapshot, &new.name()?)?;
    let id = store.next_disk_id()?;
    let record = new.record(
        id,
        Uuid::from_u128(id.0.into()),
        extents,
        snapshot.header.extent_size,
    )?;
    Ok(plan::add_disk(&snapshot, record))
}

fn image_extents(new: &NewDisk, size: ByteCount, extent_size: ExtentSize) -> Result<u64> {
    let what = new.path.display().to_string();
    if new.path.symlink_metadata().is_ok() {
        let error = Error::usage(what, "is there already");
        return Err(error.hint("leave out --create to add it as it is"));
    }
    plan::whole_extents(&what, size, extent_size)
}

/// The disk joins: an image is made if asked for, the label written, the table changed.
///
/// # Errors
/// When it cannot join; an image made for it is gone again then.
pub fn add(controller: &mut Controller, title: &str, new: &NewDisk) -> Result<(Name, Sent)> {
    let snapshot = controller.store().snapshot()?;
    if let Some(size) = new.create {
        plan::check_disk_name(&snapshot, &new.name()?)?;
        let (path, extent_size) = (new.path.clone(), snapshot.header.extent_size);
        adding(&new.path, move || create_image(&path, size, extent_size))?;
    }
    let added = allocated(new).and_then(|()| take_in(controller, &snapshot, title, new));
    if added.is_err() && new.create.is_some() && !is_known_at(controller, new) {
        // It was made here a moment ago.
        let _ = std::fs::remove_file(&new.path);
    }
    added
}

/// With all its space, if that was asked for.
fn allocated(new: &NewDisk) -> Result<()> {
    if !new.preallocate {
        return Ok(());
    }
    preallocate(&new.path).map_err(|why| {
        let what = format!("{}: giving it all its space", new.path.display());
        Error::because(what, why)
            .hint("choose a smaller size or another file system, or leave out --preallocate")
    })
}

/// The label first: a disk that the table names without one could not be opened.
fn take_in(
    controller: &mut Controller,
    snapshot: &Snapshot,
    title: &str,
    new: &NewDisk,
) -> Result<(Name, Sent)> {
    let candidate = inspect(snapshot, new)?;
    plan::check_disk_name(snapshot, &new.name()?)?;
    let mut record = new.record(
        controller.store().next_disk_id()?,
        Uuid::new_v4(),
        candidate.extents(),
        snapshot.header.extent_size,
    )?;
    let (header, disk) = (snapshot.header.clone(), record.uuid);
    record.label = adding(&new.path, move || candidate.write_label(&header, disk))?.sequence;
    let name = record.name.clone();
    let sent = send(controller, title, &plan::add_disk(snapshot, record.clone()));
    if sent.is_err() && !is_known(controller, record.id) {
        // What keeps the label is only in the way of the next attempt, and named by it.
        let _ = wipe(&record, snapshot.header.uuid);
    }
    Ok((name, sent?))
}

fn is_known(controller: &mut Controller, id: DiskId) -> bool {
    let disks = controller.store().disks();
    disks.map_or(true, |disks| disks.iter().any(|disk| disk.id == id))
}

/// The table may have been changed before what came after failed.
fn is_known_at(controller: &mut Controller, new: &NewDisk) -> bool {
    let disks = controller.store().disks();
    disks.map_or(true, |disks| disks.iter().any(|disk| disk.path == new.path))
}

/// The record changes. `None` when it is so already.
///
/// # Errors
/// When there is no such disk, the name is taken, or another disk is at the new path.
pub fn plan_set(store: &mut dyn Store, disk: &str, change: &DiskChange) -> Result<Option<Planned>> {
    let snapshot = store.snapshot()?;
    if let Some(path) = &change.path {
        let old = select::disk(&snapshot.disks, disk)?;
        let moved = DiskRecord {
            path: path.clone(),
            ..old.clone()
        };
        Disk::open_within(ANSWER, &moved, &snapshot.header)?;
    }
    plan::set_disk(&snapshot, disk, change)
}

/// The record takes the size that the device or file has, or shall get. `None` when it is so already.
///
/// # Errors
/// When there is no such disk, or that is too small for what lies on it.
pub fn plan_resize(store: &mut dyn Store, disk: &str, size: Option<ByteCount>) -> Result<Option<Planned>> {
    let snapshot = store.snapshot()?;
    let old = select::disk(&snapshot.disks, disk)?;
    let what = format!("disk {disk}");
    let extent_size = snapshot.header.extent_size;
    let extents = match size {
        Some(size) => plan::whole_extents(&what, size, extent_size)?,
        None => found_extents(old, &snapshot)?,
    };
    let needed = store.uses(old.id)?.last().map_or(2, |last| last.area.end().0);
    if extents < needed {
        let bytes = |extents: u64| extents.saturating_mul(extent_size.bytes());
        let why = format!(
            "{} bytes are in use or wanted, more than {}",
            bytes(needed),
            bytes(extents)
        );
        return Err(
            Error::failed(what, why).hint(format!("move what lies at its end: vctl disk evacuate {disk}"))
        );
    }
    plan::set_disk(
        &snapshot,
        disk,
        &DiskChange {
            extents: Some(extents),
            ..DiskChange::default()
        },
    )
}

fn found_extents(record: &DiskRecord, snapshot: &Snapshot) -> Result<u64> {
    let what = format!("disk {}", record.name);
    // A record that is longer than what is there is the reason to come here.
    let least = DiskRecord {
        extents: 2,
        ..record.clone()
    };
    let header = snapshot.header.clone();
    within(ANSWER, &described(record), &record.path, move || {
        let disk = Disk::open(&least, &header)?;
        disk.found_extents().map_err(|error| Error::because(what, error))
    })
}

/// File, label and record take a size: a disk grows in that order, and shrinks in the other.
///
/// # Errors
/// Those of [`plan_resize`], and the disk's.
pub fn resize(
    controller: &mut Controller,
    title: &str,
    disk: &str,
    size: Option<ByteCount>,
) -> Result<Option<Sent>> {
    let Some(planned) = plan_resize(controller.store(), disk, size)? else {
        return Ok(None);
    };
    let snapshot = controller.store().snapshot()?;
    let old = select::disk(&snapshot.disks, disk)?;
    let Some(Edit::SetDisk(new)) = planned.difference.edits.first() else {
        return Ok(None);
    };
    let (found, wanted) = (old.extents, new.extents);
    let relabel = |controller: &mut Controller, grown: Option<ByteCount>, extents: u64| {
        let record = DiskRecord {
            extents,
            ..old.clone()
        };
        let (header, ledger) = (snapshot.header.clone(), controller.ledger(old.id));
        let label = write_within(controller, ANSWER, &described(old), old, move || {
            if let Some(size) = grown {
                grow_image(&record, size, &ledger)?;
            }
            Disk::open(&record, &header)?.set_extents(wanted, &ledger)
        })?;
        controller.store().label_written(old.id, label.sequence)
    };
    if wanted > found {
        relabel(controller, size, found)?;
        return send(controller, title, &planned).map(Some);
    }
    let sent = send(controller, title, &planned)?;
    relabel(controller, None, wanted)?;
    Ok(Some(sent))
}

/// The disk leaves.
///
/// # Errors
/// When there is no such disk, or it is in use.
pub fn plan_remove(store: &mut dyn Store, disk: &str) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    let in_use = users(store, &snapshot, record.id)?;
    plan::remove_disk(&snapshot, record, &in_use)
}

/// Who has extents on a disk, in words.
fn users(store: &mut dyn Store, snapshot: &Snapshot, disk: DiskId) -> Result<Vec<String>> {
    let name = |owner: Owner| match owner {
        Owner::Volume(id) => {
            let volume = snapshot.volumes.binary_search_by_key(&id, |volume| volume.id);
            let volume = volume.ok().map(|at| &snapshot.volumes[at]);
            format!(
                "volume {}",
                volume.map_or_else(|| format!("#{id}"), |volume| volume.name.to_string())
            )
        }
        Owner::Change(id) => format!("change {id}"),
        Owner::Job(id) => format!("job {id}"),
        Owner::Quarantine(_) => "extents that an apparatus may still use".into(),
    };
    let names: BTreeSet<String> = store.uses(disk)?.iter().map(|each| name(each.owner)).collect();
    Ok(names.into_iter().collect())
}

/// The disk leaves, and its label is erased, so that another pool can take it. What is quarantined on it and can be freed is freed
/// first. The words say why the label could not be erased.
///
/// # Errors
/// When there is no such disk, or it is in use.
pub fn remove(controller: &mut Controller, title: &str, disk: &str) -> Result<(Sent, Option<Error>)> {
    let snapshot = controller.store().snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    if !controller.store().uses(record.id)?.is_empty() {
        controller.harden()?;
        controller.free()?;
    }
    let planned = plan_remove(controller.store(), disk)?;
    let sent = send(controller, title, &planned)?;
    Ok((sent, wipe(record, snapshot.header.uuid).err()))
}

/// A disk that does not answer keeps its label: it can leave the pool all the same.
fn wipe(record: &DiskRecord, pool: Uuid) -> Result<bool> {
    let known = record.clone();
    within(GLANCE, &described(record), &record.path, move || {
        wipe_label(&known, pool)
    })
}
