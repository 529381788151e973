//! Real sockets and real certificates: who is let in, and what disturbs nobody.

use super::issue::{Issued, Validity, authority, certificate};
use super::*;
use crate::rpc::channel::{Channel, Connector, NodeListener};
use crate::rpc::frame;
use crate::rpc::message::{Answer, AnswerFrame, Refusal};
use crate::rpc::pipe::{Broken, Pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const MOST: usize = 8 << 20;

fn authority_of_a_pool() -> Issued {
    authority(Validity::of_days(2).unwrap()).unwrap()
}

fn write(dir: &Path, authority: &Issued, own: &Issued) {
    for (file, text) in [
        ("ca.pem", &authority.certificate),
        ("cert.pem", &own.certificate),
        ("key.pem", &own.key),
    ] {
        fs::write(dir.join(file), text).unwrap();
        fs::set_permissions(dir.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn identity(authority: &Issued, name: &str) -> Identity {
    let dir = TempDir::new().unwrap();
    let own = certificate(authority, name, Validity::of_days(1).unwrap()).unwrap();
    write(dir.path(), authority, &own);
    Identity::load(dir.path()).unwrap()
}

/// A node that listens.
struct Node {
    node_listener: NodeListener,
}

impl Node {
    fn new(authority: &Issued) -> Self {
        Self::with(identity(authority, "n1"))
    }

    fn with(certificates: impl Into<Certificates>) -> Self {
        let node_listener = NodeListener::listen((Ipv4Addr::LOCALHOST, 0).into(), certificates).unwrap();
        Self { node_listener }
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.node_listener.port).into()
    }

    fn accept(&self) -> Pipe {
        loop {
            let acceptor = self.node_listener.acceptor.as_ref().unwrap();
            wait(&[(acceptor.as_fd(), PollFlags::IN)]);
            if let Some(channel) = acceptor.accept().unwrap() {
                return pipe(channel);
            }
        }
    }

    /// Connects from a node with this certificate, which asks for this name.
    fn reached_by(&self, identity: &Identity, name: &str) -> (Pipe, Pipe) {
        let client = pipe(identity.connect(self.address(), name).unwrap());
        (client, self.accept())
    }
}

fn pipe(channel: Box<dyn Channel>) -> Pipe {
    Pipe::over(channel, frame::CAP, MOST)
}

fn wait(events: &[(std::os::fd::BorrowedFd<'_>, PollFlags)]) {
    let mut fds: Vec<PollFd<'_>> = events
        .iter()
        .map(|(fd, events)| PollFd::from_borrowed_fd(*fd, *events))
        .collect();
    let bound = Timespec {
        tv_sec: 100,
        tv_nsec: 0,
    };
    assert!(poll(&mut fds, Some(&bound)).unwrap() > 0, "nothing happens");
}

fn message(bytes: usize) -> AnswerFrame {
    AnswerFrame {
        answers: vec![Answer::Refused {
            change: None,
            refusal: Refusal::Failed("x".repeat(bytes)),
        }],
    }
}

type Got = Vec<AnswerFrame>;

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Serves a side once: reads what has arrived and sends what it has.
fn serve(pipe: &mut Pipe, got: &mut Got) -> Result<(), Broken> {
    let mut scratch = vec![0; frame::READ];
    pipe.each(&mut scratch, |_, message| got.push(message))?;
    pipe.flush()
}

/// Serves both sides until one of them fails or `done`; n1 and n2 are admitted. Returns what each has received, and how it ended.
fn talk(
    (client, server): (&mut Pipe, &mut Pipe),
    done: impl Fn(&Pipe, &Got, &Got) -> bool,
) -> (Got, Got, Option<Broken>, Option<Broken>) {
    use std::os::fd::AsFd;
    let (mut of_client, mut of_server) = (Vec::new(), Vec::new());
    loop {
        let one = serve(client, &mut of_client).err();
        let other = serve(server, &mut of_server).err();
        if server.awaits_admission() && server.admit(&names(&["n1", "n2"])) {
            continue;
        }
        if one.is_some() || other.is_some() || done(server, &of_client, &of_server) {
            return (of_client, of_server, one, other);
        }
        wait(&[
            (client.as_fd(), client.interest()),
            (server.as_fd(), server.interest()),
        ]);
    }
}

#[test]
fn frames_larger_than_all_buffers_pass_both_ways() {
    let pool = authority_of_a_pool();
    let node = Node::new(&pool);
    let (mut client, mut server) = node.reached_by(&identity(&pool, "n2"), "n1");
    let (there, back) = (message(3 << 20), message(1 << 20));
    client.queue(&there).unwrap();
    server.queue(&back).unwrap();
    assert!(server.is_unproved());
    let both = |_: &Pipe, one: &Got, other: &Got| !one.is_empty() && !other.is_empty();
    let (of_client, of_server, ..) = talk((&mut client, &mut server), both);
    assert_eq!((of_client, of_server), (vec![back], vec![there]));
    assert!(!server.is_unproved());
    drop(client);
    let closed = loop {
        if let Err(why) = serve(&mut server, &mut Vec::new()) {
            break why;
        }
        use std::os::fd::AsFd;
        wait(&[(server.as_fd(), PollFlags::IN)]);
    };
    assert_eq!(closed, Broken::Closed);
}

#[test]
fn a_node_with_another_name_than_that_of_its_record_is_not_talked_to() {
    let pool = authority_of_a_pool();
    let node = Node::new(&pool);
    let (mut client, mut server) = node.reached_by(&identity(&pool, "n2"), "n3");
    client.queue(&message(10)).unwrap();
    let (of_client, of_server, one, _) = talk((&mut client, &mut server), |_, _, _| false);
    assert!(matches!(one, Some(Broken::Untrusted(_))), "{one:?}");
    assert!(of_client.is_empty() && of_server.is_empty());
}

#[test]
fn certificates_of_another_authority_are_refused_by_both_sides() {
    let (pool, foreign) = (authority_of_a_pool(), authority_of_a_pool());
    let node = Node::new(&pool);
    let (mut client, mut server) = node.reached_by(&identity(&foreign, "n2"), "n1");
    client.queue(&message(10)).unwrap();
    let (_, of_server, one, _) = talk((&mut client, &mut server), |_, _, _| false);
    assert!(matches!(one, Some(Broken::Untrusted(_))), "{one:?}");
    assert!(of_server.is_empty());
    // One that trusts the pool's authority and has a certificate of another one.
    let dir = TempDir::new().unwrap();
    let own = certificate(&foreign, "n2", Validity::of_days(1).unwrap()).unwrap();
    write(dir.path(), &pool, &own);
    let (mut client, mut server) = node.reached_by(&Identity::load(dir.path()).unwrap(), "n1");
    client.queue(&message(10)).unwrap();
    let (_, of_server, _, other) = talk((&mut client, &mut server), |_, _, _| false);
    assert!(matches!(other, Some(Broken::Untrusted(_))), "{other:?}");
    assert!(of_server.is_empty());
}

#[test]
fn nothing_is_read_from_a_node_before_it_is_admitted() {
    let pool = authority_of_a_pool();
    let node = Node::new(&pool);
    let (mut client, mut server) = node.reached_by(&identity(&pool, "n3"), "n1");
    let sent = message(10);
    client.queue(&sent).unwrap();
    let strange = |server: &Pipe, _: &Got, _: &Got| server.awaits_admission();
    let (_, of_server, ..) = talk((&mut client, &mut server), strange);
    assert!(of_server.is_empty() && server.is_unproved());
    let mut got = Vec::new();
    serve(&mut server, &mut got).unwrap();
    assert!(got.is_empty() && !server.admit(&names(&[])));
    assert!(server.admit(&names(&["n1", "n3"])));
    let arrived = |_: &Pipe, _: &Got, got: &Got| !got.is_empty();
    let (_, of_server, ..) = talk((&mut client, &mut server), arrived);
    assert_eq!((of_server, server.is_unproved()), (vec![sent], false));
}

/// Sends bytes without TLS, and returns how the node ends that.
fn against(bytes: &[u8]) -> Broken {
    use std::os::fd::AsFd;
    let pool = authority_of_a_pool();
    let node = Node::new(&pool);
    let mut stream = TcpStream::connect(node.address()).unwrap();
    let mut server = node.accept();
    let bytes = bytes.to_vec();
    let sender = std::thread::spawn(move || {
        // The node may close before it has read all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        stream
    });
    loop {
        let mut got = Vec::new();
        let served = serve(&mut server, &mut got);
        assert!(got.is_empty());
        if let Err(why) = served {
            drop(server);
            drop(sender.join());
            return why;
        }
        wait(&[(server.as_fd(), PollFlags::IN)]);
    }
}

#[test]
fn whoever_speaks_no_tls_speaks_too_long_or_ends_early_is_refused() {
    assert!(matches!(
        against(b"GET / HTTP/1.1\r\nhost: n1\r\n\r\n"),
        Broken::Untrusted(_)
    ));
    assert_eq!(against(b""), Broken::Closed);
    // The beginning of a greeting, and no more.
    assert_eq!(against(&[22, 3, 1, 0, 200, 1, 0]), Broken::Closed);
    // A greeting of 16 MiB, in records of 16 KiB.
    let mut long = Vec::new();
    for number in 0..200 {
        long.extend([22, 3, 3, 0x40, 0]);
        let body = [1, 0xff, 0xff, 0xff];
        long.extend(if number == 0 { body } else { [0; 4] });
        long.extend(vec![0; 0x4000 - 4]);
    }
    assert!(matches!(against(&long), Broken::Untrusted(_)));
    // Empty records for ever.
    assert!(matches!(
        against(&[20, 3, 3, 0, 1, 1].repeat(40_000)),
        Broken::Untrusted(_)
    ));
}

#[test]
fn an_address_where_nobody_listens_has_no_apparatus() {
    use std::os::fd::AsFd;
    let pool = authority_of_a_pool();
    let node = Node::new(&pool);
    let address = node.address();
    drop(node);
    let mut client = pipe(identity(&pool, "n2").connect(address, "n1").unwrap());
    let why = loop {
        match serve(&mut client, &mut Vec::new()) {
            Err(why) => break why,
            Ok(()) => wait(&[(client.as_fd(), client.interest())]),
        }
    };
    assert_eq!(why, Broken::Absent);
}

#[test]
fn each_apparatus_of_a_node_has_a_port_of_its_own() {
    let pool = authority_of_a_pool();
    let own = identity(&pool, "n1");
    let first = NodeListener::listen((Ipv4Addr::LOCALHOST, 0).into(), own.clone()).unwrap();
    let base = (Ipv4Addr::LOCALHOST, first.port).into();
    let second = NodeListener::listen(base, own.clone()).unwrap();
    assert!(second.port > first.port);
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 7300));
    let refused = NodeListener::listen(nowhere, own).unwrap_err();
    assert!(refused.to_string().contains("192.0.2.1:7300"), "{refused}");
}

#[test]
fn new_certificates_are_used_by_who_listens_and_who_connects_already() {
    let (before, after) = (authority_of_a_pool(), authority_of_a_pool());
    let certificate = |authority| certificate(authority, "n1", Validity::of_days(1).unwrap()).unwrap();
    let dir = TempDir::new().unwrap();
    write(dir.path(), &before, &certificate(&before));
    let node = Node::with(Certificates::load(dir.path()).unwrap());
    let own = Certificates::load(dir.path()).unwrap();
    let connects = |client: &dyn Connector| {
        let mut client = pipe(client.connect(node.address(), "n1").unwrap());
        let mut server = node.accept();
        client.queue(&message(10)).unwrap();
        let (_, got, ..) = talk((&mut client, &mut server), |_, _, got| !got.is_empty());
        !got.is_empty()
    };
    assert!(connects(&own) && connects(&identity(&before, "n2")));
    // Half of them are new, and do not fit the others. Another file is in the place of the first one.
    let new = TempDir::new_in(dir.path()).unwrap();
    let replace = |files: &[&str]| {
        write(new.path(), &after, &certificate(&after));
        for file in files {
            fs::rename(new.path().join(file), dir.path().join(file)).unwrap();
        }
    };
    replace(&["cert.pem"]);
    assert!(connects(&own) && connects(&identity(&before, "n2")));
    replace(&["ca.pem", "cert.pem", "key.pem"]);
    assert!(connects(&own) && connects(&identity(&after, "n2")));
    assert!(!connects(&identity(&before, "n2")));
}

#[test]
fn files_that_cannot_serve_are_refused_by_name() {
    let pool = authority_of_a_pool();
    let dir = TempDir::new().unwrap();
    let own = certificate(&pool, "n1", Validity::of_days(1).unwrap()).unwrap();
    write(dir.path(), &pool, &own);
    let refused = |what: &str| {
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    refused("key.pem: is a key that other users may read");
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.path().join("cert.pem"), "").unwrap();
    refused("cert.pem: cannot be used: it has no certificate");
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    refused("ca.pem");
    // A key that is not that of the certificate.
    let other = certificate(&pool, "n1", Validity::of_days(1).unwrap()).unwrap();
    let mixed = Issued {
        key: other.key,
        ..own
    };
    write(dir.path(), &pool, &mixed);
    refused("cannot be used");
}

#[test]
fn a_key_signs_for_its_own_authority_alone() {
    let (pool, foreign) = (authority_of_a_pool(), authority_of_a_pool());
    let mixed = Issued {
        key: foreign.key,
        ..pool
    };
    assert!(certificate(&mixed, "n1", Validity::of_days(1).unwrap()).is_err());
    // A certificate that is not valid any more.
    let valid = Validity::of_days(1).unwrap();
    let over = Validity {
        from: valid.from.yesterday().unwrap(),
        until: valid.from,
    };
    assert!(certificate(&authority_of_a_pool(), "n1", over).is_err());
}
