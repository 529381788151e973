//! What controllers work on: chunks of jobs, and volumes that come, go, grow and shrink.

use super::copy::{Copy, blocks};
use super::ctl::{Todo, given_up};
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::{ProcId, World};
use apparatus::change::controller::{Outcome, Plan, Reason};
use apparatus::change::recovery;
use apparatus::pool::model::{Area, Difference, DiskRecord, Edit, Segment, Span, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::store::{HoldMode, NewChange, Store};
use apparatus::units::{ByteCount, DiskExtent, DiskId, JobId, VolumeExtent, VolumeId, VolumeOffset};

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    Chunk,
    Create(VolumeId),
    Remove(VolumeId),
    Resize(VolumeId),
}

/// How it ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Done {
    GaveUp,
    Unfinished,
}

/// The volumes that are always there have lower numbers.
pub const SCRATCH: VolumeId = VolumeId(3);

impl World {
    /// Finds the next thing to do and begins it, or ends the controller.
    pub fn plan(&mut self, id: ProcId) {
        self.check_ownership();
        if self.next_chunk(id) || (!self.ending && !self.options.explore && self.something_new(id)) {
            return;
        }
        for todo in [Todo::HardenList, Todo::FreeLook, Todo::Quit] {
            self.do_last(id, todo);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub fn propose(
        &mut self,
        id: ProcId,
        job: Option<JobId>,
        edits: Vec<Edit>,
        spans: Vec<Span>,
        mode: HoldMode,
        disk: Option<DiskId>,
        purpose: Job,
        copies: Vec<Copy>,
    ) {
        let from = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let seen = self.see();
        let (membership, _) = self.store.members().unwrap_or_default();
        let disks: Vec<DiskRecord> = self.store.disks().unwrap_or_default();
        let late_writes = recovery::late_writes(&seen) && !self.wrong(Fault::ReadsNotHeld);
        if late_writes {
            self.count("changes with late writers about");
        }
        let difference = Difference { from, edits };
        let plan = Plan {
            change: NewChange {
                title: String::new(),
                job,
                difference,
                spans,
                mode,
            },
            disks: disks.into_iter().filter(|one| Some(one.id) == disk).collect(),
            participants: recovery::participants(&seen),
            membership,
            late_writes,
            patience: self.options.patience,
        };
        self.begin(id, plan, purpose, copies);
    }

    fn something_new(&mut self, id: ProcId) -> bool {
        match self.rng.below(10) {
            0..6 => self.new_move(id) && self.next_chunk(id),
            6 | 7 => self.create(id) || self.remove(id),
            8 => self.resize(id),
            _ => false,
        }
    }

    /// A free run of so many extents.
    pub fn free_area(&mut self, disk: DiskId, len: u64, taken: &[Area]) -> Option<Area> {
        let uses = self.store.uses(disk).unwrap_or_default();
        let size = self
            .store
            .disks()
            .ok()?
            .iter()
            .find(|one| one.id == disk)?
            .extents;
        let free = |area: &Area| {
            !uses.iter().any(|one| one.area.overlaps(*area)) && !taken.iter().any(|one| one.overlaps(*area))
        };
        let starts: Vec<Area> = (1..=size.saturating_sub(len))
            .map(|start| Area {
                disk,
                start: DiskExtent(start),
                len,
            })
            .filter(free)
            .collect();
        self.rng.pick(&starts).copied()
    }

    fn create(&mut self, id: ProcId) -> bool {
        let volumes = self.store.volumes().unwrap_or_default();
        let disk = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let len = self.rng.between(1, 2);
        let Some(area) = self.free_area(disk, len, &[]).filter(|_| volumes.len() < 3) else {
            return false;
        };
        let volume = self.store.next_volume_id().unwrap_or_default().max(SCRATCH);
        let edits = vec![
            Edit::AddVolume(volume_record(volume, len)),
            Edit::Map {
                volume,
                segments: vec![Segment {
                    start: VolumeExtent(0),
                    home: area,
                }],
            },
        ];
        let fills = self.fills(volume, 0, area);
        self.propose(
            id,
            None,
            edits,
            Vec::new(),
            HoldMode::Writes,
            None,
            Job::Create(volume),
            fills,
        );
        true
    }

    fn remove(&mut self, id: ProcId) -> bool {
        let Some(volume) = self.usable.keys().copied().find(|&volume| volume >= SCRATCH) else {
            return false;
        };
        self.usable.remove(&volume);
        let edits = vec![Edit::RemoveVolume(volume)];
        let spans = vec![Span::whole(volume)];
        self.propose(
            id,
            None,
            edits,
            spans,
            HoldMode::All,
            None,
            Job::Remove(volume),
            Vec::new(),
        );
        true
    }

    /// A volume that is there for good, or one that is not, gets another size.
    fn resize(&mut self, id: ProcId) -> bool {
        let volumes = self.store.volumes().unwrap_or_default();
        let usable = |volume: &&VolumeRecord| self.usable.contains_key(&volume.id);
        let volumes: Vec<VolumeRecord> = volumes.iter().filter(usable).cloned().collect();
        let Some(volume) = self.rng.pick(&volumes).cloned() else {
            return false;
        };
        let extents = volume.size.0 / (BLOCKS * BLOCK);
        if extents < 2 || (extents < 4 && self.rng.permille(500)) {
            self.grow(id, volume.id, extents)
        } else {
            self.shrink(id, volume.id, extents)
        }
    }

    fn grow(&mut self, id: ProcId, volume: VolumeId, extents: u64) -> bool {
        let disk = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let Some(home) = self.free_area(disk, 1, &[]) else {
            return false;
        };
        self.count("volumes grown");
        let start = VolumeExtent(extents);
        let segments = vec![Segment { start, home }];
        let edits = vec![
            Edit::SetVolume(volume_record(volume, extents + 1)),
            Edit::Map { volume, segments },
        ];
        let fills = self.fills(volume, extents * BLOCKS, home);
        let (purpose, mode) = (Job::Resize(volume), HoldMode::Writes);
        self.propose(id, None, edits, Vec::new(), mode, None, purpose, fills);
        true
    }

    /// What is cut away is held for everyone, and hosts ask for it no more.
    fn shrink(&mut self, id: ProcId, volume: VolumeId, extents: u64) -> bool {
        self.count("volumes shrunk");
        let left = self.rng.between(1, extents - 1);
        self.usable.insert(volume, left * BLOCKS);
        let (start, end) = (VolumeExtent(left), VolumeExtent(extents));
        let edits = vec![
            Edit::Unmap { volume, start, end },
            Edit::SetVolume(volume_record(volume, left)),
        ];
        let start = VolumeOffset(left * BLOCKS * BLOCK);
        let spans = vec![Span {
            start,
            ..Span::whole(volume)
        }];
        let (purpose, mode) = (Job::Resize(volume), HoldMode::All);
        self.propose(id, None, edits, spans, mode, None, purpose, Vec::new());
        true
    }

    /// What new blocks are filled with, from this block of the volume on.
    fn fills(&mut self, volume: VolumeId, first: u64, home: Area) -> Vec<Copy> {
        let begin = self.history.tick();
        let mut fills = Vec::new();
        for (block, to) in (first..).zip(blocks(home)) {
            let tag = self.history.tag();
            self.history.write((volume, block), tag, begin);
            fills.push(Copy { from: None, to, tag });
        }
        fills
    }

    /// The new blocks hold what they were filled with.
    pub fn filled(&mut self, copies: &[Copy]) {
        let now = self.history.tick();
        for copy in copies.iter().filter(|copy| copy.from.is_none()) {
            self.history.filled(copy.tag, now);
        }
    }

    /// A change is over.
    pub fn ended(&mut self, id: ProcId, job: Job, outcome: &Outcome) {
        match outcome {
            Outcome::Finished { fenced, .. } => {
                self.count("changes finished");
                if !fenced.is_empty() {
                    self.count("changes finished without somebody");
                }
            }
            Outcome::GaveUp { reason, .. } => self.count(why(reason)),
            Outcome::Unfinished { .. } => self.count("changes left to the next controller"),
        }
        match (job, given_up(outcome)) {
            (Job::Create(volume), None) | (Job::Remove(volume), Some(Done::GaveUp))
                if self.store.homes().volumes().any(|other| other.id == volume) =>
            {
                self.usable.insert(volume, self.blocks_of(volume));
            }
            (Job::Resize(volume), None | Some(Done::GaveUp)) => {
                self.usable.insert(volume, self.blocks_of(volume));
            }
            _ => {}
        }
        let stale = matches!(
            outcome,
            Outcome::GaveUp {
                reason: Reason::StaleTerm,
                ..
            }
        );
        if stale || given_up(outcome) == Some(Done::Unfinished) {
            self.do_next(id, vec![Todo::Quit]);
        }
    }

    /// Whatever the last controller was about, it is decided now.
    pub fn after_recovery(&mut self) {
        let homes = self.store.homes();
        let sizes = homes.volumes().map(|volume| (volume.id, volume.size.0 / BLOCK));
        self.usable = sizes.collect();
    }

    fn blocks_of(&self, volume: VolumeId) -> u64 {
        let homes = self.store.homes();
        let size = homes.volumes().find(|other| other.id == volume);
        size.map_or(0, |volume| volume.size.0 / BLOCK)
    }

    /// A fault: the old home is given away as soon as there is a new one.
    pub fn free_at_once(&mut self) {
        let (disks, ids) = self.not_hardened();
        for disk in disks {
            let begun = self.disks[disk].begin_flush();
            self.disks[disk].end_flush(begun);
        }
        _ = self.store.harden(&ids);
        let generation = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        _ = self.store.free_quarantine(generation);
    }
}

pub fn volume_record(id: VolumeId, extents: u64) -> VolumeRecord {
    VolumeRecord {
        id,
        name: Name::new("volume", &format!("v{id}")).unwrap(),
        size: ByteCount(extents * BLOCKS * BLOCK),
        mode: 0o600,
        uid: 0,
        gid: 0,
        read_only: false,
    }
}

fn why(reason: &Reason) -> &'static str {
    match reason {
        Reason::Draining { .. } => "given up: still draining",
        Reason::Opening { .. } => "given up: still opening",
        Reason::Slow(_) => "given up: slow",
        Reason::MembershipMoved => "given up: membership moved",
        Reason::GenerationMoved => "given up: generation moved",
        Reason::HoldRanOut => "given up: hold ran out",
        Reason::StaleTerm => "given up: stale term",
        Reason::Refused(..) => "given up: refused",
        Reason::Work(_) => "given up: work failed",
        Reason::Store(_) => "given up: store failed",
        Reason::Abandoned(_) => "given up: abandoned",
    }
}
