//! What is known of the chosen apparatus, volume, disk or job.

use super::tables::{self, per_second};
use super::{Theme, chart, map};
use crate::commands::console::model::{JobLook, Model, Tab};
use crate::commands::volume::map::picture;
use crate::output::{Tone, count, duration, printable, size};
use apparatus::ops::apparatus::View;
use apparatus::ops::job::wants_work;
use apparatus::ops::view::{DiskView, PoolView, VolumeView};
use apparatus::store::JobState;
use apparatus::units::VolumeId;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab) {
    match tab {
        Tab::Overview | Tab::Events => {}
        Tab::Apparatuses => match model.apparatus() {
            Some(view) => of_apparatus(frame, area, model, theme, view),
            None => nothing(
                frame,
                area,
                "no apparatus runs: vctl apparatus start NAME MOUNTPOINT",
            ),
        },
        Tab::Volumes => match (model.volume(), &model.look) {
            (Some(view), Some(look)) => of_volume(frame, area, model, theme, (&look.view, view)),
            _ => nothing(
                frame,
                area,
                "there are no volumes yet: vctl volume create NAME SIZE",
            ),
        },
        Tab::Disks => match (model.disk(), &model.look) {
            (Some(view), Some(look)) => of_disk(frame, area, model, theme, (&look.view, view)),
            _ => nothing(frame, area, "there are no disks yet: vctl disk add PATH"),
        },
        Tab::Jobs => match (model.job(), &model.look) {
            (Some(job), Some(look)) => of_job(frame, area, model, theme, (&look.view, job)),
            _ => nothing(
                frame,
                area,
                "there are no jobs; m moves a volume, e empties a disk",
            ),
        },
    }
}

fn nothing(frame: &mut Frame<'_>, area: Rect, text: &str) {
    frame.render_widget(Paragraph::new(text.to_owned()), area);
}

fn lines(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    let text = Paragraph::new(Text::from(lines)).wrap(Wrap { trim: false });
    frame.render_widget(text, area);
}

fn of_apparatus(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, view: &View) {
    let member = &view.member;
    let rest = super::titled(frame, area, theme, &format!("apparatus {}", member.name));
    let mut text = vec![Line::raw(format!(
        "at {}  process {}  life {}",
        printable(&member.mount.display().to_string()),
        member.pid,
        member.incarnation
    ))];
    if let Some(figures) = &view.figures {
        text.push(Line::raw(format!(
            "up {}  term {}  holds {}  held {} ever, {} now, longest {}  threads {}",
            duration(figures.uptime_us),
            figures.term,
            figures.holds,
            figures.ever_parked,
            size(figures.parked_bytes),
            duration(figures.longest_parked_us),
            figures.threads
        )));
    }
    if let Some(fault) = &view.fault {
        text.push(Line::styled(printable(fault), theme.tone(Tone::Bad)));
    }
    let rows = u16::try_from(text.len()).unwrap_or(2);
    let [words, charts] = Layout::vertical([Constraint::Length(rows), Constraint::Fill(1)]).areas(rest);
    frame.render_widget(Paragraph::new(Text::from(text)), words);
    let trace = model.traces.apparatuses.get(member.name.as_str());
    chart::draw(frame, charts, theme, trace);
}

/// Who uses a volume.
fn users(model: &Model, volume: VolumeId) -> Option<Line<'static>> {
    let usage = model.pulse.as_ref()?.usage.get(&volume)?;
    let mut users: Vec<String> = usage.users.iter().map(ToString::to_string).collect();
    users.extend(
        usage
            .unknown
            .iter()
            .map(|name| format!("whoever apparatus {name} does not tell of")),
    );
    let handles = count(usize::try_from(usage.open).unwrap_or(usize::MAX), "open handle");
    Some(Line::raw(printable(&format!("{handles}: {}", users.join(", ")))))
}

fn of_volume(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    theme: Theme,
    (pool, view): (&PoolView, &VolumeView),
) {
    let record = &view.record;
    let rest = super::titled(frame, area, theme, &format!("volume {}", record.name));
    let width = usize::from(rest.width);
    let extents = picture::extents(&view.segments);
    let point = model.traces.volume(record.name.as_str());
    let access = if record.read_only { "read-only" } else { "writable" };
    let mut text = vec![
        Line::raw(format!(
            "{}, {access}, mode {:04o}, {}; {} requests a second, {}",
            size(record.size.0),
            record.mode,
            count(view.segments.len(), "segment"),
            point.requests,
            per_second(point.bytes)
        )),
        Line::from(map::bar(pool, theme, &view.segments, extents, width)),
        map::legend(pool, theme, &view.segments),
    ];
    text.extend(users(model, record.id));
    for job in model.jobs() {
        let state = job.view.record.state;
        let moves = job.view.steps.iter().any(|step| step.volume == record.id);
        if !moves || !(wants_work(state) || state == JobState::Paused) {
            continue;
        }
        let after = picture::after(record.id, &view.segments, &job.view.steps);
        let done = tables::percent(job).map_or(String::new(), |percent| format!(", {percent}% done"));
        text.push(Line::raw(format!(
            "after job {}{done}: {}",
            job.view.record.id,
            printable(&job.phase)
        )));
        text.push(Line::from(map::bar(pool, theme, &after, extents, width)));
        text.push(map::legend(pool, theme, &after));
    }
    lines(frame, rest, text);
}

