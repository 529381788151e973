//! Operations on disks: add, inspect, change, remove.

use super::plan::{self, DiskChange, Planned};
use super::room;
use super::select;
use super::send::{Sent, send, write_within};
use crate::blockdev::{
    Candidate, Disk, GrownImage, ask_first, create_image, grow_image, is_this_disk, preallocate, wipe_label,
    within,
};
use crate::controller::Controller;
use crate::model::change::Owner;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::{DiskRecord, Edit, NewPool, PoolHeader, Snapshot};
use crate::model::size::Exact;
use crate::model::units::{ByteCount, DiskId, ExtentSize};
use crate::store::{Store, TableStore};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// How long an inspection of a disk may take where it is not the main purpose of a command.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a disk that is to be changed may take to answer: one that was spun down needs a while.
pub(super) const DISK_TIMEOUT: Duration = Duration::from_secs(15);

/// Properties of a new disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its name; if `None`, the file's name without its extension.
    pub name: Option<Name>,
    /// Size of a sparse image that is created first.
    pub create: Option<ByteCount>,
    /// Whether all space of the new image is allocated at once, for good.
    pub preallocate: bool,
    /// Its tags.
    pub tags: BTreeSet<Name>,
    /// Whether new data may be placed on it.
    pub allocate: bool,
    /// How many bytes of it stay free.
    pub reserve: ByteCount,
}

impl NewDisk {
    /// Returns the name that it will have.
    ///
    /// # Errors
    /// Fails when its file's name is no valid disk name.
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

/// Returns why a disk cannot be used as recorded; `None` if it can. A disk that does not answer is waited for no longer than
/// [`INSPECT_TIMEOUT`]. `header` may have been read earlier: a label with a later layout is compared with the store as it is now.
#[must_use]
pub fn fault(store: &mut dyn Store, record: &DiskRecord, header: &PoolHeader) -> Option<Error> {
    faults(store, std::slice::from_ref(record), header)
        .pop()
        .flatten()
}

/// Checks several disks concurrently, as [`fault`] does. Returns the results in the order of the records.
#[must_use]
pub fn faults(store: &mut dyn TableStore, records: &[DiskRecord], header: &PoolHeader) -> Vec<Option<Error>> {
    let seen = Disk::with_all_within(INSPECT_TIMEOUT, records, header, look);
    seen.into_iter()
        .zip(records)
        .map(|(disk, record)| fault_of(store, disk, record, header))
        .collect()
}

fn fault_of(
    store: &mut dyn TableStore,
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

/// Returns why the controller does not have a disk open.
pub(super) fn not_open(controller: &mut Controller, id: DiskId) -> Error {
    let store = controller.store();
    let found = store.header().and_then(|header| {
        let disks = store.disks()?;
        let record = disks.iter().find(|record| record.id == id);
        Ok(record.and_then(|record| fault(store, record, &header)))
    });
    let unknown =
        || Error::failed(format!("disk #{id}"), "is not open").hint("find the cause: vctl pool check");
    found.unwrap_or_else(Some).unwrap_or_else(unknown)
}

fn read_only(record: &DiskRecord) -> Error {
    let what = format!("disk {} ({})", record.name, record.path.display());
    let why = "has turned read-only: its data can be read and moved elsewhere, and writes to it fail";
    Error::failed(what, why).hint(format!("vctl disk evacuate {}", record.name))
}

fn look(record: &DiskRecord, header: &PoolHeader) -> Result<Disk> {
    let disk = Disk::open(record, header)?;
    disk.ask_medium()?;
    Ok(disk)
}

pub(super) fn describe(record: &DiskRecord) -> String {
    format!("disk {} ({})", record.name, record.path.display())
}

/// Returns what would be lost by adding the disk, as `an XFS file system`; `None` if nothing.
///
/// # Errors
/// Fails when it cannot be added at all.
pub fn content(store: &mut dyn TableStore, new: &NewDisk) -> Result<Option<&'static str>> {
    match new.create {
        Some(_) => Ok(None),
        None => Ok(inspect(&store.snapshot()?, new)?.content()),
    }
}

/// Returns what would be lost by adding the disk, before there is a pool.
///
/// # Errors
/// Fails when it cannot be added at all.
pub fn content_before(pool: NewPool, new: &NewDisk) -> Result<Option<&'static str>> {
    match new.create {
        Some(_) => Ok(None),
        None => Ok(candidate(&new.path, &PoolHeader::before(pool), &[])?.content()),
    }
}

fn inspect(snapshot: &Snapshot, new: &NewDisk) -> Result<Candidate> {
    candidate(&new.path, &snapshot.header, &snapshot.disks)
}

fn candidate(path: &Path, header: &PoolHeader, known: &[DiskRecord]) -> Result<Candidate> {
    let (wanted, header, known) = (path.to_owned(), header.clone(), known.to_vec());
    adding(path, move || Candidate::inspect(&wanted, &header, &known))
}

