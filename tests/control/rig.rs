//! Pools, apparatuses without a mount, and raw connections: what the tests of the control path are made of.

use apparatus::change::driver::{Controller, Wait};
use apparatus::control::hardener::Hardener;
use apparatus::control::runtime::{Lag, Resumed};
use apparatus::control::server::{Limits, OpenStore, Server, Setup};
use apparatus::control::{Bell, Listener, Runtime};
use apparatus::data::{Harden, Hardening};
use apparatus::disk::{Candidate, Disk, Disks, create_image};
use apparatus::error::{Error, Result};
use apparatus::gate::{Access, Bounds, Drain, Entry, Gate, Parkable};
use apparatus::member::{LifeLock, MemberTable};
use apparatus::pool::dir::PoolDir;
use apparatus::pool::model::{Area, Difference, DiskRecord, Edit, Segment, Snapshot, Span, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::store::sqlite::SqliteStore;
use apparatus::store::{HoldMode, Member, NewChange, Store};
use apparatus::sys::boot_id;
use apparatus::table::Draft;
use apparatus::units::{
    ByteCount, ChangeId, DiskExtent, DiskId, ExtentSize, Generation, Term, VolumeExtent, VolumeId,
};
use apparatus::wire::frame::{CAP, Decoder, encode};
use apparatus::wire::message::{Answer, AnswerFrame, Figures, Opens, Request, RequestFrame, VERSION};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// Bound of every wait in these tests: long enough for a crowded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The extents of every disk and volume here.
pub(crate) const EXTENT: ExtentSize = ExtentSize::MIN;

pub(crate) fn name(text: &str) -> Name {
    Name::new("test", text).unwrap()
}

/// Waits until it is so.
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
        let mut store = SqliteStore::create(&dir, EXTENT).unwrap();
        let uuid = store.header().unwrap().uuid;
        Self { dir, uuid, files }
    }

    pub(crate) fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.dir).unwrap()
    }

    pub(crate) fn controller(&self) -> Controller {
        Controller::acquire(&self.dir, "test", Wait::For(Some(PATIENCE))).unwrap()
    }

    pub(crate) fn members(&self) -> Arc<MemberTable> {
        MemberTable::open(&self.dir, self.uuid, boot_id().unwrap()).unwrap()
    }

    pub(crate) fn member(&self, who: &str) -> Member {
        let (_, members) = self.store().members().unwrap();
        members
            .into_iter()
            .find(|member| member.name.as_str() == who)
            .unwrap()
    }

    /// Makes an image of so many extents, and a disk of the pool of it.
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

    /// Makes a volume of so many extents on a disk.
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

    /// An apparatus that joins and serves, with the usual bounds.
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

    /// An apparatus that has joined, and whose control thread does not run yet.
    pub(crate) fn joined(&self, who: &str) -> Joining {
        let life = LifeLock::take(&self.dir, who).unwrap();
        let life = Arc::new(life.expect("nobody else has this name"));
        let listener = Listener::bind(&self.dir, &name(who), &life).unwrap();
        let mount = self.files.path().join(who);
        let alive = |member: &Member| LifeLock::alive(&self.dir, member.name.as_str()).unwrap();
        let joined = self
            .store()
            .join(&name(who), std::process::id(), &mount, &alive, None)
            .unwrap();
        let members = self.members();
        let line = Arc::new(members.mine(joined.member.slot));
        line.begin(joined.member.incarnation, joined.snapshot.header.generation);
        let bell = Arc::new(Bell::new().unwrap());
        let path = Arc::new(Path::new(&joined.snapshot, &bell));
        let dir = self.dir.clone();
        let open_store: OpenStore = Arc::new(move || Ok(Box::new(SqliteStore::open(&dir)?)));
        let hardener = Hardener::new(Arc::clone(&open_store), Arc::clone(&members));
        let runtime: Arc<dyn Runtime> = Arc::clone(&path) as _;
        hardener.serve(&runtime);
        let (shared, doors) = ((members, line), (listener, Arc::clone(&life)));
        let setup = Setup::new(&self.dir, &joined, doors, shared, (runtime, bell), open_store);
        Joining {
            setup,
            apparatus: Apparatus {
                path,
                hardener,
                server: None,
                _life: life,
            },
        }
    }

    pub(crate) fn connect(&self, who: &str) -> Raw {
        Raw::connect(&self.dir.socket(&name(who)))
    }

    /// A connection that has said hello.
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
    let difference = Difference {
        from: Generation(0),
        edits,
    };
    NewChange {
        title: title.into(),
        job: None,
        difference,
        spans: Vec::new(),
        mode: HoldMode::Writes,
    }
}

pub(crate) fn map(volume: VolumeId, at: u64, disk: DiskId, start: u64, len: u64) -> Edit {
    let home = Area {
        disk,
        start: DiskExtent(start),
        len,
    };
    Edit::Map {
        volume,
        segments: vec![Segment {
            start: VolumeExtent(at),
            home,
        }],
    }
}

/// Between joining and serving.
pub(crate) struct Joining {
    setup: Setup,
    apparatus: Apparatus,
}

impl Joining {
    pub(crate) fn serve(mut self, limits: Limits) -> Apparatus {
        self.setup.limits = limits;
        self.apparatus.server = Some(Server::start(self.setup).unwrap());
        self.apparatus
    }
}

