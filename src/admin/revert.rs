//! Takes moves back to their old places, for a disk that turns out to be bad.
//!
//! A move is committed before it is persisted on its new disk, and until then its old place is kept. `revert`
//! gives the volumes those places back, by an ordinary change through all apparatuses that copies nothing: what
//! hosts wrote after the move is lost too, as by a power loss. Data that a host's `fsync` has confirmed is not
//! affected: `fsync` is answered only once the move is persisted, and a persisted move is not taken back.
//!
//! No flush under way is answered wrongly: under the hold, before the commit, a failure is noted in the ledger of
//! the disk. A flush checks the ledgers of its disks once more before it is answered (`datapath/flush.rs`). If it
//! checked before the failure was noted, its changes were persisted before the commit, which the store then
//! refuses. If it checked after, it fails. Flushes that begin later fail once for each volume and apparatus.

use super::plan::Planned;
use super::select;
use super::send::{Sent, send_with};
use crate::cluster;
use crate::controller::Controller;
use crate::model::change::{ChangeRecord, ChangeState, HoldMode};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::job::JobState;
use crate::model::member::MemberState;
use crate::model::records::{Delta, DiskRecord, Edit, Segment, Span};
use crate::model::units::{
    ByteCount, DiskId, ExtentSize, Generation, JobId, VolumeExtent, VolumeId, VolumeOffset,
};
use crate::store::{ChangeStore, JobStore, MemberStore, Store};
use std::collections::BTreeMap;

/// The outline of a revert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevertOutline {
    /// The change.
    pub planned: Planned,
    /// The same delta for display: neighbours are one segment, though they are in the quarantine of several changes.
    pub in_runs: Delta,
    /// The parts of volumes, each with the placement that it gets back.
    pub parts: Vec<(VolumeId, Segment)>,
    /// Their size in bytes.
    pub bytes: ByteCount,
}

