//! The server's side: what its supervisor holds for a successor, and what it has from its predecessor.

use super::channel::{self, Item, Kind, Message};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The supervisor of this process. A message to it does not wait for it.
#[derive(Clone, Debug)]
pub struct Link(Arc<OwnedFd>);

/// The server before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Number of servers that have ended since the mount was made.
    pub servers: u64,
    /// When the last one ended, in microseconds of the monotonic clock.
    pub ended_us: u64,
    /// How it ended.
    pub how: String,
}

/// What a server has from its predecessor.
#[derive(Debug, Default)]
pub struct Inherited {
    items: Vec<Item>,
    /// The server before this one; `None` for the first.
    pub previous: Option<Previous>,
}

impl Link {
    /// Takes over the channel to the supervisor, which is the standard input of a server, and receives what the supervisor has. The kernel kills
    /// this process when the supervisor ends: a server without a supervisor must not serve on beside another one.
    ///
    /// # Errors
    /// Fails when the standard input is no such channel, or the supervisor has ended.
    pub fn take_over() -> io::Result<(Self, Inherited)> {
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut inherited = Inherited::default();
        loop {
            match channel::receive(&channel, RecvFlags::empty())? {
                Some(Message::Keep(item)) => inherited.items.push(item),
                Some(Message::Begin {
                    before,
                    ended_us,
                    how,
                }) => {
                    inherited.previous = (before > 0).then_some(Previous {
                        servers: before,
                        ended_us,
                        how,
                    });
                    break;
                }
                _ => return Err(io::Error::other("the supervisor has ended")),
            }
        }
        // The supervisor may have ended before its end was asked to be this one's.
        match getppid() {
            Some(_) => Ok((Self(Arc::new(channel)), inherited)),
            None => Err(io::Error::other("the supervisor has ended")),
        }
    }

    /// Has the supervisor hold a descriptor.
    ///
    /// # Errors
    /// Fails when the supervisor has ended or takes no messages now.
    pub fn keep(&self, kind: Kind, key: [u64; 2], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        channel::send_kept(&self.0, kind, key, descriptor, SendFlags::DONTWAIT)
    }

    /// Has the supervisor close a descriptor.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn release(&self, kind: Kind, key: [u64; 2]) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Release(kind, key), SendFlags::DONTWAIT)
    }

    /// Tells the supervisor that this server serves, and that it has everything that a successor needs.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn serves(&self) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Serves, SendFlags::empty())
    }
}

impl Inherited {
    /// Takes all descriptors of a kind out of it, in the order of their keys.
    pub fn take(&mut self, kind: Kind) -> Vec<([u64; 2], OwnedFd)> {
        let taken = self.items.extract_if(.., |item| item.kind == kind);
        let mut taken: Vec<_> = taken.map(|item| (item.key, item.descriptor)).collect();
        taken.sort_by_key(|(key, _)| *key);
        taken
    }
}
