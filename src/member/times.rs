//! When volumes were last written, as each apparatus tells the others and its next life: a file for each below `POOL/times`.
//!
//! ```text
//! offset  size
//!      0     8  magic "APPARTIM"
//!      8     4  format, 1
//!     12     4  1 while the apparatus serves, 0 once it has ended in good order
//!     16    16  pool UUID
//!     32     8  number of volumes, n
//!     40   16n  for each, by number: number of the volume (8), microseconds since 1970 in UTC (8)
//! 40+16n     4  crc32c of all that
//! ```
//!
//! Integers are little-endian. A file is replaced whole, by a rename, and only by the apparatus of its name. One that is damaged, or another
//! pool's, says nothing.

use crate::pool::names::Name;
use crate::units::VolumeId;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"APPARTIM";
const FORMAT: u32 = 1;
const HEAD: usize = 40;
const ENTRY: usize = 16;
/// Files that are longer are none of ours: a million volumes.
const LONGEST: u64 = 16 << 20;

/// When volumes were written, in microseconds since 1970.
pub type Times = BTreeMap<VolumeId, u64>;

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its apparatus has not ended in good order since: there may be later writes.
    pub serves: bool,
    /// When it last wrote.
    pub times: Times,
}

/// The file of an apparatus.
#[must_use]
pub fn file_of(dir: &Path, apparatus: &Name) -> PathBuf {
    dir.join(apparatus.as_str())
}

/// Replaces the file of an apparatus. What a power loss leaves is this or an earlier one.
///
/// # Errors
/// The file system's.
pub fn tell(dir: &Path, apparatus: &Name, pool: Uuid, told: &Told) -> io::Result<()> {
    // Not the pool's directory itself: that may have been renamed, and is not made anew under its old name.
    match fs::create_dir(dir) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
        _ => {}
    }
    // No apparatus has a name that begins with a dot.
    let new = dir.join(format!(".{apparatus}.new"));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&encoded(pool, told))?;
    fs::rename(&new, file_of(dir, apparatus))
}

/// Reads a file; `None` where it says nothing.
///
/// # Errors
/// The file system's.
pub fn read(path: &Path, pool: Uuid) -> io::Result<Option<Told>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut bytes)?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    Ok(decoded(&bytes, pool))
}

fn encoded(pool: Uuid, told: &Told) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + told.times.len() * ENTRY + 4);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(u32::from(told.serves).to_le_bytes());
    bytes.extend(pool.as_bytes());
    bytes.extend((told.times.len() as u64).to_le_bytes());
    for (volume, at) in &told.times {
        bytes.extend(volume.0.to_le_bytes());
        bytes.extend(at.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn decoded(bytes: &[u8], pool: Uuid) -> Option<Told> {
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
    Some(Told {
        serves: half(12)? != 0,
        times: places.filter_map(entry).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Uuid = Uuid::from_u128(7);

    fn told() -> Told {
        Told {
            serves: true,
            times: Times::from([(VolumeId(3), 5), (VolumeId(900), u64::MAX)]),
        }
    }

    #[test]
    fn what_is_told_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (times, a1) = (dir.path().join("times"), Name::new("apparatus", "a1").unwrap());
        let read = || read(&file_of(&times, &a1), POOL).unwrap();
        assert_eq!(read(), None);
        for told in [
            told(),
            Told {
                serves: false,
                times: Times::new(),
            },
        ] {
            tell(&times, &a1, POOL, &told).unwrap();
            assert_eq!(read(), Some(told));
        }
    }

    #[test]
    fn what_is_damaged_or_foreign_says_nothing() {
        let sound = encoded(POOL, &told());
        assert_eq!(decoded(&sound, POOL), Some(told()));
        assert_eq!(decoded(&sound, Uuid::from_u128(8)), None);
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(decoded(&bytes, POOL), None, "byte {at}");
            assert_eq!(decoded(&sound[..at], POOL), None, "cut at {at}");
        }
    }
}
