//! Where a pool's metadata is, apart from the database in its directory: `DIR/pool.ron`. A pool without this file has all of it there.

use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Largest size of the file in bytes.
const LARGEST: u64 = 64 << 10;
/// Usual length of a lease in seconds.
pub const LEASE_S: u16 = 30;
/// Lengths that a lease may have, in seconds.
pub const LEASES_S: RangeInclusive<u16> = 6..=300;
/// Most endpoints of an etcd cluster: etcd itself advises at most seven members.
const MOST_ENDPOINTS: usize = 16;

/// An etcd cluster that has the log of the pool's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdPlace {
    /// The members' addresses for clients: `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// A directory with `ca.pem`, `cert.pem` and `key.pem`, for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PathBuf>,
}

/// This machine as a node of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnNode {
    /// Its name.
    pub name: Name,
    /// The name in its certificate, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The address at which its apparatuses listen for other nodes: each takes the first free one of 64 ports from this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// A directory with `ca.pem`, `cert.pem` and `key.pem`, for links to other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PathBuf>,
    /// Length of the leases of its apparatuses in seconds, if it is another than [`LEASE_S`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u16>,
    /// Paths of disks that are other ones here than in their records, by the disk's identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<Uuid, PathBuf>,
}

impl OwnNode {
    /// Checks that whoever listens can prove who it is, at an address that others can use.
    ///
    /// # Errors
    /// Fails with `Usage` if not.
    pub fn checked(self) -> Result<Self> {
        if let Some(seconds) = self.lease_s.filter(|seconds| !LEASES_S.contains(seconds)) {
            let why = format!("is not between {} s and {} s", LEASES_S.start(), LEASES_S.end());
            return Err(Error::usage(format!("lease of {seconds} s"), why));
        }
        let Some(listen) = self.listen else {
            return Ok(self);
        };
        let refused = |why: &str| Error::usage(format!("address {listen}"), why);
        if self.tls.is_none() {
            return Err(
                refused("is of no use without certificates").hint("name their directory: --node-tls DIR")
            );
        }
        if listen.ip().is_unspecified() {
            return Err(
                refused("is not one that other nodes can connect to").hint("name an address of this machine")
            );
        }
        if listen.port() == 0 {
            return Err(refused("has no port"));
        }
        Ok(self)
    }

    /// Returns the length of the leases of its apparatuses, inside the bounds that leases have.
    #[must_use]
    pub fn lease(&self) -> Duration {
        let seconds = self.lease_s.unwrap_or(LEASE_S);
        Duration::from_secs(seconds.clamp(*LEASES_S.start(), *LEASES_S.end()).into())
    }

    /// Returns the name in its certificate.
    #[must_use]
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().unwrap_or(self.name.as_str())
    }
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The pool.
    pub pool: Uuid,
    /// Where its log is.
    pub etcd: EtcdPlace,
    /// This machine, if the pool knows its machines by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<OwnNode>,
    /// What was begun and is not complete: nothing else uses the pool until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit: Option<Transit>,
}

/// A way of the metadata into etcd or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transit {
    /// From the pool's directory alone into etcd.
    Importing,
    /// Back again.
    Exporting,
}

impl EtcdPlace {
    /// Parses `etcd://HOST:PORT[,HOST:PORT...]`. With `tls` the members are asked by `https`.
    ///
    /// # Errors
    /// Fails with `Usage` if the text is none.
    pub fn parse(text: &str, tls: Option<PathBuf>) -> Result<Self> {
        let refused = |why: &str| {
            Error::usage(format!("store {text:?}"), why)
                .hint("name the members of an etcd cluster: etcd://HOST:2379[,HOST:2379...]")
        };
        let members = text
            .strip_prefix("etcd://")
            .ok_or_else(|| refused("is of no known kind"))?;
        let members: Vec<&str> = members.split(',').collect();
        if members.len() > MOST_ENDPOINTS {
            return Err(refused("has too many members"));
        }
        if !members.iter().all(|member| is_address(member)) {
            return Err(refused("has a member that is no HOST:PORT"));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints = members
            .iter()
            .map(|member| format!("{scheme}://{member}"))
            .collect();
        Ok(Self { endpoints, tls })
    }
}

/// Returns whether the text is `HOST:PORT`, or `[ADDRESS]:PORT`.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn file_of(dir: &PoolDir) -> PathBuf {
    dir.path().join("pool.ron")
}

fn what(dir: &PoolDir) -> String {
    format!("{}/pool.ron", dir.display())
}

