//! Jobs as users see them, and which processes work on them.

use super::apparatus;
use super::view::PoolView;
use crate::cluster;
use crate::controller::elsewhere;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::job::{JobKind, JobRecord, JobState, Step};
use crate::model::member::{Member, MemberState};
use crate::model::names::Name;
use crate::model::records::{Area, Delta, Edit, Segment};
use crate::model::units::{ByteCount, ExtentSize, Generation, JobId, VolumeId};
use crate::rpc::client;
use crate::rpc::message::{Answer, Request};
use crate::store::{JobStore, MemberStore, Store};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// How long an apparatus may take to confirm that it works on a job.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job and what is derived from its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Its record in the store.
    pub record: JobRecord,
    /// Its copy progress table; not read for lists, which may contain many jobs with many steps.
    pub steps: Vec<Step>,
    /// The volume or disk that it moves, by name.
    pub subject: String,
    /// Bytes moved of this table.
    pub done: ByteCount,
    /// Bytes of this table.
    pub total: ByteCount,
    /// Whether it is unfinished and no process works on it or is about to.
    pub abandoned: bool,
}

/// Returns all jobs, without their steps.
///
/// # Errors
/// Returns the errors of the store.
pub fn list(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<JobView>> {
    let records = store.jobs()?;
    let workers = Workers::look(pool, store, &records)?;
    let names = PoolView::load(store)?;
    Ok(records
        .into_iter()
        .map(|record| outline(&names, &workers, record))
        .collect())
}

/// Returns a job.
///
/// # Errors
/// Fails with `NotFound`; returns the errors of the store.
pub fn show(pool: &PoolDir, store: &mut dyn Store, id: JobId) -> Result<JobView> {
    let record = find(store, id)?;
    let workers = Workers::look(pool, store, std::slice::from_ref(&record))?;
    let names = PoolView::load(store)?;
    view(store, &names, &workers, record)
}

/// Returns a job's record.
///
/// # Errors
/// Fails with `NotFound`; returns the errors of the store.
pub fn find(store: &mut dyn JobStore, id: JobId) -> Result<JobRecord> {
    store
        .job(id)?
        .ok_or_else(|| Error::not_found("job", &id.to_string()).hint("vctl job list"))
}

/// Makes the view of a job from its record, with the names of this view of the pool.
///
/// # Errors
/// Returns the errors of the store.
pub fn view(
    store: &mut dyn JobStore,
    names: &PoolView,
    workers: &Workers,
    record: JobRecord,
) -> Result<JobView> {
    let steps = store.steps(record.id)?;
    Ok(JobView {
        steps,
        ..outline(names, workers, record)
    })
}

/// Makes the view of a job as [`view`] does, without its steps.
#[must_use]
pub fn outline(names: &PoolView, workers: &Workers, record: JobRecord) -> JobView {
    let bytes = |extents: u64| ByteCount(extents.saturating_mul(names.header.extent_size.bytes()));
    let subject = match &record.kind {
        JobKind::Move { volume } => match names.has_volume(*volume) {
            true => format!("volume {}", names.volume_name(*volume)),
            false => removed("volume", "volume move ", &record.title, volume),
        },
        JobKind::Evacuate { disk, .. } => match names.has_disk(*disk) {
            true => format!("disk {}", names.disk_name(*disk)),
            false => removed("disk", "disk evacuate ", &record.title, disk),
        },
    };
    JobView {
        steps: Vec::new(),
        subject,
        done: bytes(record.progress.done),
        total: bytes(record.progress.total),
        abandoned: workers.is_abandoned(&record),
        record,
    }
}

/// Describes the removed volume or disk of a job, by the name in the command that asked for the job; by its number where that has none.
fn removed(noun: &str, verb: &str, title: &str, id: impl Display) -> String {
    let words = title.strip_prefix(verb).map(str::split_whitespace);
    match words.and_then(|mut words| words.find(|word| !word.starts_with('-'))) {
        Some(name) => format!("{noun} {name} (removed)"),
        None => format!("{noun} #{id} (removed)"),
    }
}

/// Returns the bytes of a copy progress table that are moved, and all its bytes.
#[must_use]
pub fn progress(steps: &[Step], extent_size: ExtentSize) -> (ByteCount, ByteCount) {
    let bytes = |extents: u64| ByteCount(extents.saturating_mul(extent_size.bytes()));
    let done = steps.iter().map(|step| step.done).sum();
    let total = steps.iter().map(|step| step.from.placement.len).sum();
    (bytes(done), bytes(total))
}

/// Carries out a command on a copy of the database: it fails where the command would, and nothing changes.
///
/// # Errors
/// Returns the errors of the command.
pub fn rehearse(pool: &PoolDir, command: impl FnOnce(&mut dyn Store) -> Result<()>) -> Result<()> {
    let copy = super::backup::Copy::of_pool(pool)?;
    command(&mut *copy.into_store()?)
}

/// Returns whether a process has to work on a job in this state.
#[must_use]
pub fn wants_work(state: JobState) -> bool {
    matches!(state, JobState::Running | JobState::RollingBack)
}

/// Returns the process that works on a job, as text.
///
/// # Errors
/// Fails when the run directory cannot be read.
pub fn worker(pool: &PoolDir, job: JobId) -> Result<Option<String>> {
    cluster::open(pool)?.worker_of(job)
}

/// Returns which processes work on those of these jobs that need work.
fn workers(pool: &PoolDir, jobs: &[JobRecord]) -> Result<BTreeMap<JobId, String>> {
    let mut acting = BTreeMap::new();
    for job in jobs.iter().filter(|job| wants_work(job.state)) {
        if let Some(holder) = worker(pool, job.id)? {
            acting.insert(job.id, holder);
        }
    }
    Ok(acting)
}

/// The worker of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    /// A process works on it; its description.
    Acts(String),
    /// An apparatus has taken it on, and is about to begin.
    Waits(Name),
    /// No process works on it.
    Nobody,
}

