//! Plans verbs that change the table.

use super::super::verb::{DiskRequest, NewDisk, NewVolume, Verb};
use crate::arguments::{Owner, owner};
use apparatus::admin;
use apparatus::admin::plan::{self, DiskChange, Planned, VolumeChange};
use apparatus::admin::volume::Placing;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::Result;
use apparatus::store::Store;
use std::path::Path;

/// Returns the plan of a verb. The inner `None` means that nothing has to change; the outer `None` that the verb does more than change the
/// table.
pub(super) fn of(pool: &PoolDir, store: &mut dyn Store, verb: &Verb) -> Option<Result<Option<Planned>>> {
    let planned = match verb {
        Verb::CreateVolume(new) => created(pool, store, new).map(Some),
        Verb::ResizeVolume {
            volume,
            size,
            on,
            policy,
            ..
        } => admin::health::faults_on(pool, store, on).and_then(|faults| {
            let (policy, faults) = (*policy, &faults);
            let placing = Placing { on, policy, faults };
            admin::volume::plan_resize(store, volume, &|old| size.from(old), placing)
        }),
        Verb::RenameVolume { volume, new } => {
            let request = VolumeChange {
                name: Some(new.clone()),
                ..VolumeChange::default()
            };
            admin::volume::plan_set(store, volume, &request)
        }
        Verb::SetVolume {
            volume,
            mode,
            owner,
            read_only,
            ..
        } => set_volume(store, volume, *mode, owner.as_deref(), *read_only),
        Verb::RemoveVolume { volume, .. } => admin::volume::plan_remove(store, volume).map(Some),
        Verb::SetDisk(request) => set_disk(store, request),
        Verb::ResizeDisk { disk, size } => admin::disk::plan_resize(store, disk, *size),
        Verb::RemoveDisk(disk) => admin::disk::plan_remove(store, disk).map(Some),
        _ => return None,
    };
    let overridden = verb.cuts_off_users();
    Some(planned.map(|planned| planned.map(|planned| planned.regardless_of_users(overridden))))
}

fn created(pool: &PoolDir, store: &mut dyn Store, new: &NewVolume) -> Result<Planned> {
    let caller = Owner::caller();
    let owner = new.owner.as_deref().map_or(Ok(caller), owner)?;
    let volume = plan::NewVolume {
        name: new.name.clone(),
        size: new.size,
        mode: new.mode,
        uid: owner.user,
        gid: owner.group.or(caller.group).unwrap_or_default(),
        read_only: new.read_only,
    };
    plan::check_size(volume.size)?;
    let placing = Placing {
        on: &new.on,
        policy: new.policy,
        faults: &admin::health::faults_on(pool, store, &new.on)?,
    };
    admin::volume::plan_create(store, &volume, placing)
}

fn set_volume(
    store: &mut dyn Store,
    volume: &str,
    mode: Option<u16>,
    by: Option<&str>,
    read_only: Option<bool>,
) -> Result<Option<Planned>> {
    let owner = by.map(owner).transpose()?;
    let request = VolumeChange {
        name: None,
        mode,
        uid: owner.map(|owner| owner.user),
        gid: owner.and_then(|owner| owner.group),
        read_only,
    };
    admin::volume::plan_set(store, volume, &request)
}

fn set_disk(store: &mut dyn Store, request: &DiskRequest) -> Result<Option<Planned>> {
    let path = request.path.as_ref().map(Path::new);
    let change = DiskChange {
        name: request.name.clone(),
        tag: request.tag.iter().cloned().collect(),
        untag: request.untag.iter().cloned().collect(),
        allocate: request.allocate,
        path: path.map(admin::place::absolute).transpose()?,
        extents: None,
        reserve: request.reserve,
    };
    admin::disk::plan_set(store, &request.disk, &change)
}

/// Converts a new disk to the argument of the operation.
pub(super) fn new_disk(new: &NewDisk) -> Result<admin::disk::NewDisk> {
    Ok(admin::disk::NewDisk {
        path: admin::place::absolute(Path::new(&new.path))?,
        name: new.name.clone(),
        create: new.create,
        preallocate: new.preallocate,
        tags: new.tags.iter().cloned().collect(),
        allocate: new.allocate,
        reserve: new.reserve.unwrap_or_default(),
    })
}
