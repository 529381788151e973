//! Pools, apparatuses without a mount, and raw connections: the parts of the control path tests.

use crate::path::Path;
use apparatus::agent::persister::Persister;
use apparatus::agent::server::{Limits, Server, Setup};
use apparatus::blockdev::{Candidate, create_image};
use apparatus::cluster::{NameClaim, SharedState};
use apparatus::controller::pool::{PoolHandle, open_store};
use apparatus::controller::{Controller, Wait};
use apparatus::datapath::{Persist, PersistState};
use apparatus::datapath::{Runtime, Waker};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::Result;
use apparatus::model::member::{Joiner, Member};
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, Term, VolumeExtent, VolumeId,
};
use apparatus::rpc::Listener;
use apparatus::rpc::frame::{CAP, Decoder, encode};
use apparatus::rpc::message::{Answer, AnswerFrame, Request, RequestFrame, VERSION};
use apparatus::store::{self, Store};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// Bound of every wait in these tests: long enough for a crowded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);

/// Size of an extent of every disk and volume here.
pub(crate) const EXTENT: ExtentSize = ExtentSize::MIN;

pub(crate) fn name(text: &str) -> Name {
    Name::new("test", text).unwrap()
}

/// Waits until the condition holds.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

pub(crate) struct Pool {
    pub(crate) dir: PoolDir,
    pub(crate) uuid: Uuid,
    files: TempDir,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let files = TempDir::new().unwrap();
        let dir = PoolDir::new(files.path().join("pool"));
        store::create(&dir, EXTENT).unwrap();
        let uuid = open_store(&dir).unwrap().header().unwrap().uuid;
        Self { dir, uuid, files }
    }

    pub(crate) fn store(&self) -> Box<dyn Store> {
        open_store(&self.dir).unwrap()
    }

    pub(crate) fn controller(&self) -> Controller {
        Controller::acquire(&self.dir, "test", Wait::For(Some(PATIENCE))).unwrap()
    }

    pub(crate) fn handle(&self) -> PoolHandle {
        PoolHandle::of(&self.dir).unwrap()
    }

    pub(crate) fn shared(&self) -> SharedState {
        self.handle().cluster.share(self.uuid).unwrap()
    }

    pub(crate) fn member(&self, who: &str) -> Member {
        let (_, members) = self.store().members().unwrap();
        members
            .into_iter()
            .find(|member| member.name.as_str() == who)
            .unwrap()
    }

    /// Makes an image of `extents` extents, and a disk of the pool of it.
    pub(crate) fn add_disk(&self, controller: &mut Controller, text: &str, extents: u64) -> DiskId {
        let path = self.files.path().join(format!("{text}.img"));
        create_image(&path, ByteCount(extents * EXTENT.bytes()), EXTENT).unwrap();
        let id = controller.store().next_disk_id().unwrap();
        let uuid = Uuid::new_v4();
        let header = controller.store().header().unwrap();
        let candidate = Candidate::inspect(&path, &header, &[]).unwrap();
        candidate.write_label(&header, uuid).unwrap();
        let record = DiskRecord {
            id,
            name: name(text),
            uuid,
            path,
            extents,
            tags: Default::default(),
            allocate: true,
            reserve: 0,
            label: 0,
        };
        controller
            .run(change("disk add", vec![Edit::AddDisk(record)]), true, &mut || {
                Ok(())
            })
            .unwrap();
        id
    }

    /// Makes a volume of `extents` extents on a disk.
    pub(crate) fn add_volume(
        &self,
        controller: &mut Controller,
        text: &str,
        disk: DiskId,
        start: u64,
        len: u64,
    ) -> VolumeId {
        let id = controller.store().next_volume_id().unwrap();
        let size = ByteCount(len * EXTENT.bytes());
        let record = VolumeRecord {
            id,
            name: name(text),
            size,
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        let edits = vec![Edit::AddVolume(record), map(id, 0, disk, start, len)];
        controller
            .run(change("volume create", edits), true, &mut || Ok(()))
            .unwrap();
        id
    }

    /// Starts an apparatus that joins and serves, with the usual bounds.
    pub(crate) fn apparatus(&self, who: &str) -> Apparatus {
        self.apparatus_with(who, Limits::default())
    }

    pub(crate) fn apparatus_with(&self, who: &str, limits: Limits) -> Apparatus {
        let apparatus = self.joined(who).serve(limits);
        until("it has seen that the others are at its table", || {
            apparatus.path.holds() == 0
        });
        apparatus
    }

    /// Makes an apparatus that has joined, and whose control thread does not run yet.
    pub(crate) fn joined(&self, who: &str) -> Joining {
        self.joined_through(&self.handle(), who)
    }

    /// The same, with a cluster and a store of the test's choice.
    pub(crate) fn joined_through(&self, handle: &PoolHandle, who: &str) -> Joining {
        let claim = handle.cluster.claim(who).unwrap();
        let claim = claim.expect("nobody else has this name");
        let listener = Listener::bind(&handle.dir, &name(who), &*claim).unwrap();
        let mount = self.files.path().join(who);
        let alive = |member: &Member| handle.cluster.is_claimed(member.name.as_str()).unwrap();
        let joined = self
            .store()
            .join(&Joiner::new(&name(who), std::process::id(), &mount), &alive)
            .unwrap();
        let shared = self.shared();
        let entry = shared.members.own(joined.member.slot);
        entry.begin(joined.member.incarnation, joined.snapshot.header.generation);
        let waker = Arc::new(Waker::new().unwrap());
        let path = Arc::new(Path::new(&joined.snapshot, &waker));
        let persister = Persister::new(Arc::clone(&handle.open_store), Arc::clone(&shared.ledgers));
        let runtime: Arc<dyn Runtime> = Arc::clone(&path) as _;
        persister.serve(&runtime);
        let (ours, doors) = ((shared, entry), (listener, None, Arc::clone(&claim)));
        let setup = Setup::new(handle, &joined, doors, ours, (runtime, waker));
        Joining {
            setup,
            apparatus: Apparatus {
                path,
                persister,
                server: None,
                _claim: claim,
            },
        }
    }

    pub(crate) fn connect(&self, who: &str) -> Raw {
        Raw::connect(&self.dir.socket(&name(who)))
    }

    /// Opens a connection and greets.
    pub(crate) fn greeted(&self, who: &str) -> Raw {
        let mut raw = self.connect(who);
        raw.send(
            Term(0),
            vec![Request::Hello {
                version: VERSION,
                pool: self.uuid,
            }],
        );
        assert!(matches!(raw.answer(), Answer::Welcome { .. }));
        raw
    }
}

