//! The radix tree's check, and the tree compared with a list of runs that is searched from its beginning.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

impl<const LEAF: u32, const FAN: u32, const LIST: usize> Radix<LEAF, FAN, LIST> {
    /// Returns the address and the size in bytes of each node.
    pub(in crate::map) fn nodes(&self) -> HashMap<usize, usize> {
        let mut nodes = HashMap::new();
        self.root.add_to(&mut nodes);
        nodes
    }

    /// Checks the invariants; fails with a description of the first one that is violated.
    pub(in crate::map) fn check(&self) -> Result<(), String> {
        let above = self.bits.checked_sub(LEAF);
        if above.is_none_or(|bits| bits % FAN != 0) {
            return Err(format!("the root covers {} bits", self.bits));
        }
        if self.bits > LEAF && self.end() <= mask(self.bits - FAN) + 1 {
            return Err("the first child has everything that is mapped".into());
        }
        let runs = self.root.check::<LEAF, FAN, LIST>(self.reach())?;
        match Self::build(self.reach(), &runs) == self.root {
            true => Ok(()),
            false => Err("another tree has the same runs".into()),
        }
    }
}

impl Node {
    fn add_to(&self, nodes: &mut HashMap<usize, usize>) {
        let (address, bytes) = match self {
            Self::Run(_) => return,
            Self::List(runs) => (Arc::as_ptr(runs).addr(), size_of_val(&**runs)),
            Self::Leaf(placements) => (Arc::as_ptr(placements).addr(), size_of_val(&**placements)),
            Self::Inner(children) => {
                children.iter().for_each(|child| child.add_to(nodes));
                (Arc::as_ptr(children).addr(), size_of_val(&**children))
            }
        };
        nodes.insert(address, bytes + 2 * size_of::<usize>());
    }

    /// Checks the node and returns its runs.
    fn check<const LEAF: u32, const FAN: u32, const LIST: usize>(
        &self,
        reach: NodeRange,
    ) -> Result<Vec<Start>, String> {
        let sound = |sound: bool, why: &str| sound.then_some(()).ok_or(format!("{why} at {}", reach.base));
        let mut runs = Vec::new();
        match self {
            Self::Run(placement) => runs.push((reach.base, *placement)),
            Self::List(list) => {
                list.iter().for_each(|run| push(&mut runs, *run));
                let inside = list.iter().all(|(start, _)| reach.meets(*start, *start));
                sound((2..=LIST).contains(&list.len()), "the length of a list")?;
                sound(list[0].0 == reach.base && inside, "the range of a list")?;
                sound(list.is_sorted_by(|a, b| a.0 < b.0), "the order of a list")?;
                sound(runs == **list, "a run that continues another")?;
            }
            Self::Leaf(placements) => {
                (reach.base..)
                    .zip(&**placements)
                    .for_each(|(at, placement)| push(&mut runs, (at, *placement)));
                sound(reach.bits == LEAF && placements.len() == 1 << LEAF, "a leaf")?;
                sound(runs.len() > LIST, "a leaf for a list")?;
            }
            Self::Inner(nodes) => {
                sound(nodes.len() == reach.children(FAN).len(), "an inner node")?;
                for (child, node) in reach.children(FAN).zip(&**nodes) {
                    let below = node.check::<LEAF, FAN, LIST>(child)?;
                    below.into_iter().for_each(|run| push(&mut runs, run));
                }
                sound(runs.len() > LIST, "an inner node for a list")?;
            }
        }
        Ok(runs)
    }
}

fn placement(disk: u32, start: u64) -> Placement {
    Placement {
        start: DiskExtent(start),
        disk: DiskId(disk),
    }
}

/// All runs in order, including unmapped ones.
type Oracle = Vec<Run>;

const EVERYTHING: Run = Run {
    start: 0,
    end: u64::MAX,
    placement: Placement::NONE,
};

fn clip(run: Run, first: u64, end: u64) -> Option<Run> {
    let start = run.start.max(first);
    let end = run.end.min(end);
    (start < end).then(|| Run {
        start,
        end,
        placement: run.placement.after(start - run.start),
    })
}

fn joined(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last)
                if last.end == run.start
                    && last.placement.continues(run.start - last.start, run.placement) =>
            {
                last.end = run.end;
            }
            _ => all.push(run),
        }
    }
    all
}

fn replace(oracle: &Oracle, new: &[Run]) -> Oracle {
    let (first, end) = (new[0].start, new[new.len() - 1].end);
    let left = oracle.iter().filter_map(|run| clip(*run, 0, first));
    let right = oracle.iter().filter_map(|run| clip(*run, end, u64::MAX));
    joined(left.chain(new.iter().copied()).chain(right))
}

fn seen<const LEAF: u32, const FAN: u32, const LIST: usize>(
    tree: &Radix<LEAF, FAN, LIST>,
    first: u64,
    end: u64,
) -> Vec<Run> {
    let mut seen = Vec::new();
    tree.scan(first, end - 1, |run| {
        seen.push(run);
        ControlFlow::Continue(())
    });
    seen
}

fn mapped(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    joined(runs.into_iter().filter(|run| run.placement != Placement::NONE))
}

