//! Records of nodes: the machines of a pool whose metadata is in etcd.

use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::node::Node;

/// Records of nodes. What is recorded of a node outlives its apparatuses: members and changes of an epoch that is some node's present one have not
/// ended, whatever epoch the caller of [`recover_epoch`](super::ChangeStore::recover_epoch) has.
pub trait NodeStore: Send {
    /// Records a node, or what has changed of it. A node records its new epoch before it recovers anything. Fails if the record with its
    /// name is that of another machine.
    fn set_node(&mut self, node: &Node) -> Result<()>;
    /// Removes the record of a node. Returns whether there was one. Fails with `Busy` while an apparatus of it has joined or is fenced.
    fn remove_node(&mut self, name: &Name) -> Result<bool>;
    /// Returns all nodes, by name.
    fn nodes(&mut self) -> Result<Vec<Node>>;
}
