//! Members on other nodes: this machine has no part of what they publish, so they are asked over links.
//!
//! Nothing is known of one that does not answer: it counts as alive, with the table that it joined with.

use super::node::{own, transport};
use super::pool::PoolHandle;
use crate::cluster::Membership;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::member::{Member, MemberEntry};
use crate::model::names::Name;
use crate::model::node::Node;
use crate::model::units::{Incarnation, Slot, Term};
use crate::protocol::controller::Participant;
use crate::protocol::recovery::MemberView;
use crate::rpc::Address;
use crate::rpc::client::{Links, WaitOutcome};
use crate::rpc::message::{Answer, ApparatusMetrics, Request};
use crate::store::{NodeStore, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long members on other nodes may take to report their state.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long those may take that have not answered the last time.
const SILENT_PATIENCE: Duration = Duration::from_millis(5);

/// Members on other nodes, as they were last seen.
pub(crate) struct Elsewhere {
    own: Option<Name>,
    links: Links,
    seen: BTreeMap<Slot, Seen>,
    /// Those that did not answer the last time.
    silent: BTreeSet<Slot>,
}

struct Seen {
    node: Option<Name>,
    address: Option<Address>,
    entry: MemberEntry,
}

impl Seen {
    fn unknown(member: &Member, nodes: &[Node]) -> Self {
        Self {
            node: member.node.clone(),
            address: address(member, nodes),
            entry: MemberEntry {
                incarnation: Incarnation(0),
                generation: member.joined_at,
                oldest: member.joined_at,
                heartbeat_us: 0,
                pid: member.pid,
                fenced: Incarnation(0),
            },
        }
    }

    fn learn(&mut self, figures: &ApparatusMetrics) {
        self.entry.incarnation = figures.incarnation;
        self.entry.generation = figures.generation;
        self.entry.oldest = figures.oldest;
    }
}

/// Returns where a member listens for other nodes.
fn address(member: &Member, nodes: &[Node]) -> Option<Address> {
    let node = nodes
        .iter()
        .find(|node| Some(&node.name) == member.node.as_ref())?;
    let mut address = node.address?;
    address.set_port(member.port?);
    Some(Address::Remote(address, node.certificate.clone()))
}

/// Returns whether a member runs on another node than the one with this name.
fn is_elsewhere(member: &Member, own: Option<&Name>) -> bool {
    member.node.is_some() && member.node.as_ref() != own
}

impl Elsewhere {
    /// Makes it without a link.
    pub(crate) fn new(pool: &PoolHandle, uuid: Uuid) -> Self {
        Self {
            own: pool.node.as_ref().map(|node| node.name.clone()),
            links: Links::over(pool.environment.transport(), uuid, Term(0)),
            seen: BTreeMap::new(),
            silent: BTreeSet::new(),
        }
    }

    /// Asks those of these members that are on other nodes for their state.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(crate) fn look<S: NodeStore + ?Sized>(&mut self, store: &mut S, members: &[Member]) -> Result<()> {
        let own = self.own.as_ref();
        let others: Vec<&Member> = members
            .iter()
            .filter(|member| is_elsewhere(member, own))
            .collect();
        self.seen
            .retain(|slot, _| others.iter().any(|member| member.slot == *slot));
        if others.is_empty() {
            return Ok(());
        }
        let nodes = store.nodes()?;
        for member in others {
            self.seen.insert(member.slot, Seen::unknown(member, &nodes));
        }
        self.ask();
        Ok(())
    }

    fn ask(&mut self) {
        let mut awaited: BTreeSet<Slot> = BTreeSet::new();
        for (slot, seen) in &self.seen {
            let Some(address) = &seen.address else { continue };
            self.links.connect_to(*slot, address.clone());
            if self.links.is_welcomed(*slot) {
                self.links.send(*slot, Request::Status);
            }
            awaited.insert(*slot);
        }
        self.links.flush();
        let patience = match awaited.is_subset(&self.silent) {
            true => SILENT_PATIENCE,
            false => PATIENCE,
        };
        self.await_states(&mut awaited, Instant::now() + patience);
        self.silent = awaited;
    }

    /// Removes those from `awaited` that report their state, or cannot be reached now.
    fn await_states(&mut self, awaited: &mut BTreeSet<Slot>, deadline: Instant) {
        while !awaited.is_empty() {
            match self.links.wait(deadline) {
                Some(WaitOutcome::Welcomed(slot, ..)) => {
                    self.links.send(slot, Request::Status);
                    self.links.flush();
                }
                Some(WaitOutcome::Answered(slot, Answer::Status(figures))) => {
                    awaited.remove(&slot);
                    self.seen
                        .get_mut(&slot)
                        .into_iter()
                        .for_each(|seen| seen.learn(&figures));
                }
                Some(
                    WaitOutcome::Answered(slot, _)
                    | WaitOutcome::Refused(slot, _)
                    | WaitOutcome::Lost(slot, _),
                ) => _ = awaited.remove(&slot),
                None => return,
            }
        }
    }

    /// Returns a member as it was last seen, if it is on another node. The fence word that this machine has for it is set when it is known to acknowledge
    /// nothing any more.
    pub(crate) fn view(&self, member: &Member, published: &dyn Membership) -> Option<MemberView> {
        let seen = self.seen.get(&member.slot)?;
        let entry = MemberEntry {
            fenced: published.entry(member.slot).fenced,
            ..seen.entry
        };
        Some(MemberView::new(member, &entry, true))
    }

    /// Returns whether the member in this slot reports its state in time.
    pub(crate) fn answers(&mut self, slot: Slot) -> bool {
        self.ask_one(slot, Request::Status, |answer| {
            matches!(answer, Answer::Status(_)).then_some(())
        })
        .is_some()
    }

    /// Has another apparatus of its node set the fence word of this life. Returns whether its process has ended; `None` if there is no such apparatus that
    /// answers.
    pub(crate) fn fence_by_neighbour(&mut self, who: Participant, name: &Name) -> Option<bool> {
        let node = self.seen.get(&who.slot)?.node.clone();
        let neighbours: Vec<Slot> = self
            .seen
            .iter()
            .filter(|(slot, seen)| **slot != who.slot && seen.node == node)
            .map(|(slot, _)| *slot)
            .collect();
        let request = Request::FenceNeighbour {
            slot: who.slot,
            incarnation: who.incarnation,
            name: name.clone(),
        };
        let fenced = |answer: Answer| match answer {
            Answer::NeighbourFenced { slot, ended } if slot == who.slot => Some(ended),
            _ => None,
        };
        neighbours
            .into_iter()
            .find_map(|neighbour| self.ask_one(neighbour, request.clone(), fenced))
    }

    /// Asks one member, and waits for an answer of this kind.
    fn ask_one<T>(&mut self, slot: Slot, request: Request, of: impl Fn(Answer) -> Option<T>) -> Option<T> {
        let address = self.seen.get(&slot)?.address.clone()?;
        // A connection that broke unnoticed would lose the request.
        self.links.forget(slot);
        self.links.connect_to(slot, address);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.links.wait(deadline)? {
                WaitOutcome::Welcomed(welcomed, ..) if welcomed == slot => {
                    self.links.send(slot, request.clone());
                    self.links.flush();
                }
                WaitOutcome::Answered(answered, answer) if answered == slot => {
                    if let Some(found) = of(answer) {
                        return Some(found);
                    }
                }
                WaitOutcome::Refused(refused, _) if refused == slot => return None,
                // What is lost may be the connection that was closed above.
                WaitOutcome::Lost(lost, _) if lost == slot && !self.links.has(slot) => return None,
                _ => {}
            }
        }
    }

    /// Waits until this moment, and serves no connection.
    pub(crate) fn wait_until(&mut self, deadline: Instant) {
        while self.links.wait(deadline).is_some() {}
    }

    /// Returns the node of the member in this slot, if it is on another one.
    pub(crate) fn node(&self, slot: Slot) -> Option<&Name> {
        self.seen.get(&slot)?.node.as_ref()
    }

    /// Returns whether the member in this slot is on another node.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.seen.contains_key(&slot)
    }

    /// Returns where the member in this slot listens, if it is on another node and does.
    pub(crate) fn address(&self, slot: Slot) -> Option<Address> {
        self.seen.get(&slot).and_then(|seen| seen.address.clone())
    }
}

