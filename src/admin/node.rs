//! Nodes: the machines of a pool whose metadata is in etcd.

use crate::controller::node::own;
use crate::controller::pool::PoolHandle;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::Member;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::store::Store;

/// A node, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its record.
    pub node: Node,
    /// Whether it is this machine.
    pub here: bool,
    /// Its apparatuses that have not left.
    pub apparatuses: Vec<Name>,
}

/// Returns all nodes, by name.
///
/// # Errors
/// Returns the errors of the store.
pub fn list(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<NodeView>> {
    let here = own(pool)?.map(|own| own.name);
    let (_, members) = store.members()?;
    let view = |node: Node| {
        let on_it = |member: &&Member| member.node.as_ref() == Some(&node.name);
        let names = members.iter().filter(on_it).map(|member| member.name.clone());
        let (here, apparatuses) = (here.as_ref() == Some(&node.name), names.collect());
        NodeView {
            node,
            here,
            apparatuses,
        }
    };
    Ok(store.nodes()?.into_iter().map(view).collect())
}

/// Returns one node.
///
/// # Errors
/// Fails with `NotFound` when there is none with this name.
pub fn show(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<NodeView> {
    let mut found = list(pool, store)?.into_iter();
    found
        .find(|view| view.node.name.as_str() == name)
        .ok_or_else(|| Error::not_found("node", name).hint("list the nodes of the pool: vctl node list"))
}

/// Checks that a node can be removed, and returns it.
///
/// # Errors
/// Fails with `NotFound` when there is none, with `Busy` while an apparatus of it has joined or is fenced, and for this machine.
pub fn check_removable(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<NodeView> {
    let view = show(pool, store, name)?;
    if view.here {
        let why = "is this machine, and another one removes it";
        return Err(Error::new(ErrorKind::Busy, format!("node {name}"), why)
            .hint("remove it from a machine that stays: vctl node remove NODE"));
    }
    Node::refuse_used(&view.node.name, &store.members()?.1)?;
    Ok(view)
}

/// Removes the record of a node: its certificate is not accepted any more.
///
/// # Errors
/// Returns the errors of [`check_removable`] and of the store.
pub fn remove(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<()> {
    let view = check_removable(pool, store, name)?;
    PoolHandle::of(pool)?.own(store)?;
    store.remove_node(&view.node.name).map(drop)
}
