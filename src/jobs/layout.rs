//! Chooses where moved data goes, step by step. Pure; the allocator chooses the extents.

use super::steps::sub_area;
use crate::model::alloc::{AllocRequest, Policy, Shortage, Space, allocate};
use crate::model::job::Step;
use crate::model::records::{Area, Segment};
use crate::model::units::{DiskId, VolumeExtent, VolumeId};

/// A run of a volume that is to leave its placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceRun {
    /// The volume.
    pub(super) volume: VolumeId,
    /// The run and its placement.
    pub(super) run: Segment,
    /// The placement of the preceding part of the volume, if it has one: the best place is right behind it.
    pub(super) before: Option<Area>,
}

/// Plans destinations for all sources, which are in order of volume and address. They go to the
/// disks in `on`, in order of preference, or to any disk with free space if none are named.
/// `Contiguous` wants one piece for each run of addresses. The extents used are taken from `spaces`.
pub(super) fn lay_out(
    sources: &[SourceRun],
    spaces: &mut [Space],
    on: &[DiskId],
    policy: Policy,
) -> Result<Vec<Step>, Shortage> {
    let extents = |run: &[SourceRun]| run.iter().map(|source| source.run.placement.len).sum();
    let request = |run: &[SourceRun], policy| AllocRequest {
        extents: extents(run),
        on: on.to_vec(),
        after: run.first().and_then(|first| first.before),
        policy,
    };
    // First all sources together, in any pieces, so that a shortage reports everything that was requested.
    let together = match policy {
        Policy::Contiguous => Policy::Order,
        other => other,
    };
    allocate(spaces, &request(sources, together))?;
    let mut steps = Vec::new();
    for run in sources.chunk_by(|a, b| a.volume == b.volume && a.run.end() == b.run.start) {
        let areas = allocate(spaces, &request(run, policy))?;
        areas.iter().for_each(|area| take(spaces, *area));
        pair(run, &areas, &mut steps);
    }
    Ok(steps)
}

/// Removes an area from the free space.
fn take(spaces: &mut [Space], area: Area) {
    let Some(space) = spaces.iter_mut().find(|space| space.disk == area.disk) else {
        return;
    };
    let around = |run: &Area| {
        let before = (run.start, area.start.min(run.end()));
        let behind = (area.end().max(run.start), run.end());
        [before, behind].map(|(from, to)| Area {
            disk: run.disk,
            start: from,
            len: to.0.saturating_sub(from.0),
        })
    };
    space.free = space
        .free
        .iter()
        .flat_map(around)
        .filter(|run| run.len > 0)
        .collect();
}

