//! The mover's helper thread: it prepares the next runs while the last ones are held and copied, and starts write-back of copied
//! runs, so that the mover itself meets neither a cold page nor a throttled write.

use super::copier::{CopyFault, LastRun, Route, Staged, stage};
use super::mover::WINDOW;
use super::steps::Chunk;
use crate::blockdev::Disk;
use crate::cluster::{Claims, FlushLedger, FlushLedgers, Guard};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::units::{DiskId, DiskOffset};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Runs under way at once, at most.
pub(super) const MAX_RUNS: usize = 3;
/// Bytes prepared at once where the source has holes and the target still holds old data.
const OLD_WINDOW: u64 = 128 << 20;
/// Write-backs that may be queued; those beyond are left to the kernel.
const MAX_WRITE_BACKS: usize = 32;

/// A run that has been prepared for copying.
pub(super) struct Window {
    /// The part of a step that it covers.
    pub(super) chunk: Chunk,
    /// The source and target of its bytes.
    pub(super) route: Route,
    /// What is known of its content.
    pub(super) staged: Staged,
    /// Number of extents at the end of the requested run that are not part of it, because data begins there.
    pub(super) left_out: u64,
}

/// The result of preparing a run.
pub(super) type Ready = std::result::Result<Window, (Chunk, CopyFault)>;

enum Task {
    Stage(Chunk, Route),
    WriteBack(Arc<Disk>, DiskOffset, u64),
}

/// How long a write under way is waited for before its disk is marked.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Permission of the thread to write to a target, and whether it is writing. It may write while the
/// job's controller has the controller lock and no hold is in place. In a gap it may not: another
/// controller may end the job, which frees its destination, and place something else there.
pub(super) struct WriteGate {
    ledgers: Arc<dyn FlushLedgers>,
    phase: Mutex<Phase>,
    /// Signalled when the phase changes or a run is ready.
    changed: Condvar,
}

#[derive(Default)]
struct Phase {
    /// The thread is not waited for any more.
    abandoned: bool,
    /// The thread may not write.
    closed: bool,
    /// The thread waits for permission to write.
    waiting: bool,
    /// The requested runs are not wanted any more.
    cancelled: bool,
    /// The source of the run under way, and since when it is under way.
    run: Option<(DiskId, Instant)>,
    writing: Option<DiskId>,
    mark: Option<Guard>,
}

