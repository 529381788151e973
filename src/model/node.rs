//! Nodes: the machines of a pool that spans several.

use super::error::{Error, ErrorKind, Result};
use super::member::{Member, MemberState};
use super::names::Name;
use super::units::{CacheEpoch, Timestamp};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Longest name of a node in bytes, as a part of a domain name has it.
const LONGEST: usize = 63;

/// A node as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// The machine's own identity, which it keeps when it boots anew.
    pub machine: String,
    /// The epoch of its page cache: members and changes of earlier ones have ended.
    pub epoch: CacheEpoch,
    /// The name in its certificate.
    pub certificate: String,
    /// The first of the ports at which its apparatuses listen, with their address; none if nobody can reach them.
    pub address: Option<SocketAddr>,
    /// The version of the program that has written this.
    pub program: String,
    /// When that was.
    pub since: Timestamp,
}

impl Node {
    /// Returns whether nothing has changed but the time.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let since = other.since;
        Self {
            since,
            ..self.clone()
        } == *other
    }

    /// Refuses to replace the record of another machine.
    ///
    /// # Errors
    /// Fails with the name of that node.
    pub fn refuse_other(&self, recorded: &Self) -> Result<()> {
        if self.machine == recorded.machine {
            return Ok(());
        }
        let why = format!("is another machine, {}", recorded.machine);
        Err(Error::failed(format!("node {}", self.name), why)
            .hint("give this machine another name, or remove that node: vctl node remove NODE"))
    }

    /// Refuses to remove the record of a node from which an apparatus has joined.
    ///
    /// # Errors
    /// Fails with `Busy` and the name of the apparatus.
    pub fn refuse_used<'a>(name: &Name, members: impl IntoIterator<Item = &'a Member>) -> Result<()> {
        let mut members = members.into_iter();
        let inside =
            |member: &&Member| member.state != MemberState::Left && member.node.as_ref() == Some(name);
        members.find(inside).map_or(Ok(()), |member| {
            let why = format!("runs apparatus {}", member.name);
            Err(
                Error::new(ErrorKind::Busy, format!("node {name}"), why).hint(format!(
                    "stop it there first: vctl apparatus stop {}",
                    member.name
                )),
            )
        })
    }
}

/// Checks and returns the name of a node. It is usually the name in the node's certificate too, so it has the alphabet of domain names.
///
/// # Errors
/// Fails with `Usage`, which names what is not allowed.
pub fn name_of_node(text: &str) -> Result<Name> {
    let name = Name::new("node", text)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.len() <= LONGEST && text.bytes().all(allowed) && !text.ends_with('-') && !is_number(text) {
        return Ok(name);
    }
    Err(Error::usage(
        format!("node name {text:?}"),
        "cannot be the name in a certificate",
    )
    .hint("use 1 to 63 lower-case letters, digits or '-', with a letter among them"))
}

/// Returns whether a certificate would have it as a number, not as a name.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_of_domain_names() {
        for good in ["n1", "node-2", "a", "1a", &"x".repeat(63)] {
            assert_eq!(name_of_node(good).unwrap().as_str(), good);
        }
        for bad in ["", "N1", "n_1", "n.1", "-n", "n-", "12", &"x".repeat(64)] {
            assert!(name_of_node(bad).is_err(), "{bad}");
        }
    }
}
