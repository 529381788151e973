//! What controllers work on: chunks of jobs, and volumes that come, go, grow and shrink.

use super::copy::{Copy, blocks};
use super::ctl::{Todo, given_up};
use super::disk::BLOCKS;
use super::fault::Fault;
use super::host::BLOCK;
use super::{ProcId, World};
use apparatus::jobs::Request;
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, Edit, Segment, Span, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, Generation, JobId, VolumeExtent, VolumeId, VolumeOffset,
};
use apparatus::protocol::controller::{Outcome, Plan, Reason};
use apparatus::protocol::recovery;
use apparatus::store::roles::*;

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

/// A change that is to be run.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub change: NewChange,
    pub purpose: Job,
    pub copies: Vec<Copy>,
}

/// What a driver does next.
#[derive(Debug)]
pub enum Next {
    Chunks(JobId),
    PlanBack(JobId),
    Move(Request),
    Change(Proposal),
    Nothing,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    WithoutSomebody,
    /// Not well, and the reason.
    Not(Done, &'static str),
}

impl Ended {
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Finished { fenced, .. } if fenced.is_empty() => Self::Well,
            Outcome::Finished { .. } => Self::WithoutSomebody,
            Outcome::GaveUp { reason, .. } => Self::Not(Done::GaveUp, why(reason)),
            Outcome::Unfinished { .. } => Self::Not(Done::Unfinished, "changes left to the next controller"),
        }
    }
}

pub fn new_change(job: Option<JobId>, edits: Vec<Edit>, spans: Vec<Span>, mode: HoldMode) -> NewChange {
    let from = Generation(0);
    NewChange {
        title: "simulated".into(),
        job,
        delta: Delta { from, edits },
        spans,
        mode,
    }
}

impl World {
    /// A driver's: finds the next thing to do.
    pub fn next_work(&mut self) -> Next {
        self.check_ownership();
        if let Some(next) = self.next_of_jobs() {
            return next;
        }
        if self.ending {
            return Next::Nothing;
        }
        let change = match self.rng.below(10) {
            0..6 => return self.new_move().map_or(Next::Nothing, Next::Move),
            6 | 7 => self.create().or_else(|| self.remove()),
            8 => self.resize(),
            _ => None,
        };
        change.map_or(Next::Nothing, Next::Change)
    }

    /// Whether a job yields the lock now: by chance, or because it is waited for. Faults are looked for without gaps.
    pub fn begins_gap(&mut self, waited_for: bool) -> bool {
        self.options.fault.is_none() && self.rng.permille(if waited_for { 700 } else { 150 })
    }

    /// The explorer's: finds the next thing to do and begins it, or ends the controller.
    pub fn plan(&mut self, id: ProcId) {
        self.check_ownership();
        if let Some(chunk) = self.next_chunk() {
            return self.propose(id, chunk);
        }
        for todo in [Todo::PersistList, Todo::FreeLook, Todo::Quit] {
            self.do_last(id, todo);
        }
    }

