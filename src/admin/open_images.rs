//! Files that an apparatus has open as disks and that the paths of these disks do not lead to any more: they were deleted, or other files were put in
//! their places. A deleted file is gone once no process has it open, and no other process can open it.

use super::view::PoolView;
use crate::blockdev::with_timeout;
use crate::cluster::{self, OpenDisk, Owner, open_disks, owners};
use crate::controller::elsewhere;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::Member;
use crate::model::names::Name;
use crate::store::{Store, TableStore};
use crate::sys;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The option that gives up a disk whose file only a running apparatus has.
pub const LOSE_DISK: &str = "--lose-disk";

/// How long the directory of a disk's file may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of an apparatus may wait for the database, to name the disks that are lost with it.
const READING: Duration = Duration::from_secs(5);

/// A disk of the pool, as far as its file is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskFile {
    name: Name,
    /// Its path, without links.
    path: PathBuf,
    /// Whether a volume is on it.
    has_data: bool,
}

/// A file that is open as a disk, and that the disk's path does not lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stray {
    /// The disk's name, or the file's path where the name is not known.
    disk: String,
    file: OpenDisk,
}

/// Returns those of the open files that the paths of the disks do not lead to. A file that was renamed belongs to the disk that none of the other
/// files belongs to.
fn strays(disks: &[DiskFile], open: &[OpenDisk]) -> Vec<Stray> {
    let at = |disk: &&DiskFile| open.iter().find(|file| file.path == disk.path);
    let (found, missing): (Vec<&DiskFile>, Vec<&DiskFile>) =
        disks.iter().partition(|disk| at(disk).is_some());
    let mut strays: Vec<Stray> = Vec::new();
    for disk in found.into_iter().filter(|disk| disk.has_data) {
        let mut files = open.iter().filter(|file| file.path == disk.path);
        // While a new file is opened the deleted one may still be open.
        if files.clone().all(|file| file.is_deleted)
            && let Some(file) = files.next()
        {
            strays.push(Stray {
                disk: disk.name.to_string(),
                file: file.clone(),
            });
        }
    }
    let renamed = |file: &&OpenDisk| disks.iter().all(|disk| disk.path != file.path);
    let renamed: Vec<&OpenDisk> = open.iter().filter(renamed).collect();
    if let ([disk], [file]) = (&missing[..], &renamed[..])
        && disk.has_data
    {
        strays.push(Stray {
            disk: disk.name.to_string(),
            file: (*file).clone(),
        });
    }
    strays
}

/// Returns those of the files that no other process has open and whose loss is not accepted by the disk's name or the file's path.
fn unaccepted(strays: Vec<Stray>, elsewhere: &[OpenDisk], accepted: &[String]) -> Vec<Stray> {
    let is_accepted = |stray: &Stray| {
        let path = stray.file.path.to_str();
        accepted
            .iter()
            .any(|name| *name == stray.disk || Some(name.as_str()) == path)
    };
    let mut left = strays;
    left.retain(|stray| !elsewhere.contains(&stray.file) && !is_accepted(stray));
    left
}

fn disk_files(store: &mut dyn TableStore) -> Result<Vec<DiskFile>> {
    let view = PoolView::load(store)?;
    let file = |disk: super::view::DiskView| DiskFile {
        path: without_links(&disk.record.path),
        name: disk.record.name,
        has_data: disk.volumes > 0,
    };
    Ok(view.disks.into_iter().map(file).collect())
}

/// Resolves the links of a path, unless its directory does not answer.
fn without_links(path: &Path) -> PathBuf {
    let given = path.to_owned();
    let resolved = with_timeout::ask(path, PATIENCE, move || sys::without_links(&given));
    resolved.ok().flatten().unwrap_or_else(|| path.to_owned())
}

/// Returns the names of the apparatuses that have this deleted file open as a disk, as far as that can be seen from here.
pub(super) fn holders_of_deleted<'a>(
    path: &Path,
    members: impl Iterator<Item = &'a Member>,
) -> Vec<&'a Member> {
    let path = without_links(path);
    let has = |member: &&Member| {
        let mut open = open_disks(member.pid).into_iter();
        open.any(|file| file.is_deleted && file.path == path)
    };
    members.filter(has).collect()
}

/// Checks that no disk is lost when the process of an apparatus ends, except those whose loss is accepted by name.
///
/// # Errors
/// Fails with `Busy` and the names of the disks of whose deleted files this apparatus has the only open copy; returns the errors of the store.
pub fn check_end(pool: &PoolDir, store: &mut dyn Store, member: &Member, accepted: &[String]) -> Result<()> {
    match only_copies(pool, store, member, accepted)?.first() {
        Some(stray) => Err(only_copy(
            &format!("apparatus {}", member.name),
            &member.mount,
            stray,
        )),
        None => Ok(()),
    }
}

