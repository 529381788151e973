//! Makes a pool match a description, one action after the other. Each action is derived from the remaining deviations, so a second run
//! finds nothing to do, and an interrupted run is continued by another. A dry run does the same on a copy of the database.

mod serving;

pub use serving::{to_start, unasked};

use super::describe::{self, Description};
use super::disk::{self, NewDisk};
use super::plan::{DiskChange, NewVolume, Planned, VolumeChange};
use super::pool::OptionsChange;
use super::send::send;
use super::volume::Placing;
use super::{backup, health, job, moving, pool, select, volume};
use crate::controller::Controller;
use crate::controller::pool::open;
use crate::jobs::{self, Observer, Request};
use crate::model::alloc::Faults;
use crate::model::change::NewChange;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::{JobLimits, JobState};
use crate::model::names::Name;
use crate::model::options::Options;
use crate::model::records::{Delta, Edit, Segment, Snapshot, VolumeRecord};
use crate::model::size::Exact;
use crate::model::units::{ByteCount, Term, VolumeId};
use crate::model::words::count;
use crate::store::Store;
use std::collections::{HashMap, HashSet};

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Changes the pool's options.
    SetPool(OptionsChange),
    /// Adds a disk.
    AddDisk(NewDisk),
    /// Changes a disk's record.
    SetDisk(String, DiskChange),
    /// Creates volumes, each on its disks: as many in one change as it can hold.
    CreateVolumes(Vec<(NewVolume, Vec<String>)>),
    /// Grows or shrinks a volume to this size.
    ResizeVolume(String, ByteCount, Vec<String>),
    /// Changes a volume's record.
    SetVolume(String, VolumeChange),
    /// Moves a volume to the disks on which it may lie.
    Move(String, Vec<String>, Request),
    /// Removes a volume that is not described.
    RemoveVolume(String),
    /// Empties a disk that is not described.
    Evacuate(String, Request),
    /// Removes a disk that is not described.
    RemoveDisk(String),
}

impl Action {
    /// Returns the commands that do the same.
    #[must_use]
    pub fn titles(&self) -> Vec<String> {
        let create = |(new, _): &(NewVolume, _)| format!("volume create {} {}", new.name, Exact(new.size));
        match self {
            Self::CreateVolumes(all) => all.iter().map(create).collect(),
            _ => vec![self.title()],
        }
    }

    /// Returns a short title.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::SetPool(_) => "pool set".into(),
            Self::AddDisk(new) => format!("disk add {}", new.path.display()),
            Self::SetDisk(name, _) => format!("disk set {name}"),
            Self::CreateVolumes(all) => match &all[..] {
                [(new, _)] => format!("volume create {} {}", new.name, Exact(new.size)),
                _ => format!("volume create ({})", count(all.len(), "volume")),
            },
            Self::ResizeVolume(name, size, _) => format!("volume resize {name} {}", Exact(*size)),
            Self::SetVolume(name, _) => format!("volume set {name}"),
            Self::Move(name, to, _) => format!("volume move {name} --to {}", to.join(" --to ")),
            Self::RemoveVolume(name) => format!("volume remove {name}"),
            Self::Evacuate(name, _) => format!("disk evacuate {name}"),
            Self::RemoveDisk(name) => format!("disk remove {name}"),
        }
    }
}

/// Describes what an action destroys.
#[must_use]
pub fn loss(action: &Action, planned: &Planned) -> Option<String> {
    let cut = |edit: &Edit| matches!(edit, Edit::Unmap { .. });
    match action {
        Action::RemoveVolume(name) => Some(format!("all that volume {name} holds will be gone")),
        Action::ResizeVolume(name, size, _)
            if planned.delta.edits.iter().any(cut) || !planned.spans.is_empty() =>
        {
            Some(format!(
                "what volume {name} holds from {} on will be gone",
                Exact(*size)
            ))
        }
        _ => None,
    }
}

/// Options of `apply` that the description does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyRequest {
    /// Whether what is not described is removed.
    pub prune: bool,
    /// The owner of volumes that name none.
    pub owner: describe::Owner,
    /// Whether users of what is removed or shrunk are cut off.
    pub cut_off_users: bool,
}

/// Returns the deviations that can be removed next, in order; more may follow. The list is empty when all is as described.
///
/// # Errors
/// Fails when the description names a disk or tag that does not exist; returns the errors of the store.
pub fn next(store: &mut dyn Store, wanted: &Description, request: ApplyRequest) -> Result<Vec<Action>> {
    due(store.options()?, &store.snapshot()?, wanted, request)
}