fn compare<const LEAF: u32, const FAN: u32, const LIST: usize>(
    tree: &Radix<LEAF, FAN, LIST>,
    oracle: &Oracle,
    places: &[u64],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(tree.check(), Ok(()));
    prop_assert_eq!(mapped(seen(tree, 0, u64::MAX)), mapped(oracle.clone()));
    let end = mapped(oracle.clone()).last().map_or(0, |last| last.end);
    prop_assert_eq!(tree.end(), end);
    for pair in places.windows(2) {
        let (from, to) = (pair[0].min(pair[1]), pair[0].max(pair[1]).max(1));
        if from < to {
            let part = oracle.iter().filter_map(|run| clip(*run, from, to));
            let found = seen(tree, from, to);
            prop_assert!(found.iter().all(|run| from <= run.start && run.end <= to));
            prop_assert_eq!(mapped(found), mapped(part));
        }
    }
    for extent in places {
        let run = tree.at(*extent);
        prop_assert!(run.start <= *extent && *extent < run.end);
        let part = oracle.iter().filter_map(|other| clip(*other, run.start, run.end));
        prop_assert_eq!(joined(part), vec![run]);
    }
    Ok(())
}

/// Runs without gaps, from an extent on, given by their lengths and placements.
type Step = (u64, Vec<(u64, Option<(u32, u64)>)>);

fn tiles((start, parts): &Step) -> Vec<Run> {
    let mut next = *start;
    let mut runs = Vec::new();
    for (len, to) in parts {
        let end = next.saturating_add(*len).min(u64::MAX - 1);
        if next < end {
            // Most placements continue each other, so that many runs merge.
            let placement = to.map_or(Placement::NONE, |(disk, shift)| placement(disk, next + shift));
            runs.push(Run {
                start: next,
                end,
                placement,
            });
        }
        next = end;
    }
    joined(runs)
}

fn run<const LEAF: u32, const FAN: u32, const LIST: usize>(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut tree = Radix::<LEAF, FAN, LIST>::default();
    let mut oracle = vec![EVERYTHING];
    for new in steps.iter().map(tiles).filter(|new| !new.is_empty()) {
        let (first, last) = (new[0].start, new[new.len() - 1].end - 1);
        let (earlier, before) = (tree.clone(), oracle.clone());
        let starts: Vec<Start> = new.iter().map(|run| (run.start, run.placement)).collect();
        tree.replace(first, last, &starts);
        oracle = replace(&oracle, &new);
        let places = [
            first,
            last,
            first.saturating_sub(1),
            last + 1,
            first / 2 + last / 2,
            0,
            last / 3,
        ];
        compare(&tree, &oracle, &places)?;
        compare(&earlier, &before, &places)?;
    }
    Ok(())
}

fn any_step() -> impl Strategy<Value = Step> {
    let start =
        prop_oneof![8 => 0_u64..300, 1 => (0_u32..64).prop_map(|bits| 1 << bits), 1 => Just(u64::MAX - 40)];
    let len = prop_oneof![6 => 1_u64..4, 3 => 1_u64..70, 1 => 1_u64..1 << 40, 1 => Just(u64::MAX)];
    let placement = prop_oneof![1 => Just(None), 6 => (0_u32..2, 0_u64..2).prop_map(Some)];
    (start, prop::collection::vec((len, placement), 1..12))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn matches_a_list_of_runs(steps in prop::collection::vec(any_step(), 0..40)) {
        run::<1, 1, 2>(&steps)?;
        run::<2, 2, 3>(&steps)?;
        run::<3, 4, 8>(&steps)?;
        run::<7, 4, 64>(&steps)?;
    }
}

#[test]
fn a_placement_in_a_leaf_is_small() {
    assert_eq!(size_of::<Placement>(), 12);
    assert_eq!(
        size_of::<Start>() << 5,
        size_of::<Placement>() << 6,
        "a list is never larger than a leaf"
    );
}

/// A volume in one piece is one node, whatever its size, and so is a volume in few pieces.
#[test]
fn long_runs_take_no_memory() {
    let mut tree = Radix::<7, 4, 64>::default();
    for end in [1, 64, 1000, 1 << 24, (1 << 50) + 1, u64::MAX] {
        tree.replace(0, end - 1, &[(0, placement(1, 1))]);
        assert_eq!((tree.check(), tree.end()), (Ok(()), end));
        assert!(tree.nodes().len() <= 1, "{end} extents: {:?}", tree.nodes());
    }
    for at in (1..16).map(|i| i << 55) {
        tree.replace(at, at, &[(at, placement(2, at))]);
    }
    assert_eq!((tree.check(), tree.nodes().len()), (Ok(()), 1));
}

#[test]
fn a_million_extents_are_replaced_at_once() {
    let scattered: Vec<_> = (0..1_000_000)
        .map(|at| (at, placement(1, 2_000_001 - 2 * at)))
        .collect();
    let mut tree = Radix::<7, 4, 64>::default();
    tree.replace(0, 999_999, &scattered);
    assert_eq!(tree.check(), Ok(()));
    tree.replace(1, 999_998, &[(1, placement(2, 1))]);
    assert_eq!((tree.check(), tree.nodes().len()), (Ok(()), 1));
}
