//! A link between two nodes that can be cut: connections go through this process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards connections to an apparatus, until the link is cut.
pub struct Pump {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Pump {
    /// Listens at another address of this machine, at the port of the apparatus.
    pub fn to_port(port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for incoming in listener.incoming() {
                let (Ok(from), false) = (incoming, of_thread.is_over.load(Ordering::SeqCst)) else {
                    return;
                };
                of_thread.forward(from, port);
            }
        });
        Self { shared, address }
    }

    /// Returns where the apparatus seems to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and lets no other one begin.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections begin again.
    pub fn heal(&self) {
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn forward(&self, from: TcpStream, port: u16) {
        let mut streams = self.streams.lock().unwrap();
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            return;
        };
        for (from, to) in [(&from, &to), (&to, &from)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || pass(from, to));
        }
        streams.extend([from, to]);
    }
}

/// Passes bytes on until one side ends, and then ends both.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}
