//! Who uses a volume, through whichever apparatus. The apparatuses count what is open; who has it open now is found through `/proc` and `/sys`.
//!
//! What takes something away from users (remove, shrink, read-only, stop) asks here before it begins, and [`Guard`] asks again under the change's
//! hold and keeps the volume closed until the change has ended. Who does not answer may have it open, so that counts as in use.

pub(super) mod ask;
pub(crate) mod loops;
mod process;

use super::job::Workers;
use super::plan::{Planned, Vacate};
use crate::change::controller::Outcome;
use crate::change::driver::Controller;
use crate::change::survey::lives;
use crate::control::client::Links;
use crate::error::{Error, Kind, Result};
use crate::fuse;

use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{JobKind, JobState, Member, Store};
use crate::units::VolumeId;
use crate::wire::message::{Answer, Opens, Request};
use loops::Loop;
use process::Holders;
use rustix::event::poll;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long an apparatus may take to tell what is open.
const PATIENCE: Duration = Duration::from_secs(2);

/// An apparatus hears of a close a moment after the host's call has returned. So long is waited for a volume that is still open.
const CLOSING: Duration = Duration::from_secs(1);
const AGAIN: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// For how long a volume is kept closed at most.
const KEPT_US: u64 = 30_000_000;

/// What overrides a refusal.
pub const OVERRIDE: &str = "--cut-off-users";

/// One who uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum User {
    /// A loop device on its file.
    LoopDevice {
        /// The device.
        device: PathBuf,
        /// Through the mount of this apparatus; none when that mount is gone.
        apparatus: Option<Name>,
        /// What uses the device, in words.
        used_by: Vec<String>,
    },
    /// A process that has its file open.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// Through the mount of this apparatus.
        apparatus: Name,
    },
    /// A job that has not ended.
    Job {
        /// Its number and state, in words.
        job: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoopDevice {
                device,
                apparatus,
                used_by,
            } => {
                write!(f, "loop device {}", device.display())?;
                if !used_by.is_empty() {
                    write!(f, " ({})", used_by.join(", "))?;
                }
                match apparatus {
                    Some(name) => write!(f, " through {name}"),
                    None => write!(f, " through a mount that is gone"),
                }
            }
            Self::Process { pid, name, apparatus } => write!(f, "process {pid} ({name}) through {apparatus}"),
            Self::Job { job } => write!(f, "job {job}"),
        }
    }
}

/// How a volume is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Open handles, through all apparatuses.
    pub open: u64,
    /// Those of them that may write.
    pub writers: u64,
    /// Who has them, as far as can be seen, and the loop devices.
    pub users: Vec<User>,
    /// Apparatuses that live and do not tell.
    pub unknown: Vec<Name>,
}

impl Usage {
    fn matters(&self, writers_only: bool) -> bool {
        let open = if writers_only { self.writers } else { self.open };
        open > 0 || !self.unknown.is_empty() || (!writers_only && !self.users.is_empty())
    }

    /// The refusal of what would take something away from the users of `noun name`.
    fn refusal(&self, noun: &str, name: &Name) -> Error {
        const NAMED: usize = 8;
        let mut why: Vec<String> = self.users.iter().take(NAMED).map(ToString::to_string).collect();
        if self.users.len() > NAMED {
            why.push(format!("{} more", self.users.len() - NAMED));
        }
        if self.users.is_empty() && self.open > 0 {
            why.push(format!("{} open handles, of whom cannot be seen", self.open));
        }
        let why = match (why.is_empty(), self.unknown.is_empty()) {
            (false, _) => format!("is in use by {}", why.join(", ")),
            (true, _) => {
                let names: Vec<&str> = self.unknown.iter().map(Name::as_str).collect();
                format!("may be in use: apparatus {} does not answer", names.join(", "))
            }
        };
        let detach = match (noun, &self.users[..]) {
            ("volume", [User::LoopDevice { .. }, ..]) => format!(" (vctl volume detach {name})"),
            _ => String::new(),
        };
        Error::new(Kind::Busy, format!("{noun} {name}"), why)
            .hint(format!("end that use first{detach}, or override it: {OVERRIDE}"))
    }
}

/// An apparatus as the census finds it.
struct Seen {
    name: Name,
    mount: PathBuf,
    /// `None`: it lives, and does not tell.
    opens: Option<Opens>,
    /// The numbers of its mounts, those of earlier lives included.
    devices: BTreeSet<(u32, u32)>,
    /// The mount that it serves now.
    serves: Option<(u32, u32)>,
}

/// Who uses what in a pool, at one moment.
pub struct Census {
    seen: Vec<Seen>,
    loops: Vec<Loop>,
    holders: Holders,
}

