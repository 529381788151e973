//! Where the moved data goes: contiguous where there is room for it, disk by disk otherwise. Pure.

use super::steps::sub_area;
use crate::pool::model::{Area, Segment};
use crate::store::{Step, Use};
use crate::units::{DiskExtent, DiskId, VolumeExtent, VolumeId};

/// A run of a volume that is to leave its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The volume.
    pub(super) volume: VolumeId,
    /// The run and its home.
    pub(super) run: Segment,
    /// The end of the home of what comes before it in the volume, if it has a home: free extents there continue it.
    pub(super) before: Option<(DiskId, DiskExtent)>,
}

/// A disk that data may go to, and its free runs by start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The disk.
    pub(super) disk: DiskId,
    /// Its free runs.
    pub(super) free: Vec<Area>,
}

/// Which target is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// In the order given, as long as there is room.
    Order,
    /// Where it stays in one piece, and there where most is free.
    Room,
}

impl Target {
    /// From what is taken of a disk of so many extents; `uses` by start.
    pub(super) fn new(disk: DiskId, extents: u64, uses: &[Use]) -> Self {
        let mut free = Vec::new();
        let mut next = 1;
        for taken in uses {
            push_free(&mut free, disk, next, taken.area.start.0.min(extents));
            next = next.max(taken.area.end().0);
        }
        push_free(&mut free, disk, next, extents);
        Self { disk, free }
    }

    /// Free extents.
    pub(super) fn room(&self) -> u64 {
        self.free.iter().map(|run| run.len).sum()
    }

    /// Length of the longest free run.
    fn longest(&self) -> u64 {
        self.free.iter().map(|run| run.len).max().unwrap_or(0)
    }

    /// Takes exactly this area, if it is free.
    pub(super) fn take_at(&mut self, start: DiskExtent, len: u64) -> Option<Area> {
        let index = self
            .free
            .iter()
            .position(|run| run.start <= start && start.0 + len <= run.end().0)?;
        let run = self.free.remove(index);
        let rest = [(run.start.0, start.0), (start.0 + len, run.end().0)];
        let mut left = Vec::new();
        rest.iter()
            .for_each(|&(from, to)| push_free(&mut left, self.disk, from, to));
        self.free.splice(index..index, left);
        Some(Area {
            disk: self.disk,
            start,
            len,
        })
    }

    /// Takes the first run of that length.
    fn take(&mut self, len: u64) -> Option<Area> {
        let start = self.free.iter().find(|run| run.len >= len)?.start;
        self.take_at(start, len)
    }

    /// Takes the start of the longest run, at most so much.
    fn take_longest(&mut self, most: u64) -> Option<Area> {
        self.take(self.longest().min(most)).filter(|area| area.len > 0)
    }
}

fn push_free(free: &mut Vec<Area>, disk: DiskId, from: u64, to: u64) {
    if from < to {
        free.push(Area {
            disk,
            start: DiskExtent(from),
            len: to - from,
        });
    }
}

/// Destinations for all sources, which are in order of volume and address; `None` when there is not enough room.
pub(super) fn lay_out(
    sources: &[Source],
    targets: &mut [Target],
    preference: Preference,
) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for run in sources.chunk_by(together) {
        let areas = place(run, targets, preference)?;
        pair(run, &areas, &mut steps);
    }
    Some(steps)
}

/// Whether the two should stay in one piece: neighbours in the volume that want to go to neighbouring places.
fn together(a: &Source, b: &Source) -> bool {
    let follows = (a.run.home.disk, a.run.home.end());
    let wanted = a
        .before
        .map(|(disk, at)| (disk, DiskExtent(at.0 + a.run.home.len)));
    a.volume == b.volume && a.run.end() == b.run.start && (b.before == Some(follows) || b.before == wanted)
}

/// Areas for a run of sources without gaps.
fn place(run: &[Source], targets: &mut [Target], preference: Preference) -> Option<Vec<Area>> {
    let len = run.iter().map(|source| source.run.home.len).sum();
    if let Some(area) = run
        .first()
        .and_then(|first| continuation(first, len, targets, preference))
    {
        return Some(vec![area]);
    }
    if preference == Preference::Room {
        targets.sort_by_key(|target| std::cmp::Reverse(target.room()));
        if let Some(area) = targets.iter_mut().find_map(|target| target.take(len)) {
            return Some(vec![area]);
        }
    }
    in_order(len, targets)
}

