//! Placements of a volume's extents, as a radix tree: the number of an extent is the path to it, so a lookup compares nothing
//! on the way and ends with one entry of a leaf. A changed copy shares every node that it does not touch.
//!
//! A *run* is a range of extents that lie one after the other on one disk, or that all have no placement. The runs of a node
//! have no gaps: each ends where the next begins, the last with the node. A node has the smallest of four forms: one run, a
//! list of a few runs, a leaf with a placement for each extent, an inner node. So a volume in one piece is one run at any size,
//! and a long run costs no time or memory for each of its extents.
//!
//! Invariants, verified by [`Radix::check`]:
//!
//! 1. A node covers an aligned range of extents: a leaf covers `2^LEAF`, an inner node covers `2^FAN` times as many as each of its children.
//! 2. A node of one run is [`Node::Run`], one of up to `LIST` runs [`Node::List`]; with more runs it is a leaf at the lowest level, else an inner node.
//! 3. A list is in order, begins with the node, and no run continues the one before it.
//! 4. The root is as low as possible: its first child does not have everything that is mapped.
//!
//! The form of the tree thus depends only on what is mapped, not on the order of the changes that led there.

use crate::model::units::{DiskExtent, DiskId};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The placement of an extent. It is packed into 12 bytes, because a leaf has one for each extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub(super) struct Placement {
    pub(super) start: DiskExtent,
    pub(super) disk: DiskId,
}

impl Placement {
    /// Placement of extents that are not mapped. No segment starts there, because its end would overflow.
    pub(super) const NONE: Self = Self {
        start: DiskExtent(u64::MAX),
        disk: DiskId(0),
    };

    /// Returns the placement of the extent that is `extents` further on in the same run.
    fn after(self, extents: u64) -> Self {
        let Self { start, disk } = self;
        Self {
            start: DiskExtent(start.0.saturating_add(extents)),
            disk,
        }
    }

    /// Returns whether the extent that is `extents` further on, with placement `next`, is in the same run.
    fn continues(self, extents: u64, next: Self) -> bool {
        self.after(extents) == next && (self == Self::NONE) == (next == Self::NONE)
    }
}

/// The first extent of a run, and its placement.
pub(super) type Start = (u64, Placement);

/// A run, or the part of one that is in one node. `end` is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) placement: Placement,
}

/// The tree. Copying an inner node increments the reference count of each child, in the child's memory, which is seldom in the
/// cache; copying a leaf or a list copies one run of memory. So inner nodes are small. A list is never larger than a leaf.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Radix<const LEAF: u32 = 7, const FAN: u32 = 4, const LIST: usize = 64> {
    root: Node,
    bits: u32,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(PartialEq))]
enum Node {
    Run(Placement),
    List(Arc<[Start]>),
    Leaf(Arc<[Placement]>),
    Inner(Arc<[Node]>),
}

/// The range of a node: the extents that differ from `base` only in the lowest `bits`.
#[derive(Clone, Copy)]
struct NodeRange {
    base: u64,
    bits: u32,
}

impl NodeRange {
    fn last(self) -> u64 {
        self.base | mask(self.bits)
    }

    fn meets(self, first: u64, last: u64) -> bool {
        self.base <= last && first <= self.last()
    }

    /// Returns the ranges of the children, each with `fan` bits less. The highest node has fewer children, because extent
    /// numbers end there.
    fn children(self, fan: u32) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        let bits = self.bits - fan;
        let count = 1_u32 << fan.min(u64::BITS - bits);
        (0..count).map(move |child| Self {
            base: self.base | u64::from(child) << bits,
            bits,
        })
    }
}

/// Returns a mask of the lowest bits of an extent.
fn mask(bits: u32) -> u64 {
    1_u64.checked_shl(bits).map_or(u64::MAX, |end| end - 1)
}

/// Returns the number in the bits `low..high` of an extent.
fn digit(extent: u64, low: u32, high: u32) -> usize {
    usize::try_from((extent & mask(high)) >> low).unwrap_or(usize::MAX)
}

