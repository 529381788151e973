//! States of a change's record, up to persisting.

mod persisting;

pub(super) use self::persisting::{begin_persisting, end_persisting, raise_layout};
use super::convert::{Ron, StoredState, Word, damaged, to_ron};
use super::edits::{Applied, apply, inside, mapped, placed};
use super::job;
use super::removed;
use super::space::{self, Claimant};
use super::table::{self, Guards, guards};
use crate::model::areas::without;
use crate::model::change::{Cancel, ChangeRecord, Commit, NewChange, Owner, UsedArea};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{Area, Delta, Edit, Segment};
use crate::model::units::{
    CacheEpoch, ChangeId, DiskId, Generation, JobId, MembershipVersion, Term, VolumeId,
};
use crate::model::words::count;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;

/// Number of finished changes that are kept for late questions about them.
const KEPT: u64 = 1000;
/// Number of these that are kept whatever their size: more than may be under way at once.
const KEPT_LARGE: u64 = 64;
/// Size in bytes of a delta, or of its undo, from which it counts as large.
const LARGE: u64 = 64 << 10;

const RECORD: &str =
    "SELECT id, state, term, boot, job, title, mode, spans, difference, undo, generation FROM";

/// A record with the fields that only the store knows.
pub(super) struct Stored {
    pub(super) record: ChangeRecord,
    pub(super) stage: StoredState,
    pub(super) generation: Option<Generation>,
}

