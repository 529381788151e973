//! Details of the selected apparatus, volume, disk or job: text, a bar, charts.

mod apparatus;
mod disk;
mod job;
mod volume;

use super::Theme;
use super::chart::{self, Chart};
use crate::commands::console::model::{Model, Tab};
use crate::commands::console::rates::Trace;
use crate::output::Tone;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Text};
use ratatui::widgets::{LineGauge, Paragraph, Wrap};
use unicode_width::UnicodeWidthStr;

/// The details of one object.
#[derive(Default)]
struct Details<'a> {
    title: String,
    lines: Vec<Line<'static>>,
    /// The completed share in per cent.
    done: Option<u64>,
    trace: Option<&'a Trace>,
    charts: &'static [Chart],
}

/// The smallest height for charts.
const LEAST_CHARTS: u16 = 1;

/// Draws the details.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab) {
    let width = usize::from(area.width);
    let known = match tab {
        Tab::Overview | Tab::Events => None,
        Tab::Apparatuses => apparatus::known(model, theme),
        Tab::Volumes => volume::known(model, theme, width),
        Tab::Disks => disk::known(model, theme, width),
        Tab::Jobs => job::known(model, theme, width),
    };
    match known {
        Some(known) => draw_known(frame, area, model, theme, known),
        None => frame.render_widget(
            Paragraph::new(nothing(model, tab)).wrap(Wrap { trim: false }),
            area,
        ),
    }
}

/// Explains why nothing is selected, and the way out.
fn nothing(model: &Model, tab: Tab) -> &'static str {
    if model.count(tab) > 0 {
        return "no line passes the filter: Esc removes it";
    }
    match tab {
        Tab::Overview | Tab::Events => "",
        Tab::Apparatuses => "no apparatus runs: n starts one (vctl apparatus start NAME MOUNTPOINT)",
        Tab::Volumes => "there are no volumes yet: n creates one (vctl volume create NAME SIZE)",
        Tab::Disks => "there are no disks yet: n adds one (vctl disk add PATH)",
        Tab::Jobs => "there are no jobs; m moves a volume, e empties a disk",
    }
}

fn draw_known(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, known: Details<'_>) {
    let rest = super::titled(frame, area, theme, &known.title);
    let mut lines = known.lines;
    if known.title.width() + super::AROUND_TITLE > usize::from(area.width) {
        lines.insert(0, Line::styled(known.title, theme.heading()));
    }
    let words = Paragraph::new(Text::from(lines)).wrap(Wrap { trim: false });
    let needed = u16::try_from(words.line_count(rest.width)).unwrap_or(u16::MAX);
    let gauge = u16::from(known.done.is_some());
    let room = rest.height.saturating_sub(gauge);
    let charts = if known.charts.is_empty() || room < needed + LEAST_CHARTS {
        0
    } else {
        room - needed
    };
    let parts = [
        Constraint::Length(gauge),
        Constraint::Fill(1),
        Constraint::Length(charts),
    ];
    let [bar, text, below] = Layout::vertical(parts).areas(rest);
    if let Some(percent) = known.done {
        draw_gauge(frame, bar, theme, percent);
    }
    let scroll = if model.zoomed {
        model.back.min(usize::from(needed.saturating_sub(text.height)))
    } else {
        0
    };
    let scroll = u16::try_from(scroll).unwrap_or(0);
    frame.render_widget(words.scroll((scroll, 0)), text);
    chart::draw(frame, below, theme, known.trace, known.charts);
}

fn draw_gauge(frame: &mut Frame<'_>, area: Rect, theme: Theme, percent: u64) {
    let percent = u32::try_from(percent.min(100)).unwrap_or(100);
    let gauge = LineGauge::default()
        .ratio(f64::from(percent) / 100.0)
        .label(format!("{percent:>3}%"))
        .filled_symbol("#")
        .unfilled_symbol(".")
        .filled_style(theme.tone(Tone::Good));
    frame.render_widget(gauge, area);
}
