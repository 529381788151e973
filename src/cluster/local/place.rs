//! Location of the member table: a file in memory (`/dev/shm`), and `POOL/run/members`, a link to it.
//!
//! Every request of a host writes to the table, and a store into a mapped file waits for its file system while that is frozen, full or hung; on a
//! memory file system it never does. Where there is none, the file itself is `POOL/run/members`.
//!
//! There is never a second table while a first one is in use. A process that opens a table locks the byte of the pool's directory that belongs to that
//! file ([`super::anchor`]). A process that finds bytes of other tables locked there opens and creates none. This refuses containers that share
//! the pool's directory but not `/dev/shm`.

use super::anchor::{Anchor, Identity, byte_of_table, identity, one};
use super::table::{BEGINNING, PERSISTED, SIZE, blank, remembers};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::sys;
use rustix::fs::{AtFlags, Mode, OFlags, fstatfs, mkdirat, renameat, statat, symlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

pub(super) const MEMORY: &str = "/dev/shm";
pub(super) const PREFIX: &str = "apparatus-";
/// File system type of tmpfs in `fstatfs`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Path of the link in the pool's directory.
const LINK: &str = "run/members";

/// Time that another process may take to create the table before this one gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for the users of a table to restore its link, or to end.
const RESTORED: Duration = Duration::from_secs(3);
/// Time for which a table in use is not found before it counts as lost.
const LOST: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(20);

/// Byte of the file that all processes lock which have it open, far beyond those of `flushers.rs`.
const IN_USE: u64 = 1 << 40;
/// Maximum number of other tables that are examined when a new one is created.
const OTHERS: usize = 1000;

/// Location of a table in use, with the lock on the pool's directory.
pub(super) struct TablePlace {
    anchor: Anchor,
    /// Path of the link, for messages.
    name: PathBuf,
    /// Path of the file itself.
    target: PathBuf,
    identity: Identity,
}

/// Opened table.
pub(super) struct Placed {
    pub(super) file: File,
    pub(super) place: TablePlace,
    pub(super) made: bool,
}

/// Returns the path of the link to the table.
pub(super) fn link_of(pool: &PoolDir) -> PathBuf {
    pool.path().join(LINK)
}

impl TablePlace {
    /// Opens the table that is in use or can be reused, and creates one where there is none.
    pub(super) fn find_or_make(pool: &PoolDir, anchor: Anchor, header: &[u8; PERSISTED]) -> Result<Placed> {
        let link = link_of(pool);
        let name = pool.name_of(&link);
        let what = format!("member table {}", name.display());
        let failed = |why: io::Error| Error::because(what.clone(), why);
        let search = Search {
            anchor: &anchor,
            link: &link,
            header,
        };
        let Some(alone) = anchor.alone(PATIENCE).map_err(failed)? else {
            return Err(
                Error::failed(&what, "another process has been creating it for 10 s").hint(format!(
                    "find the process that has locked the directory {}",
                    pool.display()
                )),
            );
        };
        let Some((file, made)) = search.run().map_err(failed)? else {
            if let Some(owner) = another_owner(&link) {
                return Err(anothers(&what, owner));
            }
            let is_lost = is_lost_now(&anchor, &link).map_err(failed)?;
            return Err(if is_lost { lost(&what) } else { unlinked(&what) });
        };
        let identity = file.metadata().map(|meta| identity(&meta)).map_err(failed)?;
        anchor.share(byte_of_table(identity)).map_err(failed)?;
        drop(alone);
        let target = fs::canonicalize(&link).map_err(failed)?;
        let place = Self {
            anchor,
            name,
            target,
            identity,
        };
        Ok(Placed { file, place, made })
    }

    /// Returns the path of the link, for messages.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// Restores the link if it was deleted or leads elsewhere, and returns whether it did. It uses the open directory, which may have been renamed.
    pub(super) fn restore(&self) -> Result<bool> {
        let what = || format!("member table {}", self.name.display());
        match statat(&self.anchor, LINK, AtFlags::empty()) {
            #[allow(clippy::useless_conversion, reason = "the types differ between machines")]
            Ok(found) if (u64::from(found.st_dev), u64::from(found.st_ino)) == self.identity => {
                return Ok(false);
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Error::because(what(), errno)),
        }
        if !fs::metadata(&self.target).is_ok_and(|meta| identity(&meta) == self.identity) {
            return Err(Error::failed(what(), "was deleted while it is in use, so that no other process finds it")
                            .hint("volumes are served, but the pool cannot be changed: stop all apparatuses of the pool, then start them"));
        }
        match mkdirat(&self.anchor, "run", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::because(what(), errno)),
        }
        relink(&self.anchor, &self.target).map_err(|why| Error::because(what(), why))?;
        Ok(true)
    }
}

