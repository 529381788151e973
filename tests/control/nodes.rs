//! Controllers of other nodes reach an apparatus over TLS, and whoever is none holds nobody.

use crate::rig::{Apparatus, PATIENCE, Pool, until};
use apparatus::admin::certificates;
use apparatus::agent::server::Limits;
use apparatus::model::names::Name;
use apparatus::model::node::{Node, name_of_node};
use apparatus::model::units::{CacheEpoch, Slot, Term, Timestamp};
use apparatus::rpc::client::{Links, Loss, WaitOutcome};
use apparatus::rpc::message::{Answer, Refusal, Request};
use apparatus::rpc::tls::Identity;
use apparatus::rpc::transport::Sockets;
use apparatus::rpc::{Address, NodeListener};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// A pool of the nodes n1 and n2, with an apparatus on n1.
struct Scene {
    pool: Pool,
    files: TempDir,
    address: SocketAddr,
    _apparatus: Apparatus,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let files = TempDir::new().unwrap();
        let nodes: Vec<Name> = ["n1", "n2", "n3"].map(|name| name_of_node(name).unwrap()).into();
        certificates::make(files.path(), &nodes, 1).unwrap();
        let own = Identity::load(&files.path().join("n1")).unwrap();
        let listener = NodeListener::listen((Ipv4Addr::LOCALHOST, 0).into(), own).unwrap();
        let address = (Ipv4Addr::LOCALHOST, listener.port).into();
        let pool = Pool::new();
        for name in ["n1", "n2"] {
            pool.store().set_node(&node(name)).unwrap();
        }
        let apparatus = pool.joined("a").listening(listener).serve(limits);
        Self {
            pool,
            files,
            address,
            _apparatus: apparatus,
        }
    }

    fn links_from(&self, node: &str) -> Links {
        let identity = Identity::load(&self.files.path().join(node)).unwrap();
        Links::over(Box::new(Sockets::with(identity)), self.pool.uuid, Term(0))
    }

    /// Asks for the state from this node; returns the answer, or how the link ended.
    fn ask_from(&self, node: &str) -> WaitOutcome {
        let mut links = self.links_from(node);
        links.connect_to(Slot(0), Address::Remote(self.address, "n1".into()));
        let end = Instant::now() + PATIENCE;
        match links.wait(end).unwrap() {
            WaitOutcome::Welcomed(..) => {
                links.send(Slot(0), Request::Status);
                links.flush();
                links.wait(end).unwrap()
            }
            other => other,
        }
    }
}

fn node(name: &str) -> Node {
    Node {
        name: name_of_node(name).unwrap(),
        machine: name.into(),
        epoch: CacheEpoch(Uuid::from_u128(7)),
        certificate: name.into(),
        address: None,
        program: "1".into(),
        since: Timestamp::now(),
    }
}

fn is_status(outcome: &WaitOutcome) -> bool {
    matches!(outcome, WaitOutcome::Answered(_, Answer::Status(figures)) if figures.name.as_str() == "a")
}

#[test]
fn a_controller_of_another_node_is_answered_as_one_of_this_machine() {
    let scene = Scene::new(Limits::default());
    let answer = scene.ask_from("n2");
    assert!(is_status(&answer), "{answer:?}");
    let mut local = scene.pool.greeted("a");
    assert!(matches!(local.ask(Term(0), Request::Status), Answer::Status(_)));
}

#[test]
fn a_node_that_the_pool_does_not_know_is_refused_in_words() {
    let scene = Scene::new(Limits::default());
    let refused = scene.ask_from("n3");
    assert!(
        matches!(&refused, WaitOutcome::Refused(_, Refusal::Failed(why)) if why.contains("no node of this pool")),
        "{refused:?}"
    );
    scene.pool.store().set_node(&node("n3")).unwrap();
    assert!(is_status(&scene.ask_from("n3")));
    assert!(scene.pool.store().remove_node(&node("n3").name).unwrap());
    assert!(matches!(scene.ask_from("n3"), WaitOutcome::Refused(..)));
}

#[test]
fn without_a_certificate_no_other_node_is_reached() {
    let scene = Scene::new(Limits::default());
    let mut links = Links::new(scene.pool.uuid, Term(0));
    links.connect_to(Slot(0), Address::Remote(scene.address, "n1".into()));
    let lost = links.wait(Instant::now() + PATIENCE).unwrap();
    assert!(
        matches!(&lost, WaitOutcome::Lost(_, Loss::Broken(why)) if why.contains("no certificate")),
        "{lost:?}"
    );
}

#[test]
fn silent_connections_from_outside_hold_nobody_and_end() {
    let limits = Limits {
        connections: 3,
        partial: Duration::from_secs(3),
        ..Limits::default()
    };
    let scene = Scene::new(limits);
    let connect = || TcpStream::connect(scene.address).unwrap();
    let mut silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let mut slow = connect();
    slow.write_all(&[22, 3, 1]).unwrap();
    silent.push(slow);
    // Each place of the controllers is free.
    let mut three: Vec<_> = (0..3).map(|_| scene.pool.greeted("a")).collect();
    for raw in &mut three {
        assert!(matches!(raw.ask(Term(0), Request::Status), Answer::Status(_)));
    }
    drop(three);
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // A connection that found no place is reset or closed; the others are closed in time.
        let _ = stream.read_to_end(&mut rest);
    }
    until("a node is let in", || is_status(&scene.ask_from("n2")));
}
