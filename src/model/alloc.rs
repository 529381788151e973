//! Chooses where new extents go. Pure: from the free runs of each disk and a request to areas, or to the reason why each disk
//! was not taken.
//!
//! A request gets one piece where a disk has one; else pieces of one disk; else pieces of several disks, as few as possible. A
//! contiguous request gets one piece or nothing.

mod shortage;

pub use shortage::{Reason, Shortage};

use super::areas::without;
use super::names::Name;
use super::records::Area;
use crate::model::units::{DiskExtent, DiskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Returns the runs of a disk that have no owner, by start. `taken` is sorted by start and has no overlaps. Extent 0 belongs to
/// the label.
#[must_use]
pub fn free_runs(disk: DiskId, extents: u64, taken: impl IntoIterator<Item = Area>) -> Vec<Area> {
    let mut runs = Vec::new();
    let mut next = 1;
    let mut push = |from: u64, to: u64| {
        if from < to {
            runs.push(Area {
                disk,
                start: DiskExtent(from),
                len: to - from,
            });
        }
    };
    for area in taken {
        push(next, area.start.0.min(extents));
        next = next.max(area.end().0);
    }
    push(next, extents);
    runs
}

/// Why nothing new is placed on a disk by itself, though its record allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Requests of hosts wait for it.
    Waits,
    /// This many requests have failed on it.
    Fails(u64),
    /// It cannot be opened for writing.
    Unusable {
        /// The reason.
        why: String,
        /// What to do about it, if that is known.
        way_out: Option<String>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits => f.write_str("does not answer: requests of hosts wait for it"),
            Self::Fails(1) => f.write_str("1 request has failed on it"),
            Self::Fails(requests) => write!(f, "{requests} requests have failed on it"),
            Self::Unusable { why, .. } => f.write_str(why),
        }
    }
}

/// The disks with known faults.
pub type Faults = BTreeMap<DiskId, Fault>;

/// A disk's free space, as the allocator needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The disk.
    pub disk: DiskId,
    /// Its name, for explanations.
    pub name: Name,
    /// False if nothing new may be placed on it.
    pub allocate: bool,
    /// Its known fault.
    pub fault: Option<Fault>,
    /// Its free runs, sorted by start.
    pub free: Vec<Area>,
    /// Number of free extents that have to stay free.
    pub reserve: u64,
    /// Number of extents that become free once no apparatus can use them; only explanations use it.
    pub quarantined: u64,
    /// Number of extents that are reserved for jobs that have not ended.
    pub reserved: u64,
    /// Extents of removed volumes, a list for each of these volumes, in the order in which they are given up. Every disk has the same number
    /// of lists.
    pub kept: Vec<Vec<Area>>,
}

impl Space {
    fn free(&self) -> u64 {
        self.free.iter().map(|run| run.len).sum()
    }

    /// Returns the space without what is kept of removed volumes from this one on. That counts as free for the reserve.
    fn sparing(&self, first: usize) -> Self {
        let kept = self.kept.iter().skip(first).flatten().copied();
        let free = without(self.free.clone(), kept);
        let spared = self.free() - free.iter().map(|run| run.len).sum::<u64>();
        Self {
            disk: self.disk,
            name: self.name.clone(),
            allocate: self.allocate,
            fault: self.fault.clone(),
            free,
            reserve: self.reserve.saturating_sub(spared),
            quarantined: self.quarantined,
            reserved: self.reserved,
            kept: Vec::new(),
        }
    }

    /// Returns how many extents may be allocated.
    fn room(&self) -> u64 {
        self.free().saturating_sub(self.reserve)
    }
}

/// Order in which disks are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Disks in the order given; the disk with the most free space first if none was given.
    #[default]
    Order,
    /// The disk with the most free space first.
    Spread,
    /// The disk with the least free space first, so that other disks stay empty.
    Pack,
    /// Like `Order`, but in one piece or not at all.
    Contiguous,
}

impl Policy {
    /// Returns the policy's name on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Spread => "spread",
            Self::Pack => "pack",
            Self::Contiguous => "contiguous",
        }
    }
}

/// A request for extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocRequest {
    /// Number of extents.
    pub extents: u64,
    /// The disks to choose from, in this order; empty for all.
    pub on: Vec<DiskId>,
    /// The area after which the new one should start, so that the two become one segment.
    pub after: Option<Area>,
    /// Order in which disks are taken.
    pub policy: Policy,
}

