//! An ordered map in small shared nodes: a changed copy shares every node that it does not touch, so changing a large map costs
//! only the few nodes on the path to the entry. Volumes and names are in such maps; segments, of which there can be a million,
//! are in a tree of their own.
//!
//! Invariants, verified by [`Tree::check`]:
//!
//! 1. Keys are in order; a node's key in its parent is its own first key.
//! 2. All leaves are at the same depth; no node is empty; an inner node has at most `N` items, a leaf `L`; the root is a leaf or has at least two children.
//! 3. Two neighbours below one parent have together more than half of that number.

use std::sync::Arc;

/// A map from `K` to `V`. Cloning it increments one reference count. Copying an inner node increments the count of each child,
/// in the child's memory, which is seldom in the cache; copying a leaf copies one run of memory. So leaves are large and inner
/// nodes small.
#[derive(Debug)]
pub(super) struct Tree<K, V, const L: usize = 128, const N: usize = 8> {
    root: Option<Node<K, V>>,
}

/// A node: one allocation, including its reference count.
#[derive(Debug)]
enum Node<K, V> {
    Leaf(Arc<[(K, V)]>),
    Inner(Arc<[Child<K, V>]>),
}

/// A node, with its first key.
type Child<K, V> = (K, Node<K, V>);

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(Arc::clone(entries)),
            Self::Inner(children) => Self::Inner(Arc::clone(children)),
        }
    }
}

impl<K, V, const L: usize, const N: usize> Clone for Tree<K, V, L, N> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
        }
    }
}

impl<K, V, const L: usize, const N: usize> Default for Tree<K, V, L, N> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K: Ord + Clone, V: Clone, const L: usize, const N: usize> Tree<K, V, L, N> {
    /// Returns the value at this key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.at_or_before(key)
            .filter(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }

    /// Returns the last entry whose key is not greater.
    pub(super) fn at_or_before(&self, key: &K) -> Option<(&K, &V)> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let after = entries.partition_point(|(other, _)| other <= key);
                    return entries[..after].last().map(|(key, value)| (key, value));
                }
                Node::Inner(children) => {
                    let after = children.partition_point(|(other, _)| other <= key);
                    node = &children[..after].last()?.1;
                }
            }
        }
    }

    /// Passes all entries to `visit`, in order.
    pub(super) fn each(&self, mut visit: impl FnMut(&K, &V)) {
        if let Some(root) = &self.root {
            each(root, &mut visit);
        }
    }

    /// Passes the entries from this key on to `visit`, in order, until it returns false.
    pub(super) fn each_from(&self, first: &K, mut visit: impl FnMut(&K, &V) -> bool) {
        if let Some(root) = &self.root {
            each_from(root, first, &mut visit);
        }
    }

    /// Inserts or replaces the value at this key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.splice(&key.clone(), &key.clone(), vec![(key, value)]);
    }

    /// Removes the value at this key.
    pub(super) fn remove(&mut self, key: &K) {
        self.splice(key, key, Vec::new());
    }

    /// Replaces all entries with keys in `low..=high` by `entries`, which are sorted and have keys in that range.
    pub(super) fn splice(&mut self, low: &K, high: &K, entries: Vec<(K, V)>) {
        let nodes = match self.root.take() {
            None => leaves::<K, V, L>(entries),
            Some(root) => splice::<K, V, L, N>(&root, low, high, entries),
        };
        self.grow(nodes);
    }

    /// Makes these nodes, neighbours at one depth, the tree.
    fn grow(&mut self, mut nodes: Vec<Child<K, V>>) {
        while nodes.len() > 1 {
            nodes = inner::<K, V, N>(nodes);
        }
        let mut root = nodes.pop().map(|(_, root)| root);
        while let Some(Node::Inner(children)) = &root
            && let [(_, only)] = &children[..]
        {
            root = Some(only.clone());
        }
        self.root = root;
    }

    /// Checks the invariants; fails with a description of the first one that is violated.
    #[cfg(test)]
    fn check(&self) -> Result<(), String> {
        let Some(root) = &self.root else { return Ok(()) };
        if let Node::Inner(children) = root
            && children.len() < 2
        {
            return Err("the root has one child".into());
        }
        check::<K, V, L, N>(root).map(|_| ())
    }
}

