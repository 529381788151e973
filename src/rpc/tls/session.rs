//! One TLS connection on a non-blocking socket.

use crate::rpc::channel::{self, Channel};
use crate::rpc::pipe::Broken;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{ClientConnection, Connection, ServerConnection};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Most bytes that are read before the other side has proved who it is: a chain of certificates has a few thousand.
const GREETING: usize = 64 << 10;

/// Reads of the socket in a row.
const READS: usize = 32;

/// Time after which the kernel gives up a connection on which the other machine acknowledges nothing, in milliseconds.
const SILENCE_MS: u32 = 2_000;

/// Interval at which the kernel asks the other machine for a sign of life while nothing is sent.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// TLS over a socket. Nothing that the other side sends is returned before it has proved who it is.
pub(super) struct Session {
    socket: OwnedFd,
    tls: Connection,
    /// Bytes that were read before the end of the handshake.
    greeting: usize,
    peer: Peer,
}

/// What is known of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// It is trusted when the handshake ends: its certificate has the name that was asked for.
    Asked,
    /// It is trusted when it is admitted, after the handshake.
    Unknown,
    /// It is trusted.
    Known,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.socket).finish()
    }
}

impl Session {
    pub(super) fn to_server(socket: OwnedFd, tls: ClientConnection) -> Self {
        Self::new(socket, tls.into(), Peer::Asked)
    }

    pub(super) fn to_client(socket: OwnedFd, tls: ServerConnection) -> Self {
        Self::new(socket, tls.into(), Peer::Unknown)
    }

    fn new(socket: OwnedFd, tls: Connection, peer: Peer) -> Self {
        Self {
            socket,
            tls,
            greeting: 0,
            peer,
        }
    }

    /// Returns whether the other side is trusted: the handshake has ended, and it is who it has to be.
    fn is_trusted(&mut self) -> bool {
        if self.peer == Peer::Asked && !self.tls.is_handshaking() {
            self.peer = Peer::Known;
        }
        self.peer == Peer::Known
    }

    /// Reads the socket once, and decrypts. Returns false when nothing has arrived.
    fn read_socket(&mut self) -> Result<bool, Broken> {
        let before = self.tls.is_handshaking();
        let got = match self.tls.read_tls(&mut Socket(&self.socket)) {
            Ok(0) => return Err(Broken::Closed),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(broken(&error)),
        };
        if before {
            self.greeting += got;
        }
        if let Err(why) = self.tls.process_new_packets() {
            // The other side is told why; it need not listen.
            let _ = self.write_socket();
            return Err(Broken::Untrusted(why.to_string()));
        }
        if self.tls.is_handshaking() && self.greeting > GREETING {
            return Err(Broken::Untrusted(format!(
                "a handshake of more than {GREETING} bytes"
            )));
        }
        Ok(true)
    }

    /// Sends what TLS has to send, as far as the socket accepts it. Returns whether it has accepted all.
    fn write_socket(&mut self) -> Result<bool, Broken> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(true)
    }

    /// Returns bytes that have been decrypted; 0 for none.
    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        match self.tls.reader().read(into) {
            Ok(0) if !into.is_empty() => Err(Broken::Closed),
            Ok(got) => Ok(got),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(broken(&error)),
        }
    }
}

impl Channel for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let mut got = 0;
        for _ in 0..READS {
            if self.awaits_admission() {
                break;
            }
            if self.is_trusted() {
                got += match self.take(&mut into[got..]) {
                    // What came before the end is used first; the end is found again.
                    Err(Broken::Closed) if got > 0 => break,
                    other => other?,
                };
                if got == into.len() {
                    break;
                }
            }
            match self.read_socket() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if got > 0 => break,
                Err(why) => return Err(why),
            }
        }
        Ok(got)
    }

    fn has_more(&self) -> bool {
        self.peer == Peer::Known && !self.tls.wants_read()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        if !self.write_socket()? || bytes.is_empty() {
            return Ok(0);
        }
        // Before the end of the handshake TLS keeps a bounded number of bytes.
        let accepted = self.tls.writer().write(bytes).map_err(|error| broken(&error))?;
        self.write_socket()?;
        Ok(accepted)
    }

    fn interest(&self, unsent: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        if !self.awaits_admission() {
            events |= PollFlags::IN;
        }
        if self.tls.wants_write() || (unsent && !self.tls.is_handshaking()) {
            events |= PollFlags::OUT;
        }
        events
    }

    fn is_unproved(&self) -> bool {
        self.peer != Peer::Known
    }

    fn awaits_admission(&self) -> bool {
        self.peer == Peer::Unknown && !self.tls.is_handshaking()
    }

    fn admit(&mut self, names: &BTreeSet<String>) -> bool {
        if self.awaits_admission() {
            let chain = self.tls.peer_certificates().unwrap_or_default();
            if chain.first().is_some_and(|own| has_one_of(names, own)) {
                self.peer = Peer::Known;
            }
        }
        self.peer == Peer::Known
    }
}

/// Returns whether a certificate, which is the authority's, has one of the names.
fn has_one_of(names: &BTreeSet<String>, certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
        return false;
    };
    names.iter().any(|name| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    })
}

fn broken(error: &io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Broken::Absent,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Broken::Closed
        }
        _ => match Errno::from_io_error(error) {
            Some(errno) => Broken::Failed(errno),
            None => Broken::Untrusted(error.to_string()),
        },
    }
}

/// The socket, as TLS reads and writes it.
struct Socket<'a>(&'a OwnedFd);

impl Socket<'_> {
    fn error(why: Broken) -> io::Error {
        match why {
            Broken::Absent => io::ErrorKind::ConnectionRefused.into(),
            Broken::Failed(errno) => errno.into(),
            _ => io::ErrorKind::ConnectionReset.into(),
        }
    }
}

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match channel::receive(self.0, into) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Err(Broken::Closed) => Ok(0),
            other => other.map_err(Self::error),
        }
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match channel::send(self.0, bytes) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            other => other.map_err(Self::error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to connect to an address.
pub(super) fn connect(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = socket(address)?;
    set_options(&socket)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Makes a non-blocking socket.
pub(super) fn socket(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
}

/// Has the kernel send at once, and notice within [`SILENCE_MS`] that the other machine is gone.
pub(super) fn set_options(socket: &OwnedFd) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_user_timeout(socket, SILENCE_MS)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, SIGN_OF_LIFE)?;
    sockopt::set_tcp_keepintvl(socket, SIGN_OF_LIFE)
}
