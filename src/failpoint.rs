//! Failpoints: places at every step of the protocol, on both sides, where a test can kill or stop this process.
//!
//! `APPARATUS_FAILPOINT=NAME=kill` arms one (or `=stop`; `NAME=kill@3` acts the third time the point is reached). `kill` sends
//! `SIGKILL` and `stop` sends `SIGSTOP` to this process. Failpoints exist with debug assertions only: in other builds [`hit`]
//! is empty.

/// A step of the protocol. The variants follow the order of a change that succeeds; the steps after failures come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The controller lock is held; the term is not raised yet.
    ControllerLocked,
    /// The term is raised; nothing is recovered yet.
    ControllerTermRaised,
    /// The changes that the last holder of the lock left are finished or rolled back.
    ControllerRecovered,
    /// The change is prepared; no apparatus has been asked to hold.
    ControllerPrepared,
    /// All apparatuses note writes; nothing has been copied.
    ControllerNoted,
    /// The chunk is copied, durably; no apparatus has been asked to hold.
    ControllerCopied,
    /// All apparatuses have been asked to hold.
    ControllerHoldSent,
    /// All apparatuses hold; the work has not begun.
    ControllerHeld,
    /// The work is done; the change is not committed.
    ControllerWorked,
    /// The change is committed; no apparatus has been notified.
    ControllerCommitted,
    /// The delta has been sent to all apparatuses.
    ControllerApplySent,
    /// All apparatuses have applied the delta; none has been asked to release.
    ControllerApplied,
    /// All apparatuses have been asked to release (and, in a pipeline, to hold for the next change).
    ControllerReleaseSent,
    /// All apparatuses have released.
    ControllerReleased,
    /// The change is cancelled in the store; apparatuses that were not told before that it is given up have not been asked to release.
    ControllerCancelled,
    /// An apparatus is fenced in the store; its fence word is not set.
    ControllerFenceRecorded,
    /// The fence word is set.
    ControllerFenced,
    /// The disks are flushed; the changes are not persisted.
    ControllerFlushed,
    /// The store has the changes as persisted; the copies of the metadata do not have them yet.
    ControllerRecorded,
    /// The changes are persisted; the labels do not have the new layout yet.
    ControllerPersisted,
    /// Old extents have been freed.
    ControllerFreed,
    /// The database of an imported pool is there; its disks do not name it yet.
    ImportStored,
    /// The label of a disk names the imported database, which does not know it yet.
    ImportLabelled,
    /// All labels name the imported database; the copies of the metadata are those that it was made from.
    ImportTookOver,
    /// An import into etcd is noted in the pool's directory; nothing is in etcd.
    ImportBegun,
    /// The pool is in etcd; the note says that it is on its way.
    ImportLogged,
    /// The pool is in etcd; the labels do not have the new layout yet.
    ImportDone,
    /// An export from etcd is noted in the pool's directory; all is in etcd.
    ExportBegun,
    /// Nothing is in etcd any more; the note is still there.
    ExportLogGone,
    /// The pool is one of this machine alone; the labels do not have the new layout yet.
    ExportDone,
    /// A request to note writes has arrived; nothing is noted.
    ApparatusNoteAsked,
    /// The controller has been sent `Noting`.
    ApparatusNotingSent,
    /// A hold request has arrived; its disks are not open.
    ApparatusHoldAsked,
    /// The hold is in place; the drain has not been checked.
    ApparatusHoldPlaced,
    /// The drain is done; the controller has not been notified.
    ApparatusDrained,
    /// The controller has been sent `Held`.
    ApparatusHeldSent,
    /// The delta has arrived; nothing is applied.
    ApparatusApplyAsked,
    /// The versions are switched; the member table does not show the new generation.
    ApparatusSwitched,
    /// The member table shows the new generation; the controller has not been notified.
    ApparatusApplied,
    /// The controller has been sent `Applied`.
    ApparatusAppliedSent,
    /// The release has arrived; the hold is in place.
    ApparatusReleaseAsked,
    /// The parked requests run; the controller has not been notified.
    ApparatusReopened,
    /// The hold ran out or its controller is gone; the store has not been asked to cancel.
    ApparatusCancelling,
    /// The store has answered the cancel request; the answer has no effect yet.
    ApparatusCancelAnswered,
    /// The change is applied here; this apparatus waits for the others.
    ApparatusAwaiting,
    /// The others did not apply the change in time: the controller lock is about to be requested.
    ApparatusTakingOver,
    /// The fence word was seen; the gate is not closed.
    ApparatusFenced,
    /// No request is in flight any more; the store has not been asked for the rejoin.
    ApparatusDrainedForRejoin,
    /// The rejoin is recorded in the store; the table is not loaded.
    ApparatusRejoined,
    /// The table is loaded; the new incarnation has not begun to serve.
    ApparatusReloaded,
    /// A host's flush has flushed the disks; the changes are not persisted.
    ApparatusFlushed,
    /// A host's flush has persisted the changes in the store; the copies of the metadata do not have them yet.
    ApparatusRecorded,
    /// A host's flush has persisted the changes; the host has no reply yet.
    ApparatusPersisted,
}