/// Runs an operation on a disk that is not in the pool yet. It does not wait for other operations on this path, because it may be part of
/// one.
pub(super) fn adding<T: Send + 'static>(
    path: &Path,
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut key = path.as_os_str().to_owned();
    key.push(" (adding)");
    let asked = path.to_owned();
    within(
        DISK_TIMEOUT,
        &path.display().to_string(),
        Path::new(&key),
        move || {
            ask_first(&asked);
            operation()
        },
    )
}

/// Plans the addition of a disk, and touches nothing. The disk's UUID is generated when it is added; the plan has a number
/// in its place.
///
/// # Errors
/// Fails when it cannot be added.
pub fn plan_add(store: &mut dyn TableStore, new: &NewDisk) -> Result<Planned> {
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
        let error = Error::usage(what, "exists already");
        return Err(error.hint("omit --create to add it as it is"));
    }
    plan::whole_extents(&what, size, extent_size)
}

/// Adds a disk: creates an image if requested, writes the label, and changes the table.
///
/// # Errors
/// Fails when it cannot be added; an image that was created for it is deleted again then.
pub fn add(controller: &mut Controller, title: &str, new: &NewDisk) -> Result<(Name, Sent)> {
    let snapshot = controller.store().snapshot()?;
    if let Some(size) = new.create {
        plan::check_disk_name(&snapshot, &new.name()?)?;
        if new.preallocate {
            room::refuse_if_short(&new.path, size)?;
        }
        let (path, extent_size) = (new.path.clone(), snapshot.header.extent_size);
        adding(&new.path, move || create_image(&path, size, extent_size))?;
    }
    let added = preallocate_if_requested(new).and_then(|()| label_and_add(controller, &snapshot, title, new));
    if added.is_err() && new.create.is_some() && !is_known_at(controller, new) {
        // The image was created above.
        let _ = std::fs::remove_file(&new.path);
    }
    added
}

/// Allocates all space of the image, if that was requested.
fn preallocate_if_requested(new: &NewDisk) -> Result<()> {
    if !new.preallocate {
        return Ok(());
    }
    preallocate(&new.path).map_err(|why| {
        let what = format!("{}: allocating all its space", new.path.display());
        Error::because(what, why).hint(room::SMALLER)
    })
}

/// Writes the label, then changes the table: a disk in the table without a label could not be opened.
fn label_and_add(
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
        // A label that cannot be erased only hinders the next attempt, which names it.
        let _ = wipe(&record, &snapshot.header);
    }
    Ok((name, sent?))
}

fn is_known(controller: &mut Controller, id: DiskId) -> bool {
    let disks = controller.store().disks();
    disks.map_or(true, |disks| disks.iter().any(|disk| disk.id == id))
}

/// Returns whether the table has a disk at this path: the table may have been changed before a later step failed.
fn is_known_at(controller: &mut Controller, new: &NewDisk) -> bool {
    let disks = controller.store().disks();
    disks.map_or(true, |disks| disks.iter().any(|disk| disk.path == new.path))
}

/// Plans a change of a disk's record; `None` when nothing has to change.
///
/// # Errors
/// Fails when there is no such disk, the name is taken, or another disk is at the new path.
pub fn plan_set(store: &mut dyn TableStore, disk: &str, change: &DiskChange) -> Result<Option<Planned>> {
    let snapshot = store.snapshot()?;
    if let Some(path) = &change.path {
        let old = select::disk(&snapshot.disks, disk)?;
        // As long as the present file is open, another one is refused, in a rehearsal too. It may be missing.
        let present = Disk::open_within(DISK_TIMEOUT, old, &snapshot.header);
        check_path(&snapshot, old, path)?;
        drop(present);
    }
    plan::set_disk(&snapshot, disk, change)
}

/// Checks that a path of this machine leads to the disk.
///
/// # Errors
/// Fails for another file, and for a copy while the disk is in use.
pub(super) fn check_path(snapshot: &Snapshot, old: &DiskRecord, path: &Path) -> Result<()> {
    let moved = DiskRecord {
        path: path.to_owned(),
        ..old.clone()
    };
    let mut header = snapshot.header.clone();
    header.instance.paths.remove(&old.uuid);
    let (asked, of, known) = (moved.clone(), header.clone(), snapshot.disks.clone());
    // The label is looked at first: a wrong file is refused for what it is, and not for the locks of the right one.
    within(DISK_TIMEOUT, &describe(&moved), path, move || {
        is_this_disk(&asked, &of, &known)
    })?;
    Disk::open_within(DISK_TIMEOUT, &moved, &header).map(drop)
}

