//! How a run begins.

use super::chaos::Chaos;
use super::copy::blocks;
use super::disk::{BLOCKS, Disk};
use super::fault::Fault;
use super::history::History;
use super::host::Client;
use super::ledger::Ledger;
use super::rng::Rng;
use super::shared::Shared;
use super::work::volume_record;
use super::{Delay, Task, World};
use apparatus::blockdev::label::COPY;
use apparatus::model::change::{Commit, HoldMode, NewChange};
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Instance, PoolHeader, Segment};
use apparatus::model::units::{
    CacheEpoch, DiskExtent, DiskId, ExtentSize, Generation, MembershipVersion, Term, VolumeExtent, VolumeId,
};
use apparatus::protocol::controller::Patience;
use apparatus::store::memory::MemoryStore;
use apparatus::store::roles::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub apps: usize,
    pub clients: usize,
    /// Extents of each disk, the label's included.
    pub disks: Vec<u64>,
    /// Extents of each volume; the first lie on the first disk.
    pub volumes: Vec<u64>,
    pub chaos: Chaos,
    pub patience: Patience,
    /// Of the apparatuses.
    pub patience_us: u64,
    /// Most time between two runs of `vctl`.
    pub vctl_us: u64,
    /// Of each chunk, in thousandths: the operator commands something of its job.
    pub commands: u64,
    /// Of a recovery.
    pub poll_us: u64,
    /// When trouble and new work end, in microseconds.
    pub until: u64,
    pub fault: Option<Fault>,
    /// Every chunk is copied before it is held.
    pub ahead: bool,
    /// A commit of what was copied ahead is durable at once.
    pub durable_commits: bool,
    /// Someone tries every order: no chance, no time.
    pub explore: bool,
    /// The explorer's: power can fail yet, so what is durable counts.
    pub power: bool,
    /// The explorer's word on whether the last accesses of a killed process take place.
    pub lands: bool,
    /// Every task is printed.
    pub trace: bool,
}

impl Options {
    /// The trouble that a seed has: some seeds have none, some have one kind, most have all.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let chaos = chaos(&mut rng);
        // Few blocks, so that requests, copies and late writes meet.
        let hot = rng.permille(400);
        Self {
            seed,
            apps: rng.between(1, 3).max(rng.between(1, 3)) as usize,
            clients: rng.between(1, 3) as usize,
            disks: vec![rng.between(9, 12); rng.between(2, 3) as usize],
            volumes: if hot {
                vec![1, 1]
            } else {
                vec![rng.between(2, 4), rng.between(1, 2)]
            },
            chaos,
            patience: Patience {
                drain_us: 1_500,
                answer_us: 1_500,
                hold_us: 9_000,
            },
            patience_us: rng.between(800, 5_000),
            vctl_us: rng.between(1_000, 20_000),
            commands: rng.between(0, 1) * rng.between(10, 150),
            poll_us: 700,
            until: rng.between(20_000, 60_000),
            fault: None,
            ahead: false,
            durable_commits: rng.permille(300),
            explore: false,
            power: false,
            lands: false,
            trace: std::env::var_os("TRACE").is_some(),
        }
    }

    /// The occasions are frequent at which this fault would show.
    pub fn focused(seed: u64, fault: Fault) -> Self {
        let mut options = Self::random(seed);
        options.focus(fault);
        options
    }

    fn focus(&mut self, fault: Fault) {
        self.volumes = vec![1, 1];
        self.clients = self.clients.max(2);
        if let Some(chaos) = chaos_for(fault) {
            self.chaos = chaos;
        }
        match fault {
            Fault::OvertakenGoesOn => self.commands = 300,
            Fault::FirstDiskOnly => self.volumes = vec![3, 2],
            Fault::FlushBeforePersist
            | Fault::BootIgnored
            | Fault::PersistWithoutFlush
            | Fault::DurableUnflushed
            | Fault::WriteNotMarked
            | Fault::ReleaseEarly
            | Fault::NoDrain
            | Fault::ApplyBeforeCommit
            | Fault::CopyWithoutHold => {}
            Fault::JoinerDoesNotWait | Fault::MembershipUnchecked | Fault::WritesNotHeldAtRejoin => {
                self.apps = 3
            }
            Fault::ReopenAlone
            | Fault::ReopenByClock
            | Fault::OldAnswerTaken
            | Fault::OtherGenerationsReached
            | Fault::RecoveryIgnoresBehind
            | Fault::DeadlineIgnored
            | Fault::LossIgnored
            | Fault::GivenUpByAnother => {
                self.vctl_us = 3_000;
                self.apps = self.apps.max(2);
            }
            Fault::CommitBeforeDurable => (self.ahead, self.durable_commits) = (true, true),
            Fault::NoteWithoutDrain | Fault::NoteLost | Fault::AheadWithLateWriter => {
                (self.apps, self.ahead) = (self.apps.max(2), true);
                self.vctl_us = 2_000;
            }
            _ => self.apps = self.apps.max(2),
        }
    }
}

