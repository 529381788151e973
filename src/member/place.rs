//! Where the member table is: a file in memory (`/dev/shm`), and `POOL/run/members`, a link to it.
//!
//! Every request of a host writes to the table, and a store into a mapped file waits for its file system when that is frozen, full or hung; on
//! a memory file system it never does. Where there is none, the file itself is `POOL/run/members`.
//!
//! There is never a second table while a first one is in use. Who opens a table locks a byte on the pool's directory that belongs to that file
//! ([`super::anchor`]); who finds bytes of other tables locked there, or none of its own, opens and makes nothing. Containers that share the pool's directory
//! and not `/dev/shm` are refused by this.

use super::anchor::{Anchor, Identity, byte_of_table, identity};
use super::table::{HARDENED, SIZE};
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use rustix::fs::{AtFlags, Mode, OFlags, fstatfs, mkdirat, renameat, statat, symlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

const MEMORY: &str = "/dev/shm";
/// What `fstatfs` answers for tmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// The link, from the pool's directory.
const LINK: &str = "run/members";

/// How long making the table may take another process before this one gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long those who use the table have to put its link back, or to end.
const RESTORED: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// The place of a table in use. The lock on the pool's directory lasts as long as this.
pub(super) struct Place {
    anchor: Anchor,
    link: PathBuf,
    /// The file itself.
    target: PathBuf,
    identity: Identity,
}

/// A table that was opened.
pub(super) struct Placed {
    pub(super) file: File,
    pub(super) place: Place,
    pub(super) made: bool,
}

impl Place {
    /// Opens the table that is in use, or may be used again; makes one where there is none.
    pub(super) fn find_or_make(pool: &PoolDir, anchor: Anchor, header: &[u8; HARDENED]) -> Result<Placed> {
        let link = pool.run().join("members");
        let what = format!("member table {}", link.display());
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let search = Search {
            anchor: &anchor,
            link: &link,
            header,
        };
        let Some(alone) = anchor.alone(PATIENCE).map_err(failed)? else {
            return Err(
                Error::failed(&what, "another process has been making it for 10 s").hint(format!(
                    "see who has locked the directory {}",
                    pool.path().display()
                )),
            );
        };
        let (file, made) = search.run().map_err(failed)?.ok_or_else(|| out_of_sight(&what))?;
        let identity = file.metadata().map(|meta| identity(&meta)).map_err(failed)?;
        anchor.share(byte_of_table(identity)).map_err(failed)?;
        drop(alone);
        let target = fs::canonicalize(&link).map_err(failed)?;
        let place = Self {
            anchor,
            link,
            target,
            identity,
        };
        Ok(Placed { file, place, made })
    }

    pub(super) fn path(&self) -> &Path {
        &self.link
    }

    /// By the directory itself, so that it may be called otherwise by now.
    pub(super) fn restore(&self) -> Result<bool> {
        let what = || format!("member table {}", self.link.display());
        match statat(&self.anchor, LINK, AtFlags::empty()) {
            #[allow(clippy::useless_conversion, reason = "the types differ between machines")]
            Ok(found) if (u64::from(found.st_dev), u64::from(found.st_ino)) == self.identity => {
                return Ok(false);
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Error::because(what(), errno)),
        }
        if !fs::metadata(&self.target).is_ok_and(|meta| identity(&meta) == self.identity) {
            return Err(Error::failed(what(), "was deleted while it is in use, so that nobody else finds it")
                .hint("volumes are served, but nothing can be changed: stop all apparatuses of the pool, then start them"));
        }
        match mkdirat(&self.anchor, "run", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::because(what(), errno)),
        }
        relink(&self.anchor, &self.target).map_err(|why| Error::because(what(), why))?;
        Ok(true)
    }
}

fn out_of_sight(what: &str) -> Error {
    let why = format!(
        "is in use by a process of this pool and cannot be found: {LINK} was deleted, or leads to the {MEMORY} of another container"
    );
    Error::new(Kind::Busy, what, why).hint(format!(
        "an apparatus that runs puts it back within a second; containers of one pool have to share {MEMORY}; else end the processes that use the pool"
    ))
}