impl Point {
    /// All points with their names.
    pub const ALL: [(Self, &'static str); 53] = [
        (Self::ControllerLocked, "controller.locked"),
        (Self::ControllerTermRaised, "controller.term-raised"),
        (Self::ControllerRecovered, "controller.recovered"),
        (Self::ControllerPrepared, "controller.prepared"),
        (Self::ControllerNoted, "controller.noted"),
        (Self::ControllerCopied, "controller.copied"),
        (Self::ControllerHoldSent, "controller.hold-sent"),
        (Self::ControllerHeld, "controller.held"),
        (Self::ControllerWorked, "controller.worked"),
        (Self::ControllerCommitted, "controller.committed"),
        (Self::ControllerApplySent, "controller.apply-sent"),
        (Self::ControllerApplied, "controller.applied"),
        (Self::ControllerReleaseSent, "controller.release-sent"),
        (Self::ControllerReleased, "controller.released"),
        (Self::ControllerCancelled, "controller.cancelled"),
        (Self::ControllerFenceRecorded, "controller.fence-recorded"),
        (Self::ControllerFenced, "controller.fenced"),
        (Self::ControllerFlushed, "controller.flushed"),
        (Self::ControllerRecorded, "controller.recorded"),
        (Self::ControllerPersisted, "controller.persisted"),
        (Self::ControllerFreed, "controller.freed"),
        (Self::ImportStored, "import.stored"),
        (Self::ImportLabelled, "import.labelled"),
        (Self::ImportTookOver, "import.took-over"),
        (Self::ImportBegun, "import.begun"),
        (Self::ImportLogged, "import.logged"),
        (Self::ImportDone, "import.done"),
        (Self::ExportBegun, "export.begun"),
        (Self::ExportLogGone, "export.log-gone"),
        (Self::ExportDone, "export.done"),
        (Self::ApparatusNoteAsked, "apparatus.note-asked"),
        (Self::ApparatusNotingSent, "apparatus.noting-sent"),
        (Self::ApparatusHoldAsked, "apparatus.hold-asked"),
        (Self::ApparatusHoldPlaced, "apparatus.hold-placed"),
        (Self::ApparatusDrained, "apparatus.drained"),
        (Self::ApparatusHeldSent, "apparatus.held-sent"),
        (Self::ApparatusApplyAsked, "apparatus.apply-asked"),
        (Self::ApparatusSwitched, "apparatus.switched"),
        (Self::ApparatusApplied, "apparatus.applied"),
        (Self::ApparatusAppliedSent, "apparatus.applied-sent"),
        (Self::ApparatusReleaseAsked, "apparatus.release-asked"),
        (Self::ApparatusReopened, "apparatus.reopened"),
        (Self::ApparatusCancelling, "apparatus.cancelling"),
        (Self::ApparatusCancelAnswered, "apparatus.cancel-answered"),
        (Self::ApparatusAwaiting, "apparatus.awaiting"),
        (Self::ApparatusTakingOver, "apparatus.taking-over"),
        (Self::ApparatusFenced, "apparatus.fenced"),
        (Self::ApparatusDrainedForRejoin, "apparatus.drained-for-rejoin"),
        (Self::ApparatusRejoined, "apparatus.rejoined"),
        (Self::ApparatusReloaded, "apparatus.reloaded"),
        (Self::ApparatusFlushed, "apparatus.flushed"),
        (Self::ApparatusRecorded, "apparatus.recorded"),
        (Self::ApparatusPersisted, "apparatus.persisted"),
    ];

    /// Returns the name of this point, as the variable has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(point, _)| *point == self)
            .map_or("", |(_, name)| name)
    }
}

