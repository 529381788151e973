//! What a job does when a round ends early: it tries again, leaves a range that cannot be read, or fails.

use super::Worker;
use crate::jobs::copier::CopyFault;
use crate::jobs::mover::EarlyEnd;
use crate::jobs::steps::{Chunk, leave};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::job::JobKind;
use crate::model::member::Member;
use crate::model::units::{DiskId, Slot};
use crate::model::words::count;
use crate::protocol::controller::Reason;
use std::time::{Duration, Instant};

/// A disk that has not answered for this long hangs; one that was spun down has answered by then.
const HUNG_AFTER: Duration = Duration::from_secs(30);
/// Refusals in a row after which a job fails.
const REFUSALS: u32 = 6;

impl Worker<'_> {
    /// Handles the reason for which the round ended early: goes on, or fails the job.
    pub(super) fn handle_early_end(&mut self) -> Result<()> {
        let Some(early_end) = self.mover.take_early_end() else {
            return self.show_wait("");
        };
        if matches!(early_end, EarlyEnd::Overtaken) {
            return self.plan_again();
        }
        self.start_over()?;
        // A job that the operator has ended meanwhile has nothing reserved any more, so its chunk could not be committed.
        if matches!(early_end, EarlyEnd::GaveUp(_)) && self.state_changed()? {
            return Ok(());
        }
        match early_end {
            EarlyEnd::Disk(chunk, fault @ CopyFault::Source(_)) if self.skips_unreadable() => {
                self.skip_chunk(&chunk, &fault)
            }
            EarlyEnd::Disk(chunk, fault) => Err(self.disk_failed(&chunk, &fault)),
            EarlyEnd::NoDisk(id) => {
                let mut why = format!("disk {} cannot be opened", self.disk_name(id));
                if let Err(reason) = self.controller.open_disks([id]) {
                    why = format!("{why}: {}", reason.why());
                }
                Err(self.fail(&why, "see `vctl disk list`, and move again once the disk is back"))
            }
            EarlyEnd::GaveUp(reason) => self.retry_later(reason),
            EarlyEnd::Overtaken => Ok(()),
            // The next holder of the controller lock brings the change to its end, and the job goes on from the store's state.
            EarlyEnd::Unfinished(why) => Err(Error::failed(&self.subject, why).hint(format!(
                "`vctl job resume {}` goes on from where it stands",
                self.job.id
            ))),
        }
    }

    /// Handles a change that was given up: nothing has changed, and the change is tried again after increasing waits.
    fn retry_later(&mut self, reason: Reason) -> Result<()> {
        match reason {
            Reason::StaleTerm => Err(Error::new(
                ErrorKind::Busy,
                &self.subject,
                "another controller has taken over",
            )
            .hint("see `vctl job list`")),
            Reason::Refused(slot, why) if self.backoff.attempts() >= REFUSALS => {
                let members = self.controller.store().members()?.1;
                let who = members.iter().find(|member| member.slot == slot);
                let who = who.map_or_else(
                    || "an apparatus".to_owned(),
                    |member| format!("apparatus {}", member.title()),
                );
                Err(self.fail(&format!("{who} refuses: {why}"), "see `vctl apparatus list`"))
            }
            Reason::Store(why) | Reason::Work(why) => Err(Error::failed(&self.subject, why)),
            reason => {
                self.not_before = Instant::now() + self.backoff.next();
                let members = self.controller.store().members()?.1;
                self.show_wait(&waiting(&reason, &members))
            }
        }
    }

    /// Fails the job when its disk hangs, so that its controller makes room for others.
    pub(super) fn check_for_hung_disk(&mut self) -> Result<()> {
        let Some((disk, time)) = self.mover.staging_disk().filter(|(_, time)| *time >= HUNG_AFTER) else {
            return Ok(());
        };
        let why = format!(
            "disk {} has not answered for {} s",
            self.disk_name(disk),
            time.as_secs()
        );
        let hint = format!(
            "all data is safe where it is; when the disk answers: vctl job resume {}",
            self.job.id
        );
        Err(self.fail(&why, &hint))
    }

    /// Returns whether an unreadable range does not stop the job: where the user asked to skip such ranges, and in an evacuation, which
    /// goes on with other volumes.
    fn skips_unreadable(&self) -> bool {
        let evacuates = matches!(self.job.kind, JobKind::Evacuate { .. });
        !self.job.back && (evacuates || self.job.limits.skip_unreadable)
    }

    /// Leaves an unreadable range where it is, with the rest of its volume unless unreadable ranges are to be skipped, and goes on.
    fn skip_chunk(&mut self, chunk: &Chunk, fault: &CopyFault) -> Result<()> {
        let bad = match self.unreadable(chunk) {
            Some(bad) => bad,
            None if self.backoff.attempts() < REFUSALS => {
                self.not_before = Instant::now() + self.backoff.next();
                return Ok(());
            }
            None => *chunk,
        };
        let text = format!(
            "{}: {fault}; it stays where it is",
            self.place(&bad, bad.from.placement.disk)
        );
        self.log_event(Severity::Error, &text);
        let whole = !self.job.limits.skip_unreadable;
        let name = self.volume_name(bad.volume);
        self.left.add(&bad, &name, self.size, whole);
        let steps = leave(self.mover.steps(), self.left.runs());
        let term = self.controller.term();
        self.controller
            .store()
            .replace_steps(term, self.job.id, &steps, false)?;
        self.mover.restart(steps)
    }

    /// Fails the job after all that could be moved has been, because the user did not allow the rest to be left.
    pub(super) fn left_behind(&mut self, left: &str) -> Error {
        let JobKind::Evacuate { disk, .. } = self.job.kind else {
            return self.fail(left, "");
        };
        let disk = self.disk_name(disk);
        let why =
            format!("{left}; the rest of these volumes stays there too, and all other data has been moved");
        let hint = format!(
            "vctl disk evacuate {disk} --skip-unreadable moves all but these ranges; write them anew from a backup, or remove the volumes"
        );
        self.fail(&why, &hint)
    }

    /// Describes a range for the user.
    fn place(&mut self, chunk: &Chunk, disk: DiskId) -> String {
        let (disk, volume) = (self.disk_name(disk), self.volume_name(chunk.volume));
        let span = chunk.span(self.size);
        format!(
            "disk {disk}, bytes {} to {} of volume {volume}",
            span.start, span.end
        )
    }

    fn disk_failed(&mut self, chunk: &Chunk, fault: &CopyFault) -> Error {
        let placement = match fault {
            CopyFault::Source(_) => chunk.from.placement.disk,
            CopyFault::Target(_) => chunk.to.disk,
        };
        let exact = match fault {
            CopyFault::Source(_) => self.unreadable(chunk),
            CopyFault::Target(_) => None,
        };
        let why = format!("{}: {fault}", self.place(&exact.unwrap_or(*chunk), placement));
        let hint = match fault {
            CopyFault::Source(_) => format!(
                "write that range anew and move again, or skip it with --skip-unreadable, or move back with `vctl job cancel {} --roll-back`",
                self.job.id
            ),
            CopyFault::Target(_) => format!(
                "no data was lost; when the disk can be written again: vctl job resume {}; if it is failing, move to another disk, and move what is already on it too",
                self.job.id
            ),
        };
        self.fail(&why, &hint)
    }

    /// Returns the first part of a chunk whose source cannot be read, in whole extents. What was read already costs nothing.
    fn unreadable(&mut self, chunk: &Chunk) -> Option<Chunk> {
        let disk = self.controller.disks().get(chunk.from.placement.disk)?;
        let bad = |index: u64| {
            let placement = chunk.part(index, 1)?.from.placement;
            let at = self.size.disk_offset(placement.start)?;
            disk.check_readable(at, self.size.bytes()).is_err().then_some(())
        };
        let first = (0..chunk.len()).find(|index| bad(*index).is_some())?;
        let len = (first..chunk.len())
            .take_while(|index| bad(*index).is_some())
            .count();
        chunk.part(first, len as u64)
    }
}

