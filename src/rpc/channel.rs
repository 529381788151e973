//! Channels: connections that carry bytes without waiting, within one machine or between two.

use super::pipe::Broken;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Where an apparatus listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At a control socket of this machine.
    Local(PathBuf),
    /// At an address of another node, whose certificate has this name.
    Remote(SocketAddr, String),
}

/// One end of a connection. No method waits.
pub(crate) trait Channel: Debug + Send {
    /// Returns the descriptor to poll.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Reads bytes that have arrived; returns 0 if there are none now.
    ///
    /// # Errors
    /// Fails when the connection is closed, broken or not trusted.
    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Broken>;

    /// Returns whether there are bytes in memory that [`Channel::receive`] returns without an event of the descriptor.
    fn has_more(&self) -> bool {
        false
    }

    /// Sends bytes as far as the connection accepts them. Returns how many; 0 if none now.
    ///
    /// # Errors
    /// Fails as [`Channel::receive`] does.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Broken>;

    /// Returns the events to poll for; `unsent` says that bytes wait to be sent.
    fn interest(&self, unsent: bool) -> PollFlags {
        if unsent {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    /// Returns whether the other side has not proved yet who it is.
    fn is_unproved(&self) -> bool {
        false
    }

    /// Returns whether the other side has proved who it is, and has to be admitted before anything is read from it.
    fn awaits_admission(&self) -> bool {
        false
    }

    /// Admits the other side if the name in its certificate is one of these. Returns whether it is admitted.
    fn admit(&mut self, _names: &BTreeSet<String>) -> bool {
        true
    }
}

/// Connects to other nodes, with the certificate of this one.
pub(crate) trait Connector: Debug + Send + Sync {
    /// Begins to connect to an address, where the name in the certificate has to be this one.
    ///
    /// # Errors
    /// Fails when that is not possible.
    fn connect(&self, address: SocketAddr, name: &str) -> Result<Box<dyn Channel>, Broken>;
}

/// Accepts connections from other nodes.
pub(crate) trait Acceptor: Debug + Send {
    /// Returns the descriptor to poll.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Accepts the next queued connection, if there is one.
    ///
    /// # Errors
    /// Fails with the error of the system call.
    fn accept(&self) -> rustix::io::Result<Option<Box<dyn Channel>>>;
}

/// Where an apparatus listens for other nodes.
#[derive(Debug)]
pub struct NodeListener {
    /// The socket, until the control thread has taken it.
    pub(crate) acceptor: Option<Box<dyn Acceptor>>,
    /// The port.
    pub port: u16,
}

/// Socket of this machine: the kernel says who the other side is.
#[derive(Debug)]
pub(super) struct Plain(pub(super) OwnedFd);

impl Channel for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        receive(&self.0, into)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        send(&self.0, bytes)
    }
}

/// Reads once from a non-blocking socket.
pub(super) fn receive(socket: &OwnedFd, into: &mut [u8]) -> Result<usize, Broken> {
    loop {
        return match rustix::net::recv(socket, &mut *into, RecvFlags::empty()) {
            Ok((0, _)) => Err(Broken::Closed),
            Ok((got, _)) => Ok(got),
            Err(Errno::AGAIN) => Ok(0),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(broken(errno)),
        };
    }
}

/// Sends once to a non-blocking socket.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Broken> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        return match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => Ok(0),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(broken(errno)),
        };
    }
}

fn broken(errno: Errno) -> Broken {
    match errno {
        Errno::CONNREFUSED => Broken::Absent,
        Errno::PIPE | Errno::CONNRESET => Broken::Closed,
        errno => Broken::Failed(errno),
    }
}
