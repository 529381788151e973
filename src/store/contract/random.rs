//! Random operations on SQLite and on the store in memory, which works extent by extent: both give the same answers and have
//! the same visible state after each step, and each extent has one owner.

use super::world::{Fixture, Memory, Sqlite, World, area, disk, map, new_job, seg, step, unmap, volume};
use crate::model::change::ChangeState;
use crate::model::error::{ErrorKind, Result};
use crate::model::job::{JobState, Step};
use crate::model::member::Joiner;
use crate::model::names::Name;
use crate::model::records::{DiskRecord, Edit, Instance, VolumeRecord};
use crate::model::units::{
    ByteCount, ChangeId, DiskId, Generation, JobId, MembershipVersion, Term, VolumeId,
};
use proptest::prelude::*;
use std::fmt::Debug;

/// Number of extents of a disk, and range of all choices: small, so that they collide.
const EXTENTS: u64 = 16;

#[derive(Clone, Debug)]
enum Op {
    Prepare {
        edits: Vec<Choice>,
        job: Option<u64>,
        ahead: bool,
    },
    Move {
        job: u64,
        len: u64,
    },
    Commit {
        which: usize,
        stale_term: bool,
        stale_version: bool,
    },
    Cancel(usize),
    Persist {
        upto: usize,
        skip: bool,
    },
    Free(u64),
    RaiseTerm,
    Join(u64),
    Rejoin(usize),
    Fence(usize),
    Leave(usize),
    CreateJob(Vec<Choice>),
    ReplaceSteps {
        job: u64,
        steps: Vec<Choice>,
    },
    Reserve {
        job: u64,
        at: Choice,
    },
    SetJob {
        job: u64,
        to: JobState,
    },
    PowerLoss,
}

/// The parameters of an edit, step or area.
#[derive(Clone, Copy, Debug)]
struct Choice {
    kind: u8,
    volume: u64,
    disk: u32,
    start: u64,
    placement: u64,
    len: u64,
}

fn choice() -> impl Strategy<Value = Choice> {
    (0..13_u8, 1..4_u64, 1..4_u32, 0..8_u64, 0..EXTENTS, 1..5_u64).prop_map(
        |(kind, volume, disk, start, placement, len)| Choice {
            kind,
            volume,
            disk,
            start,
            placement,
            len,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let choices = || prop::collection::vec(choice(), 0..4);
    let rarely = || prop::bool::weighted(0.1);
    let job_states = prop::sample::select(vec![
        JobState::Running,
        JobState::Paused,
        JobState::RollingBack,
        JobState::Done,
        JobState::Failed,
        JobState::Cancelled,
    ]);
    prop_oneof![
        8 => (choices(), prop::option::of(1..4_u64), rarely())
            .prop_map(|(edits, job, ahead)| Op::Prepare { edits, job, ahead }),
        6 => (1..4_u64, 1..4_u64).prop_map(|(job, len)| Op::Move { job, len }),
        10 => (0..3_usize, rarely(), rarely())
            .prop_map(|(which, stale_term, stale_version)| Op::Commit { which, stale_term, stale_version }),
        2 => (0..3_usize).prop_map(Op::Cancel),
        4 => (0..5_usize, rarely()).prop_map(|(upto, skip)| Op::Persist { upto, skip }),
        3 => (0..9_u64).prop_map(Op::Free),
        1 => Just(Op::RaiseTerm),
        2 => (0..4_u64).prop_map(Op::Join),
        1 => (0..3_usize).prop_map(Op::Rejoin),
        1 => (0..3_usize).prop_map(Op::Fence),
        1 => (0..3_usize).prop_map(Op::Leave),
        3 => choices().prop_map(Op::CreateJob),
        1 => (1..4_u64, choices()).prop_map(|(job, steps)| Op::ReplaceSteps { job, steps }),
        1 => (1..4_u64, choice()).prop_map(|(job, at)| Op::Reserve { job, at }),
        2 => (1..4_u64, job_states).prop_map(|(job, to)| Op::SetJob { job, to }),
        1 => Just(Op::PowerLoss),
    ]
}

fn edit(choice: Choice) -> Edit {
    let Choice {
        kind,
        volume: v,
        disk: d,
        start,
        placement,
        len,
    } = choice;
    match kind {
        0 => Edit::AddDisk(disk(d, EXTENTS)),
        1 => Edit::SetDisk(DiskRecord {
            extents: placement + len,
            allocate: start == 0,
            ..disk(d, 1)
        }),
        2 => Edit::RemoveDisk(DiskId(d)),
        3 => Edit::AddVolume(volume(v, 8)),
        4 => Edit::SetVolume(VolumeRecord {
            size: ByteCount((start + len) << 16),
            ..volume(v, 1)
        }),
        5 => Edit::RemoveVolume(VolumeId(v)),
        6 => unmap(v, start, start + len),
        7 | 8 => map(
            v,
            &[
                seg(start, d, placement, len),
                seg(start + len, d, placement + len, 1),
            ],
        ),
        _ => map(v, &[seg(start, d, placement, len)]),
    }
}

/// Returns steps that do not overlap in the volume.
fn job_steps(choices: &[Choice]) -> Vec<Step> {
    let mut next = 0;
    let mut steps = Vec::new();
    for Choice {
        volume,
        disk,
        start,
        placement,
        len,
        kind,
    } in choices.iter().copied()
    {
        let from = seg(next + start % 2, 1, 1 + start, len);
        next = from.end().0;
        let to = area(disk, placement.max(1), len);
        steps.push(Step {
            volume: VolumeId(volume),
            ..step(from, to, u64::from(kind) % 2)
        });
    }
    steps
}

/// Returns the answer as text. If an operation has several faults, either store may report any of them.
fn answer_text<T: Debug>(answer: Result<T>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) if error.kind() == ErrorKind::Stale => "stale".into(),
        Err(_) => "refused".into(),
    }
}

