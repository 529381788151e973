//! The service manager's store of descriptors (systemd: `FileDescriptorStoreMax=`). What a supervisor keeps is there too, so that its successor goes on where a
//! supervisor that was killed has been. The name of a descriptor tells what it is. Where the manager has no such store (`FDSTORE` is not set), nothing is
//! stored, and the end of the supervisor is that of the mount.

use super::channel::Kind;
use crate::sys;
use rustix::fs::{MemfdFlags, memfd_create};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use zerocopy::IntoBytes;

/// Name of the file with the supervisor's own state.
const STATE: &str = "state";

/// Descriptors that are kept, by what they are.
pub(super) type Kept = BTreeMap<(Kind, [u64; 2]), OwnedFd>;

/// The store of the service manager, if there is one.
pub(super) struct ManagerStore {
    is_there: bool,
    /// The number of servers that have ended, and whether the mount can be gone on with.
    state: File,
    ended: u64,
    is_complete: bool,
}

/// What an earlier supervisor has left.
#[derive(Default)]
pub(super) struct Left {
    /// The descriptors.
    pub(super) kept: Kept,
    /// The number of servers that had ended.
    pub(super) ended: u64,
    /// Whether the descriptors are all that a server needs to go on.
    pub(super) is_complete: bool,
}

impl ManagerStore {
    /// Takes what an earlier supervisor has left there. What is not complete is not used, and is removed.
    ///
    /// # Errors
    /// Fails when there is no memory for the state.
    pub(super) fn open() -> io::Result<(Self, Left)> {
        let is_there = std::env::var("FDSTORE").is_ok_and(|most| most != "0");
        let mut passed = sys::descriptors_from_manager()?;
        let state = passed.iter().position(|(name, _)| name == STATE);
        let state = state.map(|at| File::from(passed.swap_remove(at).1));
        let kept = passed
            .into_iter()
            .filter_map(|(name, descriptor)| Some((parse(&name)?, descriptor)));
        let mut left = Left {
            kept: kept.collect(),
            ..Left::default()
        };
        let is_new = state.is_none();
        let state = match state {
            Some(state) => state,
            None => File::from(memfd_create("supervisor", MemfdFlags::CLOEXEC)?),
        };
        let mut words = [0_u64; 2];
        if state.read_exact_at(words.as_mut_bytes(), 0).is_ok() {
            (left.ended, left.is_complete) = (words[0], words[1] != 0);
        }
        let store = Self {
            is_there,
            state,
            ended: left.ended,
            is_complete: left.is_complete,
        };
        if is_new {
            store.write();
            store.send(STATE, Some(store.state.as_fd()));
        }
        Ok((store, left))
    }

    /// Stores a descriptor.
    pub(super) fn keep(&self, kind: Kind, key: [u64; 2], descriptor: BorrowedFd<'_>) {
        self.send(&name(kind, key), Some(descriptor));
    }

    /// Removes a descriptor.
    pub(super) fn release(&self, kind: Kind, key: [u64; 2]) {
        self.send(&name(kind, key), None);
    }

    /// Records that all descriptors are stored that a server needs to go on.
    pub(super) fn complete(&mut self) {
        if !self.is_complete {
            self.is_complete = true;
            self.write();
        }
    }

    /// Records how many servers have ended.
    pub(super) fn ended(&mut self, ended: u64) {
        self.ended = ended;
        self.write();
    }

    /// Removes everything: the mount has ended.
    pub(super) fn clear(&mut self, kept: &Kept) {
        (self.is_complete, self.ended) = (false, 0);
        self.write();
        for (kind, key) in kept.keys() {
            self.release(*kind, *key);
        }
    }

    fn write(&self) {
        let words = [self.ended, u64::from(self.is_complete)];
        if let Err(why) = self.state.write_all_at(words.as_bytes(), 0) {
            log::error!("the supervisor's state cannot be recorded: {why}");
        }
    }

    fn send(&self, name: &str, descriptor: Option<BorrowedFd<'_>>) {
        if !self.is_there {
            return;
        }
        let what = match descriptor {
            Some(_) => NotifyState::FdStore,
            None => NotifyState::FdStoreRemove,
        };
        let sent = match descriptor {
            Some(descriptor) => sd_notify::notify_with_fds(&[what, NotifyState::FdName(name)], &[descriptor]),
            None => sd_notify::notify(&[what, NotifyState::FdName(name)]),
        };
        if let Err(why) = sent {
            log::error!("the service manager does not store {name}: {why}");
        }
    }
}

const NAMES: [(Kind, &str); 5] = [
    (Kind::Device, "device"),
    (Kind::Opens, "opens"),
    (Kind::Owners, "owners"),
    (Kind::Lock, "lock"),
    (Kind::Jobs, "jobs"),
];

fn name(kind: Kind, [one, other]: [u64; 2]) -> String {
    let name = NAMES.iter().find(|(each, _)| *each == kind);
    format!("{}-{one}-{other}", name.map_or("", |(_, name)| name))
}

fn parse(text: &str) -> Option<(Kind, [u64; 2])> {
    let mut parts = text.split('-');
    let (name, one, other) = (parts.next()?, parts.next()?, parts.next()?);
    let (kind, _) = NAMES.iter().find(|(_, each)| *each == name)?;
    parts
        .next()
        .is_none()
        .then_some((*kind, [one.parse().ok()?, other.parse().ok()?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_others_are_passed_over() {
        for (kind, _) in NAMES {
            for key in [[0, 0], [u64::MAX, 7]] {
                assert_eq!(parse(&name(kind, key)), Some((kind, key)));
            }
        }
        for other in [
            "",
            "stored",
            "state",
            "device",
            "device-1",
            "device-1-x",
            "device-1-2-3",
            "-1-2",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