/// Returns areas for the whole request, in the order in which they should be used. Extents of removed volumes are given only where others
/// are not enough, and then those of as few volumes as possible.
///
/// # Errors
/// Fails with [`Shortage`] if, and only if, the disks to choose from have too little room together, or none has it in one piece
/// where the request is contiguous.
pub fn allocate(spaces: &[Space], request: &AllocRequest) -> Result<Vec<Area>, Shortage> {
    let kept = spaces.iter().map(|space| space.kept.len()).max().unwrap_or(0);
    for first in 0..kept {
        let spared: Vec<Space> = spaces.iter().map(|space| space.sparing(first)).collect();
        if let Ok(areas) = allocate_any(&spared, request) {
            return Ok(areas);
        }
    }
    allocate_any(spaces, request)
}

fn allocate_any(spaces: &[Space], request: &AllocRequest) -> Result<Vec<Area>, Shortage> {
    let disks = candidates(spaces, request);
    let room: u64 = disks.iter().map(|disk| disk.room()).fold(0, u64::saturating_add);
    if room < request.extents {
        return Err(Shortage::new(spaces, request));
    }
    if request.extents == 0 {
        return Ok(Vec::new());
    }
    if let Some(area) = behind(&disks, request).or_else(|| in_one_piece(&disks, request.extents)) {
        return Ok(vec![area]);
    }
    if request.policy == Policy::Contiguous {
        return Err(Shortage::new(spaces, request));
    }
    let alone = disks.iter().find(|disk| disk.room() >= request.extents);
    match alone {
        Some(disk) => Ok(pieces(disk, request.extents)),
        None => Ok(over_several(&disks, request.extents)),
    }
}

/// Removes allocated areas from the free runs, so that the next request is granted from the rest.
pub fn take(spaces: &mut [Space], areas: &[Area]) {
    for area in areas {
        let Some(space) = spaces.iter_mut().find(|space| space.disk == area.disk) else {
            continue;
        };
        let at = space.free.partition_point(|run| run.end() <= area.start);
        let Some(run) = space.free.get(at).copied().filter(|run| run.overlaps(*area)) else {
            continue;
        };
        let left = [(run.start, area.start), (area.end(), run.end())];
        let rest = left.into_iter().filter(|(from, to)| from < to);
        let rest = rest.map(|(from, to)| Area {
            disk: run.disk,
            start: from,
            len: to.0 - from.0,
        });
        space.free.splice(at..=at, rest.collect::<Vec<_>>());
    }
}

/// Returns the disks that may be used, best first. A disk with a fault is used only if all disks that were asked for by name have one.
fn candidates<'a>(spaces: &'a [Space], request: &AllocRequest) -> Vec<&'a Space> {
    let mut disks: Vec<&Space> = spaces
        .iter()
        .filter(|space| is_asked_for(space, request) && space.allocate)
        .collect();
    if request.on.is_empty() || disks.iter().any(|space| space.fault.is_none()) {
        disks.retain(|space| space.fault.is_none());
    }
    let asked = |space: &&Space| request.on.iter().position(|disk| *disk == space.disk);
    match request.policy {
        Policy::Order | Policy::Contiguous if !request.on.is_empty() => disks.sort_by_key(asked),
        Policy::Order | Policy::Contiguous | Policy::Spread => {
            disks.sort_by_key(|space| std::cmp::Reverse(space.room()))
        }
        Policy::Pack => disks.sort_by_key(|space| space.room()),
    }
    disks
}

fn is_asked_for(space: &Space, request: &AllocRequest) -> bool {
    request.on.is_empty() || request.on.contains(&space.disk)
}

fn behind(disks: &[&Space], request: &AllocRequest) -> Option<Area> {
    let after = request.after?;
    let disk = disks
        .iter()
        .find(|disk| disk.disk == after.disk && disk.room() >= request.extents)?;
    let run = disk
        .free
        .iter()
        .find(|run| run.start == after.end() && run.len >= request.extents)?;
    Some(Area {
        len: request.extents,
        ..*run
    })
}

fn in_one_piece(disks: &[&Space], extents: u64) -> Option<Area> {
    let first_fit = |disk: &&Space| {
        let run = disk.free.iter().find(|run| run.len >= extents)?;
        (disk.room() >= extents).then_some(Area { len: extents, ..*run })
    };
    disks.iter().find_map(first_fit)
}

/// Returns `extents` extents of one disk that has them, from its longest runs, so that the pieces are few.
fn pieces(disk: &Space, extents: u64) -> Vec<Area> {
    let mut runs: Vec<&Area> = disk.free.iter().collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.len));
    let mut left = extents;
    let mut taken: Vec<Area> = Vec::new();
    for run in runs {
        let len = run.len.min(left);
        if len > 0 {
            taken.push(Area { len, ..*run });
            left -= len;
        }
    }
    taken.sort_unstable();
    taken
}

fn over_several(disks: &[&Space], extents: u64) -> Vec<Area> {
    let mut left = extents;
    let mut taken = Vec::new();
    for disk in disks {
        let here = disk.room().min(left);
        taken.extend(pieces(disk, here));
        left -= here;
    }
    taken
}

#[cfg(test)]
mod tests;