fn run(world: &mut World, op: &Op) -> String {
    let term = world.term();
    match op {
        Op::Prepare { edits, job, ahead } => {
            let mut change = world.new_change(job.map(JobId), edits.iter().copied().map(edit).collect());
            change.delta.from.0 += u64::from(*ahead);
            answer_text(world.store.prepare(term, &change))
        }
        Op::Move { job, len } => chunk(world, JobId(*job), *len),
        Op::Commit {
            which,
            stale_term,
            stale_version,
        } => {
            let version = MembershipVersion(world.membership().0 + u64::from(*stale_version));
            let term = Term(term.0.saturating_sub(u64::from(*stale_term)));
            let id = nth(world, *which);
            answer_text(world.store.commit(term, id, version))
        }
        Op::Cancel(which) => {
            let id = nth(world, *which);
            answer_text(
                world
                    .store
                    .cancel(id)
                    .map(|answer| matches!(answer, crate::model::change::Cancel::Cancelled)),
            )
        }
        Op::Persist { upto, skip } => persist(world, *upto, *skip),
        Op::Free(oldest) => {
            let freed = world.store.free_quarantine(Generation(*oldest));
            answer_text(freed.map(|areas| areas.iter().map(|area| area.len).sum::<u64>()))
        }
        Op::PowerLoss => {
            let boot = world.reboot();
            answer_text(world.store.recover_epoch(boot))
        }
        Op::RaiseTerm => answer_text(world.store.raise_term()),
        Op::Join(_) | Op::Rejoin(_) | Op::Fence(_) | Op::Leave(_) => membership(world, op),
        _ => job(world, op),
    }
}

/// Returns one of the unfinished changes, or one that is finished or never existed.
fn nth(world: &mut World, which: usize) -> ChangeId {
    let unfinished = world.store.unfinished().unwrap();
    unfinished
        .get(which)
        .map_or(ChangeId(which as u64 + 1), |change| change.id)
}

fn persist(world: &mut World, upto: usize, skip: bool) -> String {
    let mut committed = world.store.unfinished().unwrap();
    committed.retain(|change| change.state == ChangeState::Committed);
    committed.sort_by_key(|change| change.undo.as_ref().unwrap().from);
    let ids: Vec<ChangeId> = committed
        .iter()
        .map(|change| change.id)
        .skip(usize::from(skip))
        .take(upto)
        .collect();
    answer_text(world.store.persist(&ids))
}

/// Prepares and commits the next chunk of a job.
fn chunk(world: &mut World, job: JobId, len: u64) -> String {
    let steps = world.store.steps(job).unwrap();
    let Some(next) = steps.iter().find(|step| step.done < step.to.len) else {
        return String::new();
    };
    let len = len.min(next.to.len - next.done);
    let at = (next.from.start.0 + next.done, next.to.start.0 + next.done);
    let chunk = map(next.volume.0, &[seg(at.0, next.to.disk.0, at.1, len)]);
    match world.prepare(Some(job), vec![chunk]) {
        Ok(id) => answer_text(world.commit(id)),
        Err(error) => answer_text::<()>(Err(error)),
    }
}

