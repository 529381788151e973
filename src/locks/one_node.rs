//! Locks of a pool that may have several nodes: they are granted as long as it has one.
//!
//! Nothing tells the nodes of each other's locks, so where there are several every lock is refused (`ENOLCK`), instead of being granted by two. A node reads
//! how many there are in its own copy of the metadata, which has at least those that were there when it joined: of two nodes the later one always knows
//! of both. So there is never more than one node that grants locks, whichever of them has heard of the other.

use super::{Arbiter, HeldLock, LeftLocks, LockMode, Owner, Range, Through};
use crate::model::units::VolumeId;
use std::io;

/// Returns whether the pool has other nodes than this one.
pub type HasOthers = Box<dyn FnMut() -> bool + Send>;

/// Refuses locks while the pool has other nodes.
pub struct OneNode<A> {
    arbiter: A,
    has_others: HasOthers,
    /// Whether it was reported that locks are refused.
    reported: bool,
}

impl<A: Arbiter> OneNode<A> {
    /// Makes it of the arbiter of this node.
    pub fn new(arbiter: A, has_others: HasOthers) -> Self {
        Self {
            arbiter,
            has_others,
            reported: false,
        }
    }

    fn refuse_several(&mut self) -> io::Result<()> {
        if !(self.has_others)() {
            self.reported = false;
            return Ok(());
        }
        if !self.reported {
            log::warn!(
                "a host asked for a file lock, which was refused (ENOLCK): the pool has several nodes, and locks do not hold across them"
            );
            self.reported = true;
        }
        Err(io::Error::from_raw_os_error(libc::ENOLCK))
    }
}

impl<A: Arbiter> Arbiter for OneNode<A> {
    fn set(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Option<LockMode>,
    ) -> io::Result<bool> {
        // What is held is released, and whoever has locks already keeps them.
        if kind.is_some() {
            self.refuse_several()?;
        }
        self.arbiter.set(volume, owner, range, kind)
    }

    fn conflict(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: LockMode,
    ) -> io::Result<Option<HeldLock>> {
        self.refuse_several()?;
        self.arbiter.conflict(volume, owner, range, kind)
    }

    fn forget(&mut self, volume: VolumeId, owner: Owner) {
        self.arbiter.forget(volume, owner);
    }

    fn record(&mut self, volume: VolumeId, owner: Owner, through: Through) -> io::Result<()> {
        self.arbiter.record(volume, owner, through)
    }

    fn left(&mut self) -> Vec<LeftLocks> {
        self.arbiter.left()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::super::RunFiles;
    use super::*;
    use crate::model::dir::PoolDir;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn locks_are_refused_while_the_pool_has_other_nodes_and_what_is_held_is_released() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("run")).unwrap();
        let files = RunFiles::new(&PoolDir::new(scratch.path()));
        let others = Arc::new(AtomicBool::new(false));
        let known = Arc::clone(&others);
        let mut locks = OneNode::new(files, Box::new(move || known.load(Ordering::Relaxed)));
        let (volume, all) = (VolumeId(1), Range { start: 0, end: 9 });
        let exclusive = Some(LockMode::Exclusive);
        assert!(locks.set(volume, Owner(1), all, exclusive).unwrap());
        assert!(!locks.set(volume, Owner(2), all, exclusive).unwrap());

        others.store(true, Ordering::Relaxed);
        let refused = locks.set(volume, Owner(2), all, exclusive).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOLCK));
        assert!(locks.conflict(volume, Owner(2), all, LockMode::Shared).is_err());
        assert!(locks.set(volume, Owner(1), all, None).unwrap());

        others.store(false, Ordering::Relaxed);
        assert!(locks.set(volume, Owner(2), all, exclusive).unwrap());
    }
}
