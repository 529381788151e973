//! Works on a job: rounds of changes; between them, with no hold in place, the operator's wishes, hardening and freeing.

use super::copier::Fault;
use super::left::LeftBehind;
use super::mover::{Mover, Trouble};
use super::pace::{Backoff, Cadence};
use super::plan::{plan_back, plan_without};
use super::steps::{Chunk, leave, reconciled};
use super::wishes::find;
use super::{Observer, Request, set_allocate};
use crate::change::controller::Reason;
use crate::change::driver::Controller;
use crate::change::space;
use crate::error::{Error, Kind, Result};
use crate::member::LeftWrite;
use crate::pool::model::Segment;
use crate::store::{JobKind, JobRecord, JobState, Member, Progress, Severity, Step};
use crate::units::{DiskId, ExtentSize, JobId, Slot, VolumeExtent, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// One series of changes; the operator's wishes are looked at in between.
const ROUND: Duration = Duration::from_millis(50);
/// The running figures in the store are at most this old.
const FIGURES_EVERY: Duration = Duration::from_millis(200);
/// A disk that slept has answered after so long.
const HANGS: Duration = Duration::from_secs(30);
/// Refusals in a row after which a job fails.
const REFUSALS: u32 = 6;
/// Attempts to plan the way back, some seconds together.
const PLANS: u32 = 9;

/// Works on a job until it ends, is paused, or is cancelled. Answers the state it is left in.
///
/// # Errors
/// When the job failed, with the data safe where it was; or when it cannot be worked on now, which leaves it as it is.
pub fn run(controller: &mut Controller, job: JobId, observer: &mut dyn Observer) -> Result<JobState> {
    let mut worker = Worker::begin(controller, job)?;
    let end = worker.work(observer);
    let left = worker.leave();
    let state = end?;
    left?;
    Ok(state)
}

struct Worker<'a> {
    controller: &'a mut Controller,
    /// As last read from the store, with the figures of this run.
    job: JobRecord,
    subject: String,
    size: ExtentSize,
    mover: Mover,
    cadence: Cadence,
    backoff: Backoff,
    not_before: Instant,
    saved: Instant,
    /// What cannot be read and stays where it is.
    left: LeftBehind,
}

impl<'a> Worker<'a> {
    fn begin(controller: &'a mut Controller, id: JobId) -> Result<Self> {
        let job = find(controller.store(), id)?;
        let size = controller.store().header()?.extent_size;
        let steps = up_to_date(controller, &job)?;
        if matches!(job.state, JobState::Running | JobState::RollingBack) {
            open_disks_of(controller, &steps)?;
        }
        let mover = Mover::new(&job, steps, size, controller.members())?;
        let now = Instant::now();
        Ok(Self {
            controller,
            job,
            subject: format!("job {id}"),
            size,
            mover,
            cadence: Cadence::new(dirty_allowance()),
            backoff: Backoff::default(),
            not_before: now,
            saved: now,
            left: LeftBehind::default(),
        })
    }

    fn work(&mut self, observer: &mut dyn Observer) -> Result<JobState> {
        loop {
            self.look()?;
            let to_plan = match self.job.state {
                JobState::Running => false,
                JobState::RollingBack => !self.job.back,
                state => return Ok(state),
            };
            let Progress { done, total } = self.mover.progress();
            let go_on = observer.progress(&self.job, done, total);
            match (go_on, to_plan) {
                (true, true) => self.turn_back()?,
                (true, false) if self.mover.finished() => self.complete()?,
                (true, false) => self.round()?,
                (false, false) => drop(self.set_state(JobState::Paused, "interrupted")?),
                // The way back is planned when somebody goes on with it.
                (false, true) => return Ok(self.job.state),
            }
        }
    }

    /// Reads what the operator wishes. The figures stay those of this run, which are newer.
    fn look(&mut self) -> Result<()> {
        let record = find(self.controller.store(), self.job.id)?;
        let old = &mut self.job;
        self.job = JobRecord {
            copied: old.copied,
            longest_hold_us: old.longest_hold_us,
            held: old.held,
            holds: std::mem::take(&mut old.holds),
            ..record
        };
        self.mover.obey(self.job.limits);
        Ok(())
    }

