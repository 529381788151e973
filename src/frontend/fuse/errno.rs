//! Maps failures to errno values. No other file does that.

use crate::datapath::{Failure, NotOpened};
use rustix::io::Errno;

/// There is no such name, or the file no longer exists.
pub(super) const NO_SUCH_FILE: Errno = Errno::NOENT;
/// Only the mount's root can be listed or searched.
pub(super) const NOT_A_DIRECTORY: Errno = Errno::NOTDIR;
/// Only `vctl` creates, removes, renames and resizes volumes, and changes their owner and mode.
pub(super) const FOR_VCTL: Errno = Errno::PERM;
/// The volume, or the mount, is read-only.
pub(super) const READ_ONLY: Errno = Errno::ROFS;
/// A volume cannot be truncated through its file, as a disk cannot.
pub(super) const FIXED_SIZE: Errno = Errno::INVAL;
/// A volume cannot grow through its file.
pub(super) const NO_LARGER: Errno = Errno::FBIG;
/// `fallocate` does not support this mode: no range can be collapsed or inserted.
pub(super) const NO_SUCH_ALLOCATION: Errno = Errno::OPNOTSUPP;
/// `lseek` does not support this mode.
pub(super) const NO_SUCH_SEEK: Errno = Errno::INVAL;
/// Files here have no `ioctl`.
pub(super) const NO_SUCH_IOCTL: Errno = Errno::NOTTY;
/// The operation is not implemented, and the kernel does not send it again.
pub(super) const NEVER_ASK: Errno = Errno::NOSYS;
/// Another owner's lock conflicts.
pub(super) const LOCKED: Errno = Errno::AGAIN;
/// A signal arrived while the request waited for a lock.
pub(super) const INTERRUPTED: Errno = Errno::INTR;
/// The owners that wait for locks would wait for each other.
pub(super) const DEADLOCK: Errno = Errno::DEADLK;
/// There are too many locks, or the arbiter of locks is not available.
pub(super) const NO_LOCKS: Errno = Errno::NOLCK;
/// There is no such lock.
pub(super) const NO_SUCH_LOCK: Errno = Errno::INVAL;
/// The request does not belong to the user that mounted, who alone has access.
pub(super) const NOT_THE_OWNER: Errno = Errno::ACCESS;
/// The request's position is larger than a file can be.
pub(super) const NO_POSITION: Errno = Errno::INVAL;
/// The request is not one of the protocol; this does not happen.
pub(super) const MALFORMED: Errno = Errno::IO;
/// The response does not fit the request; this does not happen.
pub(super) const MISFIT: Errno = Errno::IO;

/// Returns the errno for a volume that could not be opened.
pub(super) fn of_open(why: NotOpened) -> Errno {
    match why {
        NotOpened::Gone => NO_SUCH_FILE,
        NotOpened::ReadOnly => READ_ONLY,
        NotOpened::Busy => Errno::BUSY,
    }
}

/// Returns the errno for a request that failed.
pub(super) fn of(failure: Failure) -> Errno {
    match failure {
        Failure::NoVolume => Errno::STALE,
        Failure::PastEnd => Errno::NOSPC,
        Failure::NothingThere => Errno::NXIO,
        Failure::ReadOnly => Errno::ROFS,
        Failure::NoRoom => Errno::NOSPC,
        Failure::Quota => Errno::DQUOT,
        Failure::Disk | Failure::NotPersisted | Failure::Fenced | Failure::Ending => Errno::IO,
    }
}