/// The trouble in which this fault would show; none for any.
fn chaos_for(fault: Fault) -> Option<Chaos> {
    let (none, every_us) = (Chaos::default(), 3_000);
    Some(match fault {
        Fault::OvertakenGoesOn => return None,
        Fault::FlushBeforePersist
        | Fault::BootIgnored
        | Fault::PersistWithoutFlush
        | Fault::FirstDiskOnly
        | Fault::DurableUnflushed
        | Fault::WriteNotMarked
        | Fault::CommitBeforeDurable => Chaos {
            every_us,
            power: 1,
            ..none
        },
        Fault::ReleaseEarly | Fault::NoDrain | Fault::ApplyBeforeCommit | Fault::CopyWithoutHold => Chaos {
            every_us,
            cut: 1,
            stop_app: 1,
            slow: 60,
            ..none
        },
        Fault::JoinerDoesNotWait | Fault::MembershipUnchecked | Fault::WritesNotHeldAtRejoin => Chaos {
            every_us: 1_000,
            kill_app: 4,
            stop_app: 1,
            slow: 40,
            ..none
        },
        Fault::ReopenAlone
        | Fault::ReopenByClock
        | Fault::OldAnswerTaken
        | Fault::OtherGenerationsReached
        | Fault::RecoveryIgnoresBehind
        | Fault::DeadlineIgnored
        | Fault::LossIgnored
        | Fault::GivenUpByAnother => Chaos {
            every_us,
            kill_ctl: 4,
            stop_app: 2,
            stop_ctl: 2,
            crash_points: 10,
            ..none
        },
        Fault::NoteWithoutDrain => Chaos { slow: 60, ..none },
        Fault::NoteLost => Chaos {
            every_us: 1_000,
            kill_app: 1,
            ..none
        },
        Fault::AheadWithLateWriter => Chaos {
            every_us: 1_500,
            stop_app: 4,
            slow: 60,
            ..none
        },
        _ => Chaos {
            every_us,
            stop_app: 4,
            slow: 20,
            crash_points: 5,
            ..none
        },
    })
}

fn chaos(rng: &mut Rng) -> Chaos {
    let mut weight = |permille: u64, most: u64| {
        if rng.permille(permille) {
            rng.between(1, most)
        } else {
            0
        }
    };
    let all = Chaos {
        every_us: weight(900, 1).min(1) * 6_000,
        kill_app: weight(600, 4),
        kill_ctl: weight(700, 6),
        stop_app: weight(700, 8),
        stop_ctl: weight(500, 4),
        cut: weight(500, 4),
        power: weight(500, 3),
        slow: weight(600, 40),
        drop: weight(300, 20),
        double: weight(300, 40),
        disk_refused: weight(200, 30),
        store_fails: weight(300, 50),
        crash_points: weight(400, 10),
        disk_slow: weight(200, 30),
    };
    let every_us = if all.every_us == 0 {
        0
    } else {
        rng.between(1_500, 9_000)
    };
    Chaos { every_us, ..all }
}

fn disk_record(id: u32, extents: u64) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::from_u128(u128::from(id)),
        path: format!("/d{id}").into(),
        extents,
        // Discards would run on threads of their own.
        tags: BTreeSet::from([Name::new("tag", "no-discard").unwrap()]),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}

fn clients(options: &Options) -> Vec<Client> {
    let client = |n| Client {
        app: n % options.apps,
        busy: None,
        made: 0,
        script: VecDeque::new(),
    };
    (0..options.apps * options.clients).map(client).collect()
}

/// Both copies of the first label of each disk.
fn labels(options: &Options, header: &PoolHeader) -> Vec<[[u8; COPY]; 2]> {
    let disks = options.disks.iter().zip(1..);
    disks
        .map(|(&extents, id)| super::seams::labelled(&disk_record(id, extents), header))
        .collect()
}

