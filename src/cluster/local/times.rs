//! Modification times of volumes, as each apparatus publishes them for the others and for its next incarnation: a file for each in `POOL/times`.
//!
//! ```text
//! offset  size
//!      0     8  magic "APPARTIM"
//!      8     4  format, 1
//!     12     4  1 while the apparatus serves, 0 once it has ended cleanly
//!     16    16  pool UUID
//!     32     8  number of volumes, n
//!     40   16n  for each, by number: number of the volume (8), microseconds since 1970 in UTC (8)
//! 40+16n     4  crc32c of all bytes before
//! ```
//!
//! Integers are little-endian. Only the apparatus of its name replaces a file, whole, by a rename. A file that is damaged, or of another pool, is
//! ignored.

use crate::cluster::{ModificationTimes, SharedTimes, Times};
use crate::model::dir::PoolDir;
use crate::model::names::Name;
use crate::model::units::VolumeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"APPARTIM";
const FORMAT: u32 = 1;
const HEAD: usize = 40;
const ENTRY: usize = 16;
/// Maximum length of a file in bytes, enough for a million volumes.
const LONGEST: u64 = 16 << 20;

/// Files with the modification times of a pool, for one apparatus.
pub(super) struct TimesDirectory {
    dir: PoolDir,
    apparatus: Name,
    pool: Uuid,
    /// Files of others that have been read, with their time of writing and inode.
    seen: BTreeMap<OsString, (i64, i64, u64)>,
}

impl TimesDirectory {
    pub(super) fn new(dir: &PoolDir, apparatus: &Name, pool: Uuid) -> Self {
        Self {
            dir: dir.clone(),
            apparatus: apparatus.clone(),
            pool,
            seen: BTreeMap::new(),
        }
    }
}

impl SharedTimes for TimesDirectory {
    fn own(&self) -> io::Result<Option<ModificationTimes>> {
        read(&file_of(&self.dir.times(), &self.apparatus), self.pool)
    }

    fn publish(&self, published: &ModificationTimes) -> io::Result<()> {
        replace_file(&self.dir.times(), &self.apparatus, self.pool, published)
    }

    fn observe(&mut self) -> io::Result<Times> {
        let mut observed = Times::new();
        let entries = match fs::read_dir(self.dir.times()) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(observed),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_another = |name: &str| name != self.apparatus.as_str() && !name.starts_with('.');
            if !name.to_str().is_some_and(is_another) {
                continue;
            }
            let meta = entry.metadata()?;
            let mark = (meta.mtime(), meta.mtime_nsec(), meta.ino());
            if self.seen.insert(name, mark) == Some(mark) {
                continue;
            }
            let published = read(&entry.path(), self.pool)?;
            for (volume, at) in published.into_iter().flat_map(|published| published.times) {
                let known = observed.entry(volume).or_default();
                *known = at.max(*known);
            }
        }
        Ok(observed)
    }
}

/// Returns the path of an apparatus's file.
fn file_of(dir: &Path, apparatus: &Name) -> PathBuf {
    dir.join(apparatus.as_str())
}

/// Replaces the file of an apparatus. A power loss leaves this file or an earlier one.
///
/// # Errors
/// Fails with the error of the file system.
fn replace_file(dir: &Path, apparatus: &Name, pool: Uuid, published: &ModificationTimes) -> io::Result<()> {
    // The pool's directory itself is not created: it may have been renamed, and must not exist again under its old name.
    match fs::create_dir(dir) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
        _ => {}
    }
    // The name of an apparatus never begins with a dot, so this file is none of theirs.
    let new = dir.join(format!(".{apparatus}.new"));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&encoded(pool, published))?;
    fs::rename(&new, file_of(dir, apparatus))
}

/// Reads a file. Returns `None` where it does not exist or is not valid.
///
/// # Errors
/// Fails with the error of the file system.
fn read(path: &Path, pool: Uuid) -> io::Result<Option<ModificationTimes>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut bytes)?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    Ok(decoded(&bytes, pool))
}

fn encoded(pool: Uuid, published: &ModificationTimes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + published.times.len() * ENTRY + 4);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(u32::from(published.serves).to_le_bytes());
    bytes.extend(pool.as_bytes());
    bytes.extend((published.times.len() as u64).to_le_bytes());
    for (volume, at) in &published.times {
        bytes.extend(volume.0.to_le_bytes());
        bytes.extend(at.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn decoded(bytes: &[u8], pool: Uuid) -> Option<ModificationTimes> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    let word = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let sound = crc32c::crc32c(body) == u32::from_le_bytes(*checksum)
        && body.get(..8)? == MAGIC
        && half(8)? == FORMAT
        && body.get(16..32)? == pool.as_bytes();
    let entries = body.get(HEAD..)?.chunks_exact(ENTRY);
    if !sound || word(32)? != entries.len() as u64 || !entries.remainder().is_empty() {
        return None;
    }
    let entry = |at: usize| Some((VolumeId(word(at)?), word(at + 8)?));
    let places = (0..entries.len()).map(|i| HEAD + i * ENTRY);
    Some(ModificationTimes {
        serves: half(12)? != 0,
        times: places.filter_map(entry).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Uuid = Uuid::from_u128(7);

    fn published() -> ModificationTimes {
        ModificationTimes {
            serves: true,
            times: Times::from([(VolumeId(3), 5), (VolumeId(900), u64::MAX)]),
        }
    }

    #[test]
    fn what_is_published_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (times, a1) = (dir.path().join("times"), Name::new("apparatus", "a1").unwrap());
        let read = || read(&file_of(&times, &a1), POOL).unwrap();
        assert_eq!(read(), None);
        for published in [
            published(),
            ModificationTimes {
                serves: false,
                times: Times::new(),
            },
        ] {
            replace_file(&times, &a1, POOL, &published).unwrap();
            assert_eq!(read(), Some(published));
        }
    }

    #[test]
    fn a_damaged_or_foreign_file_is_ignored() {
        let sound = encoded(POOL, &published());
        assert_eq!(decoded(&sound, POOL), Some(published()));
        assert_eq!(decoded(&sound, Uuid::from_u128(8)), None);
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(decoded(&bytes, POOL), None, "byte {at}");
            assert_eq!(decoded(&sound[..at], POOL), None, "cut at {at}");
        }
    }
}