/// Describes what a job waits for when a change was given up for a temporary reason, and what ends the wait.
fn waiting(reason: &Reason, members: &[Member]) -> String {
    let name = |slot: Slot| {
        let member = members.iter().find(|member| member.slot == slot);
        member.map_or_else(|| slot.to_string(), Member::title)
    };
    match reason {
        Reason::Draining {
            slot,
            in_flight,
            oldest_us,
            disk,
        } => format!(
            "waits for {} in flight on apparatus {}, the oldest for {} ms on disk {disk}; goes on when that disk answers: \
             vctl disk show {disk}",
            count(*in_flight, "request"),
            name(*slot),
            oldest_us / 1000
        ),
        Reason::Opening { slot, disk, .. } => format!(
            "apparatus {} waits for disk {disk} to open; goes on when that disk answers: vctl disk show {disk}",
            name(*slot)
        ),
        Reason::Slow(slot) => format!(
            "apparatus {} is slow to answer; tries again by itself",
            name(*slot)
        ),
        Reason::Silent(slot) => format!(
            "apparatus {} does not answer; goes on when it is fenced",
            name(*slot)
        ),
        Reason::MembershipMoved => "an apparatus came or went; tries again by itself".into(),
        Reason::GenerationMoved => "the table has changed; tries again by itself".into(),
        Reason::HoldRanOut => "a hold ran out before the chunk was moved; tries again by itself".into(),
        Reason::Refused(slot, why) => {
            let known = members.iter().find(|member| member.slot == *slot);
            let show = known.map_or("list".into(), |member| format!("show {}", member.name));
            format!(
                "apparatus {} refuses: {why}; goes on when it does not: vctl apparatus {show}",
                name(*slot)
            )
        }
        Reason::StaleTerm => "another controller has taken over".into(),
        Reason::Work(why) | Reason::Store(why) | Reason::Abandoned(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::member::MemberState;
    use crate::model::names::Name;
    use crate::model::units::{Generation, Incarnation, Timestamp};

    #[test]
    fn a_wait_names_its_reason_and_what_ends_it() {
        let member = Member {
            slot: Slot(3),
            name: Name::new("apparatus", "a1").unwrap(),
            incarnation: Incarnation(1),
            state: MemberState::Joined,
            pid: 1,
            mount: "/m".into(),
            joined_at: Generation(1),
            since: Timestamp(0),
            origin: None,
            node: None,
            port: None,
        };
        let members = [member];
        let reason = Reason::Draining {
            slot: Slot(3),
            in_flight: 2,
            oldest_us: 2_500_000,
            disk: "d1".into(),
        };
        assert_eq!(
            waiting(&reason, &members),
            "waits for 2 requests in flight on apparatus a1, the oldest for 2500 ms on disk d1; goes on when that disk answers: \
             vctl disk show d1"
        );
        let refused = waiting(&Reason::Refused(Slot(3), "too much".into()), &members);
        assert!(
            refused.starts_with("apparatus a1 refuses: too much; "),
            "{refused}"
        );
        let gone = waiting(&Reason::Refused(Slot(9), "too much".into()), &members);
        assert!(gone.starts_with("apparatus 9 refuses"), "{gone}");
    }
}
