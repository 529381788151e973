//! Making a pool what a description says: one action after the other, each found by looking at what is still different, so
//! that a second time finds nothing to do and an interrupted time is gone on with. A rehearsal does the same on a copy of the database.

mod serving;

pub use serving::{to_start, unasked};

use super::describe::{self, Description};
use super::disk::{self, NewDisk};
use super::plan::{DiskChange, NewVolume, Planned, VolumeChange};
use super::pool::OptionsChange;
use super::send::send;
use super::{backup, job, pool, select, volume};
use crate::change::driver::Controller;
use crate::change::jobs::{self, Observer, Request};
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::model::{Difference, Edit, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::options::Options;
use crate::store::{JobLimits, JobState, NewChange, Store};
use crate::units::{ByteCount, Term};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The pool's options change.
    SetPool(OptionsChange),
    /// A disk joins.
    AddDisk(NewDisk),
    /// A disk's record changes.
    SetDisk(String, DiskChange),
    /// A volume appears, on these disks.
    CreateVolume(NewVolume, Vec<String>),
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
    /// As the command that does the same.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::SetPool(_) => "pool set".into(),
            Self::AddDisk(new) => format!("disk add {}", new.path.display()),
            Self::SetDisk(name, _) => format!("disk set {name}"),
            Self::CreateVolume(new, _) => format!("volume create {} {}", new.name, new.size),
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

/// The next thing that is different. `None` when all is as described.
///
/// # Errors
/// When the description names what is not there, or the store cannot be read.
pub fn next(store: &mut dyn Store, wanted: &Description, wish: Wish) -> Result<Option<Action>> {
    due(store.options()?, &store.snapshot()?, wanted, wish)
}

/// Options first, then disks, then volumes, which may need them; what goes goes last.
fn due(options: Options, snapshot: &Snapshot, wanted: &Description, wish: Wish) -> Result<Option<Action>> {
    if let Some(action) = for_pool(options, wanted)? {
        return Ok(Some(action));
    }
    if let Some(action) = wanted.disks.iter().find_map(|disk| for_disk(snapshot, disk)) {
        return Ok(Some(action));
    }
    for volume in &wanted.volumes {
        if let Some(action) = for_volume(snapshot, volume, wish)? {
            return Ok(Some(action));
        }
    }
    Ok(if wish.prune {
        to_prune(snapshot, wanted)
    } else {
        None
    })
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

fn for_volume(snapshot: &Snapshot, wanted: &describe::Volume, wish: Wish) -> Result<Option<Action>> {
    let on = wanted.on.clone();
    let Some(found) = snapshot.volumes.iter().find(|volume| volume.name == wanted.name) else {
        let owner = wanted.owner.unwrap_or(wish.owner);
        let new = NewVolume {
            name: wanted.name.clone(),
            size: wanted.size.0,
            mode: wanted.mode.0,
            uid: owner.user,
            gid: owner.group,
            read_only: wanted.read_only,
        };
        return Ok(Some(Action::CreateVolume(new, on)));
    };
    let name = found.name.to_string();
    if found.size != wanted.size.0 {
        return Ok(Some(Action::ResizeVolume(name, wanted.size.0, on)));
    }
    let change = VolumeChange {
        name: None,
        mode: (found.mode != wanted.mode.0).then_some(wanted.mode.0),
        uid: wanted
            .owner
            .map(|owner| owner.user)
            .filter(|uid| *uid != found.uid),
        gid: wanted
            .owner
            .map(|owner| owner.group)
            .filter(|gid| *gid != found.gid),
        read_only: (found.read_only != wanted.read_only).then_some(wanted.read_only),
    };
    if change != VolumeChange::default() {
        return Ok(Some(Action::SetVolume(name, change)));
    }
    misplaced(snapshot, found, on)
}

/// A volume that lies, if only in part, where it may not.
fn misplaced(snapshot: &Snapshot, volume: &VolumeRecord, on: Vec<String>) -> Result<Option<Action>> {
    if on.is_empty() {
        return Ok(None);
    }
    let allowed = select::disks(&snapshot.disks, &on)?;
    let mut homes = snapshot.segments.iter().filter(|(id, _)| *id == volume.id);
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

fn to_prune(snapshot: &Snapshot, wanted: &Description) -> Option<Action> {
    let kept = |name: &Name| wanted.volumes.iter().any(|volume| volume.name == *name);
    let mut seen = snapshot.volumes.iter().filter(|volume| !volume.name.is_hidden());
    if let Some(volume) = seen.find(|volume| !kept(&volume.name)) {
        return Some(Action::RemoveVolume(volume.name.to_string()));
    }
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
        Action::SetPool(change) => pool::set_options(controller, *change).map(drop),
        Action::AddDisk(new) => disk::add(controller, &title, new).map(drop),
        Action::RemoveDisk(name) => disk::remove(controller, &title, name).map(drop),
        Action::Move(_, _, request) | Action::Evacuate(_, request) => {
            let id = jobs::create(controller, request, &title, JobLimits::default())?;
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
        // The table is not concerned.
        Action::SetPool(_) => Ok(None),
        Action::AddDisk(new) => disk::plan_add(store, new).map(Some),
        Action::SetDisk(name, change) => disk::plan_set(store, name, change),
        Action::RemoveDisk(name) => disk::plan_remove(store, name).map(Some),
        Action::CreateVolume(new, on) => volume::plan_create(store, new, on, None).map(Some),
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
    let mut store = copy.open()?;
    let term = store.raise_term()?;
    let mut done = Vec::new();
    while let Some(action) = next(&mut store, wanted, wish)? {
        if done.iter().any(|(earlier, _)| *earlier == action) {
            return Err(Error::failed(
                action.title(),
                "would have to be done again and again",
            ));
        }
        let planned = rehearse_one(&mut store, term, &action)?;
        done.push((action, planned));
    }
    Ok(done)
}

fn rehearse_one(store: &mut dyn Store, term: Term, action: &Action) -> Result<Planned> {
    if let Action::SetPool(change) = action {
        let new = change.from(store.options()?)?;
        store.set_options(&new)?;
        return Ok(Planned::only(Difference {
            from: store.header()?.generation,
            edits: Vec::new(),
        }));
    }
    let planned = plan(store, action)?;
    let planned = planned.ok_or_else(|| Error::failed(action.title(), "would change nothing"))?;
    commit(store, term, action, &planned)?;
    Ok(planned)
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
            store.free_quarantine(generation).map(drop)
        }
        other => Err(Error::failed(
            action.title(),
            format!("cannot be rehearsed: {other:?}"),
        )),
    }
}

#[cfg(test)]
mod tests;