    fn propose(&mut self, id: ProcId, proposal: Proposal) {
        let Proposal {
            mut change,
            purpose,
            copies,
            ..
        } = proposal;
        change.delta.from = self
            .store
            .header()
            .map(|header| header.generation)
            .unwrap_or_default();
        let seen = self.see();
        let (membership, _) = self.store.members().unwrap_or_default();
        let plan = Plan {
            change,
            disks: Vec::new(),
            participants: recovery::participants(&seen),
            membership,
            late_writes: recovery::late_writes(&seen) && !self.wrong(Fault::ReadsNotHeld),
            copies_ahead: self.options.ahead,
            elsewhere: std::collections::BTreeSet::new(),
            patience: self.options.patience,
        };
        self.begin(id, plan, purpose, copies);
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

    fn create(&mut self) -> Option<Proposal> {
        let volumes = self.store.volumes().unwrap_or_default();
        let disk = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let len = self.rng.between(1, 2);
        let area = self.free_area(disk, len, &[]).filter(|_| volumes.len() < 3)?;
        let volume = self.store.next_volume_id().unwrap_or_default().max(SCRATCH);
        let edits = vec![
            Edit::AddVolume(volume_record(volume, len)),
            Edit::Map {
                volume,
                segments: vec![Segment {
                    start: VolumeExtent(0),
                    placement: area,
                }],
            },
        ];
        Some(Proposal {
            change: new_change(None, edits, Vec::new(), HoldMode::Writes),
            purpose: Job::Create(volume),
            copies: self.fills(volume, 0, area),
        })
    }

    fn remove(&mut self) -> Option<Proposal> {
        let volume = self.usable.keys().copied().find(|&volume| volume >= SCRATCH)?;
        self.usable.remove(&volume);
        let (edits, spans) = (vec![Edit::RemoveVolume(volume)], vec![Span::whole(volume)]);
        Some(Proposal {
            change: new_change(None, edits, spans, HoldMode::All),
            purpose: Job::Remove(volume),
            copies: Vec::new(),
        })
    }

    /// A volume that is there for good, or one that is not, gets another size.
    fn resize(&mut self) -> Option<Proposal> {
        let volumes = self.store.volumes().unwrap_or_default();
        let usable = |volume: &&VolumeRecord| self.usable.contains_key(&volume.id);
        let volumes: Vec<VolumeRecord> = volumes.iter().filter(usable).cloned().collect();
        let volume = self.rng.pick(&volumes).cloned()?;
        let extents = volume.size.0 / (BLOCKS * BLOCK);
        if extents < 2 || (extents < 4 && self.rng.permille(500)) {
            self.grow(volume.id, extents)
        } else {
            Some(self.shrink(volume.id, extents))
        }
    }

    fn grow(&mut self, volume: VolumeId, extents: u64) -> Option<Proposal> {
        let disk = DiskId(self.rng.between(1, self.disks.len() as u64) as u32);
        let placement = self.free_area(disk, 1, &[])?;
        self.count("volumes grown");
        let start = VolumeExtent(extents);
        let segments = vec![Segment { start, placement }];
        let edits = vec![
            Edit::SetVolume(volume_record(volume, extents + 1)),
            Edit::Map { volume, segments },
        ];
        Some(Proposal {
            change: new_change(None, edits, Vec::new(), HoldMode::Writes),
            purpose: Job::Resize(volume),
            copies: self.fills(volume, extents * BLOCKS, placement),
        })
    }

    /// What is cut away is held for everyone, and hosts ask for it no more.
    fn shrink(&mut self, volume: VolumeId, extents: u64) -> Proposal {
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
        Proposal {
            change: new_change(None, edits, spans, HoldMode::All),
            purpose: Job::Resize(volume),
            copies: Vec::new(),
        }
    }

    /// What new blocks are filled with, from this block of the volume on.
    fn fills(&mut self, volume: VolumeId, first: u64, placement: Area) -> Vec<Copy> {
        let begin = self.history.tick();
        let mut fills = Vec::new();
        for (block, to) in (first..).zip(blocks(placement)) {
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
    pub fn ended(&mut self, job: Job, ended: Ended) {
        self.count(match ended {
            Ended::Well | Ended::WithoutSomebody => "changes finished",
            Ended::Not(_, why) => why,
        });
        if ended == Ended::WithoutSomebody {
            self.count("changes finished without somebody");
        }
        let given_up = matches!(ended, Ended::Not(Done::GaveUp, _));
        let unfinished = matches!(ended, Ended::Not(Done::Unfinished, _));
        let well = !given_up && !unfinished;
        match job {
            Job::Create(volume) | Job::Remove(volume)
                if (given_up || (well && matches!(job, Job::Create(_))))
                    && self.store.placements().volumes().any(|other| other.id == volume) =>
            {
                self.usable.insert(volume, self.blocks_of(volume));
            }
            Job::Resize(volume) if !unfinished => {
                self.usable.insert(volume, self.blocks_of(volume));
            }
            _ => {}
        }
    }

    /// The explorer's: a change is over.
    pub fn ctl_ended(&mut self, id: ProcId, job: Job, outcome: &Outcome) {
        self.ended(job, Ended::of(outcome));
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
        let placements = self.store.placements();
        let sizes = placements
            .volumes()
            .map(|volume| (volume.id, volume.size.0 / BLOCK));
        self.usable = sizes.collect();
    }

    fn blocks_of(&self, volume: VolumeId) -> u64 {
        let placements = self.store.placements();
        let size = placements.volumes().find(|other| other.id == volume);
        size.map_or(0, |volume| volume.size.0 / BLOCK)
    }

    /// A fault: the old placement is given away as soon as there is a new one.
    pub fn free_at_once(&mut self) {
        let (disks, ids) = self.not_persisted();
        for disk in disks {
            let begun = self.disks[disk].begin_flush();
            self.disks[disk].end_flush(begun);
        }
        _ = self.store.persist(&ids);
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
        Reason::Silent(_) => "given up: silent",
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