impl<const LEAF: u32, const FAN: u32, const LIST: usize> Default for Radix<LEAF, FAN, LIST> {
    fn default() -> Self {
        Self {
            root: Node::Run(Placement::NONE),
            bits: LEAF,
        }
    }
}

impl<const LEAF: u32, const FAN: u32, const LIST: usize> Radix<LEAF, FAN, LIST> {
    /// Builds the tree from runs without gaps; the first starts at extent 0, the last ends at `end`.
    pub(super) fn from_runs(mut runs: Vec<Start>, end: u64) -> Self {
        push(&mut runs, (end, Placement::NONE));
        let mut tree = Self::default();
        while mask(tree.bits) < end.saturating_sub(1) {
            tree.bits += FAN;
        }
        tree.root = Self::build(tree.reach(), within(&runs, 0, mask(tree.bits)));
        tree
    }

    /// Returns the run that contains this extent, as far as one node holds it.
    pub(super) fn at(&self, extent: u64) -> Run {
        let (mut node, mut bits) = (&self.root, self.bits);
        if extent > mask(bits) {
            return Run {
                start: extent,
                end: u64::MAX,
                placement: Placement::NONE,
            };
        }
        loop {
            match node {
                Node::Run(placement) => return Run::at(&[(extent & !mask(bits), *placement)], extent, bits),
                Node::List(runs) => return Run::at(runs, extent, bits),
                Node::Leaf(placements) => {
                    return Run {
                        start: extent,
                        end: extent.saturating_add(1),
                        placement: placements[digit(extent, 0, LEAF)],
                    };
                }
                Node::Inner(nodes) => {
                    node = &nodes[digit(extent, bits - FAN, bits)];
                    bits -= FAN;
                }
            }
        }
    }

    /// Passes the runs of `first..=last` to `visit` in order, cut at both ends and at the ends of nodes, until `visit` breaks.
    pub(super) fn scan(&self, first: u64, last: u64, mut visit: impl FnMut(Run) -> ControlFlow<()>) {
        let reach = self.reach();
        if reach.meets(first, last) {
            let _ = self.root.scan(FAN, reach, first, last, &mut visit);
        }
    }

    /// Replaces the content of `first..=last` by these runs. They have no gaps, and the first starts at `first`.
    pub(super) fn replace(&mut self, first: u64, last: u64, runs: &[Start]) {
        while mask(self.bits) < last {
            self.rise();
        }
        let reach = self.reach();
        Self::edit(&mut self.root, reach, first, last, runs);
        self.sink();
    }

    /// Returns the extent behind the last one that has a placement.
    pub(super) fn end(&self) -> u64 {
        self.root.end(FAN, self.reach())
    }

    fn reach(&self) -> NodeRange {
        NodeRange {
            base: 0,
            bits: self.bits,
        }
    }

    /// Makes the root the first child of a new one.
    fn rise(&mut self) {
        self.bits += FAN;
        let reach = self.reach();
        let mut nodes = vec![Node::Run(Placement::NONE); reach.children(FAN).len()];
        nodes[0] = self.root.clone();
        self.root = match few_of_nodes::<LIST>(&nodes, reach.children(FAN)) {
            Some(runs) => Self::build(reach, &runs),
            None => Node::Inner(nodes.into()),
        };
    }

    /// Makes the first child the root as long as it has everything that is mapped.
    fn sink(&mut self) {
        let end = self.end();
        while self.bits > LEAF && end <= mask(self.bits - FAN) + 1 {
            self.bits -= FAN;
            self.root = match &self.root {
                Node::Inner(nodes) => nodes[0].clone(),
                Node::List(runs) => Self::build(self.reach(), within(runs, 0, mask(self.bits))),
                Node::Run(_) | Node::Leaf(_) => self.root.clone(),
            };
        }
    }

