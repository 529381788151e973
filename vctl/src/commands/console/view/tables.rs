//! The lists: apparatuses, volumes, disks, jobs.

use super::Theme;
use super::list::{self, Column, Value};
use super::map;
use crate::commands::apparatus;
use crate::commands::console::model::{JobLook, Model, Tab};
use crate::commands::job::{tone, word};
use crate::commands::volume::map::picture;
use crate::output::{Tone, duration, size};
use ::apparatus::ops::apparatus::View;
use ::apparatus::ops::view::{DiskView, VolumeView};
use ::apparatus::store::Severity;
use ::apparatus::units::VolumeId;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

const APPARATUSES: &[Column] = &[
    Column::words("APPARATUS", 11),
    Column::words("STATE", 8),
    Column::number("GEN", 6),
    Column::number("FLIGHT", 6),
    Column::number("HELD", 6),
    Column::number("IOPS", 8),
    Column::number("RATE", 9),
    Column::number("P99-R", 8),
    Column::number("P99-W", 8),
];
const VOLUMES: &[Column] = &[
    Column::words("VOLUME", 12),
    Column::number("SIZE", 7),
    Column::number("OPEN", 4),
    Column::number("IOPS", 7),
    Column::number("RATE", 9),
    Column::words("MAP", 16),
    Column::rest("LIES ON"),
];
const DISKS: &[Column] = &[
    Column::words("DISK", 12),
    Column::words("STATE", 7),
    Column::number("SIZE", 7),
    Column::number("USED", 7),
    Column::number("FREE", 7),
    Column::number("QUAR", 7),
    Column::number("ERRORS", 6),
    Column::words("ALLOC", 5),
    Column::rest("TAGS"),
];
const JOBS: &[Column] = &[
    Column::number("JOB", 4),
    Column::words("STATE", 12),
    Column::words("SUBJECT", 14),
    Column::number("DONE", 4),
    Column::number("RATE", 9),
    Column::number("LEFT", 7),
    Column::number("HELD", 5),
    Column::number("LONGEST", 8),
    Column::rest(""),
];

/// Draws the list of a tab.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab, chosen: Option<usize>) {
    let (columns, rows): (_, Vec<_>) = match tab {
        Tab::Overview | Tab::Events => return,
        Tab::Apparatuses => {
            let rows = model
                .apparatuses()
                .iter()
                .map(|view| of_apparatus(model, theme, view));
            (APPARATUSES, rows.collect())
        }
        Tab::Volumes => {
            let rows = model.volumes().iter().map(|view| of_volume(model, theme, view));
            (VOLUMES, rows.collect())
        }
        Tab::Disks => {
            let rows = model.disks().iter().map(|view| of_disk(model, theme, view));
            (DISKS, rows.collect())
        }
        Tab::Jobs => {
            let rows = model.jobs().into_iter().map(|job| of_job(model, theme, job));
            (JOBS, rows.collect())
        }
    };
    let chosen = chosen.filter(|_| !rows.is_empty());
    list::draw(frame, area, theme, columns, rows, chosen);
}

fn of_apparatus(model: &Model, theme: Theme, view: &View) -> Vec<Value> {
    let name = view.member.name.as_str();
    let now = model
        .traces
        .apparatuses
        .get(name)
        .and_then(super::super::rates::Trace::now);
    let figure = |figure: fn(&::apparatus::wire::message::Figures) -> u64| {
        Value::known(view.figures.as_ref().map(|figures| figure(figures).to_string()))
    };
    vec![
        Value::plain(name),
        Value::word(apparatus::word(view.state), theme),
        figure(|figures| figures.generation.0),
        figure(|figures| figures.in_flight),
        figure(|figures| figures.parked),
        Value::known(now.map(|point| point.requests.to_string())),
        Value::known(now.map(|point| per_second(point.bytes))),
        Value::known(now.and_then(|point| point.read_p99_us).map(below)),
        Value::known(now.and_then(|point| point.write_p99_us).map(below)),
    ]
}

/// Bytes a second.
pub fn per_second(bytes: u64) -> String {
    format!("{}/s", size(bytes))
}