impl TablePlace {
    /// Removes the table if it is in memory, no other process uses it, and it holds no fact that a new one would lack. Returns whether it did.
    pub(super) fn leave(&self, file: &File) -> io::Result<bool> {
        let Some(_alone) = self.anchor.alone(Duration::ZERO)? else {
            return Ok(false);
        };
        let in_use = self.anchor.shared_elsewhere(one(byte_of_table(self.identity)))?;
        if in_use || !self.target.starts_with(fs::canonicalize(MEMORY)?) {
            return Ok(false);
        }
        // The link stays, so that a process that ends does not wait for the pool's file system. A dangling link counts as no link.
        remove_unused(&self.target, file)
    }
}

/// Removes a table that no other process has open and that holds no fact that a new one would lack. `file` is an opening of it. Returns whether it did.
fn remove_unused(path: &Path, file: &File) -> io::Result<bool> {
    if !sys::try_lock_at(file.as_fd(), IN_USE)? {
        return Ok(false);
    }
    let mut bytes = vec![0; SIZE];
    file.read_exact_at(&mut bytes, 0)?;
    let is_it = |meta: fs::Metadata| {
        file.metadata()
            .is_ok_and(|mine| identity(&mine) == identity(&meta))
    };
    let removable = !remembers(&bytes) && fs::symlink_metadata(path).is_ok_and(is_it);
    if removable {
        fs::remove_file(path)?;
    } else {
        sys::try_share_byte(file.as_fd(), IN_USE)?;
    }
    Ok(removable)
}

/// Removes unused tables of all pools of this user that hold no fact that a new one would lack: those of killed processes.
fn sweep(header: &[u8; PERSISTED]) {
    let all = fs::read_dir(MEMORY).into_iter().flatten().flatten();
    let tables = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for entry in tables.take(OTHERS) {
        let begins_alike = |found: &[u8; PERSISTED]| found[..BEGINNING] == header[..BEGINNING];
        if let Ok(Some(file)) = open_own(&entry.path(), begins_alike) {
            // Another process may remove it at the same time, so a failure is ignored.
            let _ = remove_unused(&entry.path(), &file);
        }
    }
}

/// Locks the byte of processes that have the table open. Returns false when another process removes the table.
fn share(file: &File) -> io::Result<bool> {
    let deadline = Instant::now() + RESTORED;
    while !sys::try_share_byte(file.as_fd(), IN_USE)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::park_timeout(RETRY);
    }
    Ok(file.metadata()?.nlink() == 1)
}

/// Returns the number of the user to whom the table belongs, if that is another than this process's.
fn another_owner(link: &Path) -> Option<u32> {
    let owner = fs::metadata(link).ok()?.uid();
    (owner != geteuid().as_raw()).then_some(owner)
}

/// The refusal of a table that another user's processes use.
fn anothers(what: &str, owner: u32) -> Error {
    let why = format!("belongs to user number {owner}, and all processes of a pool are of one user");
    Error::failed(what, why).hint("run this as that user")
}

/// The refusal while processes use a table that this one does not find by its link and that is in memory all the same.
fn unlinked(what: &str) -> Error {
    let why =
        format!("is in use by a process of this pool, and its link {LINK} was deleted or leads elsewhere");
    Error::new(ErrorKind::Busy, what, why)
        .hint("a running apparatus restores the link within a second; otherwise end the processes that use the pool")
}

/// The refusal while processes use a table that no other process can find.
fn lost(what: &str) -> Error {
    let why = format!(
        "is in use by processes of this pool and cannot be found: it was deleted, or is in the {MEMORY} of another container; volumes are served, and nothing can be changed"
    );
    Error::new(ErrorKind::Busy, what, why).hint(format!(
        "stop all apparatuses of the pool (vctl apparatus stop NAME for each), then start them; containers of one pool have to share {MEMORY}"
    ))
}

/// Returns what there is to say if processes of the pool use a table that no other process can find: not by its link, and not in memory.
pub(super) fn lost_table(pool: &PoolDir) -> Result<Option<Error>> {
    let link = link_of(pool);
    let what = format!("member table {}", pool.name_of(&link).display());
    let failed = |why: io::Error| Error::because(what.clone(), why);
    let Some(anchor) = Anchor::of_existing(pool).map_err(failed)? else {
        return Ok(None);
    };
    let deadline = Instant::now() + LOST;
    // A process that creates or removes the table locks its byte a moment before or after the file exists.
    while is_lost_now(&anchor, &link).map_err(failed)? {
        if Instant::now() >= deadline {
            return Ok(Some(lost(&what)));
        }
        std::thread::park_timeout(RETRY);
    }
    Ok(None)
}

