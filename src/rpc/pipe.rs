//! A non-blocking connection that carries frames, for both sides.

use super::channel::{Channel, Plain};
use crate::rpc::frame::{self, Decoder, FrameFault};
use rustix::event::PollFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Number of consecutive reads from one connection before others are served.
const READS: usize = 16;

/// Reason why a connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing listens at the socket.
    Absent,
    /// The other side has closed it.
    Closed,
    /// The other side has sent an invalid frame.
    Fault(FrameFault),
    /// A system call failed.
    Failed(Errno),
    /// The other side does not read: this many bytes are queued for it.
    Stuck(usize),
    /// The other side cannot be trusted, or does not trust this one, for this reason.
    Untrusted(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "no process listens"),
            Self::Closed => write!(f, "the connection was closed"),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Failed(errno) => write!(f, "{errno}"),
            Self::Stuck(bytes) => write!(f, "the other side does not read: {bytes} bytes are queued for it"),
            Self::Untrusted(why) => write!(f, "no trust between the two sides: {why}"),
        }
    }
}

/// Channel with its partly received frame and its unsent bytes.
#[derive(Debug)]
pub(crate) struct Pipe {
    channel: Box<dyn Channel>,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
    most_out: usize,
    partial_since: Option<Instant>,
}

impl Pipe {
    /// Makes a pipe of a non-blocking socket of this machine. It refuses frames longer than `cap` bytes, and queues at most `most_out` bytes for
    /// sending.
    pub(crate) fn new(socket: OwnedFd, cap: usize, most_out: usize) -> Self {
        Self::over(Box::new(Plain(socket)), cap, most_out)
    }

    /// Makes a pipe over any channel, as [`Pipe::new`] does.
    pub(crate) fn over(channel: Box<dyn Channel>, cap: usize, most_out: usize) -> Self {
        Self {
            channel,
            decoder: Decoder::new(cap),
            out: Vec::new(),
            sent: 0,
            most_out,
            partial_since: None,
        }
    }

    /// Sets the longest frame that is accepted from now on, in bytes.
    pub(crate) fn set_cap(&mut self, cap: usize) {
        self.decoder.set_cap(cap);
    }

    /// Reads once, using `scratch`. The caller takes the messages by [`Pipe::take`] after each call. Returns whether there may be more to read.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<bool, Broken> {
        let got = self.channel.receive(scratch)?;
        self.decoder.feed(&scratch[..got]).map_err(Broken::Fault)?;
        Ok(got == scratch.len() || self.channel.has_more())
    }

    /// Returns whether the other side has not proved yet who it is.
    pub(crate) fn is_unproved(&self) -> bool {
        self.channel.is_unproved()
    }

    /// Returns whether the other side has to be admitted: see [`Channel::awaits_admission`].
    pub(crate) fn awaits_admission(&self) -> bool {
        self.channel.awaits_admission()
    }

    /// Admits the other side if the name in its certificate is one of these. Returns whether it is admitted.
    pub(crate) fn admit(&mut self, names: &BTreeSet<String>) -> bool {
        self.channel.admit(names)
    }

    /// Returns the next whole message that has arrived.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Broken> {
        let message = self.decoder.take().map_err(Broken::Fault)?;
        let begun = || self.partial_since.unwrap_or_else(Instant::now);
        self.partial_since = (message.is_none() && self.decoder.is_partial()).then(begun);
        Ok(message)
    }

    /// Returns since when part of a frame has been waiting for the rest.
    pub(crate) fn partial_since(&self) -> Option<Instant> {
        self.partial_since
    }

    /// Reads at most [`READS`] times, and passes each message to `on`. Messages before a failure are valid.
    pub(crate) fn each<T: DeserializeOwned>(
        &mut self,
        scratch: &mut [u8],
        mut on: impl FnMut(&mut Self, T),
    ) -> Result<(), Broken> {
        for read in 1.. {
            let more = self.receive(scratch)?;
            while let Some(message) = self.take()? {
                on(self, message);
            }
            // What the channel has in memory already, no event announces.
            if !more || (read >= READS && !self.channel.has_more()) {
                break;
            }
        }
        Ok(())
    }

    /// Queues a message; [`Pipe::flush`] sends it.
    pub(crate) fn queue<T: Serialize>(&mut self, message: &T) -> Result<(), Broken> {
        frame::encode(message, &mut self.out).map_err(Broken::Fault)?;
        let waiting = self.out.len() - self.sent;
        if waiting > self.most_out {
            Err(Broken::Stuck(waiting))
        } else {
            Ok(())
        }
    }

    /// Sends as many bytes as the channel accepts.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        loop {
            let sent = self.channel.send(&self.out[self.sent..])?;
            self.sent += sent;
            if sent == 0 {
                break;
            }
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.out.shrink_to(frame::READ);
            self.sent = 0;
        }
        Ok(())
    }

    /// Returns the events to poll this channel for.
    pub(crate) fn interest(&self) -> PollFlags {
        self.channel.interest(self.sent < self.out.len())
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::message::{Answer, AnswerFrame};
    use std::os::unix::net::UnixStream;

    fn pair(most_out: usize) -> (Pipe, Pipe) {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (
            Pipe::new(one.into(), frame::CAP, most_out),
            Pipe::new(other.into(), frame::CAP, most_out),
        )
    }

    fn long(bytes: usize) -> AnswerFrame {
        let refusal = crate::rpc::message::Refusal::Failed("x".repeat(bytes));
        AnswerFrame {
            answers: vec![Answer::Refused {
                change: None,
                refusal,
            }],
        }
    }

    #[test]
    fn carries_frames_larger_than_the_sockets_buffer() {
        let (mut one, mut other) = pair(4 << 20);
        let sent = long(3 << 20);
        one.queue(&sent).unwrap();
        let mut scratch = vec![0; frame::READ];
        let mut got = Vec::new();
        while got.is_empty() {
            one.flush().unwrap();
            other
                .each(&mut scratch, |_, message: AnswerFrame| got.push(message))
                .unwrap();
        }
        assert_eq!(got, [sent]);
        assert_eq!(one.interest(), PollFlags::IN);
        assert_eq!(other.partial_since(), None);
    }

    #[test]
    fn recognises_a_partial_frame_a_closed_connection_and_a_peer_that_does_not_read() {
        let (mut one, mut other) = pair(1 << 20);
        let mut scratch = vec![0; frame::READ];
        rustix::io::write(&one, &[9, 0]).unwrap();
        other.each(&mut scratch, |_, _: AnswerFrame| {}).unwrap();
        let since = other.partial_since().unwrap();
        rustix::io::write(&one, &[0]).unwrap();
        other.each(&mut scratch, |_, _: AnswerFrame| {}).unwrap();
        assert_eq!(
            other.partial_since(),
            Some(since),
            "a few more bytes do not restart the clock"
        );
        let stuck = (0..4).find_map(|_| one.queue(&long(512 << 10)).err()).unwrap();
        assert!(matches!(stuck, Broken::Stuck(_)));
        drop(one);
        assert_eq!(
            other.each(&mut scratch, |_, _: AnswerFrame| {}),
            Err(Broken::Closed)
        );
    }
}