pub(crate) struct Apparatus {
    pub(crate) path: Arc<Path>,

    pub(crate) hardener: Arc<Hardener>,
    pub(crate) server: Option<Server>,
    _life: Arc<LifeLock>,
}

impl Apparatus {
    pub(crate) fn harden(&self) -> Result<()> {
        while self.hardener.harden(VolumeId(1), self.path.generation())? != Hardening::Done {}
        Ok(())
    }
}

impl Drop for Apparatus {
    fn drop(&mut self) {
        // Before the life lock.
        self.server.take();
    }
}

/// A parked request.
pub(crate) struct Ticket;

impl Parkable for Ticket {
    fn bytes(&self) -> u64 {
        1
    }
}

/// A data path with a real gate and without hosts.
pub(crate) struct Path {
    gate: Gate<Ticket>,
    generation: AtomicU64,
    pub(crate) applied: Mutex<Vec<Difference>>,
    disks: Disks,
    pub(crate) damaged: AtomicBool,
    pub(crate) stopped: AtomicBool,
    pub(crate) reloads: AtomicU64,
}

impl Path {
    fn new(snapshot: &Snapshot, bell: &Arc<Bell>) -> Self {
        let disks = Disks::new();
        for record in &snapshot.disks {
            disks.insert(Arc::new(Disk::open(record, &snapshot.header).unwrap()));
        }
        Self {
            gate: Gate::new(Bounds::default(), Arc::clone(bell) as _),
            generation: AtomicU64::new(snapshot.header.generation.0),
            applied: Mutex::default(),
            disks,
            damaged: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
        }
    }

    /// Has a request in flight on `span` until the sender is dropped.
    pub(crate) fn in_flight_on(self: &Arc<Self>, span: Span) -> (Sender<()>, JoinHandle<()>) {
        let (end, ended) = channel::<()>();
        let (entered, inside) = channel();
        let path = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            let mut lane = path.gate.lane().unwrap();
            let Entry::Open(pass) = path.gate.enter(&mut lane, span, Access::Write, path.generation()) else {
                panic!("held")
            };
            entered.send(()).unwrap();
            let _ = ended.recv();
            drop(pass);
        });
        inside.recv_timeout(PATIENCE).unwrap();
        (end, thread)
    }

    /// Whether a write of `span` would go in now.
    pub(crate) fn is_open(&self, span: Span) -> bool {
        let mut lane = self.gate.lane().unwrap();
        matches!(
            self.gate.enter(&mut lane, span, Access::Write, self.generation()),
            Entry::Open(_)
        )
    }

    pub(crate) fn park(&self, span: Span) {
        self.gate.park(Ticket, span, Access::Write);
    }

    pub(crate) fn holds(&self) -> u64 {
        self.gate.counts().holds
    }
}

impl Runtime for Path {
    fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        self.gate.hold(change, spans, mode)
    }

    fn lag(&self, change: ChangeId) -> Option<Lag> {
        match self.gate.drained(change) {
            None | Some(Drain::Done) => None,
            Some(Drain::Waiting { in_flight, age, .. }) => Some(Lag {
                in_flight,
                age,
                disk: "d1".into(),
            }),
        }
    }

    fn release(&self, change: ChangeId) -> Resumed {
        let resumed = self.gate.release(change);
        Resumed {
            parked: resumed.parked,
            longest: resumed.longest,
        }
    }

    fn note(&self) {
        let _ = self.gate.counts();
    }

    fn apply(&self, difference: &Difference) -> Result<Generation> {
        if self.damaged.load(Ordering::SeqCst) {
            return Err(Error::failed("table", "damaged for a test"));
        }
        let next = difference.from.next();
        if self.generation() != next {
            assert_eq!(difference.from, self.generation(), "the machine has checked this");
            self.applied.lock().unwrap().push(difference.clone());
            self.generation.store(next.0, Ordering::SeqCst);
        }
        Ok(next)
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    fn oldest(&self) -> Generation {
        self.gate.oldest(self.generation())
    }

    fn close(&self) {
        self.gate.close();
    }

    fn in_flight(&self) -> u64 {
        self.gate.counts().in_flight
    }

    fn reload(&self, table: Draft, _: &[DiskRecord]) -> Result<()> {
        assert_eq!(self.in_flight(), 0);
        self.damaged.store(false, Ordering::SeqCst);
        self.generation.store(table.generation().0, Ordering::SeqCst);
        self.reloads.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn open(&self) {
        drop(self.gate.open());
    }

    fn opens(&self) -> Opens {
        Opens::default()
    }

    fn keep_closed(&self, _: u64, _: BTreeSet<VolumeId>, _: bool) -> Result<(), Opens> {
        Ok(())
    }

    fn let_in(&self, _: u64) {}

    fn disks(&self) -> &Disks {
        &self.disks
    }

    fn figures(&self) -> Figures {
        Figures {
            threads: 3,
            ..Figures::default()
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

/// A connection whose bytes the test chooses.
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
        // A connection that was closed meanwhile shows when it is read.
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

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        self.next().expect("the connection was closed")
    }

    /// The next answer, or `None` when the connection is closed.
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

    /// How the connection ends: what is said last, and then nothing more.
    pub(crate) fn last_words(mut self) -> Vec<Answer> {
        std::iter::from_fn(move || self.next()).collect()
    }
}