fn is_lost_now(anchor: &Anchor, link: &Path) -> io::Result<bool> {
    if !anchor.uses_another(None)? {
        return Ok(false);
    }
    let prefix = prefix_of(anchor)?;
    let in_memory = fs::read_dir(MEMORY).into_iter().flatten().flatten();
    let in_memory = in_memory.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    for path in in_memory.map(|entry| entry.path()).chain([link.to_owned()]) {
        if let Ok(meta) = fs::metadata(&path)
            && anchor.shared_elsewhere(one(byte_of_table(identity(&meta))))?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns how the names of this pool's tables in memory begin.
fn prefix_of(anchor: &Anchor) -> io::Result<String> {
    let (device, inode) = anchor.identity()?;
    // The inode number may be reused for another directory once this one is deleted.
    let born = anchor.born();
    Ok(format!("{PREFIX}{device:x}-{inode:x}-{born:x}-"))
}

/// Replaces the link by one to this file.
fn relink(anchor: &Anchor, target: &Path) -> io::Result<()> {
    let new = format!("run/.members.{}", Uuid::new_v4().simple());
    symlinkat(target, anchor, &new)?;
    Ok(renameat(anchor, &new, anchor, LINK)?)
}

/// Search for the table, under the exclusive lock on the directory.
struct Search<'a> {
    anchor: &'a Anchor,
    link: &'a Path,
    header: &'a [u8; PERSISTED],
}

impl Search<'_> {
    /// Returns the table, and whether it was created, or `None` while other processes use one that cannot be found.
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
            std::thread::park_timeout(RETRY);
        }
    }

    /// Finds a table in memory whose link was removed. No process uses it, and the facts in it still hold. Removes the tables of an earlier pool of this
    /// directory.
    fn stray(&self) -> io::Result<Option<(File, bool)>> {
        let prefix = prefix_of(self.anchor)?;
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

    fn make(&self) -> io::Result<(File, bool)> {
        sweep(self.header);
        let path = Path::new(MEMORY).join(format!("{}{}", prefix_of(self.anchor)?, Uuid::new_v4().simple()));
        match self.make_in_memory(&path) {
            Ok(file) => {
                relink(self.anchor, &path)?;
                Ok((file, true))
            }
            Err(why) => {
                log::debug!(
                    "the member table is not in memory, so hosts may wait for the pool's file system: {MEMORY}: {why}"
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
            return Err(io::Error::other("it is not a memory file system"));
        }
        write_new(path, self.header).inspect_err(|_| drop(fs::remove_file(path)))
    }
}

/// Opens the file if it is of this boot, pool and format, and no other user can have created it or can write it: every user may create files in a
/// directory such as `/dev/shm`.
fn open_fitting(path: &Path, header: &[u8; PERSISTED]) -> io::Result<Option<File>> {
    match open_own(path, |found| found == header)? {
        Some(file) if share(&file)? => Ok(Some(file)),
        _ => Ok(None),
    }
}

/// Opens a table that no other user can have created or can write, and whose first bytes fit.
fn open_own(path: &Path, fits: impl Fn(&[u8; PERSISTED]) -> bool) -> io::Result<Option<File>> {
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
    let mut found = [0; PERSISTED];
    Ok((file.read_exact(&mut found).is_ok() && fits(&found)).then_some(file))
}

/// Creates a file and writes all its bytes, including zeroes, so that no store into its mapping needs space.
fn write_new(path: &Path, header: &[u8; PERSISTED]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // The lock comes before the file looks like a table, so that a concurrent sweep does not remove it.
    sys::share_byte(file.as_fd(), IN_USE)?;
    file.write_all(&blank(header))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const HEADER: [u8; PERSISTED] = [7; PERSISTED];

    #[test]
    fn a_table_that_another_user_may_have_created_or_may_write_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        let is_taken = || open_fitting(&path, &HEADER).unwrap().is_some();
        write_new(&path, &HEADER).unwrap();
        assert!(is_taken());
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(!is_taken(), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let second = dir.path().join("second");
        fs::hard_link(&path, &second).unwrap();
        assert!(!is_taken(), "it has a second name");
        fs::remove_file(&second).unwrap();
        if geteuid().is_root() {
            chown(&path, Some(1), None).unwrap();
            assert!(!is_taken(), "it belongs to another user");
            chown(&path, Some(0), None).unwrap();
        }
        assert!(is_taken());
        fs::rename(&path, &second).unwrap();
        symlink(&second, &path).unwrap();
        assert!(is_taken(), "the link in the run directory is one");
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(!is_taken(), "a pipe is not waited for");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(!open_fitting(&path, &HEADER).is_ok_and(|found| found.is_some()));
    }
}
