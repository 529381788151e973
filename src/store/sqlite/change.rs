//! The life of a change's record, up to hardening.

use super::convert::{Ron, Stage, Word, damaged, to_ron};
use super::edits::{Applied, apply, inside, mapped, placed};
use super::job;
use super::space::{self, Claimant};
use super::table::{self, Guards, guards};
use crate::error::{Error, Kind, Result};
use crate::pool::model::{Area, Difference, Edit, Segment};
use crate::store::{Cancel, ChangeRecord, Commit, NewChange, Owner, Use};
use crate::units::{BootId, ChangeId, DiskId, Generation, JobId, MembershipVersion, Term, VolumeId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;

/// Finished changes that are kept for those who ask late.
const KEPT: u64 = 1000;
/// Of these, so many whatever their size: more than may be under way at once.
const KEPT_LARGE: u64 = 64;
/// Bytes of a difference, or of what leads back, from which on it is large.
const LARGE: u64 = 64 << 10;

const RECORD: &str =
    "SELECT id, state, term, boot, job, title, mode, spans, difference, undo, generation FROM";

/// A record with what only the store knows.
pub(super) struct Stored {
    pub(super) record: ChangeRecord,
    pub(super) stage: Stage,
    pub(super) generation: Option<Generation>,
}

fn stored_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let stage = row.get::<_, Word<Stage>>(1)?.0;
    let change = NewChange {
        job: row.get::<_, Option<u64>>(4)?.map(JobId),
        title: row.get(5)?,
        mode: row.get::<_, Word<_>>(6)?.0,
        spans: row.get::<_, Ron<_>>(7)?.0,
        difference: row.get::<_, Ron<_>>(8)?.0,
    };
    let record = ChangeRecord {
        id: ChangeId(row.get(0)?),
        state: stage.seen(),
        term: Term(row.get(2)?),
        boot: row.get::<_, Word<_>>(3)?.0,
        change,
        undo: row.get::<_, Option<Ron<_>>>(9)?.map(|undo| undo.0),
    };
    Ok(Stored {
        record,
        stage,
        generation: row.get::<_, Option<u64>>(10)?.map(Generation),
    })
}

fn live(db: &Connection, id: ChangeId) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(&format!("{RECORD} changes WHERE id = ?1"))?;
    Ok(query.query_row([id.0], stored_row).optional()?)
}

fn finished(db: &Connection, id: ChangeId) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(&format!("{RECORD} history WHERE id = ?1"))?;
    Ok(query.query_row([id.0], stored_row).optional()?)
}

fn known(db: &Connection, id: ChangeId) -> Result<Stored> {
    match live(db, id)? {
        Some(stored) => Ok(stored),
        None => finished(db, id)?.ok_or_else(|| Error::not_found("change", &id.to_string())),
    }
}

pub(super) fn record(db: &Connection, id: ChangeId) -> Result<Option<ChangeRecord>> {
    let found = match live(db, id)? {
        Some(stored) => Some(stored),
        None => finished(db, id)?,
    };
    Ok(found.map(|stored| stored.record))
}