/// The workers of jobs.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    acting: BTreeMap<JobId, String>,
    holder: Option<String>,
    waiting: BTreeMap<JobId, Name>,
}

impl Workers {
    /// Derives the workers from the locks of these jobs, the holder of the controller lock, and the reports of the apparatuses.
    ///
    /// # Errors
    /// Fails when the run directory cannot be read.
    pub fn new(
        pool: &PoolDir,
        jobs: &[JobRecord],
        holder: Option<String>,
        apparatuses: &[apparatus::ApparatusView],
    ) -> Result<Self> {
        Ok(Self::of(workers(pool, jobs)?, holder, apparatuses))
    }

    fn of(
        acting: BTreeMap<JobId, String>,
        holder: Option<String>,
        apparatuses: &[apparatus::ApparatusView],
    ) -> Self {
        let mut waiting = BTreeMap::new();
        for view in apparatuses {
            let jobs = view.figures.iter().flat_map(|figures| &figures.jobs);
            waiting.extend(jobs.map(|job| (*job, view.member.name.clone())));
        }
        Self {
            acting,
            holder,
            waiting,
        }
    }

    /// Finds the workers of these jobs. The apparatuses are asked only if the locks do not decide it.
    ///
    /// # Errors
    /// Returns the errors of the store, and fails when the run directory cannot be read.
    pub fn look(pool: &PoolDir, store: &mut dyn Store, jobs: &[JobRecord]) -> Result<Self> {
        let seen = Self::new(pool, jobs, cluster::open(pool)?.leader()?, &[])?;
        let unclear = |job: &JobRecord| wants_work(job.state) && seen.on(job) == Worker::Nobody;
        if !jobs.iter().any(unclear) {
            return Ok(seen);
        }
        Self::ask(pool, store, jobs)
    }

    /// Finds the workers of these jobs, and always asks all apparatuses.
    ///
    /// # Errors
    /// Returns the errors of the store, and fails when the run directory cannot be read.
    pub fn ask(pool: &PoolDir, store: &mut dyn Store, jobs: &[JobRecord]) -> Result<Self> {
        let apparatuses = apparatus::list(pool, store)?;
        // The lock is read after that: an apparatus that was about to begin may hold it by now.
        Self::new(pool, jobs, cluster::open(pool)?.leader()?, &apparatuses)
    }

    /// Returns whether a process works on this job.
    #[must_use]
    pub fn is_worked_on(&self, job: JobId) -> bool {
        self.acting.contains_key(&job)
    }

    /// Returns the apparatus that has taken a job on.
    #[must_use]
    pub fn taken_by(&self, job: JobId) -> Option<&Name> {
        self.waiting.get(&job)
    }

