//! A data path without hosts: a real gate, and a table of which only the generation is kept.

use crate::rig::PATIENCE;
use apparatus::blockdev::{Disk, Disks};
use apparatus::datapath::runtime::{Lag, Resumed};
use apparatus::datapath::{Runtime, Waker};
use apparatus::gate::{Access, Bounds, Drain, Entry, Gate, Parkable};
use apparatus::map::Draft;
use apparatus::model::change::HoldMode;
use apparatus::model::error::{Error, Result};
use apparatus::model::records::{Delta, DiskRecord, Snapshot, Span};
use apparatus::model::units::{ChangeId, Generation, VolumeId};
use apparatus::rpc::message::{ApparatusMetrics, Opens};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A parked request.
struct Ticket;

impl Parkable for Ticket {
    fn bytes(&self) -> u64 {
        1
    }
}

/// A data path with a real gate and without hosts.
pub(crate) struct Path {
    gate: Gate<Ticket>,
    generation: AtomicU64,
    pub(crate) applied: Mutex<Vec<Delta>>,
    disks: Disks,
    pub(crate) damaged: AtomicBool,
    pub(crate) stopped: AtomicBool,
    pub(crate) reloads: AtomicU64,
    /// How often a request will be found in flight although there is none.
    pub(crate) lasting: AtomicU64,
    pub(crate) in_flight_at_reload: AtomicU64,
    /// Holds up the next delta until its sender is dropped.
    held_up: Mutex<Option<Receiver<()>>>,
    /// The generations at which holds were released.
    pub(crate) released_at: Mutex<Vec<Generation>>,
}

impl Path {
    pub(crate) fn new(snapshot: &Snapshot, waker: &Arc<Waker>) -> Self {
        let disks = Disks::new();
        for record in &snapshot.disks {
            disks.insert(Arc::new(Disk::open(record, &snapshot.header).unwrap()));
        }
        Self {
            gate: Gate::new(Bounds::default(), Arc::clone(waker) as _),
            generation: AtomicU64::new(snapshot.header.generation.0),
            applied: Mutex::default(),
            disks,
            damaged: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
            lasting: AtomicU64::new(0),
            in_flight_at_reload: AtomicU64::new(0),
            held_up: Mutex::default(),
            released_at: Mutex::default(),
        }
    }

    /// Keeps a request in flight on `span` until the sender is dropped.
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

    /// Returns whether a write of `span` would enter the gate now.
    pub(crate) fn is_open(&self, span: Span) -> bool {
        self.is_open_to(span, Access::Write)
    }

    pub(crate) fn is_open_to(&self, span: Span, access: Access) -> bool {
        let mut lane = self.gate.lane().unwrap();
        let entry = self.gate.enter(&mut lane, span, access, self.generation());
        matches!(entry, Entry::Open(_))
    }

    /// Has the control thread wait in the next delta until the sender is dropped.
    pub(crate) fn hold_up(&self) -> Sender<()> {
        let (end, ended) = channel();
        *self.held_up.lock().unwrap() = Some(ended);
        end
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
        self.released_at.lock().unwrap().push(self.generation());
        let resumed = self.gate.release(change);
        Resumed {
            parked: resumed.parked,
            longest: resumed.longest,
        }
    }

    fn note(&self) {
        let _ = self.gate.counts();
    }

    fn apply(&self, delta: &Delta) -> Result<Generation> {
        let held_up = self.held_up.lock().unwrap().take();
        held_up.map(|until| until.recv());
        if self.damaged.load(Ordering::SeqCst) {
            return Err(Error::failed("table", "damaged for a test"));
        }
        let next = delta.from.next();
        if self.generation() != next {
            assert_eq!(delta.from, self.generation(), "the machine has checked this");
            self.applied.lock().unwrap().push(delta.clone());
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
        let one_less = |lasting: u64| lasting.checked_sub(1);
        match self
            .lasting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
        {
            Ok(_) => 1,
            Err(_) => self.gate.counts().in_flight,
        }
    }

    fn reload(&self, table: Draft, _: &[DiskRecord]) -> Result<()> {
        self.in_flight_at_reload
            .fetch_max(self.in_flight(), Ordering::SeqCst);
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

    fn block_opens(&self, _: u64, _: BTreeSet<VolumeId>, _: bool) -> Result<(), Opens> {
        Ok(())
    }

    fn allow_opens(&self, _: u64) {}

    fn disks(&self) -> &Disks {
        &self.disks
    }

    fn figures(&self) -> ApparatusMetrics {
        ApparatusMetrics {
            threads: 3,
            ..ApparatusMetrics::default()
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}