/// Derives the next actions: options first, then disks, then volumes, which may need them; removals come last.
fn due(
    options: Options,
    snapshot: &Snapshot,
    wanted: &Description,
    request: ApplyRequest,
) -> Result<Vec<Action>> {
    wanted.check_fixed(&snapshot.header)?;
    if let Some(action) = for_pool(options, wanted)? {
        return Ok(vec![action]);
    }
    let disks: Vec<Action> = wanted
        .disks
        .iter()
        .filter_map(|disk| for_disk(snapshot, disk))
        .collect();
    if !disks.is_empty() {
        return Ok(disks);
    }
    let volumes = for_volumes(snapshot, wanted, request)?;
    if !volumes.is_empty() || !request.prune {
        return Ok(volumes);
    }
    Ok(to_prune(snapshot, wanted))
}

fn for_pool(options: Options, wanted: &Description) -> Result<Option<Action>> {
    let change = OptionsChange {
        policy: wanted.policy,
        nearfull: wanted.nearfull,
        full: wanted.full,
    };
    Ok((change.from(options)? != options).then_some(Action::SetPool(change)))
}

fn for_disk(snapshot: &Snapshot, wanted: &describe::Disk) -> Option<Action> {
    let extent_size = snapshot.header.extent_size;
    let Some(found) = snapshot.disks.iter().find(|disk| disk.name == wanted.name) else {
        let create = wanted.create.filter(|_| !wanted.path.exists());
        return Some(Action::AddDisk(NewDisk {
            path: wanted.path.clone(),
            name: Some(wanted.name.clone()),
            create: create.map(|size| size.0),
            preallocate: false,
            tags: wanted.tags.clone(),
            allocate: wanted.allocate,
            reserve: wanted.reserve.0,
        }));
    };
    let change = DiskChange {
        tag: wanted.tags.difference(&found.tags).cloned().collect(),
        untag: found.tags.difference(&wanted.tags).cloned().collect(),
        allocate: (found.allocate != wanted.allocate).then_some(wanted.allocate),
        path: (found.path != wanted.path).then(|| wanted.path.clone()),
        reserve: (found.reserve != extent_size.count_for(wanted.reserve.0)).then_some(wanted.reserve.0),
        ..DiskChange::default()
    };
    (change != DiskChange::default()).then(|| Action::SetDisk(found.name.to_string(), change))
}

/// Index of the existing volumes by name, because there may be many.
struct Present<'a> {
    snapshot: &'a Snapshot,
    by_name: HashMap<&'a Name, &'a VolumeRecord>,
}

impl<'a> Present<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let seen = snapshot.volumes.iter().filter(|volume| !volume.name.is_hidden());
        let by_name = seen.map(|volume| (&volume.name, volume)).collect();
        Self { snapshot, by_name }
    }

    /// Returns a volume's segments; those of the snapshot are sorted by volume.
    fn segments(&self, volume: VolumeId) -> &'a [(VolumeId, Segment)] {
        let all = &self.snapshot.segments;
        let first = all.partition_point(|(id, _)| *id < volume);
        let len = all[first..].partition_point(|(id, _)| *id == volume);
        &all[first..first + len]
    }
}

fn for_volumes(snapshot: &Snapshot, wanted: &Description, request: ApplyRequest) -> Result<Vec<Action>> {
    let present = Present::new(snapshot);
    let mut actions: Vec<Action> = Vec::new();
    for volume in &wanted.volumes {
        match (for_volume(&present, volume, request)?, actions.last_mut()) {
            (Some(Action::CreateVolumes(new)), Some(Action::CreateVolumes(all))) => all.extend(new),
            (action, _) => actions.extend(action),
        }
    }
    Ok(actions)
}

fn for_volume(
    present: &Present<'_>,
    wanted: &describe::Volume,
    request: ApplyRequest,
) -> Result<Option<Action>> {
    let on = wanted.on.clone();
    let Some(found) = present.by_name.get(&wanted.name) else {
        let owner = wanted.owner.unwrap_or(request.owner);
        let new = NewVolume {
            name: wanted.name.clone(),
            size: wanted.size.0,
            mode: wanted.mode.0,
            uid: owner.user,
            gid: owner.group,
            read_only: wanted.read_only,
        };
        return Ok(Some(Action::CreateVolumes(vec![(new, on)])));
    };
    let name = found.name.to_string();
    if found.size != wanted.size.0 {
        return Ok(Some(Action::ResizeVolume(name, wanted.size.0, on)));
    }
    let owner = |get: fn(describe::Owner) -> u32| wanted.owner.map(get);
    let change = VolumeChange {
        name: None,
        mode: (found.mode != wanted.mode.0).then_some(wanted.mode.0),
        uid: owner(|owner| owner.user).filter(|uid| *uid != found.uid),
        gid: owner(|owner| owner.group).filter(|gid| *gid != found.gid),
        read_only: (found.read_only != wanted.read_only).then_some(wanted.read_only),
    };
    if change != VolumeChange::default() {
        return Ok(Some(Action::SetVolume(name, change)));
    }
    misplaced(present, found, on)
}