/// Plans that the record takes the size that the device or file has, or is to get; `None` when nothing has to change.
///
/// # Errors
/// Fails when there is no such disk, or the size is too small for the data on it.
pub fn plan_resize(
    store: &mut dyn TableStore,
    disk: &str,
    size: Option<ByteCount>,
) -> Result<Option<Planned>> {
    let snapshot = store.snapshot()?;
    let old = select::disk(&snapshot.disks, disk)?;
    let what = format!("disk {disk}");
    let extent_size = snapshot.header.extent_size;
    let extents = match size {
        Some(size) => plan::whole_extents(&what, size, extent_size)?,
        None => found_extents(old, &snapshot)?,
    };
    let mut uses = store.uses(old.id)?;
    // The copy of the metadata moves out of the way.
    uses.retain(|each| each.owner != Owner::Metadata);
    let needed = uses.last().map_or(2, |last| last.area.end().0);
    if extents < needed {
        let size = |extents: u64| Exact(ByteCount(extents.saturating_mul(extent_size.bytes())));
        let why = format!(
            "{} are in use or required, more than {}",
            size(needed),
            size(extents)
        );
        return Err(
            Error::failed(what, why).hint(format!("move the data at its end: vctl disk evacuate {disk}"))
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
    // A record that is longer than the device is the reason for this call, so the disk is opened with the least size.
    let least = DiskRecord {
        extents: 2,
        ..record.clone()
    };
    let header = snapshot.header.clone();
    let here = header.here(record);
    within(DISK_TIMEOUT, &describe(&here), &here.path, move || {
        let disk = Disk::open(&least, &header)?;
        disk.found_extents().map_err(|error| Error::because(what, error))
    })
}

/// Resizes a disk: growing changes file, label and record in this order, shrinking in the reverse order.
///
/// # Errors
/// Returns the errors of [`plan_resize`] and of the disk.
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
    let Some(Edit::SetDisk(new)) = planned.delta.edits.first() else {
        return Ok(None);
    };
    let (found, wanted) = (old.extents, new.extents);
    let relabel = |controller: &mut Controller, grown: Option<ByteCount>, extents: u64| {
        let record = DiskRecord {
            extents,
            ..old.clone()
        };
        let (header, ledger) = (snapshot.header.clone(), controller.ledger(old.id));
        let here = header.here(old);
        let label = write_within(controller, DISK_TIMEOUT, &describe(&here), &here, move || {
            let image = grown.map(|size| grow_image(&header.here(&record), size, &*ledger));
            let image = image.transpose()?.flatten();
            match Disk::open(&record, &header) {
                Ok(disk) => disk.set_extents(wanted, &*ledger),
                Err(why) => {
                    image.into_iter().for_each(GrownImage::undo);
                    Err(why)
                }
            }
        })?;
        controller.store().label_written(old.id, label.sequence)
    };
    if wanted > found {
        relabel(controller, size, found)?;
        return send(controller, title, &planned).map(Some);
    }
    controller.withdraw_copy(old.id, wanted)?;
    let sent = send(controller, title, &planned)?;
    relabel(controller, None, wanted)?;
    Ok(Some(sent))
}

/// Plans the removal of a disk.
///
/// # Errors
/// Fails when there is no such disk, or it is in use.
pub fn plan_remove(store: &mut dyn Store, disk: &str) -> Result<Planned> {
    let snapshot = store.snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    let in_use = users(store, &snapshot, record.id)?;
    plan::remove_disk(&snapshot, record, &in_use)
}

/// Lists the owners of extents on a disk, for the user.
fn users(store: &mut dyn TableStore, snapshot: &Snapshot, disk: DiskId) -> Result<Vec<String>> {
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
        Owner::Metadata => "the pool's metadata".into(),
    };
    let uses = store.uses(disk)?;
    let mut others = uses.iter().map(|each| each.owner).collect::<Vec<_>>();
    // A disk takes its copy of the metadata along.
    others.retain(|owner| *owner != Owner::Metadata);
    let names: BTreeSet<String> = others.into_iter().map(name).collect();
    Ok(names.into_iter().collect())
}

/// Removes a disk and erases its label, so that another pool can take it. Quarantined extents on it that can be freed are freed
/// first. The returned error, if any, is why the label could not be erased.
///
/// # Errors
/// Fails when there is no such disk, or it is in use.
pub fn remove(controller: &mut Controller, title: &str, disk: &str) -> Result<(Sent, Option<Error>)> {
    let snapshot = controller.store().snapshot()?;
    let record = select::disk(&snapshot.disks, disk)?;
    if !controller.store().uses(record.id)?.is_empty() {
        controller.persist()?;
        controller.free()?;
    }
    let planned = plan_remove(controller.store(), disk)?;
    let sent = send(controller, title, &planned)?;
    Ok((sent, wipe(record, &snapshot.header).err()))
}

/// Says what became of the label of a disk that has left the pool and could not be erased.
#[must_use]
pub fn label_left(why: &Error) -> String {
    match why.is_file_missing() {
        true => "nothing is at its path, so there is no label to erase; if the disk is elsewhere, its label is still there".to_owned(),
        false => format!("its label is still there: {}", why.why()),
    }
}

/// Erases a disk's label. A disk that does not answer keeps its label, and can leave the pool all the same.
pub(super) fn wipe(record: &DiskRecord, header: &PoolHeader) -> Result<bool> {
    let (known, pool) = (header.here(record), header.uuid);
    let (what, path) = (describe(&known), known.path.clone());
    within(INSPECT_TIMEOUT, &what, &path, move || wipe_label(&known, pool))
}
