//! Keeps the mount of an apparatus while its server is started again.
//!
//! The process that was started, the *supervisor*, starts the server as its child and holds a second descriptor of everything that would die with
//! it: the devices of the mount, the files that tell which volumes are open, and the locks of hosts. It has no thread, serves nothing and
//! reads no data. When the server ends unexpectedly, the supervisor starts it again and passes the descriptors on. The kernel then sends the new
//! server all requests that the old one had read and not answered. So that this takes little time, another server stands by that has prepared itself as far as
//! it can beside the one that serves.
//!
//! Where a service manager stores descriptors, everything that is kept is also there, and the next supervisor goes on after the end of this one (`manager`).
//!
//! A server can also be replaced while it serves: the supervisor starts the next one beside it, and asks it to retire once that one is prepared.
//!
//! The server sends descriptors to its supervisor before anything depends on them, so the supervisor needs no answer and the server never waits for it.

mod channel;
mod guard;
mod lifecycle;
mod link;
mod manager;
mod requests;
mod restarts;
mod server;
mod slots;
mod standby;
mod upgrade;

/// Parses bytes as a message between the server and its supervisor.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn parse_message(bytes: &[u8]) {
    let _ = channel::parse(bytes, None);
}

pub use channel::Kind;
pub use guard::{Guard, await_end, stop_supervisor, supervisor_by_lock, supervisor_of, supervisors};
pub use lifecycle::supervise;
pub use link::{Inherited, Link, Previous};
pub use requests::{Requests, Upgraded, ask_for_upgrade};
pub use slots::{Content, Slots};
