//! The mover's helper thread: it prepares the next runs while the last ones are held and copied, and starts write-back of copied
//! runs, so that the mover itself meets neither a cold page nor a throttled write.

use super::copier::{CopyFault, LastRun, Route, Staged, stage};
use super::mover::WINDOW;
use super::steps::Chunk;
use super::write_gate::WriteGate;
use crate::blockdev::Disk;
use crate::cluster::{Claims, FlushLedgers};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::units::{DiskId, DiskOffset};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
        self.gate.at()
    }

    /// Permits the thread to write to targets.
    pub(super) fn open(&self) {
        self.gate.open();
    }

    /// Forbids writing as long as holds are in place: the thread would write to the
    /// same files as the copies under the holds, and they would wait for each other.
    pub(super) fn pause(&self) {
        self.gate.pause();
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
        self.gate
            .wait_while(patience, || self.outstanding > 0 && self.ready.is_empty());
    }

    /// Stops waiting for the thread, which writes to no target any more. A target that it is writing
    /// to at this moment is marked until that write has ended, see [`Claims::mark_left_write`].
    ///
    /// # Errors
    /// Fails when the target cannot be marked: then the thread has to be waited for.
    pub(super) fn abandon(&mut self, claims: &dyn Claims) -> Result<()> {
        self.gate.abandon(claims)?;
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
                gate.begin_run(route.source.id());
                let ready = make_ready(chunk, &route, &mut known, gate).map_err(|fault| (chunk, fault));
                gate.end_run();
                if outbox.try_send(ready).is_err() {
                    return;
                }
                gate.notify();
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
}