/// The environment variable that arms a failpoint.
pub const VARIABLE: &str = "APPARATUS_FAILPOINT";

#[cfg(debug_assertions)]
pub use armed::hit;

/// Does nothing: this build has no failpoints.
#[cfg(not(debug_assertions))]
#[inline]
pub fn hit(_: Point) {}

#[cfg(debug_assertions)]
mod armed {
    use super::{Point, VARIABLE};
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    /// Longer than the kernel takes to stop all threads of a process.
    const STOPPING: Duration = Duration::from_millis(100);

    pub(super) struct Armed {
        pub(super) point: Point,
        pub(super) signal: Signal,
        /// Number of times that the point is still passed without effect.
        pub(super) passes: AtomicU64,
    }

    /// Kills or stops this process if this point is armed.
    pub fn hit(point: Point) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(read));
        if let Some(armed) = armed
            && armed.point == point
            && armed.passes.fetch_sub(1, Ordering::Relaxed) == 0
        {
            // This call cannot fail: the signal goes to this process.
            let _ = kill_process(getpid(), armed.signal);
            // SIGSTOP may reach another thread first: this thread must not go on meanwhile.
            let sent = Instant::now();
            while sent.elapsed() < STOPPING {
                std::thread::park_timeout(STOPPING);
            }
        }
    }

    pub(super) fn read(text: &str) -> Option<Armed> {
        let armed = parse(text);
        if armed.is_none() {
            log::error!(
                "{VARIABLE}={text}: expected NAME=kill or NAME=stop (optionally @N) with the name of a failpoint"
            );
        }
        armed
    }

    fn parse(text: &str) -> Option<Armed> {
        let (name, action) = text.split_once('=')?;
        let point = Point::ALL.iter().find(|(_, known)| *known == name)?.0;
        let (action, time) = action.split_once('@').unwrap_or((action, "1"));
        let signal = match action {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        let passes = AtomicU64::new(time.parse::<u64>().ok()?.checked_sub(1)?);
        Some(Armed {
            point,
            signal,
            passes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_point_has_its_own_name() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|(_, name)| name).collect();
        assert_eq!(names.len(), Point::ALL.len());
        for (point, name) in Point::ALL {
            assert_eq!(point.name(), name);
        }
    }

    #[test]
    fn every_point_is_reached_from_somewhere() {
        let sources = [
            include_str!("controller/acquire.rs"),
            include_str!("controller/in_flight.rs"),
            include_str!("controller/pipeline.rs"),
            include_str!("controller/settle.rs"),
            include_str!("controller/persist.rs"),
            include_str!("admin/import.rs"),
            include_str!("admin/in_etcd.rs"),
            include_str!("agent/server/core.rs"),
            include_str!("agent/server/core/requests.rs"),
            include_str!("agent/server/helpers.rs"),
            include_str!("agent/server/links.rs"),
            include_str!("agent/server/services.rs"),
        ];
        for (point, name) in Point::ALL {
            let used = format!("Point::{point:?}");
            assert!(
                sources.iter().any(|text| text.contains(&used)),
                "{name} is not used"
            );
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn parses_the_variable() {
        let armed = armed::read("controller.held=stop@3").unwrap();
        assert_eq!(armed.point, Point::ControllerHeld);
        assert_eq!(armed.passes.into_inner(), 2);
        for bad in [
            "",
            "controller.held",
            "controller.held=wait",
            "nowhere=kill",
            "controller.held=kill@0",
        ] {
            assert!(armed::read(bad).is_none(), "{bad}");
        }
    }
}
