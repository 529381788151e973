//! Jobs and their copy progress tables.

use super::change::not_stale;
use super::convert::{Ron, Word, to_ron};
use super::space::{self, Claimant};
use crate::model::error::{Error, Result};
use crate::model::holds::Holds;
use crate::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress, Step};
use crate::model::records::{Area, Delta, Edit, Segment};
use crate::model::units::{ByteCount, DiskExtent, DiskId, JobId, Term, Timestamp, VolumeExtent, VolumeId};
use crate::model::words;
use crate::store::{DISK_REMOVED, VOLUME_REMOVED};
use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Number of ended jobs that are kept.
const KEPT: u64 = 200;

const JOB: &str = "SELECT id, kind, state, limits, back, title, created, ended, copied, longest_hold_us, held, why, holds, moved, extents FROM jobs";
const STEP: &str = "SELECT volume, start, from_disk, from_start, len, to_disk, to_start, done, seq FROM steps WHERE job = ?1";

fn job_row(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        id: JobId(row.get(0)?),
        kind: row.get::<_, Ron<_>>(1)?.0,
        state: row.get::<_, Word<_>>(2)?.0,
        limits: row.get::<_, Ron<_>>(3)?.0,
        back: row.get(4)?,
        title: row.get(5)?,
        created: Timestamp(row.get(6)?),
        ended: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        copied: ByteCount(row.get(8)?),
        longest_hold_us: row.get(9)?,
        held: row.get(10)?,
        why: row.get(11)?,
        holds: row.get::<_, Ron<_>>(12)?.0,
        progress: Progress {
            done: row.get(13)?,
            total: row.get(14)?,
        },
    })
}

fn step_row(row: &Row<'_>) -> rusqlite::Result<Step> {
    let len = row.get(4)?;
    Ok(Step {
        volume: VolumeId(row.get(0)?),
        from: Segment {
            start: VolumeExtent(row.get(1)?),
            placement: Area {
                disk: DiskId(row.get(2)?),
                start: DiskExtent(row.get(3)?),
                len,
            },
        },
        to: Area {
            disk: DiskId(row.get(5)?),
            start: DiskExtent(row.get(6)?),
            len,
        },
        done: row.get(7)?,
    })
}

