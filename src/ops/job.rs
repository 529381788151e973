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
use crate::store::{JobKind, JobRecord, JobState, MemberState, Step, Store};
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
    /// Its copy progress table.
    pub steps: Vec<Step>,
    /// What it moves, by name.
    pub subject: String,
    /// Bytes moved of this table.
    pub done: ByteCount,
    /// Bytes of this table.
    pub total: ByteCount,
}

/// All jobs.
///
/// # Errors
/// The store's.
pub fn list(store: &mut dyn Store) -> Result<Vec<View>> {
    let pool = PoolView::load(store)?;
    let jobs = store.jobs()?;
    jobs.into_iter()
        .map(|record| view(store, &pool, record))
        .collect()
}

/// One job.
///
/// # Errors
/// `NotFound`; the store's.
pub fn show(store: &mut dyn Store, id: JobId) -> Result<View> {
    let record = find(store, id)?;
    let pool = PoolView::load(store)?;
    view(store, &pool, record)
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
pub fn view(store: &mut dyn Store, pool: &PoolView, record: JobRecord) -> Result<View> {
    let steps = store.steps(record.id)?;
    let (done, total) = progress(&steps, pool.header.extent_size);
    let subject = match &record.kind {
        JobKind::Move { volume } => format!("volume {}", pool.volume_name(*volume)),
        JobKind::Evacuate { disk, .. } => format!("disk {}", pool.disk_name(*disk)),
    };
    Ok(View {
        record,
        steps,
        subject,
        done,
        total,
    })
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

/// Which apparatus has taken a job on, even if it has yet to take the arbitration for it.
#[must_use]
pub fn taken_by(job: JobId, apparatuses: &[apparatus::View]) -> Option<&Name> {
    let has = |view: &&apparatus::View| {
        view.figures
            .as_ref()
            .is_some_and(|figures| figures.jobs.contains(&job))
    };
    apparatuses.iter().find(has).map(|view| &view.member.name)
}

/// What whoever works on a job holds the arbitration for.
#[must_use]
pub fn purpose(job: JobId) -> String {
    format!("job {job}")
}

/// What a job is doing, or what keeps it and would free it.
///
/// # Errors
/// When the run directory cannot be read.
pub fn phase(pool: &PoolDir, job: &View) -> Result<String> {
    let record = &job.record;
    let why = if record.why.is_empty() {
        String::new()
    } else {
        format!(": {}", record.why)
    };
    Ok(match record.state {
        JobState::Done => "all is where it was to go".into(),
        JobState::Failed => format!("gave up{why}; what was moved stays where it is"),
        JobState::Cancelled => format!("cancelled{why}; what was moved stays where it is"),
        JobState::Paused => format!("paused{why}; vctl job resume {}", record.id),
        JobState::Running | JobState::RollingBack => {
            let way = if record.back { "moving back" } else { "moving" };
            match ArbitrationLock::holder(pool)? {
                Some(holder) if holder.starts_with(&format!("{} ", purpose(record.id))) => {
                    format!("{way}{why}, {holder}")
                }
                Some(holder) => format!(
                    "waits for the controller that acts: {holder}{}",
                    way_past(&holder)
                ),
                None => format!("nobody works on it; vctl job resume {}", record.id),
            }
        }
    })
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

/// Has an apparatus work on a job: the one named, else the first that will. Answers which.
///
/// # Errors
/// When none will.
pub fn hand_over(pool: &PoolDir, store: &mut dyn Store, job: JobId, to: Option<&str>) -> Result<Name> {
    let uuid = store.header()?.uuid;
    let (_, members) = store.members()?;
    let mut refused = Vec::new();
    for member in members
        .iter()
        .filter(|member| to.is_none_or(|name| name == member.name.as_str()))
    {
        if member.state != MemberState::Joined || !lives(pool, member)? {
            refused.push(format!("{} does not serve", member.name));
            continue;
        }
        match client::ask(pool, uuid, &member.name, Request::RunJob { job }, PATIENCE) {
            Ok(Answer::Accepted) => return Ok(member.name.clone()),
            Ok(other) => refused.push(format!("{} answered {other:?}", member.name)),
            Err(error) => refused.push(error.to_string()),
        }
    }
    let why = if refused.is_empty() {
        "no apparatus runs that could work on it".into()
    } else {
        refused.join("; ")
    };
    Err(Error::failed(format!("job {job}"), why).hint(format!("work on it here: vctl job resume {job}")))
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

    #[test]
    fn a_job_that_is_in_the_way_can_be_paused() {
        assert_eq!(
            way_past("job 7 by pid 123 since 10:02"),
            "; vctl job pause 7 lets it go first"
        );
        assert_eq!(way_past("volume hold v by pid 123 since 10:02"), "");
    }
}