/// The unfinished changes, by id.
pub(super) fn all_live(db: &Connection) -> Result<Vec<Stored>> {
    let mut query = db.prepare_cached(&format!("{RECORD} changes ORDER BY id"))?;
    let rows = query.query_map([], stored_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn unfinished(db: &Connection) -> Result<Vec<ChangeRecord>> {
    Ok(all_live(db)?.into_iter().map(|stored| stored.record).collect())
}

/// The differences that lead from the table of generation `known` to the current one, in order. `None` when one of them is not kept any more, or was
/// taken back.
pub(super) fn differences_since(db: &Connection, known: Generation) -> Result<Option<Vec<Difference>>> {
    let current = guards(db)?.generation;
    let sql = "SELECT generation, difference FROM changes WHERE generation > ?1
               UNION ALL SELECT generation, difference FROM history WHERE state = 'hardened' AND generation > ?1
               ORDER BY generation";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map([known.0], |row| Ok((row.get(0)?, row.get::<_, Ron<_>>(1)?.0)))?;
    let found: Vec<(u64, Difference)> = rows.collect::<Result<_, _>>()?;
    let led_to = found.iter().map(|(generation, _)| *generation);
    let in_a_row = known <= current && led_to.eq(known.0 + 1..=current.0);
    Ok(in_a_row.then(|| found.into_iter().map(|(_, difference)| difference).collect()))
}

/// Refused under a higher term.
pub(super) fn not_stale(db: &Connection, term: Term) -> Result<Guards> {
    let guards = guards(db)?;
    if guards.term > term {
        return Err(Error::new(
            Kind::Stale,
            format!("arbitration {term}"),
            format!("another controller has taken over as number {}", guards.term),
        ));
    }
    Ok(guards)
}

fn next_id(db: &Connection) -> Result<u64> {
    let sql =
        "SELECT max(ifnull((SELECT max(id) FROM changes), 0), ifnull((SELECT max(id) FROM history), 0)) + 1";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

pub(super) fn prepare(db: &Connection, term: Term, change: &NewChange, boot: BootId) -> Result<ChangeId> {
    let guards = not_stale(db, term)?;
    let edits = &change.difference.edits;
    well_formed(edits)?;
    let id = ChangeId(next_id(db)?);
    for (volume, segment) in placed(edits) {
        claim_for(db, volume, segment, id, change)?;
    }
    if guards.generation == change.difference.from {
        try_out(db, &guards, id, change)?;
    }
    let sql = "INSERT INTO changes (id, state, term, boot, job, title, mode, spans, difference)
               VALUES (?1, 'prepared', ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let (spans, difference) = (to_ron(&change.spans)?, to_ron(&change.difference)?);
    let job = change.job.map(|job| job.0);
    let values = params![
        id.0,
        term.0,
        Word(boot),
        job,
        change.title,
        Word(change.mode),
        spans,
        difference
    ];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(id)
}

/// What can be said without the table: ranges are ranges, in order, and no extent is mapped twice.
fn well_formed(edits: &[Edit]) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::Map { segments, .. } if !in_order(segments) => {
                return Err(malformed("has segments that are empty, out of order or overlap"));
            }
            Edit::Unmap { start, end, .. } if start >= end => {
                return Err(malformed("unmaps an empty range"));
            }
            _ => {}
        }
    }
    let mut areas: Vec<Area> = mapped(edits).collect();
    areas.sort_unstable();
    if areas.windows(2).any(|pair| pair[0].overlaps(pair[1])) {
        return Err(malformed("maps an extent twice"));
    }
    Ok(())
}

fn malformed(why: &str) -> Error {
    Error::failed("difference", why)
}

fn in_order(segments: &[Segment]) -> bool {
    let last = |start: u64, len: u64| len.checked_sub(1).and_then(|rest| start.checked_add(rest));
    let sound = |segment: &Segment| {
        let ends = (
            last(segment.start.0, segment.home.len),
            last(segment.home.start.0, segment.home.len),
        );
        segment.home.start.0 > 0 && matches!(ends, (Some(0..MOST), Some(0..MOST)))
    };
    segments.iter().all(sound) && segments.windows(2).all(|pair| pair[0].end() <= pair[1].start)
}

/// Extent numbers stay below SQLite's highest integer.
const MOST: u64 = i64::MAX.unsigned_abs();

/// An area to be mapped is the job's already or free; what is free becomes the change's. Or it is the kept place of this part of the volume, and
/// stays in quarantine until the commit.
fn claim_for(
    db: &Connection,
    volume: VolumeId,
    segment: Segment,
    id: ChangeId,
    change: &NewChange,
) -> Result<()> {
    let area = segment.home;
    fits(db, area, &change.difference.edits)?;
    let owned = space::owned(db, area)?;
    if kept_by(db, volume, segment, &owned)?.is_some() {
        return Ok(());
    }
    let job = change.job.map(Owner::Job);
    if let Some(other) = owned.iter().find(|found| Some(found.owner) != job) {
        return Err(space::not_free(db, other)?);
    }
    for gap in space::gaps(area, &owned) {
        space::put_claim(db, gap, Claimant::Change(id))?;
    }
    Ok(())
}

/// The committed, not yet hardened change that took this part of the volume from there, if that place is in its quarantine. Such a place can be had
/// back: a power loss now would lead to it too.
fn kept_by(db: &Connection, volume: VolumeId, segment: Segment, owned: &[Use]) -> Result<Option<ChangeId>> {
    let [
        Use {
            area,
            owner: Owner::Quarantine(taker),
        },
    ] = owned
    else {
        return Ok(None);
    };
    if area.start > segment.home.start || area.end() < segment.home.end() {
        return Ok(None);
    }
    let taker = live(db, *taker)?.filter(|stored| stored.stage == Stage::Committed);
    let taken = |record: &ChangeRecord| {
        let undo = record.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        placed(undo).any(|(of, old)| of == volume && old.clip(segment.start, segment.end()) == Some(segment))
    };
    Ok(taker
        .filter(|stored| taken(&stored.record))
        .map(|stored| stored.record.id))
}

/// The disk has the area, now or by this difference.
fn fits(db: &Connection, area: Area, edits: &[Edit]) -> Result<()> {
    let sizes: BTreeMap<DiskId, u64> = edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::AddDisk(disk) | Edit::SetDisk(disk) => Some((disk.id, disk.extents)),
            _ => None,
        })
        .collect();
    match sizes.get(&area.disk) {
        Some(&extents) if area.end().0 <= extents => Ok(()),
        _ => inside(db, area),
    }
}

