//! Promises about holds and copies, each looked at where it could be broken: P3, P5, P10 and P11.

use super::ctl::Todo;
use super::host::BLOCK;
use super::{LinkId, ProcId, ReqId, World};
use apparatus::gate::Access;
use apparatus::model::change::{ChangeState, HoldMode, NewChange};
use apparatus::model::records::Span;
use apparatus::model::units::{ChangeId, JobId, VolumeId};
use apparatus::protocol::controller::{Effect, State};
use apparatus::store::roles::*;

/// What may pass between the end of a hold's time and the end of the hold: one transaction and the steps around it, in microseconds.
const GRACE_US: u64 = 200;

/// A hold as it was asked for, whatever the gate makes of it.
#[derive(Clone, Debug)]
pub struct Placed {
    pub spans: Vec<Span>,
    pub mode: HoldMode,
    /// The connection that it was asked for by.
    pub link: Option<LinkId>,
    /// Its deadline, or the time at which the apparatus noticed that the connection was gone.
    pub over: u64,
}

impl Placed {
    pub fn covers(&self, span: &Span, access: Access) -> bool {
        let kind = self.mode == HoldMode::All || access == Access::Write;
        kind && self.spans.iter().any(|held| held.overlaps(span))
    }
}

/// A block of a volume, copied by a job on its way there or back.
pub type Copied = (JobId, bool, VolumeId, u64);

impl World {
    /// The explorer's: P3: a request is parked exactly if a hold that was asked for covers it, or the gate is closed.
    pub fn check_parked(&mut self, id: ReqId, parked: bool) {
        let Some(req) = self.reqs.get(&id) else { return };
        let (span, access) = (req.span(), req.access());
        let Some(app) = &self.apps[req.app] else { return };
        let covered = app.covers(&span, access);
        let name = app.name.clone();
        self.must(covered == parked, || {
            let what = if parked { "is parked" } else { "goes on" };
            format!("P3: on {name} a {access:?} of {span:?} {what}")
        });
    }

    /// P3: and it goes on as soon as nothing covers it.
    pub fn check_gate(&mut self, index: usize) {
        let found = self.apps[index].as_ref().map_or(Ok(()), |app| match &app.served {
            Some(served) => served.apparatus.check(),
            None => app.holds.check(),
        });
        self.must(found.is_ok(), || format!("P3: {found:?}"));
    }

    /// P5: past its deadline, or without its connection, a hold ends at once, unless its change is committed.
    pub fn check_holds(&mut self) {
        let now = self.now;
        let mut late = Vec::new();
        for app in self.apps.iter().flatten() {
            let from = app.awake.max(app.asks_again);
            let over = |hold: &Placed| hold.over.max(from).saturating_add(GRACE_US) < now;
            if !self.stopped.contains(&app.proc) {
                let theirs = app.placed.iter().filter(|(_, hold)| over(hold));
                late.extend(theirs.map(|(&change, hold)| (app.name.clone(), change, hold.over)));
            }
        }
        for (name, change, over) in late {
            let decided = self.is_committed(change);
            self.must(decided, || {
                format!("P5: {name} holds for change {change} at {now}, and its time was over at {over}")
            });
        }
    }

    /// P10: and once more in the same change, if it was written meanwhile.
    pub fn check_copied_again_once(&mut self, this: ChangeId, index: usize) {
        let first = self.copied_again.insert((this, index as u64));
        self.must(first, || {
            format!("P10: change {this} copies its block {index} a third time")
        });
    }

    /// After a power loss only what was persisted has been copied, and numbers of changes that are lost are given again.
    pub fn forget_copied(&mut self) {
        self.copied_again.clear();
        self.durable.clear();
        let store = &mut self.store;
        let mut state = |change| store.change(change).ok().flatten().map(|record| record.state);
        self.copied
            .retain(|_, change| state(*change) == Some(ChangeState::Persisted));
    }

    fn is_committed(&mut self, change: ChangeId) -> bool {
        let record = self.store.change(change).ok().flatten();
        record.is_some_and(|record| matches!(record.state, ChangeState::Committed | ChangeState::Persisted))
    }

    /// P10: a job copies a block again only if the change that copied it before was given up, or taken back by a power loss.
    pub fn check_copied_once(&mut self, this: ChangeId, new: &NewChange, index: usize) {
        let (Some(job), Some(span)) = (new.job, new.spans.first()) else {
            return;
        };
        let (volume, block) = (span.volume, span.start.0 / BLOCK + index as u64);
        let back = self
            .store
            .job(job)
            .is_ok_and(|job| job.is_some_and(|job| job.back));
        let last = self.copied.insert((job, back, volume, block), this);
        let again = last.is_some_and(|last| last == this || self.is_committed(last));
        self.must(!again, || {
            format!("P10: job {job} copies block {block} of volume {volume} again")
        });
    }

    /// P11, of the explorer's controllers (for drivers, `seams/` checks it): while anybody holds for a change, its controller does nothing but the work, the commit and the messages, and what trouble asks for.
    pub fn check_hold_is_short(&mut self, id: ProcId, todo: &Todo) {
        let Some(ctl) = self.ctls.get(&id) else { return };
        let holds = |state| {
            matches!(
                state,
                State::Holding | State::Working | State::Committing | State::Applying
            )
        };
        let held = ctl.changes.values().any(|change| holds(change.machine.state()));
        let short = match todo {
            Todo::Read(_) | Todo::Write(_) | Todo::WorkDone(_) | Todo::Ended(..) => true,
            Todo::ReadAgain(..) | Todo::WriteAgain(..) => true,
            Todo::Change(_, effect) => !matches!(effect, Effect::Prepare),
            Todo::Word(..) | Todo::Quit => true,
            _ => false,
        };
        self.must(short || !held, || format!("P11: {todo:?} inside a hold"));
    }
}