/// Returns the move of a volume that lies, even in part, on disks where it may not be.
fn misplaced(present: &Present<'_>, volume: &VolumeRecord, on: Vec<String>) -> Result<Option<Action>> {
    if on.is_empty() {
        return Ok(None);
    }
    let allowed = select::disks(&present.snapshot.disks, &on)?;
    let mut placements = present.segments(volume.id).iter();
    let out = placements.any(|(_, segment)| !allowed.contains(&segment.placement.disk));
    let request = Request::Move {
        volume: volume.id,
        range: None,
        from: None,
        to: allowed,
        policy: None,
    };
    Ok(out.then(|| Action::Move(volume.name.to_string(), on, request)))
}

/// Returns what to remove: volumes first, because the disks may be empty then.
fn to_prune(snapshot: &Snapshot, wanted: &Description) -> Vec<Action> {
    let described: HashSet<&Name> = wanted.volumes.iter().map(|volume| &volume.name).collect();
    let seen = snapshot.volumes.iter().filter(|volume| !volume.name.is_hidden());
    let surplus = seen.filter(|volume| !described.contains(&volume.name));
    let volumes: Vec<Action> = surplus
        .map(|volume| Action::RemoveVolume(volume.name.to_string()))
        .collect();
    if volumes.is_empty() {
        disk_to_prune(snapshot, wanted).into_iter().collect()
    } else {
        volumes
    }
}

fn disk_to_prune(snapshot: &Snapshot, wanted: &Description) -> Option<Action> {
    let kept = |name: &Name| wanted.disks.iter().any(|disk| disk.name == *name);
    let surplus = snapshot.disks.iter().find(|disk| !kept(&disk.name))?;
    let name = surplus.name.to_string();
    let in_use = |(_, segment): &(_, Segment)| segment.placement.disk == surplus.id;
    if !snapshot.segments.iter().any(in_use) {
        return Some(Action::RemoveDisk(name));
    }
    // The data does not go to another disk that is to be removed.
    let to = snapshot.disks.iter().filter(|disk| kept(&disk.name));
    let request = Request::Evacuate {
        disk: surplus.id,
        to: to.map(|disk| disk.id).collect(),
        use_reserve: false,
    };
    Some(Action::Evacuate(name, request))
}

/// Carries out an action. A move runs to its end.
///
/// # Errors
/// Returns the errors of the verb that does the same.
pub fn carry_out(
    controller: &mut Controller,
    action: &Action,
    request: ApplyRequest,
    observer: &mut dyn Observer,
) -> Result<()> {
    let title = action.title();
    match action {
        Action::CreateVolumes(all) => {
            let mut rest = &all[..];
            let faults = faults_for(controller, action)?;
            while !rest.is_empty() {
                let (planned, taken) = volume::plan_create_some(controller.store(), rest, &faults)?;
                send(controller, &title, &planned)?;
                rest = &rest[taken..];
            }
            Ok(())
        }
        Action::SetPool(change) => pool::set_options(controller, *change).map(drop),
        Action::AddDisk(new) => disk::add(controller, &title, new).map(drop),
        Action::RemoveDisk(name) => disk::remove(controller, &title, name).map(drop),
        Action::Move(_, _, request) | Action::Evacuate(_, request) => {
            let begun = moving::begin(controller, request, &title, JobLimits::default())?;
            let Some(id) = begun.job else { return Ok(()) };
            controller.set_purpose(&job::purpose(id))?;
            match jobs::run(controller, id, observer)? {
                JobState::Done => Ok(()),
                state => Err(Error::new(
                    ErrorKind::Cancelled,
                    format!("job {id}"),
                    format!("ended as {state:?}"),
                )
                .hint(format!("go on with it: vctl job resume {id}"))),
            }
        }
        _ => match faults_for(controller, action)
            .and_then(|faults| plan(controller.store(), action, &faults))?
        {
            Some(planned) => {
                let planned = planned.regardless_of_users(request.cut_off_users);
                send(controller, &title, &planned).map(drop)
            }
            None => Ok(()),
        },
    }
}