fn membership(world: &mut World, op: &Op) -> String {
    let (term, members) = (world.term(), world.store.members().unwrap().1);
    let nth = |which: usize| {
        members
            .get(which)
            .map(|member| (member.slot, member.incarnation))
            .unwrap_or_default()
    };
    match *op {
        Op::Join(name) => {
            let name = Name::new("apparatus", &format!("a{name}")).unwrap();
            let joined = world
                .store
                .join(&Joiner::new(&name, 1, "/m"), &|member| member.slot.0 == 1);
            answer_text(joined.map(|joined| {
                (
                    joined.member.slot,
                    joined.member.incarnation,
                    joined.snapshot.segments,
                )
            }))
        }
        Op::Rejoin(which) => {
            let (slot, life) = nth(which);
            answer_text(
                world
                    .store
                    .rejoin(slot, life, None)
                    .map(|joined| joined.member.incarnation),
            )
        }
        Op::Fence(which) => {
            let (slot, life) = nth(which);
            answer_text(world.store.fence(term, slot, life))
        }
        Op::Leave(which) => {
            let (slot, life) = nth(which);
            answer_text(world.store.leave(slot, life))
        }
        _ => String::new(),
    }
}

fn job(world: &mut World, op: &Op) -> String {
    let term = world.term();
    match op {
        Op::CreateJob(choices) => answer_text(world.store.create_job(term, &new_job(), &job_steps(choices))),
        Op::ReplaceSteps { job, steps: choices } => answer_text(world.store.replace_steps(
            term,
            JobId(*job),
            &job_steps(choices),
            true,
        )),
        Op::Reserve { job, at } => answer_text(world.store.reserve(
            term,
            JobId(*job),
            &[area(at.disk, at.placement, at.len)],
        )),
        Op::SetJob { job, to } => {
            let state = world
                .store
                .job(JobId(*job))
                .unwrap()
                .map_or(JobState::Done, |job| job.state);
            answer_text(world.store.set_job_state(JobId(*job), state, *to, "why"))
        }
        _ => String::new(),
    }
}

/// Returns the whole visible state, except for times and the form of undo deltas.
fn visible_state(world: &mut World) -> Vec<String> {
    let store = &mut world.store;
    let mut snapshot = store.snapshot().unwrap();
    // A database is in a directory; a store in memory is not.
    snapshot.header.instance = Instance::default();
    let uses: Vec<_> = snapshot
        .disks
        .iter()
        .map(|disk| store.uses(disk.id).unwrap())
        .collect();
    let mut changes = store.unfinished().unwrap();
    changes.iter_mut().for_each(|change| change.undo = None);
    let states: Vec<_> = (0..99)
        .map_while(|id| store.change(ChangeId(id + 1)).unwrap())
        .map(|change| change.state)
        .collect();
    let (version, mut members) = store.members().unwrap();
    members
        .iter_mut()
        .for_each(|member| (member.since.0, member.origin) = (0, None));
    let mut jobs = store.jobs().unwrap();
    jobs.iter_mut()
        .filter_map(|job| job.ended.as_mut())
        .for_each(|ended| ended.0 = 0);
    let steps: Vec<_> = jobs.iter().map(|job| store.steps(job.id).unwrap()).collect();
    let next = (store.next_disk_id().unwrap(), store.next_volume_id().unwrap());
    let all: [&dyn Debug; 8] = [
        &snapshot,
        &uses,
        &changes,
        &states,
        &(version, members),
        &jobs,
        &steps,
        &next,
    ];
    all.iter().map(|part| format!("{part:?}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_give_the_same_answers(ops in prop::collection::vec(op(), 1..60)) {
        let sqlite = Sqlite::new();
        let uuid = sqlite.open().header().unwrap().uuid;
        let mut one = World::new(Box::new(sqlite)).with_pool_contents();
        let mut other = World::new(Box::new(Memory::with_uuid(uuid))).with_pool_contents();
        for op in &ops {
            prop_assert_eq!(run(&mut one, op), run(&mut other, op), "{:?}", op);
            for (here, there) in visible_state(&mut one).iter().zip(&visible_state(&mut other)) {
                prop_assert_eq!(here, there, "after {:?}", op);
            }
            one.assert_one_owner_each();
            one.assert_owners_can_release();
        }
    }
}