/// A difference that starts from the current table is applied and taken back, so that what cannot be is refused before
/// anything is held. Maps of volumes as they are need no more than a look.
fn try_out(db: &Connection, guards: &Guards, id: ChangeId, change: &NewChange) -> Result<()> {
    let edits = &change.difference.edits;
    if edits.iter().all(|edit| matches!(edit, Edit::Map { .. })) {
        return edits.iter().try_for_each(|edit| fits_volume(db, guards, edit));
    }
    db.execute_batch("SAVEPOINT try")?;
    let tried = go_forward(db, guards, id, change);
    db.execute_batch("ROLLBACK TO try; RELEASE try")?;
    tried.map(|_| ())
}

fn fits_volume(db: &Connection, guards: &Guards, edit: &Edit) -> Result<()> {
    let Edit::Map { volume, segments } = edit else {
        return Ok(());
    };
    let what = format!("number {volume}");
    let extents = table::volume_extents(db, *volume, guards.extent_size)?;
    let extents = extents.ok_or_else(|| Error::not_found("volume", &what))?;
    match segments.last() {
        Some(last) if last.end().0 > extents => Err(Error::failed(
            format!("volume {what}"),
            format!("has {extents} extents, and would be mapped up to {}", last.end()),
        )),
        _ => Ok(()),
    }
}

/// What the change maps stops being claimed by it and its job.
fn take_mapped(db: &Connection, id: ChangeId, change: &NewChange) -> Result<()> {
    let job = change.job.map(Owner::Job);
    let mine = |owner| owner == Owner::Change(id) || Some(owner) == job;
    for (volume, segment) in placed(&change.difference.edits) {
        let area = segment.home;
        if space::take_claim(db, area, &mine)? {
            continue;
        }
        if let Some(taker) = kept_by(db, volume, segment, &space::owned(db, area)?)? {
            space::take_quarantine(db, area, taker)?;
        } else {
            let disk = table::disk_name(db, area.disk)?;
            let why = format!(
                "change {id} has lost {} extents at {} that it was to map",
                area.len, area.start
            );
            return Err(Error::failed(disk, why));
        }
    }
    Ok(())
}

pub(super) fn commit(
    db: &Connection,
    term: Term,
    id: ChangeId,
    membership: MembershipVersion,
    boot: BootId,
) -> Result<Commit> {
    let guards = guards(db)?;
    if guards.term > term {
        return Ok(Commit::StaleTerm(guards.term));
    }
    let stored = known(db, id)?;
    match stored.stage {
        Stage::Prepared => {}
        Stage::Cancelled | Stage::Undone => return Ok(Commit::Cancelled),
        Stage::Committed | Stage::Hardening | Stage::Hardened => {
            let at = stored
                .generation
                .ok_or_else(|| damaged("a committed change has no generation"))?;
            return Ok(Commit::Committed(at));
        }
    }
    if guards.membership != membership {
        return Ok(Commit::MembershipMoved(guards.membership));
    }
    if guards.generation != stored.record.change.difference.from {
        return Ok(Commit::GenerationMoved(guards.generation));
    }
    make_current(db, &guards, id, &stored.record.change, boot)
}

/// Applies the difference, with what it maps taken from its owner, and answers what is to go into quarantine.
fn go_forward(db: &Connection, guards: &Guards, id: ChangeId, change: &NewChange) -> Result<Applied> {
    take_mapped(db, id, change)?;
    let edits = &change.difference.edits;
    let applied = apply(db, guards.extent_size, edits)?;
    let freed = space::without(applied.freed, mapped(edits));
    for area in &freed {
        still_there(db, *area)?;
    }
    Ok(Applied { freed, ..applied })
}

/// A disk does not go, or shrink, in the same change that takes its extents from a volume: somebody may still use them.
fn still_there(db: &Connection, area: Area) -> Result<()> {
    if table::disk_extents(db, area.disk)?.is_some_and(|extents| area.end().0 <= extents) {
        return Ok(());
    }
    let disk = table::disk_name(db, area.disk)?;
    Err(Error::failed(
        disk,
        "cannot go or shrink in the change that takes parts of volumes from it",
    ))
}

fn make_current(
    db: &Connection,
    guards: &Guards,
    id: ChangeId,
    change: &NewChange,
    boot: BootId,
) -> Result<Commit> {
    let generation = guards.generation.next();
    let applied = go_forward(db, guards, id, change)?;
    for area in applied.freed {
        space::put_quarantine(db, area, id, generation)?;
    }
    if let Some(job) = change.job {
        job::advance(db, job, &change.difference)?;
    }
    job::end_of_removed(db, &change.difference.edits)?;
    let undo = Difference {
        from: generation,
        edits: applied.undo,
    };
    db.prepare_cached(
        "UPDATE changes SET state = 'committed', boot = ?2, generation = ?3, undo = ?4 WHERE id = ?1",
    )?
    .execute(params![id.0, Word(boot), generation.0, to_ron(&undo)?])?;
    set_generation(db, generation)?;
    Ok(Commit::Committed(generation))
}