impl<K, V> Node<K, V> {
    /// Returns the largest number of items that such a node may have.
    fn most<const L: usize, const N: usize>(&self) -> usize {
        match self {
            Self::Leaf(_) => L,
            Self::Inner(_) => N,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }
}

fn leaves<K: Clone, V, const L: usize>(entries: Vec<(K, V)>) -> Vec<Child<K, V>> {
    let leaf = |entries: Vec<(K, V)>| Some((entries.first()?.0.clone(), Node::Leaf(entries.into())));
    evenly(entries, L).into_iter().filter_map(leaf).collect()
}

fn inner<K: Clone, V, const N: usize>(children: Vec<Child<K, V>>) -> Vec<Child<K, V>> {
    let node = |children: Vec<Child<K, V>>| Some((children.first()?.0.clone(), Node::Inner(children.into())));
    evenly(children, N).into_iter().filter_map(node).collect()
}

/// Splits the list into pieces of at most `most` items, as few and as even as possible, each without spare memory.
fn evenly<T>(mut list: Vec<T>, most: usize) -> Vec<Vec<T>> {
    let len = list.len();
    if (1..=most).contains(&len) {
        list.shrink_to_fit();
        return vec![list];
    }
    let pieces = len.div_ceil(most);
    let mut items = list.into_iter();
    let size = |piece: usize| (len + piece) / pieces;
    (0..pieces)
        .map(|piece| items.by_ref().take(size(piece)).collect())
        .collect()
}

fn each<K, V>(node: &Node<K, V>, visit: &mut impl FnMut(&K, &V)) {
    match node {
        Node::Leaf(entries) => entries.iter().for_each(|(key, value)| visit(key, value)),
        Node::Inner(children) => children.iter().for_each(|(_, child)| each(child, visit)),
    }
}

/// Visits entries from `first` on; returns false if `visit` returned false.
fn each_from<K: Ord, V>(node: &Node<K, V>, first: &K, visit: &mut impl FnMut(&K, &V) -> bool) -> bool {
    match node {
        Node::Leaf(entries) => {
            let skipped = entries.partition_point(|(key, _)| key < first);
            entries[skipped..].iter().all(|(key, value)| visit(key, value))
        }
        Node::Inner(children) => {
            let skipped = children
                .partition_point(|(key, _)| key <= first)
                .saturating_sub(1);
            children[skipped..]
                .iter()
                .all(|(_, child)| each_from(child, first, visit))
        }
    }
}

/// Returns the nodes that replace `node` after the splice: neighbours at its depth.
fn splice<K: Ord + Clone, V: Clone, const L: usize, const N: usize>(
    node: &Node<K, V>,
    low: &K,
    high: &K,
    entries: Vec<(K, V)>,
) -> Vec<Child<K, V>> {
    match node {
        Node::Leaf(old) => {
            let first = old.partition_point(|(key, _)| key < low);
            let end = old.partition_point(|(key, _)| key <= high).max(first);
            let mut all = Vec::with_capacity(old.len() + entries.len() - (end - first));
            all.extend_from_slice(&old[..first]);
            all.extend(entries);
            all.extend_from_slice(&old[end..]);
            leaves::<K, V, L>(all)
        }
        Node::Inner(old) => {
            let first = old.partition_point(|(key, _)| key <= low).saturating_sub(1);
            let end = old.partition_point(|(key, _)| key <= high).max(first + 1);
            let mut children = Vec::with_capacity(old.len() + 2);
            children.extend_from_slice(&old[..first]);
            children.extend(splice::<K, V, L, N>(&old[first].1, low, high, entries));
            if end > first + 1 {
                children.extend(splice::<K, V, L, N>(&old[end - 1].1, low, high, Vec::new()));
            }
            let seam = children.len();
            children.extend_from_slice(&old[end..]);
            join::<K, V, L, N>(&mut children, first, seam);
            inner::<K, V, N>(children)
        }
    }
}

/// Merges neighbours that are small together; checks those that touch `from..to`.
fn join<K: Clone, V: Clone, const L: usize, const N: usize>(
    nodes: &mut Vec<Child<K, V>>,
    from: usize,
    to: usize,
) {
    let (mut at, mut last) = (from.saturating_sub(1), to);
    while at < last && at + 1 < nodes.len() {
        let (left, right) = (&nodes[at].1, &nodes[at + 1].1);
        if left.len() + right.len() > left.most::<L, N>() / 2 {
            at += 1;
        } else {
            let joined = concat::<K, V, L, N>(left, right);
            nodes[at].1 = joined;
            nodes.remove(at + 1);
            last -= 1;
        }
    }
}

fn concat<K: Clone, V: Clone, const L: usize, const N: usize>(
    left: &Node<K, V>,
    right: &Node<K, V>,
) -> Node<K, V> {
    match (left, right) {
        (Node::Leaf(left), Node::Leaf(right)) => Node::Leaf([&left[..], right].concat().into()),
        (Node::Inner(left), Node::Inner(right)) => {
            let mut children = [&left[..], right].concat();
            join::<K, V, L, N>(&mut children, left.len(), left.len());
            Node::Inner(children.into())
        }
        _ => unreachable!("neighbours are at one depth"),
    }
}

/// Checks the node and returns its depth.
#[cfg(test)]
fn check<K: Ord + Clone, V, const L: usize, const N: usize>(node: &Node<K, V>) -> Result<usize, String> {
    if node.len() == 0 || node.len() > node.most::<L, N>() {
        return Err(format!("a node has {} items", node.len()));
    }
    let children = match node {
        Node::Leaf(entries) if entries.is_sorted_by(|(a, _), (b, _)| a < b) => return Ok(1),
        Node::Leaf(_) => return Err("a leaf is not in order".into()),
        Node::Inner(children) => children,
    };
    for pair in children.windows(2) {
        if pair[0].1.len() + pair[1].1.len() <= pair[0].1.most::<L, N>() / 2 {
            return Err("two neighbours are small".into());
        }
        if last(&pair[0].1) >= &pair[1].0 {
            return Err("two neighbours are not in order".into());
        }
    }
    let mut depths = Vec::new();
    for (key, child) in &**children {
        let first = match child {
            Node::Leaf(entries) => &entries[0].0,
            Node::Inner(children) => &children[0].0,
        };
        if first != key {
            return Err("a key is not the first of its node".into());
        }
        depths.push(check::<K, V, L, N>(child)?);
    }
    match depths.iter().all(|depth| *depth == depths[0]) {
        true => Ok(depths[0] + 1),
        false => Err("leaves are at different depths".into()),
    }
}

#[cfg(test)]
fn last<K, V>(node: &Node<K, V>) -> &K {
    match node {
        Node::Leaf(entries) => &entries[entries.len() - 1].0,
        Node::Inner(children) => last(&children[children.len() - 1].1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn all<const L: usize, const N: usize>(tree: &Tree<u16, u32, L, N>) -> Vec<(u16, u32)> {
        let mut all = Vec::new();
        tree.each(|key, value| all.push((*key, *value)));
        all
    }

    fn run<const L: usize, const N: usize>(
        start: BTreeMap<u16, u32>,
        steps: Vec<(u16, u16, BTreeMap<u16, u32>)>,
    ) -> Result<(), TestCaseError> {
        let mut tree = Tree::<u16, u32, L, N>::default();
        tree.splice(&0, &u16::MAX, start.clone().into_iter().collect());
        let mut oracle = start;
        for (low, size, entries) in steps {
            let high = low.saturating_add(size);
            let entries: Vec<_> = entries
                .into_iter()
                .filter(|(key, _)| (low..=high).contains(key))
                .collect();
            let (earlier, before) = (tree.clone(), all(&tree));
            tree.splice(&low, &high, entries.clone());
            oracle.retain(|key, _| !(low..=high).contains(key));
            oracle.extend(entries);
            prop_assert_eq!(tree.check(), Ok(()));
            prop_assert_eq!(all(&tree), oracle.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(all(&earlier), before, "a change shows in an earlier copy");
            for key in [low, high, size] {
                prop_assert_eq!(tree.at_or_before(&key), oracle.range(..=key).next_back());
                prop_assert_eq!(tree.get(&key), oracle.get(&key));
            }
        }
        Ok(())
    }

    fn entries(most: usize) -> impl Strategy<Value = BTreeMap<u16, u32>> {
        prop::collection::btree_map(0u16..400, any::<u32>(), 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn matches_a_map(
            start in entries(300),
            steps in prop::collection::vec((0u16..400, prop_oneof![3 => 0u16..4, 1 => 0u16..400], entries(60)), 0..40),
        ) {
            run::<4, 4>(start.clone(), steps.clone())?;
            run::<7, 3>(start.clone(), steps.clone())?;
            run::<32, 8>(start, steps)?;
        }
    }
}
