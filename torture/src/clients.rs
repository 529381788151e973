//! Clients that misuse the control socket of an apparatus: more than it accepts, silent, half-closed, with broken frames.

use fastrand::Rng;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, send, shutdown,
    socket_with,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Number of clients at once: more than an apparatus accepts.
const CLIENTS: usize = 100;

/// Connections that are kept until this is dropped.
pub(crate) struct Clients(#[expect(dead_code, reason = "held only to be dropped")] Vec<OwnedFd>);

impl Clients {
    /// Connects to a socket, and sends what no client should. A client that is not accepted at once is left out.
    pub(crate) fn connect(path: &Path, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self((0..CLIENTS).filter_map(|_| client(path, &mut rng)).collect())
    }
}

fn client(path: &Path, rng: &mut Rng) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    let sent = |bytes: &[u8]| {
        let _ = send(&socket, bytes, SendFlags::NOSIGNAL);
    };
    match rng.u8(..6) {
        0 => {}
        1 => sent(&(0..rng.usize(1..4096)).map(|_| rng.u8(..)).collect::<Vec<_>>()),
        2 => sent(&[&1000_u32.to_le_bytes()[..], b"(term:1,requests:["].concat()),
        3 => sent(&u32::MAX.to_le_bytes()),
        4 => sent(&framed("(term:18446744073709551615,requests:[Stop,Stop])")),
        _ => {
            sent(&5_u32.to_le_bytes());
            let _ = shutdown(&socket, Shutdown::Write);
        }
    }
    Some(socket)
}

/// Returns a frame with this text. It asks for something before it has said `Hello`.
fn framed(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&len.to_le_bytes()[..], text.as_bytes()].concat()
}