fn of_disk(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    theme: Theme,
    (pool, view): (&PoolView, &DiskView),
) {
    let record = &view.record;
    let rest = super::titled(frame, area, theme, &format!("disk {}", record.name));
    let usage = view.usage;
    let mut text = vec![
        Line::raw(format!("at {}", printable(&record.path.display().to_string()))),
        usage_bar(theme, view, usize::from(rest.width)),
        Line::raw(format!(
            "# used {}   r for jobs {}   q quarantined {}   . free {}, longest run {}",
            size(usage.used.0),
            size(usage.reserved.0),
            size(usage.quarantined.0),
            size(usage.free.0),
            size(usage.largest_free.0)
        )),
    ];
    let on = pool.volumes.iter().filter_map(|volume| {
        let here = volume.on.iter().find(|(disk, _)| *disk == record.name)?;
        Some(format!("{} {}", volume.record.name, size(here.1.0)))
    });
    let on: Vec<String> = on.collect();
    text.push(Line::raw(format!(
        "volumes: {}",
        if on.is_empty() {
            "none".into()
        } else {
            on.join(", ")
        }
    )));
    if !record.allocate {
        let hint = format!("takes nothing new; vctl disk set {} --allocate yes", record.name);
        text.push(Line::styled(hint, theme.tone(Tone::Warning)));
    }
    if let Some(fault) = tables::fault(model, view) {
        text.push(Line::styled(printable(fault), theme.tone(Tone::Bad)));
    }
    let errors = tables::errors(model, view);
    if errors > 0 {
        let text_of = format!("{errors} requests failed; vctl events says which, e empties it");
        text.push(Line::styled(text_of, theme.tone(Tone::Bad)));
    }
    lines(frame, rest, text);
}

/// Signs tell the parts apart without colour.
fn usage_bar(theme: Theme, view: &DiskView, width: usize) -> Line<'static> {
    let usage = view.usage;
    let cells = |bytes: u64| {
        let cells = u128::from(bytes) * width as u128 / u128::from(usage.size.0.max(1));
        // What is there shows, however little it is.
        usize::try_from(cells)
            .unwrap_or(width)
            .max(usize::from(bytes > 0))
    };
    let parts = [
        ("#", usage.used.0, Some(Tone::Good)),
        ("r", usage.reserved.0, Some(Tone::Warning)),
        ("q", usage.quarantined.0, Some(Tone::Bad)),
    ];
    let mut left = width;
    let mut spans = Vec::new();
    for (sign, bytes, tone) in parts {
        let count = cells(bytes).min(left);
        left -= count;
        let style = tone.map(|tone| theme.tone(tone)).unwrap_or_default();
        spans.push(Span::styled(sign.repeat(count), style));
    }
    spans.push(Span::raw(".".repeat(left)));
    Line::from(spans)
}

fn of_job(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    theme: Theme,
    (pool, job): (&PoolView, &JobLook),
) {
    let record = &job.view.record;
    let rest = super::titled(frame, area, theme, &format!("job {}", record.id));
    let rate = model.paces.rate(record.id).map_or("-".into(), per_second);
    let left = model.paces.left_us(&job.view).map_or("-".into(), duration);
    let limit = record
        .limits
        .rate
        .map_or("no limit".into(), |rate| per_second(rate.0));
    let mut text = vec![
        progress(job, theme, usize::from(rest.width)),
        Line::raw(format!(
            "{} of {} moved, {} copied; {rate} (limit: {limit}), {left} left",
            size(job.view.done.0),
            size(job.view.total.0),
            size(record.copied.0)
        )),
        Line::raw(match record.longest_hold_us {
            0 => format!("{} held", count(record.held, "host request")),
            longest => format!(
                "{} held, longest hold {}",
                count(record.held, "host request"),
                duration(longest)
            ),
        }),
        Line::from(vec![
            Span::styled("why: ", theme.heading()),
            Span::raw(printable(&job.phase)),
        ]),
        Line::styled(format!("asked for by: {}", printable(&record.title)), theme.dim()),
    ];
    let mut volumes: Vec<_> = job.view.steps.iter().map(|step| step.volume).collect();
    volumes.dedup();
    for view in pool
        .volumes
        .iter()
        .filter(|view| volumes.contains(&view.record.id))
    {
        let extents = picture::extents(&view.segments);
        let name = format!("{:<12} ", view.record.name);
        let room = usize::from(rest.width).saturating_sub(name.chars().count());
        let mut spans = vec![Span::raw(name)];
        spans.extend(map::bar(pool, theme, &view.segments, extents, room));
        text.push(Line::from(spans));
    }
    lines(frame, rest, text);
}

fn progress(job: &JobLook, theme: Theme, width: usize) -> Line<'static> {
    let percent = tables::percent(job).unwrap_or(100).min(100);
    let words = format!("] {percent:>3}%");
    let room = width.saturating_sub(words.len() + 1);
    let done = room * usize::try_from(percent).unwrap_or(100) / 100;
    Line::from(vec![
        Span::raw("["),
        Span::styled("#".repeat(done), theme.tone(Tone::Good)),
        Span::raw(".".repeat(room - done)),
        Span::raw(words),
    ])
}
