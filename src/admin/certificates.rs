//! Makes the certificates of a pool's nodes, for those who have no authority of their own.
//!
//! ```text
//! DIR/ca.pem       certificate of the authority, which every node has
//! DIR/ca-key.pem   its key, which no node needs: it makes further certificates
//! DIR/NODE/        what the node gets: ca.pem, cert.pem, key.pem
//! ```

use crate::model::error::{Error, Result};
use crate::model::names::Name;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Days for which a node's certificate is valid unless another number is asked for.
pub const DAYS: u32 = 1825;

/// Certificates that were, or would be, made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificates {
    /// The authority.
    pub authority: Made,
    /// The nodes.
    pub nodes: Vec<Made>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The node, or `ca`.
    pub name: String,
    /// The directory of its files.
    pub directory: PathBuf,
    /// The day on which it is not valid any more; none for one that was there before.
    pub valid_until: Option<String>,
}

/// Returns what [`make`] would make.
///
/// # Errors
/// Fails when a file would be overwritten, when there is nothing to do, and in a program that was built without this.
pub fn plan(dir: &Path, nodes: &[Name], days: u32) -> Result<Certificates> {
    making::plan(dir, nodes, days).map(|plan| plan.made)
}

/// Makes the certificates of these nodes, and the authority if the directory has none. Their files are for their owner alone.
///
/// # Errors
/// Returns the errors of [`plan`]; fails when a file cannot be written.
pub fn make(dir: &Path, nodes: &[Name], days: u32) -> Result<Certificates> {
    making::make(dir, nodes, days)
}

fn failed(file: &Path, error: impl std::fmt::Display) -> Error {
    Error::failed(file.display().to_string(), error.to_string())
}

#[cfg(not(feature = "etcd"))]
mod making {
    use super::{Certificates, Error, Name, Path, Result, failed};

    pub(super) struct Plan {
        pub(super) made: Certificates,
    }

    pub(super) fn plan(dir: &Path, _: &[Name], _: u32) -> Result<Plan> {
        make(dir, &[], 0).map(|made| Plan { made })
    }

    pub(super) fn make(dir: &Path, _: &[Name], _: u32) -> Result<Certificates> {
        let _: Error = failed(dir, "");
        Err(Error::failed(
            "certificates",
            "this program was built without links between machines",
        )
        .hint("install the released package, or build with --features etcd"))
    }
}

#[cfg(feature = "etcd")]
mod making {
    use super::{Certificates, Error, Made, Name, Path, PathBuf, Result, failed};
    use crate::rpc::tls::issue::{self, Issued, Validity};
    use std::fs::{self, DirBuilder, File, OpenOptions};
    use std::io::{self, Read, Write};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    /// Days for which an authority is valid.
    const OF_AUTHORITY: u32 = 7300;
    /// Largest file that is read, in bytes.
    const LARGEST: u64 = 64 << 10;

    pub(super) struct Plan {
        pub(super) made: Certificates,
        /// The authority, if the directory has one.
        authority: Option<Issued>,
        validity: Validity,
    }

