//! A service manager for tests, with the part of systemd's protocol that concerns descriptors: it stores those that a service sends, drops those that report an error,
//! and passes all to the next process of the service.
#![allow(dead_code, unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Received {
    stored: Mutex<Vec<(String, OwnedFd)>>,
    ready: AtomicU64,
    is_over: AtomicBool,
}

/// A service manager with one service.
pub struct Manager {
    socket: PathBuf,
    received: Arc<Received>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    /// Begins to listen, with a socket in this directory.
    pub fn new(dir: &Path) -> Self {
        let socket = dir.join("manager");
        let listening = UnixDatagram::bind(&socket).unwrap();
        let received = Arc::<Received>::default();
        let mine = received.clone();
        let thread = thread::spawn(move || {
            while !mine.is_over.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(&listening, PollFlags::IN)];
                if poll(&mut ready, Some(&Timespec::try_from(LOOK).unwrap())) == Ok(1) {
                    mine.receive(&listening);
                }
            }
        });
        Self {
            socket,
            received,
            thread: Some(thread),
        }
    }

    /// Returns the names of the stored descriptors, in order.
    pub fn stored(&self) -> Vec<String> {
        let stored = self.received.stored.lock().unwrap();
        let mut names: Vec<String> = stored.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Returns how often a process of the service has been ready.
    pub fn ready(&self) -> u64 {
        self.received.ready.load(Ordering::SeqCst)
    }

    /// Starts a process of the service.
    pub fn start(&self, service: &Command, log: &Path) -> Child {
        let mut stored = self.received.stored.lock().unwrap();
        stored.retain(|(_, descriptor)| {
            let mut ready = [PollFd::new(descriptor, PollFlags::empty())];
            poll(&mut ready, Some(&Timespec::default())).unwrap();
            ready[0].revents().is_empty()
        });
        let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
        let numbers: Vec<RawFd> = stored
            .iter()
            .map(|(_, descriptor)| descriptor.as_raw_fd())
            .collect();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$; export LISTEN_PID; exec \"$@\"", "sh"])
            .arg(service.get_program())
            .args(service.get_args())
            .env("NOTIFY_SOCKET", &self.socket)
            .env("FDSTORE", "1000")
            .stdin(Stdio::null())
            .stderr(log);
        if !numbers.is_empty() {
            command.env("LISTEN_FDS", numbers.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        pass(&mut command, numbers);
        command.spawn().unwrap()
    }
}

/// Has the process get these descriptors, as numbers from 3 on.
#[allow(unsafe_code)]
fn pass(command: &mut Command, numbers: Vec<RawFd>) {
    const FIRST: RawFd = 3;
    /// Above all descriptors of a test.
    const ELSEWHERE: RawFd = 700;
    let pass = move || {
        let copy = |from: RawFd, to: RawFd, flags| {
            // SAFETY: the call takes integers, and concerns descriptors of the new process alone.
            match unsafe { libc::dup3(from, to, flags) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // All are copied elsewhere first, so that none is replaced before it is passed.
        for (to, from) in (ELSEWHERE..).zip(&numbers) {
            copy(*from, to, libc::O_CLOEXEC)?;
        }
        for (to, from) in (FIRST..).zip(ELSEWHERE..).take(numbers.len()) {
            copy(from, to, 0)?;
        }
        Ok(())
    };
    // SAFETY: the function calls only what may be called between fork and exec.
    unsafe { command.pre_exec(pass) };
}

impl Received {
    fn receive(&self, socket: &UnixDatagram) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let read = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        let text = String::from_utf8(bytes[..read.bytes].to_vec()).unwrap();
        let has = |wanted: &str| text.lines().any(|line| line == wanted);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        let mut stored = self.stored.lock().unwrap();
        if has("FDSTORE=1") {
            stored.extend(
                descriptors
                    .into_iter()
                    .map(|each| (name.unwrap().to_owned(), each)),
            );
        } else if has("FDSTOREREMOVE=1") {
            stored.retain(|(each, _)| Some(each.as_str()) != name);
        }
        if has("READY=1") {
            self.ready.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.received.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