/// A latency known by its bound.
pub fn below(micros: u64) -> String {
    format!("<{}", duration(micros))
}

fn of_volume(model: &Model, theme: Theme, view: &VolumeView) -> Vec<Value> {
    let name = view.record.name.as_str();
    let point = model.traces.volume(name);
    let pool = model.look.as_ref().map(|look| &look.view);
    let bar = pool.map_or(Vec::new(), |pool| {
        map::bar(pool, theme, &view.segments, picture::extents(&view.segments), 16)
    });
    let on: Vec<String> = view.on.iter().map(|(disk, _)| disk.to_string()).collect();
    vec![
        Value::plain(name),
        Value::plain(size(view.record.size.0)),
        Value::known(open(model, view.record.id)),
        Value::plain(point.requests.to_string()),
        Value::plain(per_second(point.bytes)),
        Value::spans(bar),
        Value::plain(on.join(" ")),
    ]
}

/// How often a volume is open, through all apparatuses; none where one does not tell.
fn open(model: &Model, volume: VolumeId) -> Option<String> {
    match model.pulse.as_ref()?.usage.get(&volume) {
        None => Some("0".into()),
        Some(usage) => usage.unknown.is_empty().then(|| usage.open.to_string()),
    }
}

/// What is wrong with a disk, as the last look at all has it.
pub fn fault<'a>(model: &'a Model, disk: &DiskView) -> Option<&'a str> {
    let subject = format!("disk {}", disk.record.name);
    let findings = &model.pulse.as_ref()?.status.findings;
    let grave = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    let found = grave.into_iter().find(|finding| finding.subject == subject);
    found.map(|finding| finding.text.as_str())
}

/// Failed requests, through all apparatuses.
pub fn errors(model: &Model, disk: &DiskView) -> u64 {
    let figures = model
        .apparatuses()
        .iter()
        .filter_map(|view| view.figures.as_ref());
    figures
        .filter_map(|figures| figures.disks.get(disk.record.name.as_str()))
        .map(|io| io.errors)
        .sum()
}

fn of_disk(model: &Model, theme: Theme, view: &DiskView) -> Vec<Value> {
    let pool = model.look.as_ref().map(|look| &look.view);
    let letter = pool.map_or(Span::raw(""), |pool| map::letter(pool, theme, view.record.id));
    let state = match fault(model, view) {
        Some(_) => ("faulty", Tone::Bad),
        None => ("ok", Tone::Good),
    };
    let errors = errors(model, view);
    let tags: Vec<String> = view.record.tags.iter().map(|tag| format!("@{tag}")).collect();
    vec![
        Value::spans(vec![letter, Span::raw(format!(" {}", view.record.name))]),
        Value::word(state, theme),
        Value::plain(size(view.usage.size.0)),
        Value::plain(size(view.usage.used.0)),
        Value::plain(size(view.usage.free.0)),
        Value::plain(size(view.usage.quarantined.0)),
        match errors {
            0 => Value::plain("0"),
            _ => Value::spans(vec![Span::styled(errors.to_string(), theme.tone(Tone::Bad))]),
        },
        match view.record.allocate {
            true => Value::plain("yes"),
            false => Value::word(("no", Tone::Warning), theme),
        },
        Value::plain(tags.join(" ")),
    ]
}

/// How much of a job is done, in per cent.
pub fn percent(job: &JobLook) -> Option<u64> {
    let percent = (u128::from(job.view.done.0) * 100).checked_div(u128::from(job.view.total.0))?;
    u64::try_from(percent).ok()
}

fn of_job(model: &Model, theme: Theme, job: &JobLook) -> Vec<Value> {
    let record = &job.view.record;
    vec![
        Value::plain(record.id.to_string()),
        Value::word((word(record.state), tone(record.state)), theme),
        Value::plain(job.view.subject.clone()),
        Value::known(percent(job).map(|percent| format!("{percent}%"))),
        Value::known(model.paces.rate(record.id).map(per_second)),
        Value::known(model.paces.left_us(&job.view).map(duration)),
        Value::plain(record.held.to_string()),
        Value::plain(duration(record.longest_hold_us)),
    ]
}
