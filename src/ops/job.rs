//! Jobs as people look at them, and who works on them.

use super::apparatus;
use super::view::PoolView;
use crate::change::survey::lives;
use crate::control::client;
use crate::error::{Error, Result};
use crate::member::ArbitrationLock;
use crate::pool::dir::PoolDir;
use crate::pool::model::{Area, Difference, Edit, Segment};
use crate::pool::names::Name;
use crate::store::{JobKind, JobRecord, JobState, Member, MemberState, Step, Store};
use crate::units::{ByteCount, ExtentSize, Generation, JobId, VolumeId};
use crate::wire::message::{Answer, Request};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an apparatus may take to say that it works on a job.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job and what follows from its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// As the store has it.
    pub record: JobRecord,
    /// Its copy progress table; not read for a list, which may be of many jobs with many steps.
    pub steps: Vec<Step>,
    /// What it moves, by name.
    pub subject: String,
    /// Bytes moved of this table.
    pub done: ByteCount,
    /// Bytes of this table.
    pub total: ByteCount,
    /// It wants work, and nobody works on it or is about to.
    pub abandoned: bool,
}

/// All jobs, without their steps.
///
/// # Errors
/// The store's.
pub fn list(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<View>> {
    let records = store.jobs()?;
    let workers = Workers::look(pool, store, &records)?;
    let names = PoolView::load(store)?;
    Ok(records
        .into_iter()
        .map(|record| outline(&names, &workers, record))
        .collect())
}

/// One job.
///
/// # Errors
/// `NotFound`; the store's.
pub fn show(pool: &PoolDir, store: &mut dyn Store, id: JobId) -> Result<View> {
    let record = find(store, id)?;
    let workers = Workers::look(pool, store, std::slice::from_ref(&record))?;
    let names = PoolView::load(store)?;
    view(store, &names, &workers, record)
}

/// A job's record.
///
/// # Errors
/// `NotFound`; the store's.
pub fn find(store: &mut dyn Store, id: JobId) -> Result<JobRecord> {
    store
        .job(id)?
        .ok_or_else(|| Error::not_found("job", &id.to_string()).hint("vctl job list"))
}

/// A job of which the record is at hand, named as this view of the pool has it.
///
/// # Errors
/// The store's.
pub fn view(store: &mut dyn Store, names: &PoolView, workers: &Workers, record: JobRecord) -> Result<View> {
    let steps = store.steps(record.id)?;
    Ok(View {
        steps,
        ..outline(names, workers, record)
    })
}

/// The same without its steps.
#[must_use]
pub fn outline(names: &PoolView, workers: &Workers, record: JobRecord) -> View {
    let bytes = |extents: u64| ByteCount(extents.saturating_mul(names.header.extent_size.bytes()));
    let subject = match &record.kind {
        JobKind::Move { volume } => format!("volume {}", names.volume_name(*volume)),
        JobKind::Evacuate { disk, .. } => format!("disk {}", names.disk_name(*disk)),
    };
    View {
        steps: Vec::new(),
        subject,
        done: bytes(record.progress.done),
        total: bytes(record.progress.total),
        abandoned: workers.is_abandoned(&record),
        record,
    }
}

/// How many bytes of a copy progress table are done, and how many there are.
#[must_use]
pub fn progress(steps: &[Step], extent_size: ExtentSize) -> (ByteCount, ByteCount) {
    let bytes = |extents: u64| ByteCount(extents.saturating_mul(extent_size.bytes()));
    let done = steps.iter().map(|step| step.done).sum();
    let total = steps.iter().map(|step| step.from.home.len).sum();
    (bytes(done), bytes(total))
}

/// Carries a wish out on a copy of the database: what would be refused is refused, and nothing changes.
///
/// # Errors
/// Those of the wish.
pub fn rehearse(pool: &PoolDir, wish: impl FnOnce(&mut dyn Store) -> Result<()>) -> Result<()> {
    let copy = super::backup::Copy::of_pool(pool)?;
    wish(&mut copy.into_store()?)
}

/// Whether somebody has to work on a job in this state.
#[must_use]
pub fn wants_work(state: JobState) -> bool {
    matches!(state, JobState::Running | JobState::RollingBack)
}

/// Who works on a job: the holder of the arbitration, as text.
///
/// # Errors
/// When the run directory cannot be read.
pub fn worker(pool: &PoolDir, job: JobId) -> Result<Option<String>> {
    let purpose = format!("{} ", purpose(job));
    Ok(ArbitrationLock::holder(pool)?.filter(|holder| holder.starts_with(&purpose)))
}

/// Who works on a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    /// The holder of the arbitration, as text.
    Acts(String),
    /// This apparatus has taken it on, and waits for the arbitration.
    Waits(Name),
    /// Nobody, though it may want work.
    Nobody,
}