    /// Builds a node of these runs; the first may begin before the node and the last end after it.
    fn build(reach: NodeRange, runs: &[Start]) -> Node {
        if let [only] = runs {
            Node::Run(begin(*only, reach.base).1)
        } else if runs.len() <= LIST {
            Node::List(runs.iter().map(|run| begin(*run, reach.base)).collect())
        } else if reach.bits == LEAF {
            let mut placements = vec![Placement::NONE; 1 << LEAF];
            write_runs(&mut placements, pieces(runs, reach.base, reach.last()));
            Node::Leaf(placements.into())
        } else {
            let child = |child: NodeRange| Self::build(child, within(runs, child.base, child.last()));
            Node::Inner(reach.children(FAN).map(child).collect())
        }
    }

    /// Replaces the content of this node at `first..=last` by that of these runs. Nodes that are not shared are changed in
    /// place.
    fn edit(node: &mut Node, reach: NodeRange, first: u64, last: u64, runs: &[Start]) {
        let (first, last) = (first.max(reach.base), last.min(reach.last()));
        let runs = within(runs, first, last);
        if (first, last) == (reach.base, reach.last()) {
            *node = Self::build(reach, runs);
            return;
        }
        let few = match node {
            Node::Run(placement) => Some(spliced(&[(reach.base, *placement)], reach, first, last, runs)),
            Node::List(old) => Some(spliced(old, reach, first, last, runs)),
            Node::Leaf(placements) => {
                let placements = Arc::make_mut(placements);
                write_runs(placements, pieces(runs, first, last));
                few_of_placements::<LIST>(placements, reach.base)
            }
            Node::Inner(nodes) => {
                let nodes = Arc::make_mut(nodes);
                for (child, node) in reach.children(FAN).zip(&mut *nodes) {
                    if child.meets(first, last) {
                        Self::edit(node, child, first, last, runs);
                    }
                }
                few_of_nodes::<LIST>(nodes, reach.children(FAN))
            }
        };
        if let Some(runs) = few {
            *node = Self::build(reach, &runs);
        }
    }
}

impl Node {
    fn scan(
        &self,
        fan: u32,
        reach: NodeRange,
        first: u64,
        last: u64,
        visit: &mut impl FnMut(Run) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (first, last) = (first.max(reach.base), last.min(reach.last()));
        match self {
            Self::Run(placement) => pieces(&[(reach.base, *placement)], first, last).try_for_each(visit),
            Self::List(runs) => pieces(runs, first, last).try_for_each(visit),
            Self::Leaf(placements) => (first..=last)
                .zip(&placements[digit(first, 0, reach.bits)..])
                .try_for_each(|(start, placement)| {
                    visit(Run {
                        start,
                        end: start.saturating_add(1),
                        placement: *placement,
                    })
                }),
            Self::Inner(nodes) => reach
                .children(fan)
                .zip(&**nodes)
                .filter(|(child, _)| child.meets(first, last))
                .try_for_each(|(child, node)| node.scan(fan, child, first, last, visit)),
        }
    }

    /// Returns the extent behind the last one that has a placement, 0 if none has.
    fn end(&self, fan: u32, reach: NodeRange) -> u64 {
        let end = reach.last().saturating_add(1);
        match self {
            Self::Run(Placement::NONE) => 0,
            Self::Run(_) => end,
            Self::List(runs) => match runs.last() {
                Some((start, Placement::NONE)) => *start,
                _ => end,
            },
            Self::Leaf(placements) => {
                let unmapped = placements
                    .iter()
                    .rev()
                    .take_while(|placement| **placement == Placement::NONE);
                end - unmapped.map(|_| 1).sum::<u64>()
            }
            Self::Inner(nodes) => reach
                .children(fan)
                .zip(&**nodes)
                .rev()
                .map(|(child, node)| node.end(fan, child))
                .find(|end| *end > 0)
                .unwrap_or(0),
        }
    }
}

impl Run {
    /// Returns the run of a node that contains this extent. The node covers `bits` bits.
    fn at(runs: &[Start], extent: u64, bits: u32) -> Self {
        let after = runs.partition_point(|(start, _)| *start <= extent);
        let (start, placement) = runs[after - 1];
        let node_end = (extent | mask(bits)).saturating_add(1);
        let end = runs.get(after).map_or(node_end, |(next, _)| *next);
        Self {
            start,
            end,
            placement,
        }
    }
}

