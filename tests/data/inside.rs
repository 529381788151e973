//! A request is inside the gate from before it is located until it has been answered.

use super::*;

/// The apparatus's own entry, which does something once when a request looks at its fence word.
struct Watched {
    entry: Arc<dyn OwnEntry>,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl OwnEntry for Watched {
    fn begin(&self, incarnation: Incarnation, generation: Generation) {
        self.entry.begin(incarnation, generation);
    }

    fn end(&self) {
        self.entry.end();
    }

    fn is_fenced(&self) -> bool {
        let then = self.then.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        self.entry.is_fenced()
    }

    fn set_generation(&self, generation: Generation) {
        self.entry.set_generation(generation);
    }

    fn set_oldest(&self, oldest: Generation) {
        self.entry.set_oldest(oldest);
    }

    fn beat(&self) {
        self.entry.beat();
    }
}

/// What was located outside the gate may be an old placement: no hold has waited for such a request.
#[test]
fn a_write_is_located_inside_the_gate() {
    let watched: Arc<Mutex<Option<Arc<Watched>>>> = Arc::default();
    let keep = Arc::clone(&watched);
    let mut rig = Rig::with(limits(), Disk::open, move |entry| {
        let then = Mutex::default();
        let watched = Arc::new(Watched { entry, then });
        *keep.lock().unwrap() = Some(Arc::clone(&watched));
        watched
    });
    let watched = watched.lock().unwrap().take().unwrap();
    let (apparatus, volume, to) = (Arc::clone(&rig.apparatus), rig.volume, rig.disks[1]);
    let (report, reported) = channel();
    // The first look is that of a request that has just entered.
    *watched.then.lock().unwrap() = Some(Box::new(move || {
        report.send(apparatus.control().figures().in_flight).unwrap();
        let from = apparatus.control().generation();
        let segments = segments(0, &[(to, 5, 1)]);
        let edits = vec![Edit::Map { volume, segments }];
        apparatus.control().apply(&Delta { from, edits }).unwrap();
    }));
    rig.write(1, 0, b"abc");
    assert_eq!(rig.answer(1), Received::Written(3));
    assert_eq!(reported.try_recv(), Ok(1), "it is inside");
    assert_eq!(
        rig.content(0, 3),
        b"abc",
        "written to the placement that the table has now"
    );
}

/// A reply that notes how many requests are in flight while it is sent.
struct Counting(Arc<Apparatus>, Sender<u64>);

impl Reply for Counting {
    fn send(self, answer: Response<'_>) -> Delivery {
        assert!(!matches!(answer, Response::Failed(_)), "{answer:?}");
        self.1.send(self.0.control().figures().in_flight).unwrap();
        Delivery::Taken
    }
}

/// The bytes of a read are those of the old placement until the reply is sent, so a hold waits for that.
#[test]
fn a_request_is_in_flight_until_it_has_been_answered() {
    let rig = Rig::new(limits());
    let (reports, seen) = channel();
    let read = Operation::Read {
        at: VolumeOffset(0),
        len: 10,
    };
    for operation in [read, write(0, b"abc")] {
        let reply = Counting(Arc::clone(&rig.apparatus), reports.clone());
        let request = Request::new(rig.volume, operation, reply);
        rig.apparatus.serve(&mut rig.io_context(), request);
        assert_eq!(seen.recv_timeout(SOON), Ok(1));
        assert_eq!(rig.apparatus.control().figures().in_flight, 0);
    }
}