/// A link to this file in the place of whatever is there.
fn relink(anchor: &Anchor, target: &Path) -> io::Result<()> {
    let new = format!("run/.members.{}", Uuid::new_v4().simple());
    symlinkat(target, anchor, &new)?;
    Ok(renameat(anchor, &new, anchor, LINK)?)
}

/// What is looked for, with nobody else looking.
struct Search<'a> {
    anchor: &'a Anchor,
    link: &'a Path,
    header: &'a [u8; HARDENED],
}

impl Search<'_> {
    /// The table, and whether it was made. `None` while others use one that is not to be found.
    fn run(&self) -> io::Result<Option<(File, bool)>> {
        let deadline = Instant::now() + RESTORED;
        loop {
            let found = open_fitting(self.link, self.header)?;
            let which = found.as_ref().map(File::metadata).transpose()?;
            if !self.anchor.uses_another(which.as_ref().map(identity))? {
                return match found {
                    Some(file) => Ok(Some((file, false))),
                    None => self
                        .stray()
                        .and_then(|stray| stray.map_or_else(|| self.make(), Ok))
                        .map(Some),
                };
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// One in memory that the link was taken from. Nobody uses it; what it remembers of disks still holds. Those of an earlier pool here go.
    fn stray(&self) -> io::Result<Option<(File, bool)>> {
        let prefix = self.prefix()?;
        for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&prefix) {
                continue;
            }
            if let Ok(Some(file)) = open_fitting(&entry.path(), self.header) {
                relink(self.anchor, &entry.path())?;
                return Ok(Some((file, false)));
            }
            let _ = fs::remove_file(entry.path());
        }
        Ok(None)
    }

    fn prefix(&self) -> io::Result<String> {
        let (device, inode) = self.anchor.identity()?;
        // The inode's number is given to another directory once this one is deleted.
        let born = self.anchor.born();
        Ok(format!("apparatus-{device:x}-{inode:x}-{born:x}-"))
    }

    fn make(&self) -> io::Result<(File, bool)> {
        let path = Path::new(MEMORY).join(format!("{}{}", self.prefix()?, Uuid::new_v4().simple()));
        match self.make_in_memory(&path) {
            Ok(file) => {
                relink(self.anchor, &path)?;
                Ok((file, true))
            }
            Err(why) => {
                log::debug!(
                    "the member table is not in memory, so the pool's file system may keep hosts waiting: {MEMORY}: {why}"
                );
                let new = self.link.with_extension("new");
                let _ = fs::remove_file(&new);
                let file = write_new(&new, self.header)?;
                fs::rename(&new, self.link)?;
                Ok((file, true))
            }
        }
    }

    fn make_in_memory(&self, path: &Path) -> io::Result<File> {
        if u64::try_from(fstatfs(File::open(MEMORY)?.as_fd())?.f_type).ok() != Some(TMPFS_MAGIC) {
            return Err(io::Error::other("is no memory file system"));
        }
        write_new(path, self.header).inspect_err(|_| drop(fs::remove_file(path)))
    }
}

/// The file, if it is this boot's, this pool's and of this format, and nobody but this user can have made it or can write it: everybody may make files in
/// a directory such as `/dev/shm`.
fn open_fitting(path: &Path, header: &[u8; HARDENED]) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let mut file = match options.open(path) {
        Err(why)
            if matches!(
                why.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let meta = file.metadata()?;
    let ours = meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0 && meta.nlink() == 1;
    if !meta.is_file() || !ours || meta.len() != SIZE as u64 {
        return Ok(None);
    }
    let mut found = [0; HARDENED];
    Ok((file.read_exact(&mut found).is_ok() && found == *header).then_some(file))
}

/// Writes it whole, zeroes included, so that no store into its mapping needs room.
fn write_new(path: &Path, header: &[u8; HARDENED]) -> io::Result<File> {
    let mut bytes = vec![0; SIZE];
    bytes[..HARDENED].copy_from_slice(header);
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&bytes)?;
    Ok(file)
}
