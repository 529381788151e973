//! Making a pool what a description says: one action after the other, each found by looking at what is still different, so
//! that a second time finds nothing to do and an interrupted time is gone on with. A rehearsal does the same on a copy of the database.

mod serving;

pub use serving::{to_start, unasked};

use super::describe::{self, Description};
use super::disk::{self, NewDisk};
use super::plan::{DiskChange, NewVolume, Planned, VolumeChange};
use super::pool::OptionsChange;
use super::send::send;
use super::{backup, job, moving, pool, select, volume};
use crate::change::driver::Controller;
use crate::change::jobs::{self, Observer, Request};
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::model::{Difference, Edit, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::options::Options;
use crate::pool::size::Human;
use crate::store::{JobLimits, JobState, NewChange, Store};
use crate::units::{ByteCount, Term, VolumeId};
use std::collections::{HashMap, HashSet};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The pool's options change.
    SetPool(OptionsChange),
    /// A disk joins.
    AddDisk(NewDisk),
    /// A disk's record changes.
    SetDisk(String, DiskChange),
    /// Volumes appear, each on its disks: as many in one change as it can have.
    CreateVolumes(Vec<(NewVolume, Vec<String>)>),
    /// A volume grows, or shrinks, to this size.
    ResizeVolume(String, ByteCount, Vec<String>),
    /// A volume's record changes.
    SetVolume(String, VolumeChange),
    /// A volume moves to where it may be.
    Move(String, Vec<String>, Request),
    /// A volume that is not described disappears.
    RemoveVolume(String),
    /// A disk that is not described is emptied.
    Evacuate(String, Request),
    /// A disk that is not described leaves.
    RemoveDisk(String),
}

impl Action {
    /// As the commands that do the same.
    #[must_use]
    pub fn titles(&self) -> Vec<String> {
        let create = |(new, _): &(NewVolume, _)| format!("volume create {} {}", new.name, new.size);
        match self {
            Self::CreateVolumes(all) => all.iter().map(create).collect(),
            _ => vec![self.title()],
        }
    }

    /// In short.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::SetPool(_) => "pool set".into(),
            Self::AddDisk(new) => format!("disk add {}", new.path.display()),
            Self::SetDisk(name, _) => format!("disk set {name}"),
            Self::CreateVolumes(all) => match &all[..] {
                [(new, _)] => format!("volume create {} {}", new.name, new.size),
                _ => format!("volume create ({} volumes)", all.len()),
            },
            Self::ResizeVolume(name, size, _) => format!("volume resize {name} {size}"),
            Self::SetVolume(name, _) => format!("volume set {name}"),
            Self::Move(name, to, _) => format!("volume move {name} --to {}", to.join(" --to ")),
            Self::RemoveVolume(name) => format!("volume remove {name}"),
            Self::Evacuate(name, _) => format!("disk evacuate {name}"),
            Self::RemoveDisk(name) => format!("disk remove {name}"),
        }
    }
}

/// What an action destroys.
#[must_use]
pub fn loss(action: &Action, planned: &Planned) -> Option<String> {
    let cut = |edit: &Edit| matches!(edit, Edit::Unmap { .. });
    match action {
        Action::RemoveVolume(name) => Some(format!("all that volume {name} holds will be gone")),
        Action::ResizeVolume(name, size, _)
            if planned.difference.edits.iter().any(cut) || !planned.spans.is_empty() =>
        {
            Some(format!("what volume {name} holds from {size} on will be gone"))
        }
        _ => None,
    }
}

/// What the description leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What is not described goes.
    pub prune: bool,
    /// Owner of volumes that name none.
    pub owner: describe::Owner,
    /// Whoever uses what is removed or cut is cut off.
    pub cut_off_users: bool,
}

/// What is different and can be done next, in order: then there may be more. Nothing when all is as described.
///
/// # Errors
/// When the description names what is not there, or the store cannot be read.
pub fn next(store: &mut dyn Store, wanted: &Description, wish: Wish) -> Result<Vec<Action>> {
    due(store.options()?, &store.snapshot()?, wanted, wish)
}

/// Options first, then disks, then volumes, which may need them; what goes goes last.
fn due(options: Options, snapshot: &Snapshot, wanted: &Description, wish: Wish) -> Result<Vec<Action>> {
    check_extent_size(snapshot, wanted)?;
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
    let volumes = for_volumes(snapshot, wanted, wish)?;
    if !volumes.is_empty() || !wish.prune {
        return Ok(volumes);
    }
    Ok(to_prune(snapshot, wanted))
}

/// It was chosen when the pool was made.
fn check_extent_size(snapshot: &Snapshot, wanted: &Description) -> Result<()> {
    let (is, described) = (snapshot.header.extent_size, wanted.extent_size);
    match described.filter(|size| size.0.0 != is.bytes()) {
        None => Ok(()),
        Some(size) => {
            let (is, size) = (Human(ByteCount(is.bytes())), Human(size.0));
            let why =
                format!("is described as {size}, and this pool has extents of {is}: that cannot be changed");
            Err(Error::usage("extent_size", why).hint(format!("describe it as {is}, or leave it out")))
        }
    }
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

/// The volumes as they are, found quickly: there may be many.
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

    /// A volume's segments: the snapshot has them by volume.
    fn segments(&self, volume: VolumeId) -> &'a [(VolumeId, Segment)] {
        let all = &self.snapshot.segments;
        let first = all.partition_point(|(id, _)| *id < volume);
        let len = all[first..].partition_point(|(id, _)| *id == volume);
        &all[first..first + len]
    }
}

