//! All uses of a pool's volumes, at one moment: what the apparatuses count, and the processes and loop devices that are found.

use super::loops::{self, Loop};
use super::process::{self, ProcessHolders};
use super::users::{Usage, User};
use super::{PATIENCE, ask, attached, may_live};
use crate::frontend::fuse;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::member::Member;
use crate::model::names::Name;
use crate::model::units::VolumeId;
use crate::rpc::message::{Answer, Opens, Request};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// What the census found at one apparatus.
struct ApparatusUse {
    name: Name,
    mount: PathBuf,
    /// What is open through it; `None` if it is alive and does not answer.
    opens: Option<Opens>,
    /// The device numbers of its mounts, those of earlier incarnations included.
    devices: BTreeSet<(u32, u32)>,
    /// The device number of the mount that it serves now.
    serves: Option<(u32, u32)>,
}

/// All uses of a pool's volumes, at one moment.
pub struct Census {
    seen: Vec<ApparatusUse>,
    loops: Vec<Loop>,
    holders: ProcessHolders,
    /// The pool whose records of loop devices are read, where the loop devices of mounts that are gone are of interest.
    records: Option<PoolDir>,
}

/// A loop device on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) struct LoopUse {
    pub(in crate::admin) device: Loop,
    /// The apparatus that serves it; `None` when its mount is gone or dead.
    pub(in crate::admin) apparatus: Option<Name>,
}