    /// Returns the worker of a job. A process that has just recorded a job still holds the controller lock under the job's title.
    #[must_use]
    pub fn on(&self, job: &JobRecord) -> Worker {
        let recorded = self.holder.as_ref().filter(|_| self.acts_for(&job.title));
        match (self.acting.get(&job.id).or(recorded), self.waiting.get(&job.id)) {
            (Some(holder), _) => Worker::Acts(holder.clone()),
            (_, Some(name)) => Worker::Waits(name.clone()),
            _ => Worker::Nobody,
        }
    }

    /// Returns whether the job needs work and no process does it.
    #[must_use]
    pub fn is_abandoned(&self, job: &JobRecord) -> bool {
        wants_work(job.state) && self.on(job) == Worker::Nobody
    }

    /// Returns whether the controller lock is held for this purpose.
    #[must_use]
    fn acts_for(&self, purpose: &str) -> bool {
        let by = self
            .holder
            .as_ref()
            .and_then(|holder| holder.strip_prefix(purpose));
        by.is_some_and(|rest| rest.starts_with(" by pid "))
    }
}

/// Describes the way out for a job that no process works on.
#[must_use]
pub fn abandoned(id: JobId) -> String {
    format!("no process works on it; vctl job resume {id} continues it, vctl job cancel {id} cancels it")
}

/// Returns the purpose of a controller lock that is held to work on a job.
#[must_use]
pub fn purpose(job: JobId) -> String {
    format!("job {job}")
}

/// Returns whether the job was cancelled and has moved back all that it had moved.
#[must_use]
pub fn is_rolled_back(record: &JobRecord) -> bool {
    record.state == JobState::Cancelled && record.back && record.progress.done >= record.progress.total
}

/// Describes what a job is doing, or what it waits for and how to end that.
#[must_use]
pub fn phase(workers: &Workers, record: &JobRecord) -> String {
    let why = if record.why.is_empty() {
        String::new()
    } else {
        format!(": {}", record.why)
    };
    let id = record.id;
    match record.state {
        JobState::Done => format!("all data is in place{why}"),
        JobState::Failed => format!(
            "failed{why}; what was moved stays where it is; vctl job resume {id} tries again, vctl job cancel {id} dismisses it"
        ),
        JobState::Cancelled if is_rolled_back(record) => {
            format!("cancelled{why}; what it had moved was moved back")
        }
        JobState::Cancelled if record.back => {
            format!("cancelled{why} on the way back; what was not moved back stays where it is")
        }
        JobState::Cancelled => format!("cancelled{why}; what was moved stays where it is"),
        JobState::Paused => format!("paused{why}; vctl job resume {id}"),
        JobState::Running | JobState::RollingBack => {
            let way = if record.back { "moving back" } else { "moving" };
            match workers.on(record) {
                Worker::Acts(holder) => format!("{way}{why}, {holder}"),
                Worker::Waits(name) => format!("apparatus {name} has taken it on"),
                Worker::Nobody => abandoned(id),
            }
        }
    }
}

/// Checks that an apparatus serves that could work on a job: the named one, or any.
///
/// # Errors
/// Fails with `NotFound` for an unknown name, and when none serves.
pub fn check_hand_over(pool: &PoolDir, store: &mut dyn MemberStore, to: Option<&str>) -> Result<()> {
    let named = to.map(|name| apparatus::member(store, name)).transpose()?;
    let members = match named {
        Some(member) => vec![member],
        None => store.members()?.1,
    };
    for member in &members {
        if serves(pool, member)? {
            return Ok(());
        }
    }
    let (what, why) = match to {
        Some(name) => (
            format!("apparatus {name}"),
            "does not serve, so it cannot work on a job",
        ),
        None => (
            "--background".into(),
            "no apparatus runs that could work on the job",
        ),
    };
    Err(Error::failed(what, why)
        .hint("start one (vctl apparatus start), or leave --background out to work on it here"))
}

fn serves(pool: &PoolDir, member: &Member) -> Result<bool> {
    // A job is handed over at a control socket of this machine.
    if member.state != MemberState::Joined || elsewhere::is_on_another(pool, member)? {
        return Ok(false);
    }
    Ok(!cluster::open(pool)?.has_ended(member)?)
}

