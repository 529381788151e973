//! Metrics as Prometheus text: of a whole pool, or of one apparatus. Names and units follow the
//! conventions of Prometheus: they begin with `apparatus_`, use base units, and counters end in `_total`.

mod apparatus;
mod text;

pub use apparatus::of_apparatus;
pub use text::Text;

use super::apparatus::{self as apparatuses, State};
use super::job;
use super::status::{self, Status, StatusInput};
use super::view::{DiskView, PoolView, VolumeView};
use crate::model::change::ChangeState;
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::job::JobState;
use crate::model::member::MemberState;
use crate::store::{ChangeStore, Store};
use text::{counter, gauge, seconds};

/// Returns the metrics of the pool, its disks, volumes and jobs, and of each apparatus.
///
/// # Errors
/// Returns the errors of the store.
pub fn of_pool(pool: &PoolDir, store: &mut dyn Store) -> Result<Text> {
    let mut text = Text::default();
    let seen = StatusInput::look(pool, store)?;
    let view = &seen.view;
    header(&mut text, view);
    view.disks
        .iter()
        .for_each(|disk| of_disk(&mut text, store, view, disk));
    view.volumes
        .iter()
        .for_each(|volume| of_volume(&mut text, volume));
    seen.apparatuses
        .iter()
        .for_each(|each| of_member(&mut text, each));
    of_jobs(&mut text, pool, &seen.jobs)?;
    of_changes(&mut text, store)?;
    of_status(&mut text, &status::of(pool, store, &seen)?);
    Ok(text)
}

fn header(text: &mut Text, view: &PoolView) {
    let uuid = view.header.uuid.to_string();
    text.add(gauge("apparatus_pool_info", "The pool."), &[("pool", &uuid)], 1);
    let generation = gauge("apparatus_pool_generation", "Number of the current table.");
    text.add(generation, &[], view.header.generation);
    let layout = gauge("apparatus_pool_layout", "Number of the last layout made durable.");
    text.add(layout, &[], view.header.layout);
    let term = counter(
        "apparatus_pool_terms_total",
        "How often a controller has taken the lock.",
    );
    text.add(term, &[], view.header.term);
    let membership = counter(
        "apparatus_pool_membership_changes_total",
        "How often an apparatus has joined, left, been fenced or rejoined.",
    );
    text.add(membership, &[], view.header.membership);
    let extent = gauge("apparatus_pool_extent_bytes", "Unit of allocation.");
    text.add(extent, &[], view.header.extent_size.bytes());
    if let Some(percent) = view.capacity().percent() {
        let used = gauge(
            "apparatus_pool_used_ratio",
            "How much of what new volumes may be placed on is in use, 0 to 1.",
        );
        text.add(used, &[], format_args!("{}.{:02}", percent / 100, percent % 100));
    }
}

fn of_disk(text: &mut Text, store: &mut dyn Store, view: &PoolView, disk: &DiskView) {
    let labels = [("disk", disk.record.name.as_str())];
    let usage = disk.usage;
    let sizes = [
        (
            gauge("apparatus_disk_size_bytes", "Usable size of a disk."),
            usage.size,
        ),
        (
            gauge("apparatus_disk_used_bytes", "Bytes of volumes and of the label."),
            usage.used,
        ),
        (
            gauge(
                "apparatus_disk_reserved_bytes",
                "Bytes kept for changes and jobs.",
            ),
            usage.reserved,
        ),
        (
            gauge(
                "apparatus_disk_quarantined_bytes",
                "Freed bytes that some apparatus may still use.",
            ),
            usage.quarantined,
        ),
        (gauge("apparatus_disk_free_bytes", "Free bytes."), usage.free),
        (
            gauge("apparatus_disk_largest_free_bytes", "Longest run of free bytes."),
            usage.largest_free,
        ),
    ];
    sizes
        .into_iter()
        .for_each(|(family, bytes)| text.add(family, &labels, bytes));
    let reserve = gauge(
        "apparatus_disk_reserve_bytes",
        "Bytes that ordinary allocations leave free.",
    );
    let extent = view.header.extent_size.bytes();
    text.add(reserve, &labels, disk.record.reserve.saturating_mul(extent));
    let allocate = gauge(
        "apparatus_disk_allocate",
        "1 if anything new is placed on the disk.",
    );
    text.add(allocate, &labels, u8::from(disk.record.allocate));
    let volumes = gauge(
        "apparatus_disk_volumes",
        "Volumes that lie on the disk, wholly or in part.",
    );
    text.add(volumes, &labels, disk.volumes);
    let sound = super::disk::fault(store, &disk.record, &view.header).is_none();
    let up = gauge("apparatus_disk_up", "1 if the disk opens and its label is right.");
    text.add(up, &labels, u8::from(sound));
}

