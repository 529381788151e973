//! The address at which an apparatus listens for other nodes.

use super::Certificates;
use super::session::{self, Session};
use crate::model::error::{Error, Result};
use crate::rpc::channel::{Acceptor, Channel, NodeListener};
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use rustls::ServerConnection;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 128;

/// Ports of one node: as many as a pool has apparatuses at most.
const PORTS: u16 = 64;

/// Listening socket for other nodes.
struct TlsAcceptor {
    socket: OwnedFd,
    certificates: Certificates,
}

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsAcceptor").field(&self.socket).finish()
    }
}

impl NodeListener {
    /// Listens at the first free one of [`PORTS`] ports that begin with the one of `base`.
    ///
    /// # Errors
    /// Fails with an error that names the address and the reason.
    pub fn listen(base: SocketAddr, certificates: impl Into<Certificates>) -> Result<Self> {
        let failed = |errno: Errno| {
            Error::because(format!("address {base}"), std::io::Error::from(errno))
                .hint("see that the node's `listen` in pool.ron is an address of this machine")
        };
        for offset in 0..PORTS {
            let Some(port) = base.port().checked_add(offset) else {
                break;
            };
            match listen(SocketAddr::new(base.ip(), port)) {
                Ok(socket) => {
                    let port = port_of(&socket).map_err(failed)?;
                    let certificates = certificates.into();
                    let acceptor = TlsAcceptor { socket, certificates };
                    let acceptor = Some(Box::new(acceptor) as Box<dyn Acceptor>);
                    return Ok(Self { acceptor, port });
                }
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        let why = format!("no port of the {PORTS} from there on is free");
        Err(Error::failed(format!("address {base}"), why)
            .hint("give the node a `listen` in pool.ron whose ports nobody else uses"))
    }
}

fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = session::socket(address)?;
    // A port is free although connections of an earlier process have not ended everywhere.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn port_of(socket: &OwnedFd) -> rustix::io::Result<u16> {
    let address = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(address).map(|address| address.port())
}

impl Acceptor for TlsAcceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn accept(&self) -> rustix::io::Result<Option<Box<dyn Channel>>> {
        match rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(self.begin(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl TlsAcceptor {
    /// Begins TLS on a connection. One that has ended already is passed over.
    fn begin(&self, socket: OwnedFd) -> Option<Box<dyn Channel>> {
        session::set_options(&socket).ok()?;
        let tls = ServerConnection::new(Arc::clone(self.certificates.now().server())).ok()?;
        Some(Box::new(Session::to_client(socket, tls)))
    }
}