/// Appends the steps that move the sources to the areas, which have the same total length.
fn pair(sources: &[SourceRun], areas: &[Area], steps: &mut Vec<Step>) {
    let mut areas = areas.iter().copied();
    let mut area = areas.next();
    for source in sources {
        let mut rest = Some(source.run);
        while let (Some(run), Some(to)) = (rest, area) {
            let len = run.placement.len.min(to.len);
            let from = Segment {
                start: run.start,
                placement: sub_area(run.placement, 0, len),
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
    use crate::model::build::{area, segment, space};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn source(start: u64, at: u64, len: u64) -> SourceRun {
        let run = segment(start, 1, at, len);
        SourceRun {
            volume: VolumeId(1),
            run,
            before: None,
        }
    }

    fn to(steps: &[Step]) -> Vec<Area> {
        steps.iter().map(|step| step.to).collect()
    }

    #[test]
    fn segments_become_one_where_there_is_room() {
        let mut spaces = [space(2, 10, &[(3, 1)]), space(3, 100, &[])];
        let steps = lay_out(
            &[source(0, 50, 4), source(4, 20, 4)],
            &mut spaces,
            &[],
            Policy::Order,
        )
        .unwrap();
        assert_eq!(to(&steps), [area(3, 1, 4), area(3, 5, 4)]);
        assert_eq!(spaces[1].free, [area(3, 9, 91)]);
    }

    #[test]
    fn a_run_continues_what_lies_before_it() {
        let before = Some(area(2, 4, 3));
        let mut spaces = [space(2, 20, &[(4, 3)])];
        let steps = lay_out(
            &[SourceRun {
                before,
                ..source(4, 50, 2)
            }],
            &mut spaces,
            &[DiskId(2)],
            Policy::Order,
        )
        .unwrap();
        assert_eq!(to(&steps), [area(2, 7, 2)]);
    }

    #[test]
    fn a_shortage_reports_everything_that_was_requested() {
        let mut spaces = [space(2, 4, &[])];
        let short = lay_out(
            &[source(0, 50, 2), source(9, 60, 2)],
            &mut spaces,
            &[DiskId(2)],
            Policy::Contiguous,
        )
        .unwrap_err();
        assert_eq!(short.wanted, 4);
    }

    #[test]
    fn contiguous_wants_one_piece_for_each_run() {
        let sources = [source(0, 50, 2), source(2, 60, 2), source(9, 70, 3)];
        let mut spaces = [space(2, 8, &[(3, 1)]), space(3, 5, &[])];
        let steps = lay_out(&sources, &mut spaces, &[], Policy::Contiguous).unwrap();
        assert_eq!(to(&steps), [area(2, 4, 2), area(2, 6, 2), area(3, 1, 3)]);
        let mut spaces = [space(2, 20, &[(4, 1), (8, 1), (12, 1), (16, 1)])];
        let short = lay_out(&sources, &mut spaces, &[], Policy::Contiguous).unwrap_err();
        assert_eq!(short.wanted, 4);
    }

    /// Sources on disk 1, some of them adjacent in the volume, and targets with holes.
    fn case() -> impl Strategy<Value = (Vec<SourceRun>, Vec<Space>)> {
        let runs = prop::collection::vec((0u64..3, 1u64..6, 0u64..4), 1..12);
        let taken = prop::collection::vec(prop::collection::vec((0u64..5, 1u64..4), 0..8), 1..4);
        (runs, taken).prop_map(|(runs, taken)| (sources(&runs), spaces(&taken)))
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        prop::sample::select(vec![
            Policy::Order,
            Policy::Spread,
            Policy::Pack,
            Policy::Contiguous,
        ])
    }

    fn sources(runs: &[(u64, u64, u64)]) -> Vec<SourceRun> {
        let (mut at, mut placement) = (0, 1);
        let mut sources = Vec::new();
        for &(gap, len, disk_gap) in runs {
            at += gap;
            placement += disk_gap;
            sources.push(source(at, placement, len));
            at += len;
            placement += len;
        }
        sources
    }

    fn spaces(taken: &[Vec<(u64, u64)>]) -> Vec<Space> {
        let one = |(index, gaps): (usize, &Vec<(u64, u64)>)| {
            let mut at = 1;
            let mut uses = Vec::new();
            for &(gap, len) in gaps {
                uses.push((at + gap, len));
                at += gap + len;
            }
            space(u32::try_from(index).unwrap() + 2, at + 10, &uses)
        };
        taken.iter().enumerate().map(one).collect()
    }

    fn extents(areas: impl IntoIterator<Item = Area>) -> Vec<(u32, u64)> {
        areas
            .into_iter()
            .flat_map(|a| (a.start.0..a.end().0).map(move |e| (a.disk.0, e)))
            .collect()
    }

    fn free(spaces: &[Space]) -> BTreeSet<(u32, u64)> {
        extents(spaces.iter().flat_map(|space| space.free.clone()))
            .into_iter()
            .collect()
    }

    /// Returns volume extent and disk extent of each extent moved.
    fn each(runs: impl IntoIterator<Item = Segment>) -> Vec<(u64, u64)> {
        let pairs =
            |run: Segment| (0..run.placement.len).map(move |i| (run.start.0 + i, run.placement.start.0 + i));
        runs.into_iter().flat_map(pairs).collect()
    }

    proptest! {
        #[test]
        fn steps_cover_exactly_what_is_requested_and_take_only_what_is_free((sources, mut spaces) in case(), named: bool, policy in any_policy()) {
            let before = free(&spaces);
            let wanted = each(sources.iter().map(|source| source.run));
            let on: Vec<DiskId> = spaces.iter().filter(|_| named).map(|space| space.disk).collect();
            let Ok(steps) = lay_out(&sources, &mut spaces, &on, policy) else {
                prop_assert!(before.len() < wanted.len() || policy == Policy::Contiguous, "there was room");
                return Ok(());
            };
            prop_assert_eq!(each(steps.iter().map(|step| step.from)), wanted);
            prop_assert!(steps.iter().all(|step| step.from.placement.len == step.to.len && step.done == 0));
            let taken: BTreeSet<_> = extents(to(&steps)).into_iter().collect();
            prop_assert_eq!(taken.len(), extents(to(&steps)).len(), "an extent is given twice");
            let after = free(&spaces);
            prop_assert!(taken.is_subset(&before) && taken.is_disjoint(&after));
            prop_assert_eq!(taken.len() + after.len(), before.len());
        }
    }
}
