//! Details of a job.

use super::Details;
use crate::commands::console::lists::{per_second, percent};
use crate::commands::console::model::{JobLook, Model};
use crate::commands::console::view::{Theme, map};
use crate::output::{count, duration, printable, size};
use apparatus::admin::view::PoolView;
use apparatus::model::units::VolumeId;
use ratatui::text::{Line, Span};
use std::collections::BTreeSet;
use unicode_width::UnicodeWidthStr;

pub(super) fn known<'a>(model: &'a Model, theme: Theme, width: usize) -> Option<Details<'a>> {
    let (job, look) = (model.job()?, model.look.as_ref()?);
    let record = &job.view.record;
    let rate = model.paces.rate(record.id).map_or("-".into(), per_second);
    let left = model.paces.left_us(&job.view).map_or("-".into(), duration);
    let limit = record
        .limits
        .rate
        .map_or("no limit".into(), |rate| per_second(rate.0));
    let held = count(record.held, "host request");
    let mut lines = vec![
        Line::raw(format!(
            "{}: {} of {} moved, {} copied; {rate} (limit: {limit}), {left} left",
            printable(&job.view.subject),
            size(job.view.done.0),
            size(job.view.total.0),
            size(record.copied.0)
        )),
        Line::raw(match record.longest_hold_us {
            0 => format!("{held} held"),
            longest => format!("{held} held, longest hold {}", duration(longest)),
        }),
        Line::from(vec![
            Span::styled("why: ", theme.heading()),
            Span::raw(printable(&job.phase)),
        ]),
        Line::styled(format!("requested by: {}", printable(&record.title)), theme.dim()),
    ];
    lines.extend(maps(&look.view, theme, job, width));
    Some(Details {
        title: format!("job {}", record.id),
        lines,
        done: Some(percent(job).unwrap_or(100)),
        ..Details::default()
    })
}

/// Returns the present placement of the volumes that it moves.
fn maps(pool: &PoolView, theme: Theme, job: &JobLook, width: usize) -> Vec<Line<'static>> {
    let moved: BTreeSet<VolumeId> = job.view.steps.iter().map(|step| step.volume).collect();
    let moved = pool.volumes.iter().filter(|view| moved.contains(&view.record.id));
    let line = |view: &apparatus::admin::view::VolumeView| {
        let name = format!("{} ", theme.cut_middle(view.record.name.as_str(), width / 3));
        let room = width.saturating_sub(name.width());
        let bar = map::whole(pool, theme, &view.segments, room);
        Line::from_iter(std::iter::once(Span::raw(name)).chain(bar))
    };
    moved.map(line).collect()
}