    fn read(file: &Path) -> Result<Option<String>> {
        let mut text = String::new();
        match File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.and_then(|open| open.take(LARGEST).read_to_string(&mut text)),
        }
        .map_err(|error| failed(file, error))?;
        Ok(Some(text))
    }

    fn authority_in(dir: &Path) -> Result<Option<Issued>> {
        match (read(&dir.join("ca.pem"))?, read(&dir.join("ca-key.pem"))?) {
            (Some(certificate), Some(key)) => Ok(Some(Issued { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(failed(&dir.join("ca-key.pem"), "is missing").hint(
                "certificates are made where the key of the authority is; name another directory for another authority",
            )),
            (None, Some(_)) => Err(failed(&dir.join("ca.pem"), "is missing")
                .hint("put it back beside its key, or name another directory")),
        }
    }

    fn made(name: &str, directory: PathBuf, validity: Option<Validity>) -> Made {
        Made {
            name: name.to_owned(),
            directory,
            valid_until: validity.map(|validity| validity.until.to_string()),
        }
    }

    pub(super) fn plan(dir: &Path, nodes: &[Name], days: u32) -> Result<Plan> {
        let authority = authority_in(dir)?;
        let validity = Validity::of_days(days)?;
        if authority.is_some() && nodes.is_empty() {
            return Err(
                Error::failed(dir.display().to_string(), "has an authority already")
                    .hint("name the nodes that get a certificate: --name NODE"),
            );
        }
        for name in nodes {
            refuse_present(&dir.join(name.as_str()))?;
        }
        let of_authority = match authority {
            Some(_) => None,
            None => Some(Validity::of_days(OF_AUTHORITY)?),
        };
        let node = |name: &Name| made(name.as_str(), dir.join(name.as_str()), Some(validity));
        Ok(Plan {
            made: Certificates {
                authority: made("ca", dir.to_owned(), of_authority),
                nodes: nodes.iter().map(node).collect(),
            },
            authority,
            validity,
        })
    }

    fn refuse_present(directory: &Path) -> Result<()> {
        match directory.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::failed(directory.display().to_string(), "is there already")
                .hint("a certificate is not replaced: move it away first, or choose another name")),
            Err(error) => Err(failed(directory, error)),
        }
    }

    pub(super) fn make(dir: &Path, nodes: &[Name], days: u32) -> Result<Certificates> {
        let Plan {
            made,
            authority,
            validity,
        } = plan(dir, nodes, days)?;
        let authority = match authority {
            Some(authority) => authority,
            None => make_authority(dir)?,
        };
        for name in nodes {
            let own = issue::certificate(&authority, name.as_str(), validity)?;
            write_node(&dir.join(name.as_str()), &authority, &own)?;
        }
        Ok(made)
    }

    /// Makes the authority. Its key is written first, because a certificate without key is of no use here.
    fn make_authority(dir: &Path) -> Result<Issued> {
        let authority = issue::authority(Validity::of_days(OF_AUTHORITY)?)?;
        private(dir, true)?;
        write(&dir.join("ca-key.pem"), &authority.key)?;
        write(&dir.join("ca.pem"), &authority.certificate)?;
        Ok(authority)
    }

    /// Writes a node's files to a directory that has all of them when it gets its name.
    fn write_node(directory: &Path, authority: &Issued, own: &Issued) -> Result<()> {
        let mut draft = directory.as_os_str().to_owned();
        draft.push(format!(".new-{}", std::process::id()));
        let draft = PathBuf::from(draft);
        private(&draft, false)?;
        let written = write(&draft.join("ca.pem"), &authority.certificate)
            .and_then(|()| write(&draft.join("cert.pem"), &own.certificate))
            .and_then(|()| write(&draft.join("key.pem"), &own.key))
            .and_then(|()| fs::rename(&draft, directory).map_err(|error| failed(directory, error)));
        written.inspect_err(|_| drop(fs::remove_dir_all(&draft)))
    }

    fn private(dir: &Path, may_exist: bool) -> Result<()> {
        DirBuilder::new()
            .recursive(may_exist)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed(dir, error))
    }

    /// Writes a new file, which is durable when this returns.
    fn write(file: &Path, text: &str) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut open| open.write_all(text.as_bytes()).and_then(|()| open.sync_all()))
            .map_err(|error| failed(file, error))
    }
}

#[cfg(all(test, feature = "etcd"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use crate::model::node::name_of_node;
    use crate::rpc::tls::Identity;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn names(words: &[&str]) -> Vec<Name> {
        words.iter().map(|word| name_of_node(word).unwrap()).collect()
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn each_node_gets_files_that_it_can_use_and_nobody_else_can_read() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("tls");
        let planned = plan(&dir, &names(&["n1", "n2"]), DAYS).unwrap();
        assert!(!dir.exists());
        let made = make(&dir, &names(&["n1", "n2"]), DAYS).unwrap();
        assert_eq!(made, planned);
        assert!(made.authority.valid_until > made.nodes[0].valid_until);
        let files = [
            "ca.pem",
            "ca-key.pem",
            "n1/ca.pem",
            "n1/cert.pem",
            "n1/key.pem",
            "n2/key.pem",
        ];
        assert!(files.iter().all(|file| mode(&dir.join(file)) == 0o600));
        assert!(["", "n1", "n2"].iter().all(|sub| mode(&dir.join(sub)) == 0o700));
        for node in &made.nodes {
            Identity::load(&node.directory).unwrap();
        }
    }

    #[test]
    fn a_further_node_is_of_the_same_authority_and_nothing_is_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        make(dir, &names(&["n1"]), DAYS).unwrap();
        let before = fs::read(dir.join("n1/key.pem")).unwrap();
        let refused = |nodes: &[&str], why: &str| {
            let error = make(dir, &names(nodes), DAYS).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(&[], "has an authority already");
        refused(&["n2", "n1"], "n1: is there already");
        assert!(!dir.join("n2").exists(), "all or none");
        let more = make(dir, &names(&["n2"]), 1).unwrap();
        assert_eq!(more.authority.valid_until, None);
        assert_eq!(
            fs::read(dir.join("n1/ca.pem")).unwrap(),
            fs::read(dir.join("n2/ca.pem")).unwrap()
        );
        assert_eq!(fs::read(dir.join("n1/key.pem")).unwrap(), before);
        fs::write(dir.join("ca.pem"), "").unwrap();
        refused(&["n3"], "certificate of the authority");
        fs::remove_file(dir.join("ca.pem")).unwrap();
        refused(&["n3"], "ca.pem: is missing");
        assert!(!dir.join("n3").exists());
    }
}