/// Hands a job to an apparatus: the named one, or the first that accepts it. Returns its name.
///
/// # Errors
/// Fails when none accepts it.
pub fn hand_over(pool: &PoolDir, store: &mut dyn Store, job: JobId, to: Option<&str>) -> Result<Name> {
    check_hand_over(pool, store, to)?;
    let uuid = store.header()?.uuid;
    let (_, members) = store.members()?;
    let mut refused = Vec::new();
    for member in members
        .iter()
        .filter(|member| to.is_none_or(|name| name == member.name.as_str()))
    {
        if !serves(pool, member)? {
            refused.push(format!("{} does not serve", member.name));
            continue;
        }
        match client::ask(pool, uuid, &member.name, Request::RunJob { job }, PATIENCE) {
            Ok(Answer::Accepted) => return Ok(member.name.clone()),
            Ok(other) => refused.push(format!("{} answered {other:?}", member.name)),
            Err(error) => refused.push(error.to_string()),
        }
    }
    Err(Error::failed(format!("job {job}"), refused.join("; ")))
}

/// Carries out a command on a job and hands the job over; where no apparatus takes it, the job gets its former state back.
///
/// # Errors
/// Returns the errors of the command and of [`hand_over`].
pub fn command_and_hand_over(
    pool: &PoolDir,
    store: &mut dyn Store,
    job: JobId,
    to: Option<&str>,
    command: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Name> {
    check_hand_over(pool, store, to)?;
    let before = find(store, job)?;
    command(store)?;
    let requested = find(store, job)?.state;
    let taken = hand_over(pool, store, job, to);
    if taken.is_err() && requested != before.state {
        store.set_job_state(job, requested, before.state, &before.why)?;
    }
    taken
}

/// Returns one delta for a whole copy progress table.
#[must_use]
pub fn delta(from: Generation, steps: &[Step]) -> Delta {
    let mut volumes: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for step in steps {
        let placement = Area {
            len: step.from.placement.len,
            ..step.to
        };
        volumes.entry(step.volume).or_default().push(Segment {
            start: step.from.start,
            placement,
        });
    }
    let edit = |(volume, mut segments): (VolumeId, Vec<Segment>)| {
        segments.sort_unstable();
        Edit::Map { volume, segments }
    };
    Delta {
        from,
        edits: volumes.into_iter().map(edit).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: u64, state: JobState) -> JobRecord {
        JobRecord {
            id: JobId(id),
            state,
            ..crate::model::build::job()
        }
    }

    #[test]
    fn a_removed_disk_has_the_name_that_its_job_was_asked_for_with() {
        use crate::model::units::DiskId;
        let of = |title| removed("disk", "disk evacuate ", title, DiskId(6));
        assert_eq!(of("disk evacuate d6 --to d1"), "disk d6 (removed)");
        assert_eq!(of("test move"), "disk #6 (removed)");
        assert_eq!(of("disk evacuate "), "disk #6 (removed)");
    }

    #[test]
    fn a_job_is_worked_on_by_who_acts_for_it_and_by_no_other() {
        let acts = |holder: &str| Workers::of(BTreeMap::new(), Some(holder.to_owned()), &[]);
        let works = |id| {
            let holder = format!("job {id} by pid 1 since 10:02");
            Workers::of(BTreeMap::from([(JobId(id), holder)]), None, &[])
        };
        let running = job(7, JobState::Running);
        assert_eq!(
            works(7).on(&running),
            Worker::Acts("job 7 by pid 1 since 10:02".into())
        );
        assert_eq!(works(8).on(&running), Worker::Nobody);
        // The process that records the job, before it has taken it on.
        let holder = "volume move v1 by pid 1 since 10:02";
        assert_eq!(acts(holder).on(&running), Worker::Acts(holder.into()), "{holder}");
        for holder in [
            "job 77 by pid 1 since 10:02",
            "volume move v10 by pid 1 since 10:02",
            "another controller",
        ] {
            assert_eq!(acts(holder).on(&running), Worker::Nobody, "{holder}");
        }
        let text = phase(&works(8), &running);
        assert!(
            text.contains("no process works on it") && text.contains("vctl job cancel 7"),
            "{text}"
        );
        assert!(phase(&Workers::default(), &job(7, JobState::Failed)).contains("vctl job cancel 7"));
    }
}
