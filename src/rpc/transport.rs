//! Transport of links: the connections of one client, and the time by which it waits for them.

use super::channel::{Address, Connector};
use super::listen;
use super::pipe::Pipe;
use crate::model::units::Slot;
use crate::rpc::frame;
use crate::rpc::message::{Answer, AnswerFrame, RequestFrame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::pipe::Broken;

/// Maximum number of queued bytes for an apparatus that does not read: more than the largest frame.
const MOST_OUT: usize = frame::CAP + (1 << 20);

/// Connections of one client to apparatuses, at most one for each slot. No method but [`Transport::wait`] waits. A connection that a method reports
/// as broken is closed by its caller.
pub trait Transport: Send {
    /// Returns the time that the client's deadlines refer to.
    fn now(&self) -> Instant;

    /// Connects a slot to the apparatus that listens at this address. Returns false while the apparatus has too many connections that it has not accepted:
    /// then the caller tries again.
    ///
    /// # Errors
    /// Fails with [`Broken::Absent`] when nothing listens there, or with the error of the connection.
    fn connect(&mut self, slot: Slot, address: &Address) -> Result<bool, Broken>;

    /// Returns whether this slot is connected.
    fn is_connected(&self, slot: Slot) -> bool;

    /// Closes the connection of this slot, if there is one.
    fn close(&mut self, slot: Slot);

    /// Queues a frame for this slot; [`Transport::flush`] sends it. Without a connection it is dropped.
    ///
    /// # Errors
    /// Fails when too much is queued already, or the frame cannot be encoded.
    fn queue(&mut self, slot: Slot, frame: &RequestFrame) -> Result<(), Broken>;

    /// Sends what is queued for this slot, as far as the connection accepts it; [`Transport::receive`] sends the rest.
    ///
    /// # Errors
    /// Fails when the connection is broken.
    fn flush(&mut self, slot: Slot) -> Result<(), Broken>;

    /// Appends the answers that have arrived from this slot to `answers`. Answers that arrived before a failure are valid.
    ///
    /// # Errors
    /// Fails when the connection is broken.
    fn receive(&mut self, slot: Slot, answers: &mut Vec<Answer>) -> Result<(), Broken>;

    /// Waits for at most `within` until [`Transport::receive`] of some slot has something to do. Returns those slots.
    fn wait(&mut self, within: Duration) -> Vec<Slot>;
}

/// Transport over the control sockets of apparatuses, and over TLS to those of other nodes.
#[derive(Debug)]
pub struct Sockets {
    pipes: BTreeMap<Slot, Pipe>,
    scratch: Vec<u8>,
    connector: Option<Arc<dyn Connector>>,
}

impl Sockets {
    /// Makes a transport without connections, within this machine.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pipes: BTreeMap::new(),
            scratch: vec![0; frame::READ],
            connector: None,
        }
    }

    /// Makes a transport without connections that reaches other nodes too, with the certificate of this one.
    #[cfg(feature = "etcd")]
    #[must_use]
    pub fn with(certificates: impl Into<super::tls::Certificates>) -> Self {
        Self {
            connector: Some(Arc::new(certificates.into())),
            ..Self::new()
        }
    }

    fn connect_remote(&self, address: SocketAddr, name: &str) -> Result<Pipe, Broken> {
        let without = || Broken::Untrusted("this node has no certificate for links to other nodes".into());
        let connector = self.connector.as_ref().ok_or_else(without)?;
        let channel = connector.connect(address, name)?;
        Ok(Pipe::over(channel, frame::CAP, MOST_OUT))
    }
}

/// Connects to a control socket; `None` while its backlog is full.
fn connect_to(path: &Path) -> Result<Option<Pipe>, Broken> {
    match listen::connect(path) {
        Ok(socket) => Ok(Some(Pipe::new(socket, frame::CAP, MOST_OUT))),
        Err(Errno::AGAIN) => Ok(None),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Err(Broken::Absent),
        Err(errno) => Err(Broken::Failed(errno)),
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for Sockets {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn connect(&mut self, slot: Slot, address: &Address) -> Result<bool, Broken> {
        let pipe = match address {
            Address::Local(path) => connect_to(path)?,
            Address::Remote(socket, name) => Some(self.connect_remote(*socket, name)?),
        };
        Ok(pipe.map(|pipe| self.pipes.insert(slot, pipe)).is_some())
    }

    fn is_connected(&self, slot: Slot) -> bool {
        self.pipes.contains_key(&slot)
    }

    fn close(&mut self, slot: Slot) {
        self.pipes.remove(&slot);
    }

    fn queue(&mut self, slot: Slot, frame: &RequestFrame) -> Result<(), Broken> {
        self.pipes.get_mut(&slot).map_or(Ok(()), |pipe| pipe.queue(frame))
    }

    fn flush(&mut self, slot: Slot) -> Result<(), Broken> {
        self.pipes.get_mut(&slot).map_or(Ok(()), Pipe::flush)
    }

    fn receive(&mut self, slot: Slot, answers: &mut Vec<Answer>) -> Result<(), Broken> {
        let Some(pipe) = self.pipes.get_mut(&slot) else {
            return Ok(());
        };
        let received = pipe.each(&mut self.scratch, |_, message: AnswerFrame| {
            answers.extend(message.answers)
        });
        received.and_then(|()| pipe.flush())
    }

    fn wait(&mut self, within: Duration) -> Vec<Slot> {
        let mut fds: Vec<PollFd<'_>> = self
            .pipes
            .values()
            .map(|pipe| PollFd::new(pipe, pipe.interest()))
            .collect();
        let timeout = Timespec::try_from(within).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(_) => Vec::new(),
            Ok(_) => {
                let ready = self
                    .pipes
                    .keys()
                    .zip(&fds)
                    .filter(|(_, fd)| fd.revents() != PollFlags::empty());
                ready.map(|(slot, _)| *slot).collect()
            }
        }
    }
}