/// A loop device on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OnLoop {
    pub(super) device: Loop,
    /// The apparatus that serves it; none when its mount is gone or dead.
    pub(super) apparatus: Option<Name>,
}

impl Census {
    /// Asks all apparatuses, and looks at loop devices and processes.
    ///
    /// # Errors
    /// The store's.
    pub fn take(pool: &PoolDir, store: &mut dyn Store) -> Result<Self> {
        let uuid = store.header()?.uuid;
        let (_, members) = store.members()?;
        Ok(Self::of(pool, uuid, members))
    }

    fn of(pool: &PoolDir, uuid: Uuid, members: Vec<Member>) -> Self {
        let alive = |member: &Member| lives(pool, member).unwrap_or(true);
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
            Seen {
                opens,
                devices,
                serves,
                name: member.name,
                mount: member.mount,
            }
        };
        let seen: Vec<Seen> = members.into_iter().map(&mut look).collect();
        let is_silent = |each: &&Seen| each.opens.is_none();
        let silent: Vec<_> = seen
            .iter()
            .filter(is_silent)
            .map(|each| each.mount.as_path())
            .collect();
        let loops = loops::all(&silent);
        let open = |each: &Seen| each.opens.as_ref().is_none_or(|opens| !opens.volumes.is_empty());
        let holders = match loops.is_empty() && !seen.iter().any(open) {
            true => Holders::default(),
            false => {
                let devices = seen
                    .iter()
                    .flat_map(|each| each.devices.iter().copied())
                    .collect();
                Holders::look(&devices)
            }
        };
        Self { seen, loops, holders }
    }

    /// How a volume is used; `name` is what it is called.
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

    fn add_handles(&self, usage: &mut Usage, seen: &Seen, volume: VolumeId) {
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

    /// The loop devices on a volume: by what they lie on, and by the path where they cannot tell.
    pub(super) fn loops_on(&self, volume: VolumeId, name: &Name) -> Vec<OnLoop> {
        let inode = fuse::inode_of(volume);
        let on = |device: &Loop| match device.below {
            Some((number, found)) => {
                let seen = self.seen.iter().find(|seen| seen.devices.contains(&number))?;
                let serves = (seen.serves == Some(number)).then(|| seen.name.clone());
                (found == inode).then_some(serves)
            }
            None => {
                let path = |seen: &Seen| seen.mount.join(name.as_str()) == device.file;
                self.seen.iter().any(path).then_some(None)
            }
        };
        let found = self.loops.iter().filter_map(|device| {
            let apparatus = on(device)?;
            Some(OnLoop {
                device: device.clone(),
                apparatus,
            })
        });
        found.collect()
    }

    /// The volumes that are open through one apparatus; none when it does not tell.
    fn open_through(&self, apparatus: &Name) -> Option<BTreeSet<VolumeId>> {
        let seen = self.seen.iter().find(|seen| seen.name == *apparatus)?;
        Some(seen.opens.as_ref()?.volumes.keys().copied().collect())
    }
}

/// What uses a loop device, in words.
pub(super) fn users_of_loop(device: &Path) -> Vec<String> {
    loops::users(device, &Holders::look(&BTreeSet::new()))
}

/// That nobody uses what this plan takes something away from.
///
/// # Errors
/// `Busy`, naming who does; the store's.
pub fn check(pool: &PoolDir, store: &mut dyn Store, planned: &Planned) -> Result<()> {
    match &planned.vacate {
        Some(vacate) => check_vacant(pool, store, vacate),
        None => Ok(()),
    }
}

fn check_vacant(pool: &PoolDir, store: &mut dyn Store, vacate: &Vacate) -> Result<()> {
    let volumes = store.volumes()?;
    let until = Instant::now() + CLOSING;
    for volume in volumes
        .iter()
        .filter(|volume| vacate.volumes.contains(&volume.id))
    {
        let mut usage = settled(until, || {
            Ok(Census::take(pool, store)?.usage(volume.id, &volume.name))
        })?;
        if !vacate.writers_only {
            usage.users.extend(jobs_on(pool, store, volume.id)?);
        }
        if usage.matters(vacate.writers_only) {
            return Err(usage.refusal("volume", &volume.name));
        }
    }
    Ok(())
}

/// The usage, looked at again for a moment where it may end by itself: handles that nobody is seen to have, and those of processes,
/// since a child has its parent's files between its fork and its exec.
fn settled(until: Instant, mut look: impl FnMut() -> Result<Usage>) -> Result<Usage> {
    loop {
        let usage = look()?;
        let passing = |user: &User| matches!(user, User::Process { .. });
        let closing = usage.open > 0 && usage.users.iter().all(passing) && usage.unknown.is_empty();
        if !closing || Instant::now() >= until {
            return Ok(usage);
        }
        let _ = poll(&mut [], Some(&AGAIN));
    }
}