fn only_copies(
    pool: &PoolDir,
    store: &mut dyn Store,
    member: &Member,
    accepted: &[String],
) -> Result<Vec<Stray>> {
    // The process ids of other machines mean nothing here.
    if elsewhere::is_on_another(pool, member)? {
        return Ok(Vec::new());
    }
    let open = open_disks(member.pid);
    if open.iter().all(|file| !file.is_deleted) {
        return Ok(Vec::new());
    }
    let cluster = cluster::open(pool)?;
    let (_, members) = store.members()?;
    let others = members.iter().filter(|other| other.slot != member.slot);
    let others = others.filter(|other| !cluster.has_ended(other).unwrap_or(true));
    let open_elsewhere: Vec<OpenDisk> = others.flat_map(|other| open_disks(other.pid)).collect();
    let mut strays = strays(&disk_files(store)?, &open);
    strays.retain(|stray| stray.file.is_deleted);
    Ok(unaccepted(strays, &open_elsewhere, accepted))
}

/// Returns the disks of whose deleted files this process, which is this apparatus, has the only open copy, with what that means. What cannot be found out
/// soon is left out.
#[must_use]
pub fn lost_with_this_process(pool: &PoolDir, apparatus: &Name) -> Vec<(String, String)> {
    if open_disks(std::process::id()).iter().all(|file| !file.is_deleted) {
        return Vec::new();
    }
    let (dir, name) = (pool.clone(), apparatus.clone());
    let look = move || {
        let mut store = super::open(&dir)?;
        let member = super::apparatus::member(&mut *store, name.as_str())?;
        only_copies(&dir, &mut *store, &member, &[])
    };
    let checked = with_timeout::ask(&pool.database(), READING, look)
        .ok()
        .and_then(Result::ok);
    let text = |stray: Stray| {
        let file = stray.file.path.display();
        let text = format!(
            "its file {file} was deleted, and apparatus {apparatus}, which ends now, had the only open copy: it is lost, unless a program that still has a volume on it open copies that"
        );
        (format!("disk {}", stray.disk), text)
    };
    let found = checked.unwrap_or_default();
    found.into_iter().map(text).collect()
}

/// Checks the same where the pool cannot be read: each deleted file that the process has open as a disk counts, by its path.
///
/// # Errors
/// Fails with `Busy` and the path of a file.
pub fn check_process_end(pool: &PoolDir, owner: &Owner, accepted: &[String]) -> Result<()> {
    let others = owners(pool).into_iter().filter(|other| other.pid != owner.pid);
    let open_elsewhere: Vec<OpenDisk> = others.flat_map(|other| other.disks).collect();
    let deleted = owner.disks.iter().filter(|file| file.is_deleted);
    let strays = deleted.map(|file| Stray {
        disk: file.path.display().to_string(),
        file: file.clone(),
    });
    match unaccepted(strays.collect(), &open_elsewhere, accepted).first() {
        Some(stray) => {
            let mount = owner.mount.as_deref().unwrap_or(Path::new("its mount"));
            Err(only_copy(&owner.to_string(), mount, stray))
        }
        None => Ok(()),
    }
}

fn only_copy(what: &str, mount: &Path, stray: &Stray) -> Error {
    let file = stray.file.path.display();
    let why = format!(
        "has the only open copy of disk {}: its file {file} was deleted, and is gone when this apparatus ends",
        stray.disk
    );
    Error::new(ErrorKind::Busy, what, why).hint(copy_or_lose(mount, stray))
}

fn copy_or_lose(mount: &Path, stray: &Stray) -> String {
    format!(
        "first copy the volumes on it from the mount, {}, to another place; or give them up: {LOSE_DISK} {}",
        mount.display(),
        stray.disk
    )
}

/// Checks that a new server of an apparatus can open what the present one has open, except disks whose loss is accepted by name.
///
/// # Errors
/// Fails with `Busy` and the name of a disk whose file was deleted, or whose path leads elsewhere; returns the errors of the store.
pub fn check_replacement(store: &mut dyn Store, member: &Member, accepted: &[String]) -> Result<()> {
    let strays = strays(&disk_files(store)?, &open_disks(member.pid));
    let strays = unaccepted(strays, &[], accepted);
    let Some(stray) = strays.first() else {
        return Ok(());
    };
    let what = format!("apparatus {}", member.name);
    let (disk, file) = (&stray.disk, stray.file.path.display());
    let refused = |why: String| Error::new(ErrorKind::Busy, what, why);
    Err(match stray.file.is_deleted {
        true => refused(format!(
            "has disk {disk} open, whose file {file} was deleted: a new server could not open it, and its last copy would be lost"
        ))
        .hint(copy_or_lose(&member.mount, stray)),
        false => refused(format!(
            "has disk {disk} open as {file}, and the path of the disk does not lead there any more: a new server could not open it"
        ))
        .hint(format!(
            "put that file back at the path of the disk: vctl disk show {disk}; or go on without the disk: {LOSE_DISK} {disk}"
        )),
    })
}