/// Plans which parts of the volumes on this disk can go back to a kept place. Changes nothing.
///
/// # Errors
/// Fails when there is no such disk, no place is kept, or an apparatus is fenced, which may still write to the old places.
pub fn plan(pool: &PoolDir, store: &mut dyn Store, disk: &str) -> Result<RevertOutline> {
    let disks = store.disks()?;
    let record = select::disk(&disks, disk)?;
    refuse_fenced(pool, store, record)?;
    let header = store.header()?;
    let changes = committed(store)?;
    let mut parts = Vec::new();
    for volume in store.volumes()? {
        let all = store.segments(volume.id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        let there = all
            .into_iter()
            .filter(|segment| segment.placement.disk == record.id);
        let back = there.flat_map(|segment| kept(volume.id, segment, &changes));
        let elsewhere = back.filter(|segment| segment.placement.disk != record.id);
        parts.extend(elsewhere.map(|segment| (volume.id, segment)));
    }
    parts.sort_unstable();
    if parts.is_empty() {
        let why = "all data that was moved to it is persisted there, so no old place is kept";
        return Err(Error::failed(format!("disk {}", record.name), why).hint(format!(
            "move the readable data off it: vctl disk evacuate {}",
            record.name
        )));
    }
    let extents = parts
        .iter()
        .map(|(_, segment)| segment.placement.len)
        .sum::<u64>();
    let runs = in_runs(&parts);
    Ok(RevertOutline {
        // Each segment is in the quarantine of one change, from which it is taken.
        planned: planned(delta(header.generation, &parts), header.extent_size, &runs),
        in_runs: delta(header.generation, &runs),
        parts: runs,
        bytes: ByteCount(extents.saturating_mul(header.extent_size.bytes())),
    })
}

fn committed(store: &mut dyn ChangeStore) -> Result<Vec<ChangeRecord>> {
    let mut changes = store.unfinished()?;
    changes.retain(|record| record.state == ChangeState::Committed);
    changes.sort_by_key(|record| record.change.delta.from);
    Ok(changes)
}

/// Fails when a fenced apparatus is alive: it may still write to places that its old table names.
fn refuse_fenced(pool: &PoolDir, store: &mut dyn MemberStore, disk: &DiskRecord) -> Result<()> {
    let (_, members) = store.members()?;
    for member in members
        .iter()
        .filter(|member| member.state == MemberState::Fenced)
    {
        if !cluster::open(pool)?.has_ended(member)? {
            let why = format!(
                "apparatus {} is fenced and may still write to the old places",
                member.name
            );
            return Err(
                Error::new(ErrorKind::Busy, format!("disk {}", disk.name), why).hint(format!(
                    "vctl apparatus rejoin {0}, or end it: vctl apparatus fence {0}",
                    member.name
                )),
            );
        }
    }
    Ok(())
}

/// Returns the parts of a segment that unpersisted changes have moved, with the places
/// that they had before the first of those. A part that had no place then is left out.
fn kept(volume: VolumeId, segment: Segment, changes: &[ChangeRecord]) -> Vec<Segment> {
    let mut parts = vec![(segment, false)];
    for change in changes.iter().rev() {
        let undo = change.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        for edit in undo {
            parts = parts
                .into_iter()
                .flat_map(|part| undone(volume, part, edit))
                .collect();
        }
    }
    let moved = parts.into_iter().filter(|(_, moved)| *moved);
    moved.map(|(part, _)| part).collect()
}

/// Applies an undo edit to a part: splits it where the edit begins or ends, and gives the inside its earlier placement.
fn undone(volume: VolumeId, (part, moved): (Segment, bool), edit: &Edit) -> Vec<(Segment, bool)> {
    match edit {
        Edit::Map { volume: of, segments } if *of == volume => {
            let mut parts = Vec::new();
            let mut at = part.start;
            for old in segments.iter().filter_map(|old| old.clip(part.start, part.end())) {
                parts.extend(part.clip(at, old.start).map(|rest| (rest, moved)));
                at = old.end();
                parts.push((old, true));
            }
            parts.extend(part.clip(at, part.end()).map(|rest| (rest, moved)));
            parts
        }
        Edit::Unmap {
            volume: of,
            start,
            end,
        } if *of == volume => {
            let before = part.clip(part.start, *start);
            let after = part.clip(*end, part.end());
            before
                .into_iter()
                .chain(after)
                .map(|rest| (rest, moved))
                .collect()
        }
        Edit::RemoveVolume(of) if *of == volume => Vec::new(),
        _ => vec![(part, moved)],
    }
}

/// Merges neighbours of sorted parts that lie in one piece: a move leaves one part for each chunk.
fn in_runs(parts: &[(VolumeId, Segment)]) -> Vec<(VolumeId, Segment)> {
    let mut runs: Vec<(VolumeId, Segment)> = Vec::new();
    for &(volume, part) in parts {
        match runs.last_mut() {
            Some((of, run)) if *of == volume && run.continues_as(part) => {
                run.placement.len += part.placement.len
            }
            _ => runs.push((volume, part)),
        }
    }
    runs
}

fn delta(from: Generation, parts: &[(VolumeId, Segment)]) -> Delta {
    let mut volumes: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for (volume, segment) in parts {
        volumes.entry(*volume).or_default().push(*segment);
    }
    let edits = volumes.into_iter().map(|(volume, mut segments)| {
        segments.sort_unstable();
        Edit::Map { volume, segments }
    });
    Delta {
        from,
        edits: edits.collect(),
    }
}

/// Plans the delta under a hold of these runs.
fn planned(delta: Delta, size: ExtentSize, runs: &[(VolumeId, Segment)]) -> Planned {
    let byte = |extent| size.volume_offset(extent).unwrap_or(VolumeOffset(u64::MAX));
    let span = |(volume, segment): &(VolumeId, Segment)| Span {
        volume: *volume,
        start: byte(segment.start),
        end: byte(segment.end()),
    };
    Planned {
        delta,
        spans: runs.iter().map(span).collect(),
        mode: HoldMode::All,
        zero: Vec::new(),
        vacate: None,
    }
}

/// Gives the volumes their kept places back, and ends the moves that led to the disk. The change is persisted when this returns.
///
/// # Errors
/// Returns the errors of [`plan`], and fails when the change cannot be carried out.
pub fn revert(
    pool: &PoolDir,
    controller: &mut Controller,
    title: &str,
    disk: &str,
) -> Result<(RevertOutline, Sent)> {
    let outline = plan(pool, controller.store(), disk)?;
    let disks = controller.store().disks()?;
    let id = select::disk(&disks, disk)?.id;
    let ledger = controller.ledger(id);
    let sent = send_with(controller, title, &outline.planned, &mut || {
        ledger.note_failure();
        Ok(())
    });
    // The table may have been changed before a later step failed.
    if plan(pool, controller.store(), disk).is_err() {
        end_jobs(controller.store(), id, title)?;
    }
    let sent = sent?;
    controller.free()?;
    Ok((outline, sent))
}

/// Cancels moves to the disk that have not ended; they would count as moved what has gone back.
fn end_jobs(store: &mut dyn JobStore, disk: DiskId, title: &str) -> Result<()> {
    let ends = |state| {
        matches!(
            state,
            JobState::Running | JobState::Paused | JobState::Failed | JobState::RollingBack
        )
    };
    let jobs: Vec<(JobId, JobState)> = store.jobs()?.iter().map(|job| (job.id, job.state)).collect();
    for (id, state) in jobs.into_iter().filter(|(_, state)| ends(*state)) {
        let leads_there = |step: &crate::model::job::Step| step.to.disk == disk && step.done > 0;
        if store.steps(id)?.iter().any(leads_there) {
            store.set_job_state(id, state, JobState::Cancelled, &format!("taken back: {title}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{committed, map, segment};

    /// Returns changes with these undo edits.
    fn changes(undo: &[Edit]) -> Vec<ChangeRecord> {
        let record = |(id, edit): (u64, &Edit)| committed(id, Vec::new(), Some(vec![edit.clone()]));
        (0..).zip(undo).map(record).collect()
    }

    #[test]
    fn neighbours_in_one_piece_are_one_part() {
        let part = |start, at| (VolumeId(1), segment(start, 1, at, 1));
        assert_eq!(in_runs(&[]), []);
        let runs = in_runs(&[
            part(4, 14),
            part(5, 15),
            part(6, 20),
            (VolumeId(2), segment(7, 1, 21, 1)),
        ]);
        assert_eq!(
            runs,
            [
                (VolumeId(1), segment(4, 1, 14, 2)),
                part(6, 20),
                (VolumeId(2), segment(7, 1, 21, 1))
            ]
        );
    }

    #[test]
    fn a_part_goes_back_to_where_it_was_before_the_first_change_that_is_not_persisted() {
        let now = segment(0, 2, 50, 10);
        let back = |undo: &[Edit]| kept(VolumeId(1), now, &changes(undo));
        assert_eq!(back(&[]), []);
        let first = map(1, &[segment(2, 1, 7, 3)]);
        assert_eq!(back(std::slice::from_ref(&first)), [segment(2, 1, 7, 3)]);
        let second = map(1, &[segment(0, 3, 1, 4)]);
        assert_eq!(
            back(&[first.clone(), second]),
            [segment(0, 3, 1, 2), segment(2, 1, 7, 2), segment(4, 1, 9, 1)]
        );
        let appeared = Edit::Unmap {
            volume: VolumeId(1),
            start: VolumeExtent(4),
            end: VolumeExtent(10),
        };
        assert_eq!(back(&[appeared, first.clone()]), [segment(2, 1, 7, 2)]);
        assert_eq!(back(&[Edit::RemoveVolume(VolumeId(1)), first]), []);
    }
}