pub(super) fn set_generation(db: &Connection, generation: Generation) -> Result<()> {
    db.prepare_cached("UPDATE pool SET generation = ?1")?
        .execute([generation.0])?;
    Ok(())
}

pub(super) fn cancel(db: &Connection, id: ChangeId) -> Result<Cancel> {
    let stored = known(db, id)?;
    match stored.stage {
        Stage::Cancelled | Stage::Undone => Ok(Cancel::Cancelled),
        Stage::Committed | Stage::Hardening | Stage::Hardened => {
            Ok(Cancel::Committed(Box::new(stored.record)))
        }
        Stage::Prepared => {
            give_up(db, &stored)?;
            prune(db)?;
            Ok(Cancel::Cancelled)
        }
    }
}

/// Prepared -> cancelled.
pub(super) fn give_up(db: &Connection, stored: &Stored) -> Result<()> {
    let id = stored.record.id;
    for area in mapped(&stored.record.change.difference.edits) {
        space::drop_claims(db, area, Claimant::Change(id))?;
    }
    finish(db, id, Stage::Cancelled)
}

/// Moves a record from the unfinished ones to the finished ones.
pub(super) fn finish(db: &Connection, id: ChangeId, stage: Stage) -> Result<()> {
    let columns = "id, term, boot, generation, job, title, mode, spans, difference, undo";
    let sql =
        format!("INSERT INTO history (state, {columns}) SELECT ?2, {columns} FROM changes WHERE id = ?1");
    db.prepare_cached(&sql)?.execute(params![id.0, Word(stage)])?;
    db.prepare_cached("DELETE FROM changes WHERE id = ?1")?
        .execute([id.0])?;
    Ok(())
}

/// Forgets all but the last finished changes, and large ones sooner: a pool of large volumes shall not have a database full of what was.
pub(super) fn prune(db: &Connection) -> Result<()> {
    let next = next_id(db)?;
    db.prepare_cached("DELETE FROM history WHERE id < ?1")?
        .execute([next.saturating_sub(KEPT)])?;
    let large = "DELETE FROM history WHERE id < ?1 AND max(octet_length(difference), ifnull(octet_length(undo), 0)) > ?2";
    db.prepare_cached(large)?
        .execute([next.saturating_sub(KEPT_LARGE), LARGE])?;
    Ok(())
}

/// First half of hardening: once this is durable, another boot counts these changes as hardened. Answers the latest
/// generation among them, or `None` when none is left to harden.
pub(super) fn begin_hardening(db: &Connection, ids: &[ChangeId]) -> Result<Option<Generation>> {
    let mut latest = None;
    let mark = "UPDATE changes SET state = 'hardening' WHERE id = ?1 AND state = 'committed'";
    let look = "SELECT generation FROM changes WHERE id = ?1 AND state = 'hardening'";
    for id in ids {
        db.prepare_cached(mark)?.execute([id.0])?;
        let generation = db
            .prepare_cached(look)?
            .query_row([id.0], |row| row.get(0))
            .optional()?;
        latest = latest.max(generation.map(Generation));
    }
    let Some(latest) = latest else {
        return Ok(None);
    };
    let earlier =
        "SELECT id FROM changes WHERE state = 'committed' AND generation < ?1 ORDER BY generation LIMIT 1";
    let left_out = db
        .prepare_cached(earlier)?
        .query_row([latest.0], |row| row.get::<_, u64>(0))
        .optional()?;
    match left_out {
        None => Ok(Some(latest)),
        Some(id) => Err(Error::failed(
            format!("change {id}"),
            "comes before one that is to be hardened, and is not to be: a later change cannot outlive an earlier one",
        )),
    }
}

/// Second half: everything up to `latest` was marked before the log was synced.
pub(super) fn end_hardening(db: &Connection, latest: Generation) -> Result<()> {
    let marked = "SELECT id FROM changes WHERE state = 'hardening' AND generation <= ?1";
    let ids: Vec<u64> = db
        .prepare_cached(marked)?
        .query_map([latest.0], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &ids {
        finish(db, ChangeId(*id), Stage::Hardened)?;
    }
    raise_layout(db, ids.len())?;
    prune(db)
}

pub(super) fn raise_layout(db: &Connection, by: usize) -> Result<()> {
    if by > 0 {
        db.prepare_cached("UPDATE pool SET layout = layout + ?1")?
            .execute([by])?;
    }
    Ok(())
}