/// The jobs that have not ended and move something of this volume, but for those that nobody works on.
fn jobs_on(pool: &PoolDir, store: &mut dyn Store, volume: VolumeId) -> Result<Vec<User>> {
    let mut users = Vec::new();
    let jobs = store.jobs()?;
    let workers = Workers::look(pool, store, &jobs)?;
    for job in jobs.into_iter().filter(|job| !workers.is_abandoned(job)) {
        let state = match job.state {
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::RollingBack => "rolling back",
            JobState::Cancelled | JobState::Done | JobState::Failed => continue,
        };
        let moves = match job.kind {
            JobKind::Move { volume: moved, .. } => moved == volume,
            JobKind::Evacuate { .. } => {
                let steps = store.steps(job.id)?;
                steps
                    .iter()
                    .any(|step| step.volume == volume && step.done < step.to.len)
            }
        };
        if moves {
            let job = format!("{} ({state})", job.id);
            users.push(User::Job { job });
        }
    }
    Ok(users)
}

/// That no host has anything open through this apparatus.
///
/// # Errors
/// `Busy`, naming who has; the store's.
pub fn check_apparatus(pool: &PoolDir, store: &mut dyn Store, apparatus: &Name) -> Result<()> {
    let until = Instant::now() + CLOSING;
    let names: BTreeMap<VolumeId, Name> = store
        .volumes()?
        .into_iter()
        .map(|volume| (volume.id, volume.name))
        .collect();
    let usage = settled(until, || {
        let census = Census::take(pool, store)?;
        let mut all = Usage::default();
        let Some(open) = census.open_through(apparatus) else {
            all.unknown.push(apparatus.clone());
            return Ok(all);
        };
        for volume in open {
            // Removed volumes that are still open have lost their users already.
            let Some(name) = names.get(&volume) else { continue };
            let usage = census.usage(volume, name);
            all.open += usage.open;
            let here = |user: &User| match user {
                User::LoopDevice { apparatus: name, .. } => name.as_ref() == Some(apparatus),
                User::Process { apparatus: name, .. } => name == apparatus,
                User::Job { .. } => false,
            };
            all.users.extend(usage.users.into_iter().filter(here));
        }
        Ok(all)
    })?;
    match usage.matters(false) {
        true => Err(usage.refusal("apparatus", apparatus)),
        false => Ok(()),
    }
}

/// Keeps volumes from being opened from a moment under the change's hold until it is dropped.
pub(super) struct Guard {
    pool: PoolDir,
    uuid: Uuid,
    store: Box<dyn Store>,
    vacate: Vacate,
    links: Option<Links>,
    found_in_use: bool,
}

impl Guard {
    /// Looks once before anything is held.
    ///
    /// # Errors
    /// `Busy`, naming who uses a volume; the store's.
    pub(super) fn begin(controller: &mut Controller, vacate: &Vacate) -> Result<Self> {
        let pool = controller.pool().clone();
        check_vacant(&pool, controller.store(), vacate)?;
        Ok(Self {
            uuid: controller.store().header()?.uuid,
            store: super::open(&pool)?,
            pool,
            vacate: vacate.clone(),
            links: None,
            found_in_use: false,
        })
    }

    /// Asked under the hold: those who serve now are those that the change will be committed with, because the commit names the membership that
    /// the holds were counted by.
    ///
    /// # Errors
    /// When a volume is in use after all.
    pub(super) fn keep_closed(&mut self) -> Result<(), String> {
        self.links = None;
        let (_, members) = self.store.members().map_err(|why| why.to_string())?;
        let alive = |member: &Member| lives(&self.pool, member).unwrap_or(true);
        let living: Vec<Member> = members.into_iter().filter(alive).collect();
        let request = Request::Vacate {
            volumes: self.vacate.volumes.clone(),
            writers_only: self.vacate.writers_only,
            for_us: KEPT_US,
        };
        let asked = ask::ask(&self.pool, self.uuid, &living, &request, PATIENCE);
        let vacant = |answer: &Result<Answer, String>| matches!(answer, Ok(Answer::Vacant));
        if asked.answers.values().all(vacant) {
            self.links = Some(asked.links);
            return Ok(());
        }
        self.found_in_use = true;
        Err("is in use".into())
    }

    /// What came of the change, with the users' names if it was refused for their sake.
    pub(super) fn explain(self, controller: &mut Controller, outcome: Result<Outcome>) -> Result<Outcome> {
        let (Err(_), true) = (&outcome, self.found_in_use) else {
            return outcome;
        };
        check_vacant(&self.pool, controller.store(), &self.vacate)?;
        Err(Error::new(
            Kind::Busy,
            "volume",
            "was opened meanwhile, and nothing has changed",
        )
        .hint("try again"))
    }
}
