//! One state of the pool's database, and the transactions on it.

mod changes;
mod recovery;

pub(super) use changes::mapped;

use super::placements::{Applied, Extent, Placements, areas, extents};
use crate::model::audit::{Entry, KEPT, Recorded};
use crate::model::change::{ChangeRecord, Owner, UsedArea};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::{Event, Severity};
use crate::model::job::{JobRecord, Step};
use crate::model::member::Member;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::model::options::{Fullness, Options};
use crate::model::records::{Area, Edit, PoolHeader, Snapshot};
use crate::model::units::{CacheEpoch, ChangeId, DiskId, Generation, JobId, Slot, Term, Timestamp, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that a transaction sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) header: PoolHeader,
    pub(super) placements: Arc<Placements>,
    /// Extents claimed by prepared changes and by jobs.
    pub(super) claims: BTreeMap<Extent, Owner>,
    /// Extents that changes took from volumes.
    pub(super) quarantine: BTreeMap<Extent, (ChangeId, Generation)>,
    pub(super) changes: BTreeMap<ChangeId, Arc<Stored>>,
    pub(super) members: BTreeMap<Slot, (Member, CacheEpoch)>,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) incarnations: u64,
    pub(super) jobs: BTreeMap<JobId, (JobRecord, Vec<Step>)>,
    pub(super) events: Vec<Event>,
    pub(super) audit: Vec<Recorded>,
    pub(super) options: Options,
    pub(super) fullness: Fullness,
    pub(super) next_disk: DiskId,
    pub(super) next_volume: VolumeId,
}

/// A change with the fields that only the store knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) record: ChangeRecord,
    /// The generation that it led to, once committed.
    pub(super) generation: Option<Generation>,
}

impl State {
    pub(super) fn new(header: PoolHeader) -> Self {
        Self {
            header,
            placements: Arc::default(),
            claims: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            changes: BTreeMap::new(),
            members: BTreeMap::new(),
            nodes: BTreeMap::new(),
            incarnations: 0,
            jobs: BTreeMap::new(),
            events: Vec::new(),
            audit: Vec::new(),
            options: Options::default(),
            fullness: Fullness::default(),
            next_disk: DiskId(1),
            next_volume: VolumeId(1),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let segments = self.placements.volumes.keys();
        let segments =
            segments.flat_map(|&id| self.placements.segments(id).into_iter().map(move |one| (id, one)));
        Snapshot {
            header: self.header.clone(),
            disks: self.placements.disks.values().cloned().collect(),
            volumes: self.placements.volumes.values().cloned().collect(),
            segments: segments.collect(),
        }
    }

    /// Fails under a higher term.
    pub(super) fn not_stale(&self, term: Term) -> Result<()> {
        if self.header.term <= term {
            return Ok(());
        }
        let why = format!("another controller has taken over with term {}", self.header.term);
        Err(Error::new(ErrorKind::Stale, format!("term {term}"), why))
    }

    pub(super) fn owner(&self, extent: Extent) -> Option<Owner> {
        let claimed = self.claims.get(&extent).copied();
        let kept = || {
            self.quarantine
                .get(&extent)
                .map(|&(change, _)| Owner::Quarantine(change))
        };
        let mapped = || {
            self.placements
                .iter()
                .find(|&(_, _, placement)| placement == extent)
                .map(|(id, ..)| Owner::Volume(id))
        };
        claimed.or_else(kept).or_else(mapped)
    }

    pub(super) fn uses(&self, disk: DiskId) -> Vec<UsedArea> {
        let claims = self.claims.iter().map(|(&at, &owner)| (at, owner));
        let kept = self
            .quarantine
            .iter()
            .map(|(&at, &(change, _))| (at, Owner::Quarantine(change)));
        let placements = self
            .placements
            .iter()
            .map(|(volume, _, at)| (at, Owner::Volume(volume)));
        let mut all: Vec<(Extent, Owner)> = claims.chain(kept).chain(placements).collect();
        all.retain(|((on, _), _)| *on == disk);
        all.sort_unstable_by_key(|&(at, _)| at);
        let runs = all.chunk_by(|a, b| a.1 == b.1 && a.0.1.0 + 1 == b.0.1.0);
        runs.flat_map(|run| {
            let owner = run.first().map(|&(_, owner)| owner);
            areas(run.iter().map(|&(at, _)| at)).into_iter().zip(owner)
        })
        .map(|(area, owner)| UsedArea { area, owner })
        .collect()
    }

    fn apply(&mut self, edits: &[Edit]) -> Result<Applied> {
        let (claims, kept) = (&self.claims, &self.quarantine);
        let claimed = |disk, from| {
            claims
                .keys()
                .chain(kept.keys())
                .any(|&(on, at)| on == disk && at.0 >= from)
        };
        Arc::make_mut(&mut self.placements).edit_all(self.header.extent_size, edits, &claimed)
    }

    pub(super) fn log(&mut self, severity: Severity, subject: &str, text: &str) {
        self.events.push(Event {
            seq: self.events.last().map_or(1, |event| event.seq + 1),
            at: Timestamp(0),
            severity,
            subject: subject.to_owned(),
            text: text.to_owned(),
        });
    }

    pub(super) fn record(&mut self, entry: &Entry) {
        let next = |number: fn(&Recorded) -> u64| self.audit.iter().map(number).max().unwrap_or(0) + 1;
        let (seq, mark) = (next(|each| each.seq), next(|each| each.mark));
        match self.audit.iter_mut().find(|each| each.entry.id == entry.id) {
            Some(there) if there.entry.end.is_some() || entry.end.is_none() => {}
            Some(there) => (there.mark, there.entry.end) = (mark, entry.end.clone()),
            None => self.audit.push(Recorded {
                seq,
                mark,
                entry: entry.clone(),
            }),
        }
        let newest = self.audit.last().map_or(0, |each| each.seq);
        self.audit.retain(|each| each.seq + KEPT > newest);
    }

    /// Returns the areas that finished changes put into quarantine up to generation `oldest`.
    pub(super) fn freeable(&self, oldest: Generation) -> Vec<Area> {
        let unfinished: Vec<ChangeId> = self.unfinished().map(|stored| stored.record.id).collect();
        let over = |&(change, at): &(ChangeId, Generation)| at <= oldest && !unfinished.contains(&change);
        let found = self.quarantine.iter().filter(|(_, kept)| over(kept));
        areas(found.map(|(&extent, _)| extent))
    }

    /// Frees those areas, except on these disks.
    pub(super) fn free_quarantine(&mut self, oldest: Generation, except: &BTreeSet<DiskId>) -> Vec<Area> {
        let mut freed = self.freeable(oldest);
        freed.retain(|area| !except.contains(&area.disk));
        for extent in freed.iter().flat_map(|area| extents(*area)) {
            self.quarantine.remove(&extent);
        }
        freed
    }

    pub(super) fn reserve(&mut self, job: JobId, area: Area) -> Result<()> {
        self.placements.inside(area)?;
        for extent in extents(area) {
            if let Some(owner) = self.owner(extent) {
                return Err(not_free(extent, owner));
            }
            self.claims.insert(extent, Owner::Job(job));
        }
        Ok(())
    }

    pub(super) fn unreserve(&mut self, job: JobId) {
        self.claims.retain(|_, owner| *owner != Owner::Job(job));
    }
}

fn not_free((disk, extent): Extent, owner: Owner) -> Error {
    Error::failed(
        format!("disk number {disk}"),
        format!("extent {extent} belongs to {owner:?}"),
    )
}