fn of_volume(text: &mut Text, volume: &VolumeView) {
    let name = volume.record.name.as_str();
    let size = gauge("apparatus_volume_size_bytes", "Size of a volume.");
    text.add(size, &[("volume", name)], volume.record.size);
    let segments = gauge("apparatus_volume_segments", "Segments of a volume.");
    text.add(segments, &[("volume", name)], volume.segments.len());
    let placed = gauge(
        "apparatus_volume_placed_bytes",
        "Bytes of a volume that lie on a disk.",
    );
    for (disk, bytes) in &volume.on {
        text.add(placed, &[("volume", name), ("disk", disk.as_str())], bytes);
    }
}

fn of_member(text: &mut Text, view: &apparatuses::ApparatusView) {
    let labels = [("apparatus", view.member.name.as_str())];
    let up = gauge(
        "apparatus_up",
        "1 if the apparatus is in the control range and answers.",
    );
    text.add(
        up,
        &labels,
        u8::from(matches!(view.state, State::Serving | State::Ending)),
    );
    let fenced = gauge(
        "apparatus_fenced",
        "1 if the apparatus is out of the control range.",
    );
    let is_fenced = view.member.state == MemberState::Fenced;
    text.add(fenced, &labels, u8::from(is_fenced));
    if let Some(figures) = &view.figures {
        of_apparatus(text, figures);
    }
}

fn of_jobs(text: &mut Text, pool: &PoolDir, jobs: &[job::JobView]) -> Result<()> {
    let states = [
        ("running", JobState::Running),
        ("paused", JobState::Paused),
        ("cancelled", JobState::Cancelled),
        ("rolling-back", JobState::RollingBack),
        ("done", JobState::Done),
        ("failed", JobState::Failed),
    ];
    for (word, state) in states {
        let count = jobs.iter().filter(|job| job.record.state == state).count();
        text.add(
            gauge("apparatus_jobs", "Jobs by state."),
            &[("state", word)],
            count,
        );
    }
    jobs.iter()
        .filter(|job| job::wants_work(job.record.state) || job.record.state == JobState::Paused)
        .try_for_each(|job| of_job(text, pool, job))
}

fn of_job(text: &mut Text, pool: &PoolDir, view: &job::JobView) -> Result<()> {
    let id = view.record.id.to_string();
    let labels = [("job", id.as_str()), ("subject", view.subject.as_str())];
    let worked_on = job::worker(pool, view.record.id)?.is_some();
    let working = gauge("apparatus_job_working", "1 if a process works on the job now.");
    text.add(working, &labels, u8::from(worked_on));
    let done = gauge("apparatus_job_done_bytes", "Bytes that a job has moved.");
    text.add(done, &labels, view.done);
    let total = gauge("apparatus_job_size_bytes", "Bytes that a job has to move.");
    text.add(total, &labels, view.total);
    let copied = counter(
        "apparatus_job_copied_bytes_total",
        "Bytes that a job has copied, holes not counted.",
    );
    text.add(copied, &labels, view.record.copied);
    let held = counter(
        "apparatus_job_held_requests_total",
        "Host requests that a job has held.",
    );
    text.add(held, &labels, view.record.held);
    let longest = gauge("apparatus_job_longest_hold_seconds", "Longest hold of a job.");
    text.add(longest, &labels, seconds(view.record.longest_hold_us));
    Ok(())
}

fn of_changes(text: &mut Text, store: &mut dyn ChangeStore) -> Result<()> {
    let unfinished = store.unfinished()?;
    let family = gauge("apparatus_changes", "Changes that are not finished yet.");
    for (word, state) in [
        ("prepared", ChangeState::Prepared),
        ("committed", ChangeState::Committed),
        ("hardened", ChangeState::Persisted),
    ] {
        let count = unfinished.iter().filter(|change| change.state == state).count();
        text.add(family, &[("state", word)], count);
    }
    Ok(())
}

/// Adds the findings of `vctl status` as metrics for alerts.
fn of_status(text: &mut Text, status: &Status) {
    let findings = gauge(
        "apparatus_pool_findings",
        "What the pool's status lists, by severity.",
    );
    for (word, severity) in [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("error", Severity::Error),
    ] {
        let count = status
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        text.add(findings, &[("severity", word)], count);
    }
    let acting = gauge(
        "apparatus_pool_controllers",
        "Controllers that hold the lock now, 0 or 1.",
    );
    text.add(acting, &[], u8::from(status.controller.is_some()));
}