/// The free extents right after the home of what comes before, unless that disk is only a later choice.
fn continuation(first: &Source, len: u64, targets: &mut [Target], preference: Preference) -> Option<Area> {
    let (disk, at) = first.before?;
    let index = targets.iter().position(|target| target.disk == disk)?;
    let earlier_has_room = targets.iter().take(index).any(|target| target.room() > 0);
    if preference == Preference::Order && earlier_has_room {
        return None;
    }
    targets.get_mut(index)?.take_at(at, len)
}

/// Fills target after target: in one piece where it goes, in the fewest pieces otherwise.
fn in_order(mut len: u64, targets: &mut [Target]) -> Option<Vec<Area>> {
    let mut areas = Vec::new();
    for target in targets {
        while len > 0 {
            let Some(area) = target.take(len).or_else(|| target.take_longest(len)) else {
                break;
            };
            len -= area.len;
            areas.push(area);
        }
    }
    (len == 0).then_some(areas)
}

/// Steps that move the sources to the areas, which are as long together.
fn pair(sources: &[Source], areas: &[Area], steps: &mut Vec<Step>) {
    let mut areas = areas.iter().copied();
    let mut area = areas.next();
    for source in sources {
        let mut rest = Some(source.run);
        while let (Some(run), Some(to)) = (rest, area) {
            let len = run.home.len.min(to.len);
            let from = Segment {
                start: run.start,
                home: sub_area(run.home, 0, len),
            };
            steps.push(Step {
                volume: source.volume,
                from,
                to: sub_area(to, 0, len),
                done: 0,
            });
            rest = run.clip(VolumeExtent(run.start.0 + len), run.end());
            area = match to.len - len {
                0 => areas.next(),
                left => Some(sub_area(to, len, left)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Owner;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn area(disk: u32, start: u64, len: u64) -> Area {
        Area {
            disk: DiskId(disk),
            start: DiskExtent(start),
            len,
        }
    }

    fn target(disk: u32, extents: u64, taken: &[(u64, u64)]) -> Target {
        let owner = Owner::Volume(VolumeId(9));
        let uses: Vec<Use> = taken
            .iter()
            .map(|&(start, len)| Use {
                area: area(disk, start, len),
                owner,
            })
            .collect();
        Target::new(DiskId(disk), extents, &uses)
    }

    fn source(start: u64, at: u64, len: u64) -> Source {
        let run = Segment {
            start: VolumeExtent(start),
            home: area(1, at, len),
        };
        Source {
            volume: VolumeId(1),
            run,
            before: None,
        }
    }

    #[test]
    fn free_runs_leave_out_the_label_and_what_is_taken() {
        assert_eq!(target(2, 10, &[]).free, vec![area(2, 1, 9)]);
        assert_eq!(target(2, 10, &[(1, 3), (6, 4)]).free, vec![area(2, 4, 2)]);
        assert_eq!(target(2, 10, &[(4, 2)]).free, vec![area(2, 1, 3), area(2, 6, 4)]);
        assert_eq!(target(2, 0, &[]).free, vec![]);
        assert_eq!(target(2, 3, &[(1, 9)]).free, vec![]);
    }

    #[test]
    fn segments_become_one_where_there_is_room() {
        let mut targets = [target(2, 10, &[(3, 1)]), target(3, 100, &[])];
        let steps = lay_out(
            &[source(0, 50, 4), source(4, 20, 4)],
            &mut targets,
            Preference::Room,
        )
        .unwrap();
        assert_eq!(
            steps.iter().map(|s| s.to).collect::<Vec<_>>(),
            vec![area(3, 1, 4), area(3, 5, 4)]
        );
    }

    #[test]
    fn the_first_choice_is_filled_before_the_second() {
        let mut targets = [target(2, 10, &[(4, 1)]), target(3, 100, &[])];
        let steps = lay_out(&[source(0, 50, 10)], &mut targets, Preference::Order).unwrap();
        assert_eq!(
            steps.iter().map(|s| s.to).collect::<Vec<_>>(),
            vec![area(2, 5, 5), area(2, 1, 3), area(3, 1, 2)]
        );
    }

    #[test]
    fn a_run_continues_what_lies_before_it() {
        let mut one = source(4, 50, 2);
        one.before = Some((DiskId(2), DiskExtent(7)));
        let mut targets = [target(2, 20, &[(4, 3)])];
        let steps = lay_out(&[one], &mut targets, Preference::Order).unwrap();
        assert_eq!(steps[0].to, area(2, 7, 2));
        let mut targets = [target(3, 20, &[]), target(2, 20, &[(4, 3)])];
        assert_eq!(
            lay_out(&[one], &mut targets, Preference::Order).unwrap()[0].to,
            area(3, 1, 2)
        );
    }

    #[test]
    fn too_little_room_is_none() {
        let mut targets = [target(2, 4, &[])];
        assert_eq!(
            lay_out(&[source(0, 50, 4)], &mut targets, Preference::Order),
            None
        );
    }

    /// Sources on disk 1, some of them adjacent in the volume, and targets with holes.
    fn case() -> impl Strategy<Value = (Vec<Source>, Vec<Target>)> {
        let runs = prop::collection::vec((0u64..3, 1u64..6, 0u64..4), 1..12);
        let taken = prop::collection::vec(prop::collection::vec((0u64..5, 1u64..4), 0..8), 1..4);
        (runs, taken).prop_map(|(runs, taken)| (sources(&runs), targets(&taken)))
    }

    fn sources(runs: &[(u64, u64, u64)]) -> Vec<Source> {
        let (mut at, mut home) = (0, 1);
        let mut sources = Vec::new();
        for &(gap, len, disk_gap) in runs {
            at += gap;
            home += disk_gap;
            sources.push(source(at, home, len));
            at += len;
            home += len;
        }
        sources
    }

    fn targets(taken: &[Vec<(u64, u64)>]) -> Vec<Target> {
        let one = |(index, gaps): (usize, &Vec<(u64, u64)>)| {
            let mut at = 1;
            let mut uses = Vec::new();
            for &(gap, len) in gaps {
                uses.push((at + gap, len));
                at += gap + len;
            }
            target(u32::try_from(index).unwrap() + 2, at + 10, &uses)
        };
        taken.iter().enumerate().map(one).collect()
    }

    fn extents(areas: impl IntoIterator<Item = Area>) -> Vec<(u32, u64)> {
        areas
            .into_iter()
            .flat_map(|a| (a.start.0..a.end().0).map(move |e| (a.disk.0, e)))
            .collect()
    }

    proptest! {
        #[test]
        fn steps_cover_exactly_what_is_asked_and_take_only_what_is_free((sources, mut targets) in case(), order: bool) {
            let before: BTreeSet<_> = extents(targets.iter().flat_map(|t| t.free.clone())).into_iter().collect();
            let wanted: Vec<_> = sources.iter().flat_map(|s| (0..s.run.home.len).map(|i| (s.run.start.0 + i, s.run.home.start.0 + i))).collect();
            let preference = if order { Preference::Order } else { Preference::Room };
            let Some(steps) = lay_out(&sources, &mut targets, preference) else {
                prop_assert!(before.len() < wanted.len(), "there was room");
                return Ok(());
            };
            let covered: Vec<_> = steps.iter().flat_map(|s| (0..s.to.len).map(|i| (s.from.start.0 + i, s.from.home.start.0 + i))).collect();
            prop_assert_eq!(covered, wanted);
            prop_assert!(steps.iter().all(|s| s.from.home.len == s.to.len && s.done == 0));
            let taken: BTreeSet<_> = extents(steps.iter().map(|s| s.to)).into_iter().collect();
            prop_assert_eq!(taken.len(), extents(steps.iter().map(|s| s.to)).len(), "an extent is given twice");
            let after: BTreeSet<_> = extents(targets.iter().flat_map(|t| t.free.clone())).into_iter().collect();
            prop_assert!(taken.is_subset(&before) && taken.is_disjoint(&after));
            prop_assert_eq!(taken.len() + after.len(), before.len());
        }
    }
}