fn stored_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let stage = row.get::<_, Word<StoredState>>(1)?.0;
    let change = NewChange {
        job: row.get::<_, Option<u64>>(4)?.map(JobId),
        title: row.get(5)?,
        mode: row.get::<_, Word<_>>(6)?.0,
        spans: row.get::<_, Ron<_>>(7)?.0,
        delta: row.get::<_, Ron<_>>(8)?.0,
    };
    let record = ChangeRecord {
        id: ChangeId(row.get(0)?),
        state: stage.seen(),
        term: Term(row.get(2)?),
        epoch: row.get::<_, Word<_>>(3)?.0,
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

/// Returns the unfinished changes, by id.
pub(super) fn all_live(db: &Connection) -> Result<Vec<Stored>> {
    let mut query = db.prepare_cached(&format!("{RECORD} changes ORDER BY id"))?;
    let rows = query.query_map([], stored_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn unfinished(db: &Connection) -> Result<Vec<ChangeRecord>> {
    Ok(all_live(db)?.into_iter().map(|stored| stored.record).collect())
}

/// Returns the deltas that lead from the table of generation `known` to the current one, in order. `None` if one of them is not
/// kept any more, or was taken back.
pub(super) fn deltas_since(db: &Connection, known: Generation) -> Result<Option<Vec<Delta>>> {
    let current = guards(db)?.generation;
    let sql = "SELECT generation, difference FROM changes WHERE generation > ?1
               UNION ALL SELECT generation, difference FROM history WHERE state = 'hardened' AND generation > ?1
               ORDER BY generation";
    let mut query = db.prepare_cached(sql)?;
    let rows = query.query_map([known.0], |row| Ok((row.get(0)?, row.get::<_, Ron<_>>(1)?.0)))?;
    let found: Vec<(u64, Delta)> = rows.collect::<Result<_, _>>()?;
    let led_to = found.iter().map(|(generation, _)| *generation);
    let in_a_row = known <= current && led_to.eq(known.0 + 1..=current.0);
    Ok(in_a_row.then(|| found.into_iter().map(|(_, delta)| delta).collect()))
}

/// Returns the guards of the pool; fails under a higher term.
pub(super) fn not_stale(db: &Connection, term: Term) -> Result<Guards> {
    let guards = guards(db)?;
    if guards.term > term {
        return Err(Error::new(
            ErrorKind::Stale,
            format!("term {term}"),
            format!("another controller has taken over with term {}", guards.term),
        ));
    }
    Ok(guards)
}

fn next_id(db: &Connection) -> Result<u64> {
    let sql =
        "SELECT max(ifnull((SELECT max(id) FROM changes), 0), ifnull((SELECT max(id) FROM history), 0)) + 1";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

pub(super) fn prepare(
    db: &Connection,
    term: Term,
    change: &NewChange,
    epoch: CacheEpoch,
) -> Result<ChangeId> {
    let guards = not_stale(db, term)?;
    let edits = &change.delta.edits;
    well_formed(edits)?;
    let id = ChangeId(next_id(db)?);
    for (volume, segment) in placed(edits) {
        claim_for(db, volume, segment, id, change)?;
    }
    if guards.generation == change.delta.from {
        try_out(db, &guards, id, change)?;
    }
    let sql = "INSERT INTO changes (id, state, term, boot, job, title, mode, spans, difference)
               VALUES (?1, 'prepared', ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let (spans, delta) = (to_ron(&change.spans)?, to_ron(&change.delta)?);
    let job = change.job.map(|job| job.0);
    let values = params![
        id.0,
        term.0,
        Word(epoch),
        job,
        change.title,
        Word(change.mode),
        spans,
        delta
    ];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(id)
}

/// Checks the properties that need no table: ranges are not empty and in order, and no extent is mapped twice.
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
    Error::failed("delta", why)
}

fn in_order(segments: &[Segment]) -> bool {
    let last = |start: u64, len: u64| len.checked_sub(1).and_then(|rest| start.checked_add(rest));
    let sound = |segment: &Segment| {
        let ends = (
            last(segment.start.0, segment.placement.len),
            last(segment.placement.start.0, segment.placement.len),
        );
        segment.placement.start.0 > 0 && matches!(ends, (Some(0..MOST), Some(0..MOST)))
    };
    segments.iter().all(sound) && segments.windows(2).all(|pair| pair[0].end() <= pair[1].start)
}

/// Extent numbers stay below SQLite's highest integer.
const MOST: u64 = i64::MAX.unsigned_abs();

/// Claims an area to be mapped: it belongs to the job already, or is free and becomes the change's. Or it is the kept place of
/// this part of the volume, and stays in quarantine until the commit.
fn claim_for(
    db: &Connection,
    volume: VolumeId,
    segment: Segment,
    id: ChangeId,
    change: &NewChange,
) -> Result<()> {
    let area = segment.placement;
    fits(db, area, &change.delta.edits)?;
    let owned = space::owned(db, area)?;
    if kept_by(db, volume, segment, &owned)?.is_some() {
        return Ok(());
    }
    let job = change.job.map(Owner::Job);
    if let Some(other) = owned.iter().find(|found| Some(found.owner) != job) {
        return Err(space::not_free(db, other)?);
    }
    // Bytes that a new owner has written before, or would read, were given away before (`give_away`).
    removed::lose(db, area, Some(volume))?;
    for gap in space::gaps(area, &owned) {
        space::put_claim(db, gap, Claimant::Change(id))?;
    }
    Ok(())
}

/// Returns the committed but not persisted change that moved this part of the volume away from there, if that area is in its
/// quarantine. Such an area can be mapped again: a power loss now would lead back to it too.
fn kept_by(
    db: &Connection,
    volume: VolumeId,
    segment: Segment,
    owned: &[UsedArea],
) -> Result<Option<ChangeId>> {
    let [
        UsedArea {
            area,
            owner: Owner::Quarantine(taker),
        },
    ] = owned
    else {
        return Ok(None);
    };
    if area.start > segment.placement.start || area.end() < segment.placement.end() {
        return Ok(None);
    }
    let taker = live(db, *taker)?.filter(|stored| stored.stage == StoredState::Committed);
    let taken = |record: &ChangeRecord| {
        let undo = record.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        placed(undo).any(|(of, old)| of == volume && old.clip(segment.start, segment.end()) == Some(segment))
    };
    Ok(taker
        .filter(|stored| taken(&stored.record))
        .map(|stored| stored.record.id))
}

/// Checks that the disk has the area, now or through this delta.
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

/// Applies a delta that starts from the current table and takes it back, so that an impossible one is refused before anything
/// is held. A delta that only maps existing volumes needs just a check of their sizes.
fn try_out(db: &Connection, guards: &Guards, id: ChangeId, change: &NewChange) -> Result<()> {
    let edits = &change.delta.edits;
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
            format!(
                "has {}, but would be mapped up to {}",
                count(extents, "extent"),
                last.end()
            ),
        )),
        _ => Ok(()),
    }
}

/// Removes the areas that the change maps from the claims of the change and its job.
fn take_mapped(db: &Connection, id: ChangeId, change: &NewChange) -> Result<()> {
    let job = change.job.map(Owner::Job);
    let mine = |owner| owner == Owner::Change(id) || Some(owner) == job;
    for (volume, segment) in placed(&change.delta.edits) {
        let area = segment.placement;
        if space::take_claim(db, area, &mine)? {
            continue;
        }
        if let Some(taker) = kept_by(db, volume, segment, &space::owned(db, area)?)? {
            space::take_quarantine(db, area, taker)?;
        } else {
            let disk = table::disk_name(db, area.disk)?;
            let why = format!(
                "change {id} maps {} at {} and does not own them any more",
                count(area.len, "extent"),
                area.start
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
    epoch: CacheEpoch,
) -> Result<Commit> {
    let guards = guards(db)?;
    if guards.term > term {
        return Ok(Commit::StaleTerm(guards.term));
    }
    let stored = known(db, id)?;
    match stored.stage {
        StoredState::Prepared => {}
        StoredState::Cancelled | StoredState::Undone => return Ok(Commit::Cancelled),
        StoredState::Committed | StoredState::Persisting | StoredState::Persisted => {
            let at = stored
                .generation
                .ok_or_else(|| damaged("a committed change has no generation"))?;
            return Ok(Commit::Committed(at));
        }
    }
    if guards.membership != membership {
        return Ok(Commit::MembershipMoved(guards.membership));
    }
    if guards.generation != stored.record.change.delta.from {
        return Ok(Commit::GenerationMoved(guards.generation));
    }
    make_current(db, &guards, id, &stored.record.change, epoch)
}

/// Applies the delta, takes the mapped areas from their owners, and returns the areas that go into quarantine.
fn go_forward(db: &Connection, guards: &Guards, id: ChangeId, change: &NewChange) -> Result<Applied> {
    take_mapped(db, id, change)?;
    let edits = &change.delta.edits;
    let applied = apply(db, guards.extent_size, edits)?;
    let freed = without(applied.freed, mapped(edits));
    for area in &freed {
        still_there(db, *area)?;
    }
    Ok(Applied { freed, ..applied })
}

/// Fails if the disk is removed or made smaller in the same change that takes its extents from a volume: a request may still
/// use them.
fn still_there(db: &Connection, area: Area) -> Result<()> {
    if table::disk_extents(db, area.disk)?.is_some_and(|extents| area.end().0 <= extents) {
        return Ok(());
    }
    let disk = table::disk_name(db, area.disk)?;
    Err(Error::failed(
        disk,
        "cannot be removed or made smaller in the change that moves parts of volumes off it",
    ))
}

fn make_current(
    db: &Connection,
    guards: &Guards,
    id: ChangeId,
    change: &NewChange,
    epoch: CacheEpoch,
) -> Result<Commit> {
    let generation = guards.generation.next();
    let applied = go_forward(db, guards, id, change)?;
    for area in applied.freed {
        space::put_quarantine(db, area, id, generation)?;
    }
    if let Some(job) = change.job {
        job::advance(db, job, &change.delta)?;
    }
    job::end_of_removed(db, &change.delta.edits)?;
    removed::follow(db, id, guards.extent_size, &change.delta.edits, &applied.undo)?;
    let undo = Delta {
        from: generation,
        edits: applied.undo,
    };
    db.prepare_cached(
        "UPDATE changes SET state = 'committed', boot = ?2, generation = ?3, undo = ?4 WHERE id = ?1",
    )?
    .execute(params![id.0, Word(epoch), generation.0, to_ron(&undo)?])?;
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
        StoredState::Cancelled | StoredState::Undone => Ok(Cancel::Cancelled),
        StoredState::Committed | StoredState::Persisting | StoredState::Persisted => {
            Ok(Cancel::Committed(Box::new(stored.record)))
        }
        StoredState::Prepared => {
            give_up(db, &stored)?;
            prune(db)?;
            Ok(Cancel::Cancelled)
        }
    }
}

/// Cancels a prepared change.
pub(super) fn give_up(db: &Connection, stored: &Stored) -> Result<()> {
    let id = stored.record.id;
    for area in mapped(&stored.record.change.delta.edits) {
        space::drop_claims(db, area, Claimant::Change(id))?;
    }
    finish(db, id, StoredState::Cancelled)
}

/// Moves a record from the unfinished changes to the finished ones.
pub(super) fn finish(db: &Connection, id: ChangeId, stage: StoredState) -> Result<()> {
    let columns = "id, term, boot, generation, job, title, mode, spans, difference, undo";
    let sql =
        format!("INSERT INTO history (state, {columns}) SELECT ?2, {columns} FROM changes WHERE id = ?1");
    db.prepare_cached(&sql)?.execute(params![id.0, Word(stage)])?;
    db.prepare_cached("DELETE FROM changes WHERE id = ?1")?
        .execute([id.0])?;
    match stage {
        StoredState::Persisted => removed::persisted(db, id),
        StoredState::Undone => removed::undone(db, id),
        _ => Ok(()),
    }
}

/// Deletes all but the latest finished changes, and large ones sooner: in a pool of large volumes the database must not fill up
/// with history.
pub(super) fn prune(db: &Connection) -> Result<()> {
    let next = next_id(db)?;
    db.prepare_cached("DELETE FROM history WHERE id < ?1")?
        .execute([next.saturating_sub(KEPT)])?;
    let large = "DELETE FROM history WHERE id < ?1 AND max(octet_length(difference), ifnull(octet_length(undo), 0)) > ?2";
    db.prepare_cached(large)?
        .execute([next.saturating_sub(KEPT_LARGE), LARGE])?;
    Ok(())
}
