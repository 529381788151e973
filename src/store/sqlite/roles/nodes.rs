//! [`NodeStore`] of this store.

use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::store::NodeStore;
use crate::store::sqlite::{SqliteStore, nodes};

impl NodeStore for SqliteStore {
    fn set_node(&mut self, node: &Node) -> Result<()> {
        self.write(|db| nodes::set(db, node))
    }

    fn remove_node(&mut self, name: &Name) -> Result<bool> {
        self.write(|db| nodes::remove(db, name))
    }

    fn nodes(&mut self) -> Result<Vec<Node>> {
        nodes::nodes(self.current()?)
    }
}