/// Returns the run without the part before this extent.
fn begin((start, placement): Start, extent: u64) -> Start {
    let skip = extent.saturating_sub(start);
    (start + skip, placement.after(skip))
}

/// Appends a run, unless it continues the last one.
pub(super) fn push(runs: &mut Vec<Start>, (start, placement): Start) {
    match runs.last() {
        Some((last, before)) if before.continues(start - last, placement) => {}
        _ => runs.push((start, placement)),
    }
}

/// Returns the runs that overlap `first..=last`.
fn within(runs: &[Start], first: u64, last: u64) -> &[Start] {
    let from = runs.partition_point(|(start, _)| *start <= first);
    let to = runs.partition_point(|(start, _)| *start <= last);
    &runs[from.saturating_sub(1)..to]
}

/// Returns the runs in `first..=last`, cut at both ends.
fn pieces(runs: &[Start], first: u64, last: u64) -> impl Iterator<Item = Run> {
    let runs = within(runs, first, last);
    let ends = runs.iter().skip(1).map(|(start, _)| *start);
    let ends = ends.chain([last.saturating_add(1)]);
    runs.iter().zip(ends).map(move |(run, end)| {
        let (start, placement) = begin(*run, first);
        Run {
            start,
            end,
            placement,
        }
    })
}

/// Writes the placement of each extent of the runs to a leaf.
fn write_runs(placements: &mut [Placement], runs: impl Iterator<Item = Run>) {
    let bits = placements.len().trailing_zeros();
    for Run {
        start,
        end,
        placement,
    } in runs
    {
        for extent in start..end {
            placements[digit(extent, 0, bits)] = placement.after(extent - start);
        }
    }
}

/// Returns a node's runs with the content of `first..=last` replaced.
fn spliced(old: &[Start], reach: NodeRange, first: u64, last: u64, new: &[Start]) -> Vec<Start> {
    let mut runs = Vec::with_capacity(old.len() + new.len() + 1);
    let left = old.iter().take_while(|(start, _)| *start < first).copied();
    let middle = new.iter().map(|run| begin(*run, first));
    left.chain(middle).for_each(|run| push(&mut runs, run));
    if last < reach.last() {
        let right = within(old, last + 1, reach.last()).iter();
        right.for_each(|run| push(&mut runs, begin(*run, last + 1)));
    }
    runs
}

/// Returns the runs of a leaf if they are few enough for a list.
fn few_of_placements<const LIST: usize>(placements: &[Placement], base: u64) -> Option<Vec<Start>> {
    let breaks = placements
        .windows(2)
        .filter(|pair| !pair[0].continues(1, pair[1]));
    if breaks.take(LIST).count() == LIST {
        return None;
    }
    let mut runs = Vec::new();
    (base..)
        .zip(placements)
        .for_each(|(extent, placement)| push(&mut runs, (extent, *placement)));
    Some(runs)
}

/// Returns the runs of an inner node if they are few enough for a list.
fn few_of_nodes<const LIST: usize>(
    nodes: &[Node],
    reaches: impl Iterator<Item = NodeRange>,
) -> Option<Vec<Start>> {
    if nodes
        .iter()
        .any(|node| matches!(node, Node::Leaf(_) | Node::Inner(_)))
    {
        return None;
    }
    let mut runs = Vec::new();
    for (node, reach) in nodes.iter().zip(reaches) {
        match node {
            Node::Run(placement) => push(&mut runs, (reach.base, *placement)),
            Node::List(list) => list.iter().for_each(|run| push(&mut runs, *run)),
            Node::Leaf(_) | Node::Inner(_) => return None,
        }
        if runs.len() > LIST {
            return None;
        }
    }
    Some(runs)
}

#[cfg(test)]
#[path = "tests/radix.rs"]
mod tests;