/// Who works on jobs.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    holder: Option<String>,
    waiting: BTreeMap<JobId, Name>,
}

impl Workers {
    /// From who holds the arbitration, and what the apparatuses tell.
    #[must_use]
    pub fn new(holder: Option<String>, apparatuses: &[apparatus::View]) -> Self {
        let mut waiting = BTreeMap::new();
        for view in apparatuses {
            let jobs = view.figures.iter().flat_map(|figures| &figures.jobs);
            waiting.extend(jobs.map(|job| (*job, view.member.name.clone())));
        }
        Self { holder, waiting }
    }

    /// Looks who works on these jobs. The apparatuses are asked only if that is needed to tell.
    ///
    /// # Errors
    /// The store's, and when the run directory cannot be read.
    pub fn look(pool: &PoolDir, store: &mut dyn Store, jobs: &[JobRecord]) -> Result<Self> {
        let seen = Self::new(ArbitrationLock::holder(pool)?, &[]);
        let unclear = |job: &JobRecord| wants_work(job.state) && seen.on(job) == Worker::Nobody;
        if !jobs.iter().any(unclear) {
            return Ok(seen);
        }
        Self::ask(pool, store)
    }

    /// Asks all apparatuses.
    ///
    /// # Errors
    /// The store's, and when the run directory cannot be read.
    pub fn ask(pool: &PoolDir, store: &mut dyn Store) -> Result<Self> {
        let apparatuses = apparatus::list(pool, store)?;
        // After that: an apparatus that waited may act by now.
        Ok(Self::new(ArbitrationLock::holder(pool)?, &apparatuses))
    }

    /// Which apparatus has taken a job on.
    #[must_use]
    pub fn taken_by(&self, job: JobId) -> Option<&Name> {
        self.waiting.get(&job)
    }

    /// Who works on this one. Whoever has just recorded a job still acts under the job's title.
    #[must_use]
    pub fn on(&self, job: &JobRecord) -> Worker {
        let acts = self.acts_for(&purpose(job.id)) || self.acts_for(&job.title);
        match (&self.holder, self.waiting.get(&job.id)) {
            (Some(holder), _) if acts => Worker::Acts(holder.clone()),
            (_, Some(name)) => Worker::Waits(name.clone()),
            _ => Worker::Nobody,
        }
    }

    /// Whether the job wants work and nobody does it.
    #[must_use]
    pub fn is_abandoned(&self, job: &JobRecord) -> bool {
        wants_work(job.state) && self.on(job) == Worker::Nobody
    }

    /// Whether the arbitration is held for this.
    #[must_use]
    pub fn acts_for(&self, purpose: &str) -> bool {
        let by = self
            .holder
            .as_ref()
            .and_then(|holder| holder.strip_prefix(purpose));
        by.is_some_and(|rest| rest.starts_with(" by pid "))
    }
}

/// What to type for a job that nobody works on.
#[must_use]
pub fn abandoned(id: JobId) -> String {
    format!("nobody works on it; vctl job resume {id} goes on, vctl job cancel {id} gives it up")
}

/// What whoever works on a job holds the arbitration for.
#[must_use]
pub fn purpose(job: JobId) -> String {
    format!("job {job}")
}

/// What a job is doing, or what keeps it and would free it.
#[must_use]
pub fn phase(workers: &Workers, record: &JobRecord) -> String {
    let why = if record.why.is_empty() {
        String::new()
    } else {
        format!(": {}", record.why)
    };
    let id = record.id;
    match record.state {
        JobState::Done => format!("all is where it was to go{why}"),
        JobState::Failed => format!(
            "gave up{why}; what was moved stays where it is; vctl job resume {id} tries again, vctl job cancel {id} dismisses it"
        ),
        JobState::Cancelled => format!("cancelled{why}; what was moved stays where it is"),
        JobState::Paused => format!("paused{why}; vctl job resume {id}"),
        JobState::Running | JobState::RollingBack => {
            let way = if record.back { "moving back" } else { "moving" };
            match workers.on(record) {
                Worker::Acts(holder) => format!("{way}{why}, {holder}"),
                Worker::Waits(name) => format!("apparatus {name} has taken it on{}", workers.waited_for()),
                Worker::Nobody => abandoned(id),
            }
        }
    }
}