impl World {
    pub fn new(options: Options) -> Self {
        let header = PoolHeader {
            uuid: Uuid::from_u128(7),
            extent_size: ExtentSize::MIN,
            access: apparatus::model::records::DiskAccess::Cached,
            generation: Generation(0),
            layout: 0,
            membership: MembershipVersion(0),
            term: Term(0),
            instance: Instance::default(),
        };
        let mut world = Self {
            rng: Rng::new(options.seed),
            now: 0,
            entries: 0,
            queue: BTreeMap::new(),
            waiting: Vec::new(),
            stopped: BTreeSet::new(),
            numbers: BTreeMap::new(),
            alive: BTreeSet::new(),
            boots: 1,
            store: MemoryStore::new(header.clone(), CacheEpoch(Uuid::from_u128(1))),
            disks: options
                .disks
                .iter()
                .map(|&extents| Shared::new(Disk::new(extents)))
                .collect(),
            rows: Vec::new(),
            lock: None,
            apps: (0..options.apps).map(|_| None).collect(),
            ctls: BTreeMap::new(),
            drivers: BTreeMap::new(),
            threads: BTreeMap::new(),
            last_thread: 0,
            accesses: BTreeMap::new(),
            last_access: 0,
            ledgers: vec![Ledger::default(); options.disks.len()],
            inbox: BTreeMap::new(),
            late_answers: BTreeMap::new(),
            back: None,
            next: None,
            resumed: None,
            phase: super::run::Phase::default(),
            labels: labels(&options, &header),
            shown: Default::default(),
            claims: BTreeMap::new(),
            beats: BTreeMap::new(),
            wires: BTreeMap::new(),
            clients: clients(&options),
            reqs: BTreeMap::new(),
            history: History::default(),
            spec: BTreeMap::new(),
            past: BTreeMap::new(),
            usable: BTreeMap::new(),
            copied: BTreeMap::new(),
            copied_again: BTreeSet::new(),
            durable: BTreeSet::new(),
            coverage: BTreeMap::new(),
            ending: false,
            failure: None,
            options,
        };
        world.populate();
        for index in 0..world.apps.len() {
            world.after(None, Delay::Step, Task::Start(index));
        }
        world
    }

    /// Disks and volumes, with something in every block, all durable.
    fn populate(&mut self) {
        let sizes = self.options.disks.clone();
        let disks = sizes
            .iter()
            .zip(1..)
            .map(|(&extents, id)| Edit::AddDisk(disk_record(id, extents)));
        let mut edits: Vec<Edit> = disks.collect();
        let mut next = 1;
        for (&extents, id) in self.options.volumes.clone().iter().zip(1..) {
            let placement = Area {
                disk: DiskId(1),
                start: DiskExtent(next),
                len: extents,
            };
            next += extents;
            self.fill(VolumeId(id), placement);
            edits.push(Edit::AddVolume(volume_record(VolumeId(id), extents)));
            let segments = vec![Segment {
                start: VolumeExtent(0),
                placement,
            }];
            edits.push(Edit::Map {
                volume: VolumeId(id),
                segments,
            });
            self.usable.insert(VolumeId(id), extents * BLOCKS);
        }
        let delta = Delta {
            from: Generation(0),
            edits,
        };
        let (job, spans, mode) = (None, Vec::new(), HoldMode::Writes);
        let change = NewChange {
            title: String::new(),
            job,
            delta,
            spans,
            mode,
        };
        let id = self.store.prepare(Term(0), &change).unwrap();
        let committed = self.store.commit(Term(0), id, MembershipVersion(0)).unwrap();
        assert_eq!(committed, Commit::Committed(Generation(1)));
        self.store.persist(&[id]).unwrap();
    }

    fn fill(&mut self, volume: VolumeId, placement: Area) {
        let begin = self.history.tick();
        for (block, (disk, at)) in blocks(placement).enumerate() {
            let (tag, place) = (self.history.tag(), (volume, block as u64));
            self.history.write(place, tag, begin);
            self.disks[disk].write(at, tag);
            let end = self.history.tick();
            self.history.acknowledged(place, tag, end);
        }
        for disk in &mut self.disks {
            let begun = disk.begin_flush();
            disk.end_flush(begun);
        }
    }
}
