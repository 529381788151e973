//! The permission of the mover's helper thread to write to targets.

use super::copier::CopyFault;
use crate::cluster::{Claims, FlushLedger, FlushLedgers, Guard};
use crate::model::error::Result;
use crate::model::units::DiskId;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    pub(super) fn open(&self) {
        self.phase().closed = false;
        self.changed.notify_all();
    }

    /// Forbids writing. Waits for a write under way, unless its disk hangs: then the
    /// disk is marked, so that nothing else is placed on it until the write has ended.
    pub(super) fn close(&self, claims: &dyn Claims) -> Result<()> {
        let mut phase = self.stop_writing();
        if let Some(target) = phase.writing.filter(|_| phase.mark.is_none()) {
            phase.mark = Some(claims.mark_left_write(target)?);
        }
        Ok(())
    }

    /// Forbids writing. Waits for a write under way, unless its disk hangs.
    pub(super) fn pause(&self) {
        drop(self.stop_writing());
    }

    fn stop_writing(&self) -> MutexGuard<'_, Phase> {
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
    pub(super) fn cancel_all(&self, cancelled: bool) {
        self.phase().cancelled = cancelled;
        self.changed.notify_all();
    }

    /// Forbids writing for good. The disk of a write under way is marked until that write has ended.
    pub(super) fn abandon(&self, claims: &dyn Claims) -> Result<()> {
        let mut phase = self.phase();
        if let Some(target) = phase.writing {
            phase.mark = Some(claims.mark_left_write(target)?);
        }
        phase.abandoned = true;
        drop(phase);
        self.changed.notify_all();
        Ok(())
    }

    /// Notes that the thread prepares a run whose source is this disk.
    pub(super) fn begin_run(&self, source: DiskId) {
        self.phase().run = Some((source, Instant::now()));
    }

    /// Notes that no run is under way.
    pub(super) fn end_run(&self) {
        self.phase().run = None;
    }

    /// Returns the disk that the thread works on, and for how long the run under way has taken.
    pub(super) fn at(&self) -> Option<(DiskId, Duration)> {
        let phase = self.phase();
        let (source, since) = phase.run.filter(|_| !phase.waiting)?;
        Some((phase.writing.unwrap_or(source), since.elapsed()))
    }

    /// Wakes who waits in [`Self::wait_while`].
    pub(super) fn notify(&self) {
        // The lock is taken so that a waiter that has just checked does not miss the signal.
        drop(self.phase());
        self.changed.notify_all();
    }

    /// Waits as long as the condition holds and the thread does not wait for permission to write, at most for `patience`.
    pub(super) fn wait_while(&self, patience: Duration, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + patience;
        let mut phase = self.phase();
        while condition() && !phase.waiting {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(phase, left);
            (phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;
    use crate::model::build;
    use crate::model::dir::PoolDir;
    use crate::model::error::ErrorKind;
    use crossbeam_channel::bounded;

    /// After abandoning the thread, no target without a mark is written to any more.
    #[test]
    fn an_abandoned_thread_writes_to_no_target_that_is_not_marked() {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = crate::jobs::testing::Images::new().ledgers();
        let pool = cluster::open(&PoolDir::new(dir.path())).unwrap();
        let record = build::disk(1, 9);
        let idle = WriteGate::new(ledgers.clone());
        idle.abandon(&*pool).unwrap();
        pool.refuse_left_write(&record).unwrap();
        let late = idle.write(DiskId(1), || -> Result<(), CopyFault> { panic!("wrote") });
        assert!(late.is_err());

        let busy = Arc::new(WriteGate::new(ledgers));
        let (go_on, wait) = bounded::<()>(0);
        let (began, begin) = bounded(0);
        let gate = Arc::clone(&busy);
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
        let ledgers = crate::jobs::testing::Images::new().ledgers();
        let own = Arc::new(WriteGate::new(ledgers));
        own.begin_run(DiskId(2));
        own.close(&*pool).unwrap();
        for wanted in [true, false] {
            let gate = Arc::clone(&own);
            let (report, reported) = bounded(1);
            let late = std::thread::spawn(move || {
                gate.write(DiskId(1), || {
                    report.send(()).unwrap();
                    Ok(())
                })
            });
            while !own.phase().waiting {
                std::thread::yield_now();
            }
            assert!(own.at().is_none(), "it waits for permission, not for a disk");
            assert!(reported.try_recv().is_err());
            match wanted {
                true => own.open(),
                false => own.cancel_all(true),
            }
            assert_eq!(late.join().unwrap().is_ok(), wanted);
            assert_eq!(reported.try_recv().is_ok(), wanted);
            own.close(&*pool).unwrap();
        }
    }

    #[test]
    fn a_gap_marks_a_target_that_hangs_and_does_not_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pool = cluster::open(&PoolDir::new(dir.path())).unwrap();
        let own = Arc::new(WriteGate::new(crate::jobs::testing::Images::new().ledgers()));
        let gate = Arc::clone(&own);
        let (go_on, wait) = bounded::<()>(0);
        let (began, begin) = bounded(0);
        let hanging = std::thread::spawn(move || {
            gate.write(DiskId(1), || {
                began.send(()).unwrap();
                Ok(wait.recv().is_err())
            })
        });
        begin.recv().unwrap();
        own.close(&*pool).unwrap();
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