impl Workers {
    /// For whom an apparatus waits that has taken a job on.
    fn waited_for(&self) -> String {
        self.holder.as_ref().map_or(String::new(), |holder| {
            format!(
                ", and waits for the controller that acts: {holder}{}",
                way_past(holder)
            )
        })
    }
}

/// How a job comes before the one that is worked on; others end soon.
fn way_past(holder: &str) -> String {
    let other = holder
        .strip_prefix("job ")
        .and_then(|rest| rest.split(' ').next());
    other.map_or(String::new(), |id| {
        format!("; vctl job pause {id} lets it go first")
    })
}

/// Whether an apparatus serves that could work on a job: the one named, else any.
///
/// # Errors
/// `NotFound` for one that there is not; when none serves.
pub fn check_hand_over(pool: &PoolDir, store: &mut dyn Store, to: Option<&str>) -> Result<()> {
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
    Ok(member.state == MemberState::Joined && lives(pool, member)?)
}

/// Has an apparatus work on a job: the one named, else the first that will. Answers which.
///
/// # Errors
/// When none will.
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

/// Sets what somebody wishes of a job and hands it over; where nobody takes it, the job is as it was before.
///
/// # Errors
/// Those of the wish, and of [`hand_over`].
pub fn wish_and_hand_over(
    pool: &PoolDir,
    store: &mut dyn Store,
    job: JobId,
    to: Option<&str>,
    wish: impl FnOnce(&mut dyn Store) -> Result<()>,
) -> Result<Name> {
    check_hand_over(pool, store, to)?;
    let before = find(store, job)?;
    wish(store)?;
    let wished = find(store, job)?.state;
    let taken = hand_over(pool, store, job, to);
    if taken.is_err() && wished != before.state {
        store.set_job_state(job, wished, before.state, &before.why)?;
    }
    taken
}

/// What a copy progress table comes to when all of it is done, as one difference.
#[must_use]
pub fn difference(from: Generation, steps: &[Step]) -> Difference {
    let mut volumes: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for step in steps {
        let home = Area {
            len: step.from.home.len,
            ..step.to
        };
        volumes.entry(step.volume).or_default().push(Segment {
            start: step.from.start,
            home,
        });
    }
    let edit = |(volume, mut segments): (VolumeId, Vec<Segment>)| {
        segments.sort_unstable();
        Edit::Map { volume, segments }
    };
    Difference {
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
            ..crate::store::a_job()
        }
    }

    #[test]
    fn a_job_is_worked_on_by_who_acts_for_it_and_by_no_other() {
        let acts = |holder: &str| Workers::new(Some(holder.to_owned()), &[]);
        let running = job(7, JobState::Running);
        for holder in [
            "job 7 by pid 1 since 10:02",
            "volume move v1 by pid 1 since 10:02",
        ] {
            assert_eq!(acts(holder).on(&running), Worker::Acts(holder.into()), "{holder}");
        }
        for holder in [
            "job 77 by pid 1 since 10:02",
            "volume move v10 by pid 1 since 10:02",
            "another controller",
        ] {
            assert_eq!(acts(holder).on(&running), Worker::Nobody, "{holder}");
        }
        let text = phase(&acts("job 8 by pid 1 since 10:02"), &running);
        assert!(
            text.contains("nobody works on it") && text.contains("vctl job cancel 7"),
            "{text}"
        );
        assert!(phase(&Workers::default(), &job(7, JobState::Failed)).contains("vctl job cancel 7"));
    }

    #[test]
    fn a_job_that_is_in_the_way_can_be_paused() {
        assert_eq!(
            way_past("job 7 by pid 123 since 10:02"),
            "; vctl job pause 7 lets it go first"
        );
        assert_eq!(way_past("volume hold v by pid 123 since 10:02"), "");
    }
}
