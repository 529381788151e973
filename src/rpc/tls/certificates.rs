//! The certificates of a node, which are read again when their files have changed.

use super::Identity;
use crate::model::error::Result;
use crate::rpc::channel::{Channel, Connector};
use crate::rpc::pipe::Broken;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Certificates for connections in both directions. Each connection uses those that are there when it begins.
#[derive(Debug)]
pub struct Certificates {
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    identity: Identity,
    /// Where they were read from, and the files there then.
    read: Option<(PathBuf, Files)>,
}

/// What tells the files of a directory from those that have replaced them; `None` for a file that is not there.
type Files = [Option<Version>; 3];

/// Device, inode, length, and the times of the last changes of a file and of what is in it.
type Version = (u64, u64, u64, [i64; 4]);

impl From<Identity> for Certificates {
    fn from(identity: Identity) -> Self {
        let read = None;
        Self {
            current: Mutex::new(Current { identity, read }),
        }
    }
}

impl Certificates {
    /// Reads the certificates in this directory.
    ///
    /// # Errors
    /// Fails as [`Identity::load`] does.
    pub fn load(dir: &Path) -> Result<Self> {
        // The files are looked at first: those that are replaced meanwhile are read again.
        let read = Some((dir.to_owned(), files(dir)));
        let identity = Identity::load(dir)?;
        Ok(Self {
            current: Mutex::new(Current { identity, read }),
        })
    }

    /// Returns the certificates of now. Where new files cannot be used, as while they are being replaced, those from before are.
    pub(super) fn now(&self) -> Identity {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((dir, before)) = &mut current.read {
            let found = files(dir);
            if found != *before {
                *before = found;
                match Identity::load(dir) {
                    Ok(identity) => current.identity = identity,
                    Err(why) => log::warn!("{why}; the certificates from before are used"),
                }
            }
        }
        current.identity.clone()
    }
}

fn files(dir: &Path) -> Files {
    ["ca.pem", "cert.pem", "key.pem"].map(|name| {
        let found = std::fs::metadata(dir.join(name)).ok()?;
        let times = [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ];
        Some((found.dev(), found.ino(), found.len(), times))
    })
}

impl Connector for Certificates {
    fn connect(&self, address: SocketAddr, name: &str) -> Result<Box<dyn Channel>, Broken> {
        self.now().connect(address, name)
    }
}