impl Census {
    /// Asks all apparatuses, and scans loop devices and processes.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub fn take(pool: &PoolDir, store: &mut dyn Store) -> Result<Self> {
        let uuid = store.header()?.uuid;
        let (_, members) = store.members()?;
        Ok(Self::of(pool, uuid, members))
    }

    fn of(pool: &PoolDir, uuid: Uuid, members: Vec<Member>) -> Self {
        let alive = |member: &Member| may_live(pool, member);
        let living: Vec<Member> = members.iter().filter(|member| alive(member)).cloned().collect();
        let mut asked = ask::ask(pool, uuid, &living, &Request::Opens, PATIENCE);
        let mut look = |member: Member| {
            let opens = match asked.answers.remove(&member.slot) {
                Some(Ok(Answer::Opens(opens))) => Some(*opens),
                Some(_) => None,
                None => Some(Opens::default()),
            };
            let serves = opens.as_ref().and_then(|opens| opens.device);
            let mut devices: BTreeSet<_> = serves.into_iter().collect();
            devices.extend(fuse::mounts_of(&fuse::source(&member.name, uuid)).unwrap_or_default());
            ApparatusUse {
                opens,
                devices,
                serves,
                name: member.name,
                mount: member.mount,
            }
        };
        let seen: Vec<ApparatusUse> = members.into_iter().map(&mut look).collect();
        let is_silent = |each: &&ApparatusUse| each.opens.is_none();
        let silent: Vec<_> = seen
            .iter()
            .filter(is_silent)
            .map(|each| each.mount.as_path())
            .collect();
        let loops = loops::all(&silent, loops::PATIENCE);
        let open = |each: &ApparatusUse| each.opens.as_ref().is_none_or(|opens| !opens.volumes.is_empty());
        let holders = match loops.is_empty() && !seen.iter().any(open) {
            true => ProcessHolders::default(),
            false => {
                let devices = seen
                    .iter()
                    .flat_map(|each| each.devices.iter().copied())
                    .collect();
                ProcessHolders::scan(&devices)
            }
        };
        Self {
            seen,
            loops,
            holders,
            records: Some(pool.clone()),
        }
    }

    /// Returns the use of a volume of this name.
    #[must_use]
    pub fn usage(&self, volume: VolumeId, name: &Name) -> Usage {
        let mut usage = Usage::default();
        for found in self.loops_on(volume, name) {
            usage.users.push(User::LoopDevice {
                used_by: loops::users(&found.device.path, &self.holders),
                device: found.device.path,
                apparatus: found.apparatus,
            });
        }
        for seen in &self.seen {
            self.add_handles(&mut usage, seen, volume);
        }
        usage
    }

    fn add_handles(&self, usage: &mut Usage, seen: &ApparatusUse, volume: VolumeId) {
        let Some(opens) = &seen.opens else {
            usage.unknown.push(seen.name.clone());
            return;
        };
        let Some(open) = opens.volumes.get(&volume) else {
            return;
        };
        usage.open += open.handles;
        usage.writers += open.writers;
        let inode = fuse::inode_of(volume);
        let found = seen
            .devices
            .iter()
            .flat_map(|device| self.holders.of_file(*device, inode));
        let mut processes: BTreeSet<_> = found.collect();
        let by_loop = |user: &User| matches!(user, User::LoopDevice { apparatus: Some(name), .. } if *name == seen.name);
        if processes.is_empty() && !usage.users.iter().any(by_loop) {
            let alive = open.pids.iter().map(|thread| process::of_thread(*thread));
            processes.extend(alive.filter(|process| process.name != process::ENDED));
        }
        usage
            .users
            .extend(processes.into_iter().map(|process| User::Process {
                pid: process.pid,
                name: process.name,
                apparatus: seen.name.clone(),
            }));
    }

    /// Returns the loop devices on a volume: by their backing file, or by its path where that is not known. Those on a mount that was taken away are known
    /// by the record of `volume attach`.
    pub(in crate::admin) fn loops_on(&self, volume: VolumeId, name: &Name) -> Vec<LoopUse> {
        let inode = fuse::inode_of(volume);
        let of_mount = |number| self.seen.iter().find(|seen| seen.devices.contains(&number));
        // A mount that was taken away is not in the path that the kernel shows.
        let at_path = |device: &Loop| {
            let path = |seen: &&ApparatusUse| seen.mount.join(name.as_str()) == device.file;
            self.seen.iter().find(path)
        };
        let on = |device: &Loop| match device.below {
            Some((number, found)) => match of_mount(number) {
                Some(seen) => {
                    let serves = (seen.serves == Some(number)).then(|| seen.name.clone());
                    (found == inode).then_some(serves)
                }
                None => self.was_made_for(device, volume).then_some(None),
            },
            None => match at_path(device) {
                Some(seen) => Some(seen.serves.map(|_| seen.name.clone())),
                None => self.was_made_for(device, volume).then_some(None),
            },
        };
        let found = self.loops.iter().filter_map(|device| {
            let apparatus = on(device)?;
            Some(LoopUse {
                device: device.clone(),
                apparatus,
            })
        });
        found.collect()
    }

    /// Returns whether a loop device was made for this volume on a mount that was taken away: the kernel reports its file from the root of that mount.
    fn was_made_for(&self, device: &Loop, volume: VolumeId) -> bool {
        let is_away = device.file.parent() == Some(Path::new("/"));
        let records = self.records.as_ref().filter(|_| is_away);
        records.is_some_and(|pool| attached::is_recorded(pool, &device.path, volume))
    }

    /// Scans loop devices and processes for the users of volumes through one apparatus, which has reported these handles.
    pub(super) fn of_one(apparatus: &Name, mount: &Path, opens: Opens, patience: Duration) -> Self {
        let devices: BTreeSet<_> = opens.device.into_iter().collect();
        Self {
            loops: loops::all(&[], patience),
            holders: ProcessHolders::scan(&devices),
            records: None,
            seen: vec![ApparatusUse {
                name: apparatus.clone(),
                mount: mount.to_owned(),
                serves: opens.device,
                opens: Some(opens),
                devices,
            }],
        }
    }

    /// Returns the use of all volumes that are open through one apparatus; `None` when it does not answer.
    pub(super) fn usage_through(&self, apparatus: &Name, names: &BTreeMap<VolumeId, Name>) -> Option<Usage> {
        let seen = self.seen.iter().find(|seen| seen.name == *apparatus)?;
        let mut all = Usage::default();
        for volume in seen.opens.as_ref()?.volumes.keys() {
            // Removed volumes that are still open have lost their users already.
            let Some(name) = names.get(volume) else { continue };
            let usage = self.usage(*volume, name);
            all.open += usage.open;
            let here = |user: &User| match user {
                User::LoopDevice { apparatus: name, .. } => name.as_ref() == Some(apparatus),
                User::Process { apparatus: name, .. } => name == apparatus,
                User::Job { .. } => false,
            };
            all.users.extend(usage.users.into_iter().filter(here));
        }
        Some(all)
    }
}