impl WriteGate {
    pub(super) fn new(ledgers: Arc<dyn FlushLedgers>) -> Self {
        Self {
            ledgers,
            phase: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns a disk's ledger of write errors.
    pub(super) fn ledger(&self, disk: DiskId) -> Arc<dyn FlushLedger> {
        self.ledgers.ledger(disk)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `write`, which writes to a target, as soon as that is permitted. Fails with `TimedOut` when the thread has been abandoned or
    /// its runs cancelled.
    pub(super) fn write<T>(
        &self,
        target: DiskId,
        write: impl FnOnce() -> Result<T, CopyFault>,
    ) -> Result<T, CopyFault> {
        let mut phase = self.phase();
        while phase.closed && !phase.abandoned && !phase.cancelled {
            phase.waiting = true;
            self.changed.notify_all();
            phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
        phase.waiting = false;
        if phase.abandoned || phase.cancelled {
            return Err(CopyFault::Target(io::ErrorKind::TimedOut.into()));
        }
        phase.writing = Some(target);
        drop(phase);
        let written = write();
        let mut phase = self.phase();
        (phase.writing, phase.mark) = (None, None);
        self.changed.notify_all();
        written
    }

    /// Permits writing.
    fn open(&self) {
        self.phase().closed = false;
        self.changed.notify_all();
    }

    /// Forbids writing. Waits for a write under way, unless its disk hangs: then the
    /// disk is marked, so that nothing else is placed on it until the write has ended.
    fn close(&self, claims: &dyn Claims) -> Result<()> {
        let mut phase = self.pause();
        if let Some(target) = phase.writing.filter(|_| phase.mark.is_none()) {
            phase.mark = Some(claims.mark_left_write(target)?);
        }
        Ok(())
    }

    /// Forbids writing. Waits for a write under way, unless its disk hangs.
    fn pause(&self) -> MutexGuard<'_, Phase> {
        let mut phase = self.phase();
        phase.closed = true;
        let end = Instant::now() + WRITE_TIMEOUT;
        while phase.writing.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(phase, left);
            (phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        phase
    }

    /// Cancels the requested runs, or accepts runs again.
    fn cancel_all(&self, cancelled: bool) {
        self.phase().cancelled = cancelled;
        self.changed.notify_all();
    }
}

/// Handle of the thread. Dropping it waits for the disk operation under way, however long that takes, unless the
/// thread has been abandoned: the target may be given to others, and the controller lock released, only after that.
pub(super) struct Stager {
    gate: Arc<WriteGate>,
    tasks: Option<Sender<Task>>,
    stop: Arc<AtomicBool>,
    ready: Receiver<Ready>,
    outstanding: usize,
    thread: Option<JoinHandle<()>>,
}

impl Stager {
    /// Starts the thread.
    pub(super) fn start(ledgers: Arc<dyn FlushLedgers>) -> Result<Self> {
        let (tasks, inbox) = bounded(MAX_RUNS + MAX_WRITE_BACKS);
        // There is room for every result, so the thread never waits for the mover.
        let (outbox, ready) = bounded(MAX_RUNS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let gate = Arc::new(WriteGate::new(ledgers));
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

    /// Returns whether another run may be requested.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < MAX_RUNS
    }

    /// Returns whether no run is requested.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Requests a run; returns false when there is no room.
    pub(super) fn ask(&mut self, chunk: Chunk, route: Route) -> bool {
        let sent = self.has_room() && self.send(Task::Stage(chunk, route));
        self.outstanding += usize::from(sent);
        sent
    }

    /// Queues a copied run for write-back, unless too many are queued.
    pub(super) fn write_back(&self, disk: Arc<Disk>, at: DiskOffset, len: u64) {
        self.send(Task::WriteBack(disk, at, len));
    }

    fn send(&self, task: Task) -> bool {
        self.tasks
            .as_ref()
            .is_some_and(|tasks| tasks.try_send(task).is_ok())
    }

    /// Returns the next run in the order of the requests, if it is ready in time.
    ///
    /// # Errors
    /// Fails when the thread has ended, which never happens in normal operation.
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
                Err(Error::failed("the move", "its helper thread has ended"))
            }
        }
    }

    /// Returns the disk that the thread works on, and for how long the run under way has taken.
    pub(super) fn at(&self) -> Option<(DiskId, Duration)> {
        let phase = self.gate.phase();
        let (source, since) = phase.run.filter(|_| !phase.waiting)?;
        Some((phase.writing.unwrap_or(source), since.elapsed()))
    }

    /// Permits the thread to write to targets.
    pub(super) fn open(&self) {
        self.gate.open();
    }

    /// Forbids writing as long as holds are in place: the thread would write to the
    /// same files as the copies under the holds, and they would wait for each other.
    pub(super) fn pause(&self) {
        drop(self.gate.pause());
    }

    /// Forbids writing; see [`Claims::mark_left_write`] for a target that hangs.
    ///
    /// # Errors
    /// Fails when a target hangs and cannot be marked.
    pub(super) fn close(&self, claims: &dyn Claims) -> Result<()> {
        self.gate.close(claims)
    }

    /// Waits until a run is ready or the thread waits for permission to write, at most for `patience`.
    pub(super) fn wait_for_run(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut phase = self.gate.phase();
        while self.outstanding > 0 && self.ready.is_empty() && !phase.waiting {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.gate.changed.wait_timeout(phase, left);
            (phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops waiting for the thread, which writes to no target any more. A target that it is writing
    /// to at this moment is marked until that write has ended, see [`Claims::mark_left_write`].
    ///
    /// # Errors
    /// Fails when the target cannot be marked: then the thread has to be waited for.
    pub(super) fn abandon(&mut self, claims: &dyn Claims) -> Result<()> {
        let mut phase = self.gate.phase();
        if let Some(target) = phase.writing {
            phase.mark = Some(claims.mark_left_write(target)?);
        }
        phase.abandoned = true;
        drop(phase);
        self.gate.changed.notify_all();
        // The thread is not joined; it ends by itself.
        self.thread = None;
        Ok(())
    }

    /// Waits until no requested run is under way, and discards the results: from then on the thread
    /// touches no target. Before that, a target must not be given to others nor be prepared anew.
    ///
    /// # Errors
    /// Fails when a disk does not answer in time.
    pub(super) fn settle(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        self.gate.cancel_all(true);
        while self.outstanding > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if self.take(left)?.is_none() && left.is_zero() {
                return Err(
                    Error::new(ErrorKind::TimedOut, "the move", "a disk does not answer")
                        .hint("see `vctl disk list`; the destination of the move stays reserved"),
                );
            }
        }
        self.gate.cancel_all(false);
        Ok(())
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.gate.cancel_all(true);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(inbox: &Receiver<Task>, outbox: &Sender<Ready>, stop: &AtomicBool, gate: &WriteGate) {
    let mut known = LastRun::default();
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
                // The lock is taken so that a waiter that has just checked does not miss the signal.
                drop(gate.phase());
                gate.changed.notify_all();
            }
            Task::WriteBack(disk, at, len) => disk.start_writeback(at, len, &*gate.ledger(disk.id())),
        }
    }
}

fn make_ready(
    chunk: Chunk,
    route: &Route,
    known: &mut LastRun,
    gate: &WriteGate,
) -> std::result::Result<Window, CopyFault> {
    let extent = route.len / chunk.len().max(1);
    let fit = extents_at_once(route, extent)?;
    let (Some(chunk), left_out) = (chunk.part(0, fit), chunk.len().saturating_sub(fit)) else {
        return Err(CopyFault::Source(io::ErrorKind::InvalidInput.into()));
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

/// Returns how much of a run is prepared at once, in extents: a range that is a hole on both sides costs the same
/// however long it is; data is read, and old data in the target is cleared, so both are done in small steps.
fn extents_at_once(route: &Route, extent: u64) -> std::result::Result<u64, CopyFault> {
    let all = route.len / extent.max(1);
    if route.len <= WINDOW {
        return Ok(all);
    }
    let from =
        |start: Option<u64>, at: DiskOffset| start.map_or(route.len, |start| start.saturating_sub(at.0));
    let data = route
        .source
        .data_from(route.at, route.len)
        .map_err(CopyFault::Source)?;
    let old = route
        .target
        .data_from(route.to, route.len)
        .map_err(CopyFault::Target)?;
    let hole = from(data, route.at);
    Ok(cut(hole, from(old, route.to), extent).min(all))
}

/// Returns how many extents come before the first byte of data on either side; if that is in the first extent, a window's worth.
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
    use crate::cluster;
    use crate::model::build;
    use crate::model::dir::PoolDir;

    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;

    #[test]
    fn a_hole_is_prepared_at_once_and_data_and_old_data_in_steps() {
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

    /// After abandoning the thread, no target without a mark is written to any more.
    #[test]
    fn an_abandoned_thread_writes_to_no_target_that_is_not_marked() {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = super::super::testing::Images::new().ledgers();
        let pool = cluster::open(&PoolDir::new(dir.path())).unwrap();
        let record = build::disk(1, 9);
        let mut idle = Stager::start(ledgers.clone()).unwrap();
        idle.abandon(&*pool).unwrap();
        pool.refuse_left_write(&record).unwrap();
        let late = idle
            .gate
            .write(DiskId(1), || -> Result<(), CopyFault> { panic!("wrote") });
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
        busy.abandon(&*pool).unwrap();
        let refused = pool.refuse_left_write(&record).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        drop(go_on);
        assert!(hanging.join().unwrap().unwrap());
        pool.refuse_left_write(&record).unwrap();
    }

    /// In a gap another controller may cancel the job, and its destination is given to others.
    #[test]
    fn nothing_is_written_in_a_gap_and_a_cancelled_run_never() {
        let dir = tempfile::tempdir().unwrap();
        let pool = cluster::open(&PoolDir::new(dir.path())).unwrap();
        let ledgers = super::super::testing::Images::new().ledgers();
        let stager = Stager::start(ledgers).unwrap();
        stager.close(&*pool).unwrap();
        for wanted in [true, false] {
            let gate = Arc::clone(&stager.gate);
            let (report, reported) = bounded(1);
            let late = std::thread::spawn(move || {
                gate.write(DiskId(1), || {
                    report.send(()).unwrap();
                    Ok(())
                })
            });
            while !stager.gate.phase().waiting {
                std::thread::yield_now();
            }
            assert!(stager.at().is_none(), "it waits for permission, not for a disk");
            assert!(reported.try_recv().is_err());
            match wanted {
                true => stager.open(),
                false => stager.gate.cancel_all(true),
            }
            assert_eq!(late.join().unwrap().is_ok(), wanted);
            assert_eq!(reported.try_recv().is_ok(), wanted);
            stager.close(&*pool).unwrap();
        }
    }

    #[test]
    fn a_gap_marks_a_target_that_hangs_and_does_not_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pool = cluster::open(&PoolDir::new(dir.path())).unwrap();
        let stager = Stager::start(super::super::testing::Images::new().ledgers()).unwrap();
        let gate = Arc::clone(&stager.gate);
        let (go_on, wait) = bounded::<()>(0);
        let (began, begin) = bounded(0);
        let hanging = std::thread::spawn(move || {
            gate.write(DiskId(1), || {
                began.send(()).unwrap();
                Ok(wait.recv().is_err())
            })
        });
        begin.recv().unwrap();
        stager.close(&*pool).unwrap();
        assert_eq!(
            pool.refuse_left_write(&build::disk(1, 9)).unwrap_err().kind(),
            ErrorKind::TimedOut
        );
        pool.refuse_left_write(&build::disk(2, 9)).unwrap();
        drop(go_on);
        assert!(hanging.join().unwrap().unwrap());
        pool.refuse_left_write(&build::disk(1, 9)).unwrap();
    }
}
