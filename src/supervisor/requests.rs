//! The socket by which a command asks a supervisor to replace its server: `run/NAME.upgrade` in the pool's directory.

use super::channel::{self, LONGEST_TEXT, Message};
use crate::model::dir::PoolDir;
use crate::model::names::Name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, socket_with,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Commands that the kernel queues until they are accepted.
const BACKLOG: i32 = 8;

/// How much longer than a server may prepare its command waits: for the end of the present one, and for the new one to serve.
const AFTER: Duration = Duration::from_secs(90);

/// Listening socket of a supervisor.
pub struct Requests(OwnedFd);

/// Answer to a command: how long hosts have waited, or why the server was not replaced.
pub type Upgraded = Result<Duration, String>;

impl Requests {
    /// Makes the socket. It replaces that of an earlier supervisor: the caller has the guard of this name.
    ///
    /// # Errors
    /// Fails when the run directory cannot be used.
    pub fn bind(pool: &PoolDir, name: &Name) -> io::Result<Self> {
        let (run, file) = place(pool, name)?;
        match unlinkat(&run, &file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error.into()),
        }
        let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        bind(&socket, &address(&run, &file)?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self(socket))
    }

    /// Returns the descriptor, which is readable when a command has connected.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Accepts the next command, if there is one.
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()
    }
}

/// Asks the supervisor of an apparatus to replace its server, by this program unless it is `None`, if that is prepared `within` this time, and waits for
/// the answer.
///
/// # Errors
/// Fails with `NotFound` when there is no supervisor, and with `TimedOut` when it has not answered in time.
pub fn ask_for_upgrade(
    pool: &PoolDir,
    name: &Name,
    program: Option<&str>,
    within: Duration,
) -> io::Result<Upgraded> {
    let (run, file) = place(pool, name)?;
    let socket = new_socket(SocketFlags::CLOEXEC)?;
    match connect(&socket, &address(&run, &file)?) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(io::ErrorKind::NotFound.into()),
        other => other?,
    }
    let program = program.unwrap_or_default();
    if program.len() > LONGEST_TEXT {
        return Err(Errno::NAMETOOLONG.into());
    }
    let request = Message::Upgrade {
        program: program.to_owned(),
        within_us: u64::try_from(within.as_micros()).unwrap_or(u64::MAX),
    };
    channel::send_plain(&socket, &request, SendFlags::empty())?;
    let timeout = Timespec::try_from(within.saturating_add(AFTER)).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
    match channel::receive(&socket, RecvFlags::DONTWAIT)? {
        Some(Message::Upgraded { waited_us }) => Ok(Ok(Duration::from_micros(waited_us))),
        Some(Message::Refused(why)) => Ok(Err(why)),
        _ => Ok(Err("its supervisor has ended".into())),
    }
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Returns the run directory and the name of the socket in it.
fn place(pool: &PoolDir, name: &Name) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let run = openat(CWD, pool.run(), flags, Mode::empty())?;
    Ok((run, format!("{name}.upgrade")))
}

/// Returns an address that is short enough wherever the pool is.
fn address(run: &OwnedFd, file: &str) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{file}", run.as_raw_fd());
    Ok(SocketAddrUnix::new(Path::new(&path))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_gets_the_answer_to_its_request_wherever_the_pool_is() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        let (pool, name) = (PoolDir::new(&deep), Name::new("apparatus", "a1").unwrap());
        std::fs::create_dir_all(pool.run()).unwrap();
        let ask = |program: Option<&str>| ask_for_upgrade(&pool, &name, program, PATIENCE);
        assert_eq!(ask(None).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(Requests::bind(&pool, &name).unwrap());
        assert_eq!(ask(None).unwrap_err().kind(), io::ErrorKind::NotFound);
        let requests = Requests::bind(&pool, &name).unwrap();
        let answers = [
            Some(Message::Upgraded { waited_us: 7000 }),
            Some(Message::Refused("no".into())),
            None,
        ];
        let mut results = Vec::new();
        for answer in answers {
            thread::scope(|scope| {
                let asked = scope.spawn(|| ask(Some("/bin/true")).unwrap());
                poll(&mut [PollFd::new(requests.descriptor(), PollFlags::IN)], None).unwrap();
                let command = requests.accept().unwrap();
                poll(&mut [PollFd::new(&command, PollFlags::IN)], None).unwrap();
                let request = channel::receive(&command, RecvFlags::DONTWAIT).unwrap().unwrap();
                assert!(matches!(request, Message::Upgrade { program, .. } if program == "/bin/true"));
                if let Some(answer) = answer {
                    channel::send_plain(&command, &answer, SendFlags::empty()).unwrap();
                }
                drop(command);
                results.push(asked.join().unwrap());
            });
        }
        assert_eq!(results[0], Ok(Duration::from_millis(7)));
        assert_eq!(results[1], Err("no".to_owned()));
        assert!(results[2].is_err());
    }
}
