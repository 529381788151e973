//! errno, chosen here and nowhere else.

use crate::data::{Failure, NotOpened};
use fuser::Errno;

/// There is no such name, or the file asked about is gone.
pub(super) const NO_SUCH_FILE: Errno = Errno::ENOENT;
/// Only the mount's directory can be listed or looked in.
pub(super) const NOT_A_DIRECTORY: Errno = Errno::ENOTDIR;
/// Volumes are made, removed, renamed, resized and given away by `vctl` alone.
pub(super) const FOR_VCTL: Errno = Errno::EPERM;
/// The volume, or the mount, is read-only.
pub(super) const READ_ONLY: Errno = Errno::EROFS;
/// A volume is not cut off by its file, as a disk is not.
pub(super) const FIXED_SIZE: Errno = Errno::EINVAL;
/// A volume does not grow by its file.
pub(super) const NO_LARGER: Errno = Errno::EFBIG;
/// No such kind of `fallocate`: nothing is taken out of a volume or pushed in.
pub(super) const NO_SUCH_ALLOCATION: Errno = Errno::EOPNOTSUPP;
/// No such kind of `lseek`.
pub(super) const NO_SUCH_SEEK: Errno = Errno::EINVAL;
/// Files here have no `ioctl`.
pub(super) const NO_SUCH_IOCTL: Errno = Errno::ENOTTY;
/// Tells the kernel not to ask again.
pub(super) const NEVER_ASK: Errno = Errno::ENOSYS;
/// Somebody else's lock is in the way.
pub(super) const LOCKED: Errno = Errno::EAGAIN;
/// A signal came while a lock was waited for.
pub(super) const INTERRUPTED: Errno = Errno::EINTR;
/// Those who wait for locks would wait for each other.
pub(super) const DEADLOCK: Errno = Errno::EDEADLK;
/// Too many locks, or nobody can decide about them.
pub(super) const NO_LOCKS: Errno = Errno::ENOLCK;
/// There is no such lock.
pub(super) const NO_SUCH_LOCK: Errno = Errno::EINVAL;
/// An answer that does not fit its question; does not happen.
pub(super) const MISFIT: Errno = Errno::EIO;

/// For a volume that could not be opened.
pub(super) fn of_open(why: NotOpened) -> Errno {
    match why {
        NotOpened::Gone => NO_SUCH_FILE,
        NotOpened::ReadOnly => READ_ONLY,
        NotOpened::Busy => Errno::EBUSY,
    }
}

/// For a request that could not be carried out.
pub(super) fn of(failure: Failure) -> Errno {
    match failure {
        Failure::NoVolume => Errno::ESTALE,
        Failure::PastEnd => Errno::ENOSPC,
        Failure::NothingThere => Errno::ENXIO,
        Failure::ReadOnly => Errno::EROFS,
        Failure::NoRoom => Errno::ENOSPC,
        Failure::Quota => Errno::EDQUOT,
        Failure::Disk | Failure::NotHardened | Failure::Fenced | Failure::Ending => Errno::EIO,
    }
}
