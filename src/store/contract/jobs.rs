use super::world::{World, area, disk, map, new_job, seg, step, volume};
use crate::model::change::Owner;
use crate::model::error::ErrorKind;
use crate::model::holds::Holds;
use crate::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress, Step};
use crate::model::records::Edit;
use crate::model::units::{ByteCount, DiskId, JobId, VolumeId};

pub(super) fn a_job_reserves_its_destination_and_uses_it_up(world: World) {
    let mut world = world.with_pool_contents();
    let steps = [
        step(seg(0, 1, 1, 6), area(2, 10, 6), 0),
        step(seg(6, 1, 7, 4), area(2, 30, 4), 1),
    ];
    let id = world.job(&steps);
    let progress = Progress { done: 1, total: 10 };
    let record = JobRecord {
        id,
        progress,
        ..new_job()
    };
    assert_eq!(world.store.jobs().unwrap(), std::slice::from_ref(&record));
    assert_eq!(world.store.job(id).unwrap(), Some(record));
    assert_eq!(world.store.steps(id).unwrap(), steps);
    let mine = Owner::Job(id);
    assert_eq!(
        world.uses(2),
        [(10, 6, mine), (31, 3, mine)],
        "the done part is not reserved"
    );

    let first = world.change_of(Some(id), vec![map(1, &[seg(0, 2, 10, 2)])]);
    let volume = Owner::Volume(VolumeId(1));
    assert_eq!(world.uses(2), [(10, 2, volume), (12, 4, mine), (31, 3, mine)]);
    assert_eq!(world.uses(1)[0], (1, 2, Owner::Quarantine(first)));
    world.change_of(Some(id), vec![map(1, &[seg(2, 2, 12, 4), seg(7, 2, 31, 1)])]);
    let done: Vec<u64> = world
        .store
        .steps(id)
        .unwrap()
        .iter()
        .map(|step| step.done)
        .collect();
    assert_eq!(done, [6, 2]);
    let progress = world.store.job(id).unwrap().unwrap().progress;
    assert_eq!(progress, Progress { done: 8, total: 10 });
    assert_eq!(
        world.segments(1),
        [
            seg(0, 2, 10, 6),
            seg(6, 1, 7, 1),
            seg(7, 2, 31, 1),
            seg(8, 1, 9, 2)
        ]
    );
    world.assert_one_owner_each();

    let term = world.term();
    world
        .store
        .reserve(term, id, &[area(2, 50, 2), area(2, 52, 1)])
        .unwrap();
    assert_eq!(world.uses(2).last(), Some(&(50, 3, mine)));
    let ended = world
        .store
        .set_job_state(id, JobState::Running, JobState::Cancelled, "");
    assert!(ended.unwrap());
    assert_eq!(world.uses(2), [(10, 6, volume), (31, 1, volume)]);
    assert_eq!(world.store.steps(JobId(9)).unwrap(), []);
    assert_eq!(world.store.job(JobId(9)).unwrap(), None);
}

pub(super) fn replaced_steps_free_destinations_that_they_do_not_need(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[step(seg(0, 1, 1, 6), area(2, 10, 6), 0)]);
    world.change_of(Some(id), vec![map(1, &[seg(0, 2, 10, 2)])]);
    let term = world.term();
    let back = [step(seg(0, 2, 10, 2), area(2, 14, 2), 0)];
    world.store.replace_steps(term, id, &back, true).unwrap();
    assert_eq!(world.store.steps(id).unwrap(), back);
    assert!(world.store.job(id).unwrap().unwrap().back);
    assert_eq!(
        world.uses(2),
        [(10, 2, Owner::Volume(VolumeId(1))), (14, 2, Owner::Job(id))]
    );
    world.change_of(Some(id), vec![map(1, &[seg(0, 2, 14, 2)])]);
    assert_eq!(world.store.steps(id).unwrap()[0].done, 2);

    let taken = [step(seg(0, 2, 14, 2), area(2, 15, 2), 0)];
    assert!(world.store.replace_steps(term, id, &taken, false).is_err());
    assert_eq!(world.store.steps(id).unwrap()[0].done, 2, "nothing has changed");
    assert!(world.store.job(id).unwrap().unwrap().back);
    assert_eq!(
        world
            .store
            .replace_steps(term, JobId(9), &[], false)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    world.assert_one_owner_each();
}