pub(super) fn all(db: &Connection) -> Result<Vec<JobRecord>> {
    let mut query = db.prepare_cached(&format!("{JOB} ORDER BY id"))?;
    let rows = query.query_map([], job_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn one(db: &Connection, id: JobId) -> Result<Option<JobRecord>> {
    let mut query = db.prepare_cached(&format!("{JOB} WHERE id = ?1"))?;
    Ok(query.query_row([id.0], job_row).optional()?)
}

pub(super) fn steps(db: &Connection, id: JobId) -> Result<Vec<Step>> {
    let mut query = db.prepare_cached(&format!("{STEP} ORDER BY seq"))?;
    let rows = query.query_map([id.0], step_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn create(db: &Connection, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
    not_stale(db, term)?;
    let sql = "INSERT INTO jobs (kind, state, limits, back, title, created, ended, copied, longest_hold_us, held, why, holds)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let ended = job.ended.map(|at| at.0);
    db.prepare_cached(sql)?.execute(params![
        to_ron(&job.kind)?,
        Word(job.state),
        to_ron(&job.limits)?,
        job.back,
        job.title,
        job.created.0,
        ended,
        job.copied.0,
        job.longest_hold_us,
        job.held,
        job.why,
        to_ron(&job.holds)?
    ])?;
    let id = db
        .prepare_cached("SELECT max(id) FROM jobs")?
        .query_row([], |row| row.get(0).map(JobId))?;
    put_steps(db, id, steps)?;
    prune(db)?;
    Ok(id)
}

/// Writes the table, counts its progress, and reserves the destinations of the rest unless the job has ended. Returns whether a removed
/// volume has lost extents.
fn put_steps(db: &Connection, id: JobId, steps: &[Step]) -> Result<bool> {
    for (seq, step) in steps.iter().enumerate() {
        put_step(db, id, seq, step)?;
    }
    let Progress { done, total } = Progress::of(steps);
    let sql = "UPDATE jobs SET moved = ?2, extents = ?3 WHERE id = ?1";
    update(db, sql, &[&id.0, &done, &total])?;
    claim_rest(db, id, steps)
}

fn put_step(db: &Connection, id: JobId, seq: usize, step: &Step) -> Result<()> {
    let Step {
        volume,
        from,
        to,
        done,
    } = step;
    if from.placement.len != to.len || *done > to.len {
        let why = format!(
            "moves {done} of {} to an area of {}",
            words::count(from.placement.len, "extent"),
            to.len
        );
        return Err(Error::failed(format!("step {seq}"), why));
    }
    let sql =
        "INSERT INTO steps (job, seq, volume, start, from_disk, from_start, len, to_disk, to_start, done)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let Area { disk, start, len } = from.placement;
    let values = params![
        id.0,
        seq,
        volume.0,
        from.start.0,
        disk.0,
        start.0,
        len,
        to.disk.0,
        to.start.0,
        done
    ];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Reserves the rest of the destinations, run by run: a million steps into one free run are one reservation.
/// Returns whether a removed volume has lost some.
fn claim_rest(db: &Connection, id: JobId, steps: &[Step]) -> Result<bool> {
    if one(db, id)?.is_none_or(|job| job.state.has_ended()) {
        return Ok(false);
    }
    let mut areas: Vec<Area> = steps.iter().filter_map(undone).collect();
    areas.sort_unstable();
    if let Some(pair) = areas.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        let why = format!(
            "has two destinations at extent {} of disk {}",
            pair[1].start, pair[1].disk
        );
        return Err(Error::failed(format!("job {id}"), why));
    }
    let mut lost = false;
    let mut areas = areas.into_iter().peekable();
    while let Some(mut run) = areas.next() {
        while let Some(next) = areas.next_if(|next| next.disk == run.disk && next.start == run.end()) {
            run.len += next.len;
        }
        lost |= space::claim(db, run, Claimant::Job(id))?;
    }
    Ok(lost)
}

/// Reserves areas. Returns whether a removed volume has lost some.
pub(super) fn reserve(db: &Connection, id: JobId, areas: &[Area]) -> Result<bool> {
    let job = one(db, id)?.ok_or_else(|| Error::not_found("job", &id.to_string()))?;
    if job.state.has_ended() {
        return Err(Error::failed(
            format!("job {id}"),
            "has ended, so it cannot reserve extents",
        ));
    }
    areas.iter().try_fold(false, |lost, area| {
        Ok(space::claim(db, *area, Claimant::Job(id))? | lost)
    })
}

/// Ends the jobs about the volumes and disks that these edits remove, and removes the volumes' steps from the other jobs.
pub(super) fn end_of_removed(db: &Connection, edits: &[Edit]) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::RemoveVolume(volume) => {
                end_all(db, |kind| kind.is_about_volume(*volume), VOLUME_REMOVED)?;
                forget_steps(db, *volume)?;
            }
            Edit::RemoveDisk(disk) => end_all(db, |kind| kind.is_about_disk(*disk), DISK_REMOVED)?,
            _ => {}
        }
    }
    Ok(())
}

/// Returns the jobs that have not ended.
fn open_jobs(db: &Connection) -> Result<Vec<JobRecord>> {
    let sql = format!("{JOB} WHERE state NOT IN ('done', 'failed', 'cancelled') ORDER BY id");
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map([], job_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn end_all(db: &Connection, about: impl Fn(&JobKind) -> bool, why: &str) -> Result<()> {
    for job in open_jobs(db)?.iter().filter(|job| about(&job.kind)) {
        set_state(db, job.id, job.state, JobState::Cancelled, why)?;
    }
    Ok(())
}

fn forget_steps(db: &Connection, volume: VolumeId) -> Result<()> {
    for job in open_jobs(db)? {
        let sql = "SELECT EXISTS (SELECT 1 FROM steps WHERE job = ?1 AND volume = ?2)";
        let any: bool = db
            .prepare_cached(sql)?
            .query_row(params![job.id.0, volume.0], |row| row.get(0))?;
        if any {
            let mut rest = steps(db, job.id)?;
            rest.retain(|step| step.volume != volume);
            rewrite_steps(db, job.id, &rest)?;
        }
    }
    Ok(())
}

/// Writes the steps of a job anew. Returns whether a removed volume has lost extents.
fn rewrite_steps(db: &Connection, id: JobId, steps: &[Step]) -> Result<bool> {
    space::drop_job(db, id)?;
    db.prepare_cached("DELETE FROM steps WHERE job = ?1")?
        .execute([id.0])?;
    put_steps(db, id, steps)
}

/// Returns the part of a step's destination that is not mapped yet.
fn undone(step: &Step) -> Option<Area> {
    let Area { disk, start, len } = step.to;
    (step.done < len).then(|| Area {
        disk,
        start: DiskExtent(start.0 + step.done),
        len: len - step.done,
    })
}

/// Replaces the steps of a job. Returns whether a removed volume has lost extents.
pub(super) fn replace_steps(
    db: &Connection,
    term: Term,
    id: JobId,
    new: &[Step],
    back: bool,
) -> Result<bool> {
    not_stale(db, term)?;
    changed(
        id,
        update(db, "UPDATE jobs SET back = ?2 WHERE id = ?1", &[&id.0, &back])?,
    )?;
    if steps(db, id)? == new {
        space::drop_job(db, id)?;
        return claim_rest(db, id, new);
    }
    rewrite_steps(db, id, new)
}

fn update(db: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<usize> {
    Ok(db.prepare_cached(sql)?.execute(values)?)
}

fn changed(id: JobId, rows: usize) -> Result<()> {
    if rows == 0 {
        Err(Error::not_found("job", &id.to_string()))
    } else {
        Ok(())
    }
}

pub(super) fn set_state(db: &Connection, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
    let ended = to.has_ended().then(|| Timestamp::now().0);
    let sql = "UPDATE jobs SET state = ?3, why = ?4, ended = ?5 WHERE id = ?1 AND state = ?2";
    let rows = update(db, sql, &[&id.0, &Word(from), &Word(to), &why, &ended])?;
    if rows == 0 {
        one(db, id)?.ok_or_else(|| Error::not_found("job", &id.to_string()))?;
    } else if to.has_ended() {
        space::drop_job(db, id)?;
    }
    Ok(rows > 0)
}

pub(super) fn set_limits(db: &Connection, id: JobId, limits: JobLimits) -> Result<()> {
    let rows = update(
        db,
        "UPDATE jobs SET limits = ?2 WHERE id = ?1",
        &[&id.0, &to_ron(&limits)?],
    )?;
    changed(id, rows)
}

pub(super) fn set_figures(
    db: &Connection,
    id: JobId,
    copied: ByteCount,
    longest: u64,
    held: u64,
    holds: &Holds,
) -> Result<()> {
    let sql = "UPDATE jobs SET copied = ?2, longest_hold_us = ?3, held = ?4, holds = ?5 WHERE id = ?1";
    let values: [&dyn ToSql; 5] = [&id.0, &copied.0, &longest, &held, &to_ron(holds)?];
    changed(id, update(db, sql, &values)?)
}

/// Advances the copy progress table by the segments that a chunk has mapped.
pub(super) fn advance(db: &Connection, job: JobId, delta: &Delta) -> Result<()> {
    for (volume, segment) in segments(delta) {
        if let Some((seq, step)) = step_at(db, job, volume, segment.start)?
            && segment.start.0 == step.from.start.0 + step.done
            && goes_to(&step, segment)
        {
            set_done(db, job, seq, step.done + segment.placement.len)?;
            count(
                db,
                "UPDATE jobs SET moved = moved + ?2 WHERE id = ?1",
                job,
                segment.placement.len,
            )?;
        }
    }
    Ok(())
}

/// Sets the table back by the segments of a chunk that is taken back. Returns those areas that are the job's destination.
pub(super) fn retreat(db: &Connection, job: JobId, delta: &Delta) -> Result<Vec<Area>> {
    let mut back = Vec::new();
    let all: Vec<_> = segments(delta).collect();
    for (volume, segment) in all.into_iter().rev() {
        if let Some((seq, step)) = step_at(db, job, volume, segment.start)?
            && segment.end().0 == step.from.start.0 + step.done
            && goes_to(&step, segment)
        {
            set_done(db, job, seq, step.done - segment.placement.len)?;
            count(
                db,
                "UPDATE jobs SET moved = moved - ?2 WHERE id = ?1",
                job,
                segment.placement.len,
            )?;
            back.push(segment.placement);
        }
    }
    Ok(back)
}

fn segments(delta: &Delta) -> impl Iterator<Item = (VolumeId, Segment)> + '_ {
    delta.edits.iter().flat_map(|edit| match edit {
        Edit::Map { volume, segments } => segments.iter().map(|segment| (*volume, *segment)).collect(),
        _ => Vec::new(),
    })
}

/// Returns the step whose run of the volume contains this extent.
fn step_at(db: &Connection, job: JobId, volume: VolumeId, at: VolumeExtent) -> Result<Option<(u64, Step)>> {
    let sql = format!("{STEP} AND volume = ?2 AND start <= ?3 ORDER BY start DESC LIMIT 1");
    let mut query = db.prepare_cached(&sql)?;
    let found = query.query_row(params![job.0, volume.0, at.0], |row| {
        Ok((row.get(8)?, step_row(row)?))
    });
    Ok(found.optional()?.filter(|(_, step)| at < step.from.end()))
}

/// Returns whether the segment lies where the step puts that part of the volume.
fn goes_to(step: &Step, segment: Segment) -> bool {
    let into = segment.start.0 - step.from.start.0;
    segment.end() <= step.from.end()
        && segment.placement.disk == step.to.disk
        && segment.placement.start.0 == step.to.start.0 + into
}

fn set_done(db: &Connection, job: JobId, seq: u64, done: u64) -> Result<()> {
    db.prepare_cached("UPDATE steps SET done = ?3 WHERE job = ?1 AND seq = ?2")?
        .execute(params![job.0, seq, done])?;
    Ok(())
}

fn count(db: &Connection, sql: &str, job: JobId, extents: u64) -> Result<()> {
    update(db, sql, &[&job.0, &extents]).map(drop)
}

/// Reopens a job whose last chunks a power loss took back, if it was done. Returns whether it goes on, and so keeps its
/// destination.
pub(super) fn reopen(db: &Connection, id: JobId) -> Result<bool> {
    let sql = "UPDATE jobs SET state = 'running', ended = NULL, why = 'power was lost before its last chunks were durable'
               WHERE id = ?1 AND state = 'done'";
    db.prepare_cached(sql)?.execute([id.0])?;
    Ok(one(db, id)?.is_some_and(|job| !job.state.has_ended()))
}

fn prune(db: &Connection) -> Result<()> {
    let ended = "SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') ORDER BY id DESC LIMIT -1 OFFSET ?1";
    let old: Vec<u64> = db
        .prepare_cached(ended)?
        .query_map([KEPT], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in old {
        space::drop_job(db, JobId(id))?;
        db.prepare_cached("DELETE FROM steps WHERE job = ?1")?
            .execute([id])?;
        db.prepare_cached("DELETE FROM jobs WHERE id = ?1")?
            .execute([id])?;
    }
    Ok(())
}