    /// Moves for a moment.
    fn round(&mut self) -> Result<()> {
        let now = Instant::now();
        let wait = self
            .mover
            .wait()
            .max(self.not_before.saturating_duration_since(now));
        if wait.is_zero() {
            self.mover.begin_round(ROUND);
            let end = self.controller.run_series(&mut self.mover);
            self.count();
            match end {
                Ok(()) => self.overcome()?,
                // The operator's wish may be what took the reservation away.
                Err(_) if self.unwanted()? => self.start_over()?,
                Err(why) => return Err(why),
            }
        }
        self.look_for_a_disk_that_hangs()?;
        self.save_figures(FIGURES_EVERY)?;
        if self.cadence.due(Instant::now()) {
            self.harden()?;
        }
        if !wait.is_zero() {
            park_timeout(wait.min(ROUND));
        }
        Ok(())
    }

    /// A job whose disk does not answer fails, so that its controller makes room for others.
    fn look_for_a_disk_that_hangs(&mut self) -> Result<()> {
        let Some((disk, time)) = self.mover.kept_by().filter(|(_, time)| *time >= HANGS) else {
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

    fn count(&mut self) {
        let figures = self.mover.take_figures();
        self.job.copied.0 += figures.copied;
        self.job.held += figures.held;
        let longest = u64::try_from(figures.longest.as_micros()).unwrap_or(u64::MAX);
        self.job.longest_hold_us = self.job.longest_hold_us.max(longest);
        self.job.holds.merge(&figures.holds);
        if figures.chunks > 0 {
            self.cadence.committed(figures.copied, Instant::now());
            self.backoff.reset();
        }
    }

    fn save_figures(&mut self, every: Duration) -> Result<()> {
        if self.saved.elapsed() < every {
            return Ok(());
        }
        self.saved = Instant::now();
        let job = &self.job;
        self.controller
            .store()
            .set_job_figures(job.id, job.copied, job.longest_hold_us, job.held, &job.holds)
    }

    /// Goes on after what ended the round early, or gives the job up.
    fn overcome(&mut self) -> Result<()> {
        let Some(trouble) = self.mover.take_trouble() else {
            return self.waits_for("");
        };
        self.start_over()?;
        // A job that the operator has ended meanwhile has nothing reserved any more, so its chunk could not be committed.
        if matches!(trouble, Trouble::GaveUp(_)) && self.unwanted()? {
            return Ok(());
        }
        match trouble {
            Trouble::Disk(chunk, fault @ Fault::Source(_)) if self.goes_past() => {
                self.go_past(&chunk, &fault)
            }
            Trouble::Disk(chunk, fault) => Err(self.disk_failed(&chunk, &fault)),
            Trouble::NoDisk(id) => {
                let mut why = format!("disk {} cannot be opened", self.disk_name(id));
                if let Err(reason) = self.controller.open_disks([id]) {
                    why = format!("{why}: {}", reason.why());
                }
                Err(self.fail(&why, "see `vctl disk list`, and move again once it is there"))
            }
            Trouble::GaveUp(reason) => self.ask_again(reason),
            // The next holder of the arbitration ends the change, and the job goes on from what the store says then.
            Trouble::Unfinished(why) => Err(Error::failed(&self.subject, why).hint(format!(
                "`vctl job resume {}` goes on from where it stands",
                self.job.id
            ))),
        }
    }

    /// A change was given up: nothing has changed, and it is asked for again, ever more rarely.
    fn ask_again(&mut self, reason: Reason) -> Result<()> {
        match reason {
            Reason::StaleTerm => {
                Err(
                    Error::new(Kind::Busy, &self.subject, "another controller has taken over")
                        .hint("see `vctl job list`"),
                )
            }
            Reason::Refused(_, why) if self.backoff.attempts() >= REFUSALS => Err(self.fail(
                &format!("an apparatus refuses: {why}"),
                "see `vctl apparatus list`",
            )),
            Reason::Store(why) | Reason::Work(why) => Err(Error::failed(&self.subject, why)),
            reason => {
                self.not_before = Instant::now() + self.backoff.next();
                let members = self.controller.store().members()?.1;
                self.waits_for(&waiting(&reason, &members))
            }
        }
    }

    /// From the copy progress table as the store has it.
    fn start_over(&mut self) -> Result<()> {
        let steps = self.controller.store().steps(self.job.id)?;
        self.mover.restart(steps)
    }

    /// Whether the operator has wished something else since the job was last looked at.
    fn unwanted(&mut self) -> Result<bool> {
        let state = find(self.controller.store(), self.job.id)?.state;
        Ok(state != self.job.state)
    }

    /// Tells what the job waits for; nothing when it goes on.
    fn waits_for(&mut self, why: &str) -> Result<()> {
        if self.job.why == why {
            return Ok(());
        }
        let state = self.job.state;
        self.controller
            .store()
            .set_job_state(self.job.id, state, state, why)
            .map(drop)
    }

    /// False when the operator has changed it in between.
    fn set_state(&mut self, to: JobState, why: &str) -> Result<bool> {
        self.controller
            .store()
            .set_job_state(self.job.id, self.job.state, to, why)
    }

    /// Flushes the targets, makes the changes durable and gives the old extents back. Nothing of it while a disk that this job has
    /// nothing more to put on cannot be relied on: it may be what the job moves away from.
    fn harden(&mut self) -> Result<()> {
        let Err(error) = self.controller.harden() else {
            self.cadence.hardened();
            return self.controller.free();
        };
        let losing = self.controller.losing()?;
        let target = self
            .mover
            .steps()
            .iter()
            .find(|step| losing.contains(&step.to.disk));
        if target.is_none() && !losing.is_empty() && !self.mover.finished() {
            self.cadence.put_off(Instant::now());
            return self.waits_for(&format!("goes on, and is not durable before it is done: {error}"));
        }
        let why = format!("what was moved cannot be made durable: {error}");
        let roll_back = format!("`vctl job cancel {} --roll-back` moves it back", self.job.id);
        let hint = error.way_out().map_or(roll_back, str::to_owned);
        Err(self.fail(&why, &hint))
    }

    /// All steps are done.
    fn complete(&mut self) -> Result<()> {
        self.mover.settle()?;
        self.harden()?;
        self.save_figures(Duration::ZERO)?;
        if !self.job.back && self.look_again()? {
            return Ok(());
        }
        let to = if self.job.back {
            JobState::Cancelled
        } else {
            JobState::Done
        };
        if let JobKind::Evacuate {
            disk, reopen: true, ..
        } = self.job.kind
            && self.job.back
        {
            set_allocate(self.controller, disk, true, &self.job.title)?;
        }
        let why = match self.left.in_words() {
            Some(left) if !self.job.limits.skip_unreadable => return Err(self.left_behind(&left)),
            left => left.unwrap_or_default(),
        };
        if self.set_state(to, &why)? {
            let text = match to {
                JobState::Done => "done",
                _ => "moved back what it had moved",
            };
            self.tell(Severity::Info, &format!("{}: {text}", self.job.title));
        }
        Ok(())
    }

    /// An evacuation is not done as long as something lies on the disk: true if more is to be moved.
    fn look_again(&mut self) -> Result<bool> {
        let JobKind::Evacuate {
            disk,
            to,
            use_reserve,
            ..
        } = self.job.kind.clone()
        else {
            return Ok(false);
        };
        let request = Request::Evacuate {
            disk,
            to,
            use_reserve,
        };
        let more = match plan_without(self.controller.store(), &request, self.left.runs()) {
            Ok(more) => more,
            Err(error) => return Err(self.fail(&error.to_string(), error.way_out().unwrap_or_default())),
        };
        if more.is_empty() {
            return Ok(false);
        }
        let steps = [self.mover.steps(), &more].concat();
        let term = self.controller.term();
        self.controller
            .store()
            .replace_steps(term, self.job.id, &steps, false)?;
        self.mover.restart(steps)?;
        Ok(true)
    }

    /// Plans the way back. The old extents are free by then, unless somebody else has them, or an apparatus still serves a request
    /// by an old table: that passes.
    fn turn_back(&mut self) -> Result<()> {
        if self.not_yet() {
            return Ok(());
        }
        self.mover.settle()?;
        if self.controller.losing()?.is_empty() {
            self.harden()?;
        }
        let steps = self.mover.steps().to_vec();
        match plan_back(self.controller.store(), &steps, &self.subject) {
            Ok(back) => {
                let term = self.controller.term();
                self.controller
                    .store()
                    .replace_steps(term, self.job.id, &back, true)?;
                self.backoff.reset();
                self.mover.restart(back)
            }
            Err(error) if self.backoff.attempts() < PLANS => {
                self.not_before = Instant::now() + self.backoff.next();
                self.waits_for(&error.to_string())
            }
            Err(error) => Err(self.fail(&error.to_string(), error.way_out().unwrap_or_default())),
        }
    }

    /// Waits a moment if it is too early for another attempt.
    fn not_yet(&self) -> bool {
        let wait = self.not_before.saturating_duration_since(Instant::now());
        park_timeout(wait.min(ROUND));
        !wait.is_zero()
    }

    /// Ends this run in good order, whatever the state: nothing is under way, and what was moved is durable.
    fn leave(&mut self) -> Result<()> {
        if self.mover.settle().is_err() {
            self.mover.leave_behind(self.controller.pool())?;
        }
        self.save_figures(Duration::ZERO)?;
        if self.cadence.pending() && self.controller.losing()?.is_empty() {
            self.controller.harden()?;
            self.controller.free()?;
        }
        space::watch(self.controller.store());
        Ok(())
    }

    /// Whether a place that cannot be read is no reason to stop: where that is wished, and where others can be moved off the disk.
    fn goes_past(&self) -> bool {
        let evacuates = matches!(self.job.kind, JobKind::Evacuate { .. });
        !self.job.back && (evacuates || self.job.limits.skip_unreadable)
    }

    /// Leaves a place that cannot be read where it is, with the rest of its volume unless places are to be skipped, and goes on.
    fn go_past(&mut self, chunk: &Chunk, fault: &Fault) -> Result<()> {
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
            self.place(&bad, bad.from.home.disk)
        );
        self.tell(Severity::Error, &text);
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

    /// All that could be moved has been, and nobody has said that the rest may be left.
    fn left_behind(&mut self, left: &str) -> Error {
        let JobKind::Evacuate { disk, .. } = self.job.kind else {
            return self.fail(left, "");
        };
        let disk = self.disk_name(disk);
        let why = format!("{left}; the rest of these volumes stays there too, all else has been moved");
        let hint = format!(
            "vctl disk evacuate {disk} --skip-unreadable moves all but these places; write them anew from a backup, or remove the volumes"
        );
        self.fail(&why, &hint)
    }

    /// A place, for people.
    fn place(&mut self, chunk: &Chunk, disk: DiskId) -> String {
        let (disk, volume) = (self.disk_name(disk), self.volume_name(chunk.volume));
        let span = chunk.span(self.size);
        format!(
            "disk {disk}, bytes {} to {} of volume {volume}",
            span.start, span.end
        )
    }

    fn disk_failed(&mut self, chunk: &Chunk, fault: &Fault) -> Error {
        let home = match fault {
            Fault::Source(_) => chunk.from.home.disk,
            Fault::Target(_) => chunk.to.disk,
        };
        let exact = match fault {
            Fault::Source(_) => self.unreadable(chunk),
            Fault::Target(_) => None,
        };
        let why = format!("{}: {fault}", self.place(&exact.unwrap_or(*chunk), home));
        let hint = match fault {
            Fault::Source(_) => format!(
                "write that range anew and move again, or go past it with --skip-unreadable, or move back with `vctl job cancel {} --roll-back`",
                self.job.id
            ),
            Fault::Target(_) => "all data is safe where it was; move to another disk, with what was moved too if this one is failing".into(),
        };
        self.fail(&why, &hint)
    }

    /// The first part of a chunk whose source cannot be read, to the extent. What was read already costs nothing.
    fn unreadable(&mut self, chunk: &Chunk) -> Option<Chunk> {
        let disk = self.controller.disks().get(chunk.from.home.disk)?;
        let bad = |index: u64| {
            let home = chunk.part(index, 1)?.from.home;
            let at = self.size.disk_offset(home.start)?;
            disk.populate(at, self.size.bytes()).is_err().then_some(())
        };
        let first = (0..chunk.len()).find(|index| bad(*index).is_some())?;
        let len = (first..chunk.len())
            .take_while(|index| bad(*index).is_some())
            .count();
        chunk.part(first, len as u64)
    }

    /// The job has failed: says so in the store and answers the error. What was moved stays moved.
    fn fail(&mut self, why: &str, hint: &str) -> Error {
        let error = Error::failed(&self.subject, why).hint(hint);
        if let Err(also) = self.set_state(JobState::Failed, why) {
            return Error::failed(
                &self.subject,
                format!("{why}; and that could not be recorded: {also}"),
            )
            .hint(hint);
        }
        self.tell(Severity::Error, why);
        error
    }

    /// An event. That it cannot be written is no reason to stop.
    fn tell(&mut self, severity: Severity, text: &str) {
        if let Err(error) = self.controller.store().log(severity, &self.subject, text) {
            log::warn!("{}: {text} (not in the events: {error})", self.subject);
        }
    }

    fn disk_name(&mut self, id: DiskId) -> String {
        let disks = self.controller.store().disks().unwrap_or_default();
        disks
            .iter()
            .find(|disk| disk.id == id)
            .map_or_else(|| id.to_string(), |disk| disk.name.to_string())
    }

    fn volume_name(&mut self, id: VolumeId) -> String {
        let volumes = self.controller.store().volumes().unwrap_or_default();
        volumes
            .iter()
            .find(|volume| volume.id == id)
            .map_or_else(|| id.to_string(), |volume| volume.name.to_string())
    }
}

/// Waits for the disks that the job needs, and refuses a target that a write which was given up may still reach. A disk that cannot be opened is told of
/// where it is needed.
fn open_disks_of(controller: &mut Controller, steps: &[Step]) -> Result<()> {
    let targets: BTreeSet<DiskId> = steps.iter().map(|step| step.to.disk).collect();
    let records = controller.store().disks()?;
    for record in records.iter().filter(|record| targets.contains(&record.id)) {
        LeftWrite::refuse(controller.pool(), record)?;
    }
    let sources = steps.iter().map(|step| step.from.home.disk);
    let disks: BTreeSet<DiskId> = sources.chain(targets.iter().copied()).collect();
    match controller.open_disks(disks) {
        Err(why) if why.kind() == Kind::TimedOut => Err(why),
        _ => Ok(()),
    }
}

/// The job's steps, without what others have moved or removed since it last ran.
fn up_to_date(controller: &mut Controller, job: &JobRecord) -> Result<Vec<Step>> {
    let term = controller.term();
    let store = controller.store();
    let steps = store.steps(job.id)?;
    let present: Vec<VolumeId> = store.volumes()?.iter().map(|volume| volume.id).collect();
    let mut segments: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for step in &steps {
        if present.contains(&step.volume) && !segments.contains_key(&step.volume) {
            let all = store.segments(step.volume, VolumeExtent(0), VolumeExtent(u64::MAX))?;
            segments.insert(step.volume, all);
        }
    }
    let now = reconciled(&steps, |volume| segments.get(&volume).map_or(&[], Vec::as_slice));
    // Reserved anew, too: a job that has failed has given back what it had. Who turns back asks for no place ahead.
    let turns_back = job.state == JobState::RollingBack && !job.back;
    if !job.state.has_ended()
        && !turns_back
        && let Err(why) = store.replace_steps(term, job.id, &now, job.back)
    {
        store.set_job_state(job.id, job.state, JobState::Failed, &why.to_string())?;
        return Err(why.hint("its place is somebody else's by now: move anew"));
    }
    Ok(now)
}

/// What a job waits for when a change was given up for a reason that passes.
/// What is waited for, and what would end that.
fn waiting(reason: &Reason, members: &[Member]) -> String {
    let name = |slot: Slot| {
        let member = members.iter().find(|member| member.slot == slot);
        member.map_or_else(|| slot.to_string(), |member| member.name.to_string())
    };
    match reason {
        Reason::Draining {
            slot,
            in_flight,
            oldest_us,
            disk,
        } => format!(
            "waits for {in_flight} requests in flight on apparatus {}, the oldest for {} ms on disk {disk}; goes on when that disk answers: \
             vctl disk show {disk}",
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
        Reason::MembershipMoved => "an apparatus came or went; tries again by itself".into(),
        Reason::GenerationMoved => "the table has changed; tries again by itself".into(),
        Reason::HoldRanOut => "a hold ran out before the chunk was moved; tries again by itself".into(),
        Reason::Refused(slot, why) => {
            let name = name(*slot);
            format!("apparatus {name} refuses: {why}; goes on when it does not: vctl apparatus show {name}")
        }
        Reason::StaleTerm => "another controller has taken over".into(),
        Reason::Work(why) | Reason::Store(why) | Reason::Abandoned(why) => why.clone(),
    }
}

/// Data that may wait to be written to a disk: so little that the kernel does not yet slow writers down, and at most 512 MiB.
fn dirty_allowance() -> u64 {
    const LEAST: u64 = 16 << 20;
    const MOST: u64 = 512 << 20;
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let pages = text
        .lines()
        .find_map(|line| line.strip_prefix("nr_dirty_background_threshold ")?.parse().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.map_or(LEAST, |pages: u64| {
        (pages.saturating_mul(page) / 4).clamp(LEAST, MOST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::names::Name;
    use crate::store::MemberState;
    use crate::units::{Generation, Incarnation, Timestamp};

    #[test]
    fn what_may_wait_to_be_written_is_bounded() {
        assert!((16 << 20..=512 << 20).contains(&dirty_allowance()));
    }

    #[test]
    fn what_is_waited_for_is_named_with_what_ends_it() {
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