pub(super) fn job_states_are_compared_and_set(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[]);
    let mut set = |from, to, why| {
        let changed = world.store.set_job_state(id, from, to, why).unwrap();
        (changed, world.store.job(id).unwrap().unwrap())
    };
    let (changed, job) = set(JobState::Paused, JobState::Running, "x");
    assert_eq!(
        (changed, job.state, job.why.as_str()),
        (false, JobState::Running, "")
    );
    let (changed, job) = set(JobState::Running, JobState::Paused, "by request");
    assert_eq!(
        (changed, job.state, job.why.as_str()),
        (true, JobState::Paused, "by request")
    );
    assert_eq!(job.ended, None);
    for to in [
        JobState::Running,
        JobState::Cancelled,
        JobState::RollingBack,
        JobState::Failed,
        JobState::Done,
    ] {
        let from = set(JobState::Done, JobState::Done, "").1.state;
        let (changed, job) = set(from, to, "");
        let over = matches!(to, JobState::Cancelled | JobState::Failed | JobState::Done);
        assert_eq!((changed, job.state, job.ended.is_some()), (true, to, over));
    }
    let limits = JobLimits {
        rate: Some(ByteCount(5)),
        hold_target_us: Some(7),
        hold_all: true,
        skip_unreadable: true,
    };
    world.store.set_job_limits(id, limits).unwrap();
    let mut holds = Holds::default();
    [7, 8, 9000].into_iter().for_each(|us| holds.add(us));
    world
        .store
        .set_job_figures(id, ByteCount(100), 8, 9, &holds)
        .unwrap();
    let job = world.store.job(id).unwrap().unwrap();
    assert_eq!(
        (job.limits, job.copied, job.longest_hold_us, job.held),
        (limits, ByteCount(100), 8, 9)
    );
    assert_eq!(job.holds, holds);
    let missing = [
        world
            .store
            .set_job_state(JobId(9), JobState::Done, JobState::Done, "")
            .map(|_| ()),
        world.store.set_job_limits(JobId(9), limits),
        world.store.set_job_figures(JobId(9), ByteCount(0), 0, 0, &holds),
    ];
    for answer in missing {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

pub(super) fn a_refused_job_leaves_nothing_behind(world: World) {
    let mut world = world.with_pool_contents();
    let term = world.term();
    let free = step(seg(0, 1, 1, 1), area(2, 1, 1), 0);
    let from = seg(1, 1, 2, 2);
    for bad in [
        Step {
            to: area(1, 5, 2),
            ..step(from, area(2, 5, 2), 0)
        },
        step(from, area(2, 1, 2), 0),
        step(from, area(2, 5, 3), 0),
        step(from, area(2, 5, 2), 3),
        step(from, area(2, 99, 2), 0),
        step(from, area(3, 1, 2), 0),
    ] {
        assert!(
            world.store.create_job(term, &new_job(), &[free, bad]).is_err(),
            "{bad:?}"
        );
    }
    assert_eq!((world.store.jobs().unwrap(), world.uses(2)), (vec![], vec![]));
    let first = world.job(&[free]);
    let second = world.job(&[]);
    assert!(first < second);
}

pub(super) fn only_the_step_that_a_segment_continues_advances(world: World) {
    let mut world = world.with_pool_contents();
    let id = world.job(&[
        step(seg(0, 1, 1, 4), area(2, 10, 4), 0),
        step(seg(4, 1, 5, 4), area(2, 20, 4), 0),
    ]);
    let done = |world: &mut World| -> Vec<u64> {
        world
            .store
            .steps(id)
            .unwrap()
            .iter()
            .map(|step| step.done)
            .collect()
    };
    world.change_of(Some(id), vec![map(1, &[seg(5, 2, 21, 1)])]);
    assert_eq!(done(&mut world), [0, 0], "not where the step continues");
    world.change_of(Some(id), vec![map(1, &[seg(4, 2, 50, 1)])]);
    assert_eq!(done(&mut world), [0, 0], "not where the step puts it");
    world.change(vec![map(1, &[seg(0, 2, 60, 1)])]);
    assert_eq!(done(&mut world), [0, 0], "not a change of this job");
    world.change_of(Some(id), vec![map(1, &[seg(4, 2, 20, 1)])]);
    assert_eq!(done(&mut world), [0, 1]);
    world.assert_one_owner_each();
}

/// No extent belongs to a job that can be neither continued nor cancelled.
pub(super) fn a_job_that_ends_owns_nothing(world: World) {
    let mut world = world.with_pool_contents();
    let term = world.term();
    let steps = [step(seg(0, 1, 1, 6), area(2, 10, 6), 0)];
    for end in [JobState::Cancelled, JobState::Failed, JobState::Done] {
        let id = world.job(&steps);
        assert_eq!(world.uses(2), [(10, 6, Owner::Job(id))]);
        assert!(!world.store.set_job_state(id, JobState::Paused, end, "").unwrap());
        assert_eq!(world.uses(2), [(10, 6, Owner::Job(id))], "it has not ended");
        assert!(world.store.set_job_state(id, JobState::Running, end, "").unwrap());
        assert_eq!(world.uses(2), [], "{end:?}");
        assert!(world.store.reserve(term, id, &[area(2, 30, 1)]).is_err());
        world.store.replace_steps(term, id, &steps, false).unwrap();
        assert_eq!(world.uses(2), [], "{end:?}");
        // A job that goes on has to reserve again.
        assert!(world.store.set_job_state(id, end, JobState::Running, "").unwrap());
        world.store.replace_steps(term, id, &steps, false).unwrap();
        assert_eq!(world.uses(2), [(10, 6, Owner::Job(id))]);
        assert!(world.store.set_job_state(id, JobState::Running, end, "").unwrap());
    }
    assert!(world.store.reserve(term, JobId(99), &[area(2, 30, 1)]).is_err());
}

pub(super) fn removing_a_volume_or_disk_ends_its_jobs(world: World) {
    let mut world = world.with_pool_contents();
    world.change(vec![
        Edit::AddDisk(disk(3, 100)),
        Edit::AddVolume(volume(2, 4)),
        map(2, &[seg(0, 1, 20, 4)]),
    ]);
    let move_first = world.job(&[step(seg(0, 1, 1, 10), area(2, 10, 10), 0)]);
    let of_second = Step {
        volume: VolumeId(2),
        ..step(seg(0, 1, 20, 4), area(2, 34, 4), 0)
    };
    let evacuate = JobRecord {
        kind: JobKind::Evacuate {
            disk: DiskId(3),
            to: Vec::new(),
            use_reserve: false,
            reopen: false,
        },
        ..new_job()
    };
    let term = world.term();
    let both = [step(seg(0, 1, 1, 4), area(2, 30, 4), 0), of_second];
    let empty_third = world.store.create_job(term, &evacuate, &both).unwrap();
    assert_eq!(
        world.uses(2),
        [(10, 10, Owner::Job(move_first)), (30, 8, Owner::Job(empty_third))]
    );
    world.change(vec![Edit::RemoveVolume(VolumeId(1))]);
    let ended = world.store.job(move_first).unwrap().unwrap();
    assert_eq!(ended.state, JobState::Cancelled);
    assert!(ended.why.contains("removed"), "{}", ended.why);
    assert_eq!(world.store.steps(empty_third).unwrap(), [of_second]);
    assert_eq!(world.uses(2), [(34, 4, Owner::Job(empty_third))]);
    let left = world.store.job(empty_third).unwrap().unwrap();
    assert_eq!(
        (left.state, left.progress),
        (JobState::Running, Progress { done: 0, total: 4 })
    );

    world.change(vec![Edit::RemoveDisk(DiskId(3))]);
    let ended = world.store.job(empty_third).unwrap().unwrap();
    assert_eq!(ended.state, JobState::Cancelled);
    assert_eq!(world.uses(2), []);
}
