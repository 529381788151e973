//! The mover's helping thread: makes the next runs ready while the last ones are held and copied, and has what was copied
//! written back, so that the mover itself meets neither a cold page nor a throttled write.

use super::copier::{Fault, Known, Route, Staged, stage};
use super::mover::WINDOW;
use super::steps::Chunk;
use crate::disk::Disk;
use crate::error::{Error, Kind, Result};
use crate::member::{DiskMarks, LeftWrite, MemberTable};
use crate::pool::dir::PoolDir;
use crate::units::{DiskId, DiskOffset};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Runs under way at once.
pub(super) const AHEAD: usize = 3;
/// Made ready at once where there are holes, and the target still holds what was there before.
const OLD_WINDOW: u64 = 128 << 20;
/// Written-back runs that may wait; more are left to the kernel.
const BEHIND: usize = 32;

/// A run that has been made ready.
pub(super) struct Window {
    /// What of a step it is.
    pub(super) chunk: Chunk,
    /// Where its bytes are and where they go.
    pub(super) route: Route,
    /// What is known of it.
    pub(super) staged: Staged,
    /// So many extents at the end of the run that was asked for are not part of it: something begins there.
    pub(super) left_out: u64,
}

/// What came of a run.
pub(super) type Ready = std::result::Result<Window, (Chunk, Fault)>;

enum Task {
    Stage(Chunk, Route),
    WriteBack(Arc<Disk>, DiskOffset, u64),
}

/// Between the thread and whoever stops waiting for it: whether it may write to a target, and whether it does.
pub(super) struct Gate {
    ledgers: Arc<MemberTable>,
    phase: Mutex<Phase>,
}

#[derive(Default)]
struct Phase {
    /// Nobody waits for the thread any more.
    left: bool,
    /// The source of the run in hand, and since when it is in hand.
    run: Option<(DiskId, Instant)>,
    writing: Option<DiskId>,
    mark: Option<LeftWrite>,
}

impl Gate {
    pub(super) fn new(ledgers: Arc<MemberTable>) -> Self {
        Self {
            ledgers,
            phase: Mutex::default(),
        }
    }

    /// A disk's ledger of write errors.
    pub(super) fn ledger(&self, disk: DiskId) -> DiskMarks {
        self.ledgers.marks(disk)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to a target, unless the thread has been left behind.
    pub(super) fn write<T>(
        &self,
        target: DiskId,
        write: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut phase = self.phase();
        if phase.left {
            return Err(Fault::Target(ErrorKind::TimedOut.into()));
        }
        phase.writing = Some(target);
        drop(phase);
        let written = write();
        let mut phase = self.phase();
        (phase.writing, phase.mark) = (None, None);
        written
    }
}

/// The thread. Dropping it waits for the disk operation in hand, however long that takes: only then may somebody else be
/// given the target, and the arbitration is not let go before. Unless it has been left behind.
pub(super) struct Stager {
    gate: Arc<Gate>,
    tasks: Option<Sender<Task>>,
    stop: Arc<AtomicBool>,
    ready: Receiver<Ready>,
    outstanding: usize,
    thread: Option<JoinHandle<()>>,
}

impl Stager {
    /// Starts the thread.
    pub(super) fn start(ledgers: Arc<MemberTable>) -> Result<Self> {
        let (tasks, inbox) = bounded(AHEAD + BEHIND);
        // Room for every answer, so that the thread never waits for the mover.
        let (outbox, ready) = bounded(AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let gate = Arc::new(Gate::new(ledgers));
        let gated = Arc::clone(&gate);
        let thread = Builder::new()
            .name("stager".into())
            .spawn(move || serve(&inbox, &outbox, &stopped, &gated))
            .map_err(|error| Error::because("a thread for the move", error))?;
        Ok(Self {
            gate,
            tasks: Some(tasks),
            stop,
            ready,
            outstanding: 0,
            thread: Some(thread),
        })
    }

    /// Whether another run may be asked for.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < AHEAD
    }