/// Finds the users of an apparatus's mount at this place, whichever volumes they use. Neither the apparatus nor the mount is asked.
pub(super) fn usage_of_mount(apparatus: &Name, mount: &Path) -> Usage {
    let device = fuse::device_at(mount, apparatus).ok().flatten();
    let devices: BTreeSet<_> = device.into_iter().collect();
    let holders = ProcessHolders::scan(&devices);
    let on_mount = |each: &Loop| match each.below {
        Some((number, _)) => devices.contains(&number),
        None => each.file.starts_with(mount),
    };
    let loops = loops::all(&[], loops::PATIENCE).into_iter().filter(on_mount);
    let mut users: Vec<User> = loops
        .map(|each| User::LoopDevice {
            used_by: loops::users(&each.path, &holders),
            device: each.path,
            apparatus: Some(apparatus.clone()),
        })
        .collect();
    users.extend(holders.of_all_files().map(|process| User::Process {
        pid: process.pid,
        name: process.name,
        apparatus: apparatus.clone(),
    }));
    Usage {
        open: users.len() as u64,
        users,
        ..Usage::default()
    }
}

/// Describes what uses a loop device.
pub(in crate::admin) fn users_of_loop(device: &Path) -> Vec<String> {
    loops::users(device, &ProcessHolders::scan(&BTreeSet::new()))
}

/// Lists the users of volumes through this apparatus, by its own counts: a line for each volume. Sends no request.
#[must_use]
pub fn through(
    apparatus: &Name,
    mount: &Path,
    opens: Opens,
    names: &BTreeMap<VolumeId, Name>,
) -> Vec<String> {
    let volumes: Vec<VolumeId> = opens.volumes.keys().copied().collect();
    let census = Census::of_one(apparatus, mount, opens, loops::PATIENCE);
    let listed = volumes.into_iter().filter_map(|volume| {
        let name = names.get(&volume)?;
        let users = census.usage(volume, name).users;
        let users: Vec<String> = users.iter().map(ToString::to_string).collect();
        (!users.is_empty()).then(|| format!("volume {name}: {}", users.join(", ")))
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looped(file: &str) -> Loop {
        Loop {
            path: "/dev/loop7".into(),
            below: None,
            file: file.into(),
            read_only: false,
            partitions: false,
        }
    }

    #[test]
    fn a_loop_device_that_may_not_be_asked_is_known_by_its_path() {
        let (a1, v) = (
            Name::new("apparatus", "a1").unwrap(),
            Name::new("volume", "v").unwrap(),
        );
        let census = |file: &str, serves| Census {
            seen: vec![ApparatusUse {
                name: a1.clone(),
                mount: "/mnt/a1".into(),
                opens: Some(Opens::default()),
                devices: BTreeSet::new(),
                serves,
            }],
            loops: vec![looped(file)],
            holders: ProcessHolders::default(),
            records: None,
        };
        let through = |file: &str, serves| -> Vec<Option<Name>> {
            let found = census(file, serves).loops_on(VolumeId(1), &v);
            found.into_iter().map(|each| each.apparatus).collect()
        };
        assert_eq!(through("/mnt/a1/v", Some((0, 50))), [Some(a1.clone())]);
        assert_eq!(through("/mnt/a1/v", None), [None], "its apparatus has ended");
        assert_eq!(through("/mnt/a1/w", Some((0, 50))), []);
        assert_eq!(through("/v", Some((0, 50))), [], "its mount was taken away");
    }
}
