//! [`NodeStore`] of this store.

use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::store::NodeStore;
use crate::store::memory::MemoryStore;

impl NodeStore for MemoryStore {
    fn set_node(&mut self, node: &Node) -> Result<()> {
        self.write(|state, _| {
            let recorded = state.nodes.get(&node.name);
            recorded.map_or(Ok(()), |recorded| node.refuse_other(recorded))?;
            if recorded.is_none_or(|recorded| !node.is_as(recorded)) {
                state.nodes.insert(node.name.clone(), node.clone());
            }
            Ok(())
        })
    }

    fn remove_node(&mut self, name: &Name) -> Result<bool> {
        self.write(|state, _| {
            Node::refuse_used(name, state.members.values().map(|(member, _)| member))?;
            Ok(state.nodes.remove(name).is_some())
        })
    }

    fn nodes(&mut self) -> Result<Vec<Node>> {
        Ok(self.read().nodes.values().cloned().collect())
    }
}
