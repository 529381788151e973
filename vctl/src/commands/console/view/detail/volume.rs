//! Details of a volume.

use super::Details;
use crate::commands::console::lists::{per_second, percent};
use crate::commands::console::model::{JobLook, Model};
use crate::commands::console::view::{Theme, chart, map};
use crate::commands::volume::map::picture;
use crate::output::{count, printable, size};
use apparatus::admin::view::{PoolView, VolumeView};
use apparatus::model::units::VolumeId;
use ratatui::text::Line;

pub(super) fn known<'a>(model: &'a Model, theme: Theme, width: usize) -> Option<Details<'a>> {
    let (view, look) = (model.volume()?, model.look.as_ref()?);
    let (pool, record) = (&look.view, &view.record);
    let name = record.name.as_str();
    let point = model.traces.volumes.now(name).unwrap_or_default();
    let access = if record.read_only { "read-only" } else { "writable" };
    let mut lines = vec![
        Line::raw(format!(
            "{}, {access}, mode {:04o}, owner {}:{}, {}; {} requests a second, {}",
            size(record.size.0),
            record.mode,
            record.uid,
            record.gid,
            count(view.segments.len(), "segment"),
            point.requests,
            per_second(point.bytes())
        )),
        Line::from(map::whole(pool, theme, &view.segments, width)),
        map::legend(pool, theme, &view.segments),
    ];
    lines.extend(users(model, record.id));
    for job in model.open_jobs() {
        lines.extend(after(pool, theme, view, job, width));
    }
    Some(Details {
        title: format!("volume {name}"),
        lines,
        trace: model.traces.volumes.trace(name),
        charts: chart::OF_VOLUME,
        ..Details::default()
    })
}

/// Returns the users of a volume.
fn users(model: &Model, volume: VolumeId) -> Option<Line<'static>> {
    let usage = model.pulse.as_ref()?.usage.get(&volume)?;
    let mut users: Vec<String> = usage.users.iter().map(ToString::to_string).collect();
    users.extend(
        usage
            .unknown
            .iter()
            .map(|name| format!("unknown users through apparatus {name}")),
    );
    let handles = count(usage.open, "open handle");
    Some(Line::raw(printable(&format!("{handles}: {}", users.join(", ")))))
}

/// Returns the placement after a job, if that moves any part of the volume.
fn after(
    pool: &PoolView,
    theme: Theme,
    view: &VolumeView,
    job: &JobLook,
    width: usize,
) -> Vec<Line<'static>> {
    let id = view.record.id;
    if job.view.steps.iter().all(|step| step.volume != id) {
        return Vec::new();
    }
    let extents = picture::extents(&view.segments);
    let after = picture::after(id, &view.segments, &job.view.steps);
    let done = percent(job).map_or(String::new(), |percent| format!(", {percent}% done"));
    vec![
        Line::raw(format!(
            "after job {}{done}: {}",
            job.view.record.id,
            printable(&job.phase)
        )),
        Line::from(map::bar(pool, theme, &after, extents, width)),
        map::legend(pool, theme, &after),
    ]
}