/// Returns the faults of the disks on which the action may place new data.
fn faults_for(controller: &mut Controller, action: &Action) -> Result<Faults> {
    match action {
        Action::CreateVolumes(_) | Action::ResizeVolume(..) => {
            let pool = controller.pool().clone();
            health::faults(&pool, controller.store(), &[])
        }
        _ => Ok(Faults::new()),
    }
}

/// Plans an action as one delta; `None` when nothing has to change.
fn plan(store: &mut dyn Store, action: &Action, faults: &Faults) -> Result<Option<Planned>> {
    match action {
        // These do not change the table, or become several deltas.
        Action::SetPool(_) | Action::CreateVolumes(_) => Ok(None),
        Action::AddDisk(new) => disk::plan_add(store, new).map(Some),
        Action::SetDisk(name, change) => disk::plan_set(store, name, change),
        Action::RemoveDisk(name) => disk::plan_remove(store, name).map(Some),
        Action::ResizeVolume(name, size, on) => {
            let policy = None;
            let placing = Placing { on, policy, faults };
            volume::plan_resize(store, name, &|_| Ok(*size), placing)
        }
        Action::SetVolume(name, change) => volume::plan_set(store, name, change),
        Action::RemoveVolume(name) => volume::plan_remove(store, name).map(Some),
        Action::Move(_, _, request) | Action::Evacuate(_, request) => {
            let steps = jobs::plan(store, request, faults)?;
            let delta = job::delta(store.header()?.generation, &steps);
            Ok(Some(Planned::only(delta)))
        }
    }
}

/// Returns all actions that would be done, each with its delta, found by doing them on a copy of the database.
///
/// # Errors
/// Returns the errors that doing it would have, as far as they can be foreseen.
pub fn rehearse(
    pool: &PoolDir,
    wanted: &Description,
    request: ApplyRequest,
) -> Result<Vec<(Action, Planned)>> {
    let (copy, faults) = match pool.database().exists() {
        true => {
            let faults = health::faults(pool, &mut *open(pool)?, &[])?;
            (backup::Copy::of_pool(pool)?, faults)
        }
        false => (backup::Copy::of_nothing(wanted.new_pool()?)?, Faults::new()),
    };
    let mut store = copy.into_store()?;
    let term = store.raise_term()?;
    let (mut done, mut last) = (Vec::new(), Vec::new());
    loop {
        let actions = next(&mut *store, wanted, request)?;
        if let Some(action) = actions.first()
            && actions == last
        {
            return Err(Error::failed(
                action.title(),
                "would have to be repeated without end",
            ));
        }
        if actions.is_empty() {
            return Ok(done);
        }
        for action in &actions {
            let planned = rehearse_one(&mut *store, term, action, &faults)?;
            done.push((action.clone(), planned));
        }
        last = actions;
    }
}

fn rehearse_one(store: &mut dyn Store, term: Term, action: &Action, faults: &Faults) -> Result<Planned> {
    let mut all = Planned::only(Delta {
        from: store.header()?.generation,
        edits: Vec::new(),
    });
    match action {
        Action::SetPool(change) => {
            let new = change.from(store.options()?)?;
            store.set_options(&new)?;
        }
        Action::CreateVolumes(new) => {
            let mut rest = &new[..];
            while !rest.is_empty() {
                let (planned, taken) = volume::plan_create_some(store, rest, faults)?;
                commit(store, term, action, &planned)?;
                all.delta.edits.extend(planned.delta.edits);
                all.zero.extend(planned.zero);
                rest = &rest[taken..];
            }
        }
        _ => {
            let planned = plan(store, action, faults)?;
            all = planned.ok_or_else(|| Error::failed(action.title(), "would change nothing"))?;
            commit(store, term, action, &all)?;
        }
    }
    Ok(all)
}

fn commit(store: &mut dyn Store, term: Term, action: &Action, planned: &Planned) -> Result<()> {
    let change = NewChange {
        title: action.title(),
        job: None,
        delta: planned.delta.clone(),
        spans: planned.spans.clone(),
        mode: planned.mode,
    };
    let id = store.prepare(term, &change)?;
    let (membership, _) = store.members()?;
    match store.commit(term, id, membership)? {
        // No apparatus uses the copy, so the released space is free at once.
        crate::model::change::Commit::Committed(generation) => {
            store.persist(&[id])?;
            store.free_quarantine(generation)?;
            store.checkpoint()
        }
        other => Err(Error::failed(
            action.title(),
            format!("cannot be rehearsed: {other:?}"),
        )),
    }
}

#[cfg(test)]
mod tests;
