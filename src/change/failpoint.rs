//! Places where a test can have this process die or stop: one at every step of the protocol, on both sides.
//!
//! `APPARATUS_FAILPOINT=NAME=kill` (or `=stop`), optionally `NAME=kill@3` for the third time it is reached. `kill` is `SIGKILL`,
//! `stop` is `SIGSTOP`, both to this process. Built with debug assertions only: elsewhere [`hit`] is empty.

/// A step of the protocol. The variants are in the order of a change that goes well, then what comes after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The arbitration lock is held, the term is not raised yet.
    ControllerLocked,
    /// The term is raised, nothing is recovered yet.
    ControllerTermRaised,
    /// What the last holder left has been finished or rolled back.
    ControllerRecovered,
    /// The change is prepared, nobody has been asked to hold.
    ControllerPrepared,
    /// Everyone has been asked to hold.
    ControllerHoldSent,
    /// Everyone holds; the work has not begun.
    ControllerHeld,
    /// The work is done, the change is not committed.
    ControllerWorked,
    /// The change is committed, nobody knows.
    ControllerCommitted,
    /// Everyone has been sent the difference.
    ControllerApplySent,
    /// Everyone has applied, nobody has been told to let go.
    ControllerApplied,
    /// Everyone has been told to let go (and, in a pipeline, to hold for the next change).
    ControllerReleaseSent,
    /// Everyone has let go.
    ControllerReleased,
    /// The change is cancelled in the store, nobody has been told to let go.
    ControllerCancelled,
    /// An apparatus is fenced in the store, its word is not set.
    ControllerFenceRecorded,
    /// The fence word is set.
    ControllerFenced,
    /// The disks are flushed, the changes are not hardened.
    ControllerFlushed,
    /// The changes are hardened, the labels do not say so.
    ControllerHardened,
    /// Old extents have been freed.
    ControllerFreed,
    /// A hold has been asked for, its disks are not open.
    ApparatusHoldAsked,
    /// The hold is in place, the drain has not been looked at.
    ApparatusHoldPlaced,
    /// The drain is done, the controller does not know.
    ApparatusDrained,
    /// The controller has been told that it is held.
    ApparatusHeldSent,
    /// The difference has arrived, nothing is applied.
    ApparatusApplyAsked,
    /// The faces are switched, the member table does not say so.
    ApparatusSwitched,
    /// The member table says so, the controller does not know.
    ApparatusApplied,
    /// The controller has been told that it is applied.
    ApparatusAppliedSent,
    /// The release has arrived, the hold is in place.
    ApparatusReleaseAsked,
    /// What was parked runs, the controller does not know.
    ApparatusReopened,
    /// The hold ran out or its controller is gone; the store has not been asked to cancel.
    ApparatusCancelling,
    /// The store has answered the cancel, nothing has come of it.
    ApparatusCancelAnswered,
    /// The change is applied here, the others are waited for.
    ApparatusAwaiting,
    /// The others did not come: the arbitration is about to be asked for.
    ApparatusTakingOver,
    /// The fence word was seen, the gate is not closed.
    ApparatusFenced,
    /// Nothing is in flight any more, the store has not been asked to rejoin.
    ApparatusDrainedForRejoin,
    /// Rejoined in the store, the table is not loaded.
    ApparatusRejoined,
    /// The table is loaded, the new life has not begun.
    ApparatusReloaded,
    /// A host's flush has flushed the disks, the changes are not hardened.
    ApparatusFlushed,
    /// A host's flush has hardened the changes, the host does not know.
    ApparatusHardened,
}

impl Point {
    /// All of them.
    pub const ALL: [(Self, &'static str); 38] = [
        (Self::ControllerLocked, "controller.locked"),
        (Self::ControllerTermRaised, "controller.term-raised"),
        (Self::ControllerRecovered, "controller.recovered"),
        (Self::ControllerPrepared, "controller.prepared"),
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
        (Self::ControllerHardened, "controller.hardened"),
        (Self::ControllerFreed, "controller.freed"),
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
        (Self::ApparatusHardened, "apparatus.hardened"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(point, _)| *point == self)
            .map_or("", |(_, name)| name)
    }
}

/// The variable that arms a point.
pub const VARIABLE: &str = "APPARATUS_FAILPOINT";

#[cfg(debug_assertions)]
pub use armed::hit;

/// This build has no failpoints.
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

    /// More than it takes until all threads of a process have stopped.
    const STOPPING: Duration = Duration::from_millis(100);

    pub(super) struct Armed {
        pub(super) point: Point,
        pub(super) signal: Signal,
        /// Times it is still to be passed.
        pub(super) passes: AtomicU64,
    }

    /// Dies or stops here, if this point is armed.
    pub fn hit(point: Point) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(read));
        if let Some(armed) = armed
            && armed.point == point
            && armed.passes.fetch_sub(1, Ordering::Relaxed) == 0
        {
            // Cannot fail: the process is our own.
            let _ = kill_process(getpid(), armed.signal);
            // A stop reaches this thread by way of another one: it must not get on meanwhile.
            let sent = Instant::now();
            while sent.elapsed() < STOPPING {
                std::thread::park_timeout(STOPPING);
            }
        }
    }

    pub(super) fn read(text: &str) -> Option<Armed> {
        let armed = parse(text);
        if armed.is_none() {
            log::error!("{VARIABLE}={text}: not NAME=kill or NAME=stop, or no such point");
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
            include_str!("driver/acquire.rs"),
            include_str!("driver/flight.rs"),
            include_str!("driver/series.rs"),
            include_str!("driver/settle.rs"),
            include_str!("harden.rs"),
            include_str!("../control/server/core.rs"),
            include_str!("../control/server/helpers.rs"),
            include_str!("../control/server/rejoin.rs"),
            include_str!("../control/server/requests.rs"),
        ];
        for (point, name) in Point::ALL {
            let used = format!("Point::{point:?}");
            assert!(
                sources.iter().any(|text| text.contains(&used)),
                "{name} is nowhere"
            );
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn reads_what_the_variable_says() {
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
