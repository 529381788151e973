//! Where the moved data goes, step by step. Pure; the choice of extents is the allocator's.

use super::steps::sub_area;
use crate::pool::alloc::{Policy, Shortage, Space, Wish, allocate};
use crate::pool::model::{Area, Segment};
use crate::store::Step;
use crate::units::{DiskId, VolumeExtent, VolumeId};

/// A run of a volume that is to leave its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The volume.
    pub(super) volume: VolumeId,
    /// The run and its home.
    pub(super) run: Segment,
    /// The home of what comes before it in the volume, if it has one: best right behind it.
    pub(super) before: Option<Area>,
}

/// Destinations for all sources, which are in order of volume and address: on these disks in order of preference, wherever there is
/// room if none are named. `Contiguous` wants one piece for each run of addresses. What is taken is taken from `spaces`.
pub(super) fn lay_out(
    sources: &[Source],
    spaces: &mut [Space],
    on: &[DiskId],
    policy: Policy,
) -> Result<Vec<Step>, Shortage> {
    let extents = |run: &[Source]| run.iter().map(|source| source.run.home.len).sum();
    let wish = |run: &[Source], policy| Wish {
        extents: extents(run),
        on: on.to_vec(),
        after: run.first().and_then(|first| first.before),
        policy,
    };
    // All together first, in whatever pieces: a shortage tells of everything that is asked for.
    let together = match policy {
        Policy::Contiguous => Policy::Order,
        other => other,
    };
    allocate(spaces, &wish(sources, together))?;
    let mut steps = Vec::new();
    for run in sources.chunk_by(|a, b| a.volume == b.volume && a.run.end() == b.run.start) {
        let areas = allocate(spaces, &wish(run, policy))?;
        areas.iter().for_each(|area| take(spaces, *area));
        pair(run, &areas, &mut steps);
    }
    Ok(steps)
}

/// An area is free no more.
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
    use crate::pool::alloc::free_runs;
    use crate::pool::names::Name;
    use crate::units::DiskExtent;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn area(disk: u32, start: u64, len: u64) -> Area {
        Area {
            disk: DiskId(disk),
            start: DiskExtent(start),
            len,
        }
    }

    fn space(disk: u32, extents: u64, taken: &[(u64, u64)]) -> Space {
        let taken = taken.iter().map(|&(start, len)| area(disk, start, len));
        Space {
            disk: DiskId(disk),
            name: Name::new("disk", &format!("d{disk}")).unwrap(),
            allocate: true,
            free: free_runs(DiskId(disk), extents, taken),
            reserve: 0,
            quarantined: 0,
            reserved: 0,
        }
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
            &[Source {
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
    fn a_shortage_tells_of_all_that_is_asked_for() {
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
    fn case() -> impl Strategy<Value = (Vec<Source>, Vec<Space>)> {
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

    /// Volume extent and disk extent of each extent moved.
    fn each(runs: impl IntoIterator<Item = Segment>) -> Vec<(u64, u64)> {
        let pairs = |run: Segment| (0..run.home.len).map(move |i| (run.start.0 + i, run.home.start.0 + i));
        runs.into_iter().flat_map(pairs).collect()
    }

    proptest! {
        #[test]
        fn steps_cover_exactly_what_is_asked_and_take_only_what_is_free((sources, mut spaces) in case(), named: bool, policy in any_policy()) {
            let before = free(&spaces);
            let wanted = each(sources.iter().map(|source| source.run));
            let on: Vec<DiskId> = spaces.iter().filter(|_| named).map(|space| space.disk).collect();
            let Ok(steps) = lay_out(&sources, &mut spaces, &on, policy) else {
                prop_assert!(before.len() < wanted.len() || policy == Policy::Contiguous, "there was room");
                return Ok(());
            };
            prop_assert_eq!(each(steps.iter().map(|step| step.from)), wanted);
            prop_assert!(steps.iter().all(|step| step.from.home.len == step.to.len && step.done == 0));
            let taken: BTreeSet<_> = extents(to(&steps)).into_iter().collect();
            prop_assert_eq!(taken.len(), extents(to(&steps)).len(), "an extent is given twice");
            let after = free(&spaces);
            prop_assert!(taken.is_subset(&before) && taken.is_disjoint(&after));
            prop_assert_eq!(taken.len() + after.len(), before.len());
        }
    }
}