    /// Whether nothing is asked for.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Asks for a run; false when there is no room.
    pub(super) fn ask(&mut self, chunk: Chunk, route: Route) -> bool {
        let sent = self.has_room() && self.send(Task::Stage(chunk, route));
        self.outstanding += usize::from(sent);
        sent
    }

    /// Has a copied run written back, unless too many wait.
    pub(super) fn write_back(&self, disk: Arc<Disk>, at: DiskOffset, len: u64) {
        self.send(Task::WriteBack(disk, at, len));
    }

    fn send(&self, task: Task) -> bool {
        self.tasks
            .as_ref()
            .is_some_and(|tasks| tasks.try_send(task).is_ok())
    }

    /// The next run in the order asked for, if it is ready in time.
    ///
    /// # Errors
    /// When the thread has ended, which it never should.
    pub(super) fn take(&mut self, patience: Duration) -> Result<Option<Ready>> {
        if self.outstanding == 0 {
            return Ok(None);
        }
        match self.ready.recv_timeout(patience) {
            Ok(ready) => {
                self.outstanding -= 1;
                Ok(Some(ready))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::failed("the move", "its helping thread has ended"))
            }
        }
    }

    /// The disk that the thread is at, and for how long the run in hand has taken.
    pub(super) fn at(&self) -> Option<(DiskId, Duration)> {
        let phase = self.gate.phase();
        let (source, since) = phase.run?;
        Some((phase.writing.unwrap_or(source), since.elapsed()))
    }

    /// Stops waiting for the thread: it writes to no target any more. A target that it is writing to at this moment is marked until it has
    /// done so, see [`LeftWrite`].
    ///
    /// # Errors
    /// When the target cannot be marked: then the thread has to be waited for.
    pub(super) fn leave_behind(&mut self, pool: &PoolDir) -> Result<()> {
        let mut phase = self.gate.phase();
        if let Some(target) = phase.writing {
            phase.mark = Some(LeftWrite::mark(pool, target)?);
        }
        phase.left = true;
        drop(phase);
        // Not joined: it ends by itself.
        self.thread = None;
        Ok(())
    }