/// Replaces the way out of an error of a move where a disk cannot be read because its file was deleted, and an apparatus still has it open.
#[must_use]
pub fn explain(pool: &PoolDir, error: Error) -> Error {
    match first_deleted(pool) {
        Ok(Some((disk, member))) if is_about(&error, &disk) => {
            let hint = format!(
                "the file of disk {disk} was deleted, and apparatus {} still has it open: copy the volumes on it from the mount, {}, to new volumes",
                member.name,
                member.mount.display()
            );
            error.hint(hint)
        }
        _ => error,
    }
}

fn is_about(error: &Error, disk: &str) -> bool {
    let text = format!("{} {}", error.what(), error.why());
    let mut words = text.split(|c: char| !(c.is_alphanumeric() || "-_.".contains(c)));
    words.any(|word| word == disk)
}

fn first_deleted(pool: &PoolDir) -> Result<Option<(String, Member)>> {
    let (mut store, cluster) = (super::open(pool)?, cluster::open(pool)?);
    let disks = disk_files(&mut *store)?;
    let (_, members) = store.members()?;
    let living = members
        .into_iter()
        .filter(|member| !cluster.has_ended(member).unwrap_or(true));
    let deleted = |member: Member| {
        let mut strays = strays(&disks, &open_disks(member.pid)).into_iter();
        let stray = strays.find(|stray| stray.file.is_deleted)?;
        Some((stray.disk, member))
    };
    Ok(living.filter_map(deleted).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, has_data: bool) -> DiskFile {
        DiskFile {
            name: Name::new("disk", name).unwrap(),
            path: format!("/p/{name}.img").into(),
            has_data,
        }
    }

    fn file(path: &str, inode: u64, is_deleted: bool) -> OpenDisk {
        OpenDisk {
            path: path.into(),
            inode,
            is_deleted,
        }
    }

    fn named(strays: &[Stray]) -> Vec<(&str, bool)> {
        strays
            .iter()
            .map(|stray| (stray.disk.as_str(), stray.file.is_deleted))
            .collect()
    }

    #[test]
    fn a_deleted_or_renamed_file_is_found_with_its_disk() {
        let disks = [disk("d1", true), disk("d2", true), disk("d3", false)];
        let whole = [
            file("/p/d1.img", 1, false),
            file("/p/d2.img", 2, false),
            file("/p/d3.img", 3, false),
        ];
        assert_eq!(named(&strays(&disks, &whole)), []);
        let deleted = [
            file("/p/d1.img", 1, true),
            file("/p/d2.img", 2, false),
            file("/p/d3.img", 3, true),
        ];
        assert_eq!(
            named(&strays(&disks, &deleted)),
            [("d1", true)],
            "nothing is on d3"
        );
        let renamed = [
            file("/p/d1.img", 1, false),
            file("/p/away", 2, false),
            file("/p/d3.img", 3, false),
        ];
        assert_eq!(named(&strays(&disks, &renamed)), [("d2", false)]);
        let opened_again = [
            file("/p/d1.img", 1, true),
            file("/p/d1.img", 4, false),
            file("/p/d2.img", 2, false),
        ];
        assert_eq!(named(&strays(&disks, &opened_again)), []);
        let of_a_removed_disk = [&whole[..], &[file("/p/d4.img", 5, true)]].concat();
        assert_eq!(named(&strays(&disks, &of_a_removed_disk)), []);
    }

    #[test]
    fn a_file_that_another_has_open_too_or_whose_loss_is_accepted_is_not_refused() {
        let disks = [disk("d1", true)];
        let open = [file("/p/d1.img", 1, true)];
        let left = |elsewhere: &[OpenDisk], accepted: &[&str]| {
            let accepted: Vec<String> = accepted.iter().map(|&name| name.to_owned()).collect();
            unaccepted(strays(&disks, &open), elsewhere, &accepted).len()
        };
        assert_eq!(left(&[], &[]), 1);
        assert_eq!(left(&[], &["d2"]), 1);
        assert_eq!(left(&[file("/p/d1.img", 7, true)], &[]), 1, "it is another file");
        assert_eq!(left(&open, &[]), 0);
        assert_eq!(left(&[], &["d1"]), 0);
        assert_eq!(left(&[], &["/p/d1.img"]), 0);
    }

    #[test]
    fn an_error_is_about_a_disk_whose_whole_name_it_contains() {
        let error = Error::failed("disk d10, /p/d10.img", "cannot be opened");
        assert!(!is_about(&error, "d1"));
        assert!(is_about(&error, "d10"));
        assert!(is_about(
            &Error::failed("job 3", "disk d1 cannot be opened: x"),
            "d1"
        ));
    }
}