pub(crate) fn change(title: &str, edits: Vec<Edit>) -> NewChange {
    let delta = Delta {
        from: Generation(0),
        edits,
    };
    NewChange {
        title: title.into(),
        job: None,
        delta,
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

pub(crate) fn map(volume: VolumeId, at: u64, disk: DiskId, start: u64, len: u64) -> Edit {
    let placement = Area {
        disk,
        start: DiskExtent(start),
        len,
    };
    Edit::Map {
        volume,
        segments: vec![Segment {
            start: VolumeExtent(at),
            placement,
        }],
    }
}

/// An apparatus between joining and serving.
pub(crate) struct Joining {
    setup: Setup,
    apparatus: Apparatus,
}

impl Joining {
    /// Has it listen for other nodes too.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "there are no other nodes"))]
    pub(crate) fn listening(mut self, node_listener: apparatus::rpc::NodeListener) -> Self {
        self.setup.node_listener = Some(node_listener);
        self
    }

    pub(crate) fn serve(mut self, limits: Limits) -> Apparatus {
        self.setup.limits = limits;
        self.apparatus.server = Some(Server::start(self.setup).unwrap());
        self.apparatus
    }
}

pub(crate) struct Apparatus {
    pub(crate) path: Arc<Path>,

    pub(crate) persister: Arc<Persister>,
    pub(crate) server: Option<Server>,
    _claim: Arc<dyn NameClaim>,
}

impl Apparatus {
    pub(crate) fn persist(&self) -> Result<()> {
        while self.persister.persist(VolumeId(1), self.path.generation())? != PersistState::Done {}
        Ok(())
    }
}

impl Drop for Apparatus {
    fn drop(&mut self) {
        // This is dropped before the life lock.
        self.server.take();
        let in_flight = self.path.in_flight_at_reload.load(Ordering::SeqCst);
        if !std::thread::panicking() {
            assert_eq!(in_flight, 0, "a table was loaded under requests");
        }
    }
}

/// A connection on which the test chooses the bytes.
pub(crate) struct Raw {
    stream: UnixStream,
    decoder: Decoder,
    term: Term,
    answers: std::collections::VecDeque<Answer>,
}

impl Raw {
    pub(crate) fn connect(path: &FilePath) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::new(CAP),
            term: Term(0),
            answers: Default::default(),
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // A connection that was closed meanwhile is noticed when it is read.
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn send(&mut self, term: Term, requests: Vec<Request>) {
        self.term = term;
        let mut bytes = Vec::new();
        encode(&RequestFrame { term, requests }, &mut bytes).unwrap();
        self.bytes(&bytes);
    }

    pub(crate) fn ask(&mut self, term: Term, request: Request) -> Answer {
        self.send(term, vec![request]);
        self.answer()
    }

    /// Reads the next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        self.next().expect("the connection was closed")
    }

    /// Reads the next answer; `None` when the connection is closed.
    pub(crate) fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(answer);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(got) => self.decoder.feed(&piece[..got]).unwrap(),
                Err(why) if why.kind() == ErrorKind::ConnectionReset => return None,
                Err(why) => panic!("no answer: {why}"),
            }
            while let Some(frame) = self.decoder.take::<AnswerFrame>().unwrap() {
                self.answers.extend(frame.answers);
            }
        }
    }

    /// Reads the end of the connection: the last answer, and then nothing more.
    pub(crate) fn last_words(mut self) -> Vec<Answer> {
        std::iter::from_fn(move || self.next()).collect()
    }
}