    /// Waits until nothing asked for is under way and throws away what came of it: from then on the thread touches no target
    /// any more. Before that, a target must not be given to anybody else nor be made ready anew.
    ///
    /// # Errors
    /// When a disk does not answer in time.
    pub(super) fn settle(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while self.outstanding > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if self.take(left)?.is_none() && left.is_zero() {
                return Err(Error::new(Kind::TimedOut, "the move", "a disk does not answer")
                    .hint("see `vctl disk list`; what the move has reserved stays reserved"));
            }
        }
        Ok(())
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(inbox: &Receiver<Task>, outbox: &Sender<Ready>, stop: &AtomicBool, gate: &Gate) {
    let mut known = Known::default();
    for task in inbox {
        match task {
            _ if stop.load(Ordering::Relaxed) => return,
            Task::Stage(chunk, route) => {
                gate.phase().run = Some((route.source.id(), Instant::now()));
                let ready = make_ready(chunk, &route, &mut known, gate).map_err(|fault| (chunk, fault));
                gate.phase().run = None;
                if outbox.try_send(ready).is_err() {
                    return;
                }
            }
            Task::WriteBack(disk, at, len) => disk.start_writeback(at, len, &gate.ledger(disk.id())),
        }
    }
}

fn make_ready(
    chunk: Chunk,
    route: &Route,
    known: &mut Known,
    gate: &Gate,
) -> std::result::Result<Window, Fault> {
    let extent = route.len / chunk.len().max(1);
    let fit = extents_at_once(route, extent)?;
    let (Some(chunk), left_out) = (chunk.part(0, fit), chunk.len().saturating_sub(fit)) else {
        return Err(Fault::Source(std::io::ErrorKind::InvalidInput.into()));
    };
    let route = route.part(0, chunk.len() * extent);
    let staged = stage(&route, known, gate)?;
    Ok(Window {
        chunk,
        route,
        staged,
        left_out,
    })
}

/// How much of a run is made ready at once: a hole that is one on both sides costs the same however long it is; what holds data is read, and
/// what the target still holds is cleared, so both go in small steps.
fn extents_at_once(route: &Route, extent: u64) -> std::result::Result<u64, Fault> {
    let all = route.len / extent.max(1);
    if route.len <= WINDOW {
        return Ok(all);
    }
    let from =
        |start: Option<u64>, at: DiskOffset| start.map_or(route.len, |start| start.saturating_sub(at.0));
    let data = route
        .source
        .data_from(route.at, route.len)
        .map_err(Fault::Source)?;
    let old = route
        .target
        .data_from(route.to, route.len)
        .map_err(Fault::Target)?;
    let hole = from(data, route.at);
    Ok(cut(hole, from(old, route.to), extent).min(all))
}

/// How many extents: up to the first byte of data on either side, or where that is in the first extent, a window's worth.
fn cut(hole: u64, clean: u64, extent: u64) -> u64 {
    match (hole / extent.max(1), clean / extent.max(1)) {
        (0, _) => (WINDOW / extent.max(1)).max(1),
        (hole, 0) => hole.min((OLD_WINDOW / extent.max(1)).max(1)),
        (hole, clean) => hole.min(clean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;

    #[test]
    fn a_hole_goes_at_once_and_data_and_what_was_left_behind_in_steps() {
        for (hole, clean, extents) in [
            (10 * TIB, 10 * TIB, 10 * MIB),
            (5 * MIB + 1, 10 * TIB, 5),
            (10 * TIB, 5 * MIB + 1, 5),
            (0, 10 * TIB, 8),
            (MIB - 1, 0, 8),
            (10 * TIB, 0, 128),
            (3 * MIB, MIB - 1, 3),
        ] {
            assert_eq!(cut(hole, clean, MIB), extents, "{hole} {clean}");
        }
        assert_eq!(cut(0, 0, 64 * MIB), 1, "never nothing");
        assert_eq!(cut(TIB, 0, 256 * MIB), 1);
    }

    /// Whoever goes on without the thread is sure that no target without a mark is written to any more.
    #[test]
    fn a_thread_that_is_left_behind_writes_to_no_target_that_is_not_marked() {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = super::super::testing::Images::new().ledgers();
        let pool = PoolDir::new(dir.path());
        let record = crate::pool::model::DiskRecord {
            id: DiskId(1),
            name: crate::pool::names::Name::new("disk", "d").unwrap(),
            uuid: uuid::Uuid::nil(),
            path: "/d".into(),
            extents: 9,
            tags: std::collections::BTreeSet::new(),
            allocate: true,
            reserve: 0,
            label: 0,
        };
        let mut idle = Stager::start(ledgers.clone()).unwrap();
        idle.leave_behind(&pool).unwrap();
        LeftWrite::refuse(&pool, &record).unwrap();
        let late = idle
            .gate
            .write(DiskId(1), || -> Result<(), Fault> { panic!("wrote") });
        assert!(late.is_err());

        let mut busy = Stager::start(ledgers.clone()).unwrap();
        let (go_on, wait) = bounded::<()>(0);
        let (began, begin) = bounded(0);
        let gate = Arc::clone(&busy.gate);
        let hanging = std::thread::spawn(move || {
            gate.write(DiskId(1), || {
                began.send(()).unwrap();
                Ok(wait.recv().is_err())
            })
        });
        begin.recv().unwrap();
        busy.leave_behind(&pool).unwrap();
        let refused = LeftWrite::refuse(&pool, &record).unwrap_err();
        assert_eq!(refused.kind(), Kind::TimedOut);
        drop(go_on);
        assert!(hanging.join().unwrap().unwrap());
        LeftWrite::refuse(&pool, &record).unwrap();
    }
}