impl Place {
    /// Reads the place of a pool's metadata; `None` if all of it is in the pool's directory.
    ///
    /// # Errors
    /// Fails if the file cannot be read or parsed.
    pub fn read(dir: &PoolDir) -> Result<Option<Self>> {
        let file = match File::open(file_of(dir)) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::because(what(dir), error)),
        };
        let mut text = String::new();
        file.take(LARGEST)
            .read_to_string(&mut text)
            .map_err(|error| Error::because(what(dir), error))?;
        ron::from_str(&text).map(Some).map_err(|error| {
            Error::because(what(dir), error)
                .hint("the file names the store of the pool, as docs/FORMATS.md describes it")
        })
    }

    /// Writes the file. It is durable when this returns.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write(&self, dir: &PoolDir) -> Result<()> {
        let pretty = ron::ser::PrettyConfig::default();
        let text =
            ron::ser::to_string_pretty(self, pretty).map_err(|error| Error::because(what(dir), error))?;
        write_durably(dir, &text).map_err(|error| Error::because(what(dir), error))
    }

    /// Refuses a pool whose metadata is on its way into etcd or out of it.
    ///
    /// # Errors
    /// Fails with the commands that complete it or take it back.
    pub fn refuse_transit(&self, dir: &PoolDir) -> Result<()> {
        let (why, hint) = match self.transit {
            None => return Ok(()),
            Some(Transit::Importing) => (
                "was being put into etcd when that was interrupted",
                "complete it with the same command, vctl pool import DIR --store URL; or take it back: vctl pool export",
            ),
            Some(Transit::Exporting) => (
                "was being taken out of etcd when that was interrupted",
                "complete it: vctl pool export",
            ),
        };
        Err(Error::failed(format!("pool {}", dir.display()), why).hint(hint))
    }

    /// Removes the file, if there is one. That is durable when this returns.
    ///
    /// # Errors
    /// Fails if it cannot be removed.
    pub fn remove(dir: &PoolDir) -> io::Result<()> {
        match fs::remove_file(file_of(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        sync(dir)
    }

    /// Refuses an operation that replaces the database of one machine.
    ///
    /// # Errors
    /// Fails if the pool's metadata is in etcd too.
    pub fn refuse(dir: &PoolDir, operation: &str) -> Result<()> {
        match Self::read(dir)? {
            None => Ok(()),
            Some(_) => {
                let why = format!(
                    "has its metadata in etcd, and {operation} would change the copy of this machine alone"
                );
                Err(
                    Error::new(ErrorKind::Failed, format!("pool {}", dir.display()), why)
                        .hint("make it a pool of this machine alone first: vctl pool export; or, if etcd does not answer, vctl pool rescue"),
                )
            }
        }
    }
}

fn write_durably(dir: &PoolDir, text: &str) -> io::Result<()> {
    let draft = dir.path().join("pool.ron.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(draft, file_of(dir))?;
    sync(dir)
}

fn sync(dir: &PoolDir) -> io::Result<()> {
    File::open(dir.path())?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_a_cluster_are_parsed() {
        let place = EtcdPlace::parse("etcd://e1:2379,10.0.0.2:2379,[fd00::1]:1", None).unwrap();
        assert_eq!(
            place.endpoints,
            ["http://e1:2379", "http://10.0.0.2:2379", "http://[fd00::1]:1"]
        );
        let place = EtcdPlace::parse("etcd://e1:2379", Some("/tls".into())).unwrap();
        assert_eq!(place.endpoints, ["https://e1:2379"]);
        for bad in [
            "",
            "etcd://",
            "e1:2379",
            "etcd://e1",
            "etcd://e1:0",
            "etcd://e1:70000",
            "etcd://a b:1",
            "etcd://a:1,,b:1",
            "etcd://[x]:1",
            "etcd://u@h:1/p",
        ] {
            assert!(EtcdPlace::parse(bad, None).is_err(), "{bad}");
        }
        let many = format!("etcd://{}", ["a:1"; 17].join(","));
        assert!(EtcdPlace::parse(&many, None).is_err());
    }

    fn node(listen: Option<&str>, tls: Option<&str>) -> Result<OwnNode> {
        OwnNode {
            name: Name::new("node", "n1").unwrap(),
            certificate: None,
            listen: listen.map(|address| address.parse().unwrap()),
            tls: tls.map(PathBuf::from),
            lease_s: None,
            paths: BTreeMap::new(),
        }
        .checked()
    }

    #[test]
    fn a_node_listens_where_others_can_reach_it_and_with_certificates() {
        assert_eq!(node(None, None).unwrap().certificate(), "n1");
        node(Some("10.0.0.1:7300"), Some("/tls")).unwrap();
        for (listen, tls) in [
            ("10.0.0.1:7300", None),
            ("10.0.0.1:0", Some("/tls")),
            ("0.0.0.0:7300", Some("/tls")),
            ("[::]:7300", Some("/tls")),
        ] {
            assert!(node(Some(listen), tls).is_err(), "{listen}");
        }
    }

    #[test]
    fn a_lease_has_bounds() {
        let lease = |lease_s| {
            let node = node(None, None).unwrap();
            OwnNode { lease_s, ..node }.checked()
        };
        assert_eq!(lease(None).unwrap().lease(), Duration::from_secs(30));
        for (seconds, is_good) in [(5, false), (6, true), (300, true), (301, false)] {
            assert_eq!(lease(Some(seconds)).is_ok(), is_good, "{seconds}");
        }
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = PoolDir::new(scratch.path());
        assert_eq!(Place::read(&dir).unwrap(), None);
        assert!(Place::refuse(&dir, "a restore").is_ok());
        let place = Place {
            pool: Uuid::from_u128(7),
            etcd: EtcdPlace::parse("etcd://e1:2379", Some("/tls".into())).unwrap(),
            node: None,
            transit: None,
        };
        place.write(&dir).unwrap();
        assert_eq!(Place::read(&dir).unwrap(), Some(place.clone()));
        let mut own = node(Some("[fd00::1]:7300"), Some("/tls")).unwrap();
        own.paths.insert(Uuid::from_u128(9), "/dev/disk/by-id/x".into());
        let place = Place {
            node: Some(own),
            ..place
        };
        place.write(&dir).unwrap();
        assert_eq!(Place::read(&dir).unwrap(), Some(place));
        assert!(Place::refuse(&dir, "a restore").is_err());
        fs::write(file_of(&dir), "(pool: 1)").unwrap();
        assert!(Place::read(&dir).is_err());
        Place::remove(&dir).unwrap();
        Place::remove(&dir).unwrap();
        assert_eq!(Place::read(&dir).unwrap(), None);
    }
}