/// Returns whether a member runs on another node than this machine.
///
/// # Errors
/// Fails when the description of the pool cannot be read.
pub fn is_on_another(pool: &PoolDir, member: &Member) -> Result<bool> {
    if member.node.is_none() {
        return Ok(false);
    }
    Ok(is_elsewhere(member, own(pool)?.map(|own| own.name).as_ref()))
}

/// Returns links that reach members on other nodes too, if this machine has certificates.
///
/// # Errors
/// Fails when the description of the pool cannot be read.
pub fn links(pool: &PoolDir, uuid: Uuid) -> Result<Links> {
    let transport = transport(own(pool)?.as_ref());
    Ok(Links::over(Box::new(transport), uuid, Term(0)))
}

/// Returns where those of these members listen that are on other nodes. The store is opened only if there are any.
///
/// # Errors
/// Returns the errors of the store.
pub fn addresses(pool: &PoolDir, members: &[Member]) -> Result<BTreeMap<Slot, Address>> {
    if members.iter().all(|member| member.node.is_none()) {
        return Ok(BTreeMap::new());
    }
    let own = own(pool)?.map(|own| own.name);
    let others: Vec<&Member> = members
        .iter()
        .filter(|member| is_elsewhere(member, own.as_ref()))
        .collect();
    if others.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut store: Box<dyn Store> = super::pool::open(pool)?;
    let nodes = store.nodes()?;
    let found = others
        .iter()
        .filter_map(|member| Some((member.slot, address(member, &nodes)?)));
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::member::MemberState;
    use crate::model::units::{CacheEpoch, Generation, Timestamp};

    fn name(text: &str) -> Name {
        Name::new("test", text).unwrap()
    }

    fn member(node: Option<&str>, port: Option<u16>) -> Member {
        Member {
            slot: Slot(3),
            name: name("a"),
            incarnation: Incarnation(7),
            state: MemberState::Joined,
            pid: 1,
            mount: "/m".into(),
            joined_at: Generation(5),
            since: Timestamp(0),
            origin: None,
            node: node.map(name),
            port,
        }
    }

    fn node(text: &str, address: Option<&str>) -> Node {
        Node {
            name: name(text),
            machine: text.into(),
            epoch: CacheEpoch(Uuid::nil()),
            certificate: format!("{text}.example"),
            address: address.map(|address| address.parse().unwrap()),
            program: "1".into(),
            since: Timestamp(0),
        }
    }

    #[test]
    fn a_member_is_reached_at_its_own_port_under_the_name_in_its_nodes_record() {
        let nodes = [node("n1", None), node("n2", Some("10.0.0.2:7300"))];
        let expected = Address::Remote("10.0.0.2:7304".parse().unwrap(), "n2.example".into());
        assert_eq!(address(&member(Some("n2"), Some(7304)), &nodes), Some(expected));
        for (on, port) in [
            (Some("n2"), None),
            (Some("n1"), Some(1)),
            (Some("n3"), Some(1)),
            (None, Some(1)),
        ] {
            assert_eq!(address(&member(on, port), &nodes), None);
        }
    }

    #[test]
    fn only_a_member_of_another_node_is_elsewhere() {
        let own = name("n1");
        assert!(is_elsewhere(&member(Some("n2"), None), Some(&own)));
        assert!(is_elsewhere(&member(Some("n2"), None), None));
        assert!(!is_elsewhere(&member(Some("n1"), None), Some(&own)));
        assert!(!is_elsewhere(&member(None, None), Some(&own)));
    }

    #[test]
    fn of_one_that_has_not_answered_nothing_is_known() {
        let member = member(Some("n2"), None);
        let view = MemberView::new(&member, &Seen::unknown(&member, &[]).entry, true);
        assert_eq!((view.generation, view.oldest), (Generation(5), Generation(5)));
        assert!(view.alive && !view.fenced);
    }
}
