//! The server's side: what its supervisor holds for a successor, and what it has from its predecessor.

use super::channel::{self, Item, Kind, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

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

/// How a server ended that another one replaced.
pub(super) const REPLACED: &str = "was replaced";

impl Previous {
    /// Returns whether it ended because this server was prepared.
    #[must_use]
    pub fn was_replaced(&self) -> bool {
        self.how == REPLACED
    }
}

/// What a server has from its predecessor.
#[derive(Debug, Default)]
pub struct Inherited {
    items: Vec<Item>,
    /// The server before this one; `None` for the first.
    pub previous: Option<Previous>,
    /// Whether that server serves on until this one is prepared.
    pub is_successor: bool,
    /// Whether that server serves on until it ends for another reason: this one stands by.
    pub stands_by: bool,
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
        inherited.receive(&channel)?;
        // The supervisor may have ended before its end was asked to be this one's.
        match getppid() == Some(socket_peercred(&channel)?.pid) {
            true => Ok((Self(Arc::new(channel)), inherited)),
            false => Err(io::Error::other("the supervisor has ended")),
        }
    }

    /// Tells the supervisor that this process is prepared, and waits until the server before it has ended. Receives what that one has left.
    ///
    /// # Errors
    /// Fails when that server serves on.
    pub fn succeed(&self, inherited: &mut Inherited) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Prepared, SendFlags::empty())?;
        inherited.receive(&self.0)
    }

    /// Waits for the turn of a server that stands by, no longer than `within`. Returns whether it has come; then what the server before it has left was
    /// received.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn await_turn(&self, inherited: &mut Inherited, within: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(within).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => inherited.receive(&self.0).map(|()| true),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the supervisor why this process cannot replace the server before it.
    pub fn failed(&self, why: &str) {
        // If the supervisor has ended, nobody waits for it.
        let _ = channel::send_plain(&self.0, &Message::Failed(why.to_owned()), SendFlags::DONTWAIT);
    }

    /// Waits until the supervisor asks this server to retire, and returns true. Returns false when the supervisor has ended.
    #[must_use]
    pub fn await_retirement(&self) -> bool {
        matches!(
            channel::receive(&self.0, RecvFlags::empty()),
            Ok(Some(Message::Retire))
        )
    }

    /// Tells the supervisor that this server serves on though it was asked to retire.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn stays(&self, why: &str) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Stays(why.to_owned()), SendFlags::empty())
    }

    /// Tells the supervisor that this server ends, and since when it has taken no request.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn retired(&self, since_us: u64) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Retired { since_us }, SendFlags::empty())
    }

    /// Tells the supervisor that this server was asked to stop.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub fn stops(&self) -> io::Result<()> {
        channel::send_plain(&self.0, &Message::Stops, SendFlags::empty())
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
    /// Receives what the supervisor has, up to the word to begin, to prepare, or to stand by.
    fn receive(&mut self, channel: &OwnedFd) -> io::Result<()> {
        loop {
            match channel::receive(channel, RecvFlags::empty())? {
                Some(Message::Keep(item)) => self.items.push(item),
                Some(Message::Begin {
                    before,
                    ended_us,
                    how,
                }) => {
                    self.previous = (before > 0).then_some(Previous {
                        servers: before,
                        ended_us,
                        how,
                    });
                    return Ok(());
                }
                Some(Message::StandBy) => {
                    self.stands_by = true;
                    return Ok(());
                }
                Some(Message::Prepare {
                    version: channel::VERSION,
                }) => {
                    self.is_successor = true;
                    return Ok(());
                }
                Some(Message::Prepare { .. }) => {
                    let why = "the supervisor is of another version: stop the apparatus, and start it with the new program";
                    let failed = Message::Failed(why.to_owned());
                    channel::send_plain(channel, &failed, SendFlags::DONTWAIT)?;
                    return Err(io::Error::other(why));
                }
                _ => return Err(io::Error::other("the supervisor has ended")),
            }
        }
    }

    /// Takes all descriptors of a kind out of it, in the order of their keys.
    pub fn take(&mut self, kind: Kind) -> Vec<([u64; 2], OwnedFd)> {
        let taken = self.items.extract_if(.., |item| item.kind == kind);
        let mut taken: Vec<_> = taken.map(|item| (item.key, item.descriptor)).collect();
        taken.sort_by_key(|(key, _)| *key);
        taken
    }
}