fn for_volumes(snapshot: &Snapshot, wanted: &Description, wish: Wish) -> Result<Vec<Action>> {
    let present = Present::new(snapshot);
    let mut actions: Vec<Action> = Vec::new();
    for volume in &wanted.volumes {
        match (for_volume(&present, volume, wish)?, actions.last_mut()) {
            (Some(Action::CreateVolumes(new)), Some(Action::CreateVolumes(all))) => all.extend(new),
            (action, _) => actions.extend(action),
        }
    }
    Ok(actions)
}

fn for_volume(present: &Present<'_>, wanted: &describe::Volume, wish: Wish) -> Result<Option<Action>> {
    let on = wanted.on.clone();
    let Some(found) = present.by_name.get(&wanted.name) else {
        let owner = wanted.owner.unwrap_or(wish.owner);
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

/// A volume that lies, if only in part, where it may not.
fn misplaced(present: &Present<'_>, volume: &VolumeRecord, on: Vec<String>) -> Result<Option<Action>> {
    if on.is_empty() {
        return Ok(None);
    }
    let allowed = select::disks(&present.snapshot.disks, &on)?;
    let mut homes = present.segments(volume.id).iter();
    let out = homes.any(|(_, segment)| !allowed.contains(&segment.home.disk));
    let request = Request::Move {
        volume: volume.id,
        range: None,
        from: None,
        to: allowed,
        policy: None,
    };
    Ok(out.then(|| Action::Move(volume.name.to_string(), on, request)))
}

/// Volumes first: the disks may be empty then.
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
    let in_use = |(_, segment): &(_, Segment)| segment.home.disk == surplus.id;
    if !snapshot.segments.iter().any(in_use) {
        return Some(Action::RemoveDisk(name));
    }
    // Not to another one that is to leave.
    let to = snapshot.disks.iter().filter(|disk| kept(&disk.name));
    let request = Request::Evacuate {
        disk: surplus.id,
        to: to.map(|disk| disk.id).collect(),
        use_reserve: false,
    };
    Some(Action::Evacuate(name, request))
}

/// Does an action. A move runs to its end here.
///
/// # Errors
/// Those of the verb that does the same.
pub fn carry_out(
    controller: &mut Controller,
    action: &Action,
    wish: Wish,
    observer: &mut dyn Observer,
) -> Result<()> {
    let title = action.title();
    match action {
        Action::CreateVolumes(all) => {
            let mut rest = &all[..];
            while !rest.is_empty() {
                let (planned, taken) = volume::plan_create_some(controller.store(), rest)?;
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
                    Kind::Cancelled,
                    format!("job {id}"),
                    format!("ended as {state:?}"),
                )
                .hint(format!("go on with it: vctl job resume {id}"))),
            }
        }
        _ => match plan(controller.store(), action)? {
            Some(planned) => {
                let planned = planned.regardless_of_users(wish.cut_off_users);
                send(controller, &title, &planned).map(drop)
            }
            None => Ok(()),
        },
    }
}

/// What an action comes to, as one difference; `None` when it is so already.
fn plan(store: &mut dyn Store, action: &Action) -> Result<Option<Planned>> {
    match action {
        // The table is not concerned; or what it comes to is several differences.
        Action::SetPool(_) | Action::CreateVolumes(_) => Ok(None),
        Action::AddDisk(new) => disk::plan_add(store, new).map(Some),
        Action::SetDisk(name, change) => disk::plan_set(store, name, change),
        Action::RemoveDisk(name) => disk::plan_remove(store, name).map(Some),
        Action::ResizeVolume(name, size, on) => volume::plan_resize(store, name, &|_| Ok(*size), on, None),
        Action::SetVolume(name, change) => volume::plan_set(store, name, change),
        Action::RemoveVolume(name) => volume::plan_remove(store, name).map(Some),
        Action::Move(_, _, request) | Action::Evacuate(_, request) => {
            let steps = jobs::plan(store, request)?;
            let difference = job::difference(store.header()?.generation, &steps);
            Ok(Some(Planned::only(difference)))
        }
    }
}

/// All that would be done, each with its difference, found by doing it on a copy of the database.
///
/// # Errors
/// As far as they can be foreseen, those of doing it.
pub fn rehearse(pool: &PoolDir, wanted: &Description, wish: Wish) -> Result<Vec<(Action, Planned)>> {
    let copy = match pool.database().exists() {
        true => backup::Copy::of_pool(pool)?,
        false => backup::Copy::of_nothing(wanted.extent_size()?)?,
    };
    let mut store = copy.into_store()?;
    let term = store.raise_term()?;
    let (mut done, mut last) = (Vec::new(), Vec::new());
    loop {
        let actions = next(&mut store, wanted, wish)?;
        if let Some(action) = actions.first()
            && actions == last
        {
            return Err(Error::failed(
                action.title(),
                "would have to be done again and again",
            ));
        }
        if actions.is_empty() {
            return Ok(done);
        }
        for action in &actions {
            let planned = rehearse_one(&mut store, term, action)?;
            done.push((action.clone(), planned));
        }
        last = actions;
    }
}

fn rehearse_one(store: &mut dyn Store, term: Term, action: &Action) -> Result<Planned> {
    let mut all = Planned::only(Difference {
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
                let (planned, taken) = volume::plan_create_some(store, rest)?;
                commit(store, term, action, &planned)?;
                all.difference.edits.extend(planned.difference.edits);
                all.zero.extend(planned.zero);
                rest = &rest[taken..];
            }
        }
        _ => {
            let planned = plan(store, action)?;
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
        difference: planned.difference.clone(),
        spans: planned.spans.clone(),
        mode: planned.mode,
    };
    let id = store.prepare(term, &change)?;
    let (membership, _) = store.members()?;
    match store.commit(term, id, membership)? {
        // Nobody serves by the copy, so what was taken away is free at once.
        crate::store::Commit::Committed(generation) => {
            store.harden(&[id])?;
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
