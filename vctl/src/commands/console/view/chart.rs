//! Charts of the history of one object, the latest point at the right.

use super::Theme;
use crate::commands::console::lists::{below, per_second};
use crate::commands::console::rates::{Point, Trace};
use crate::output::size;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Sparkline};

/// One chart.
#[derive(Clone, Copy)]
pub struct Chart {
    name: &'static str,
    value: fn(&Point) -> Option<u64>,
    words: fn(u64) -> String,
    /// Maps a value to a height.
    height: fn(u64) -> u64,
}

/// Returns one step for each power of two of a latency, so that one slow request does not flatten the others.
fn step(micros: u64) -> u64 {
    u64::from(micros.checked_ilog2().map_or(0, |power| power + 1))
}

const IOPS: Chart = Chart {
    name: "IOPS",
    value: |point| Some(point.requests),
    words: |value| value.to_string(),
    height: |value| value,
};
const READ: Chart = Chart {
    name: "read",
    value: |point| Some(point.read),
    words: per_second,
    height: |value| value,
};
const WRITTEN: Chart = Chart {
    name: "written",
    value: |point| Some(point.written),
    words: per_second,
    height: |value| value,
};
const READ_P99: Chart = Chart {
    name: "p99 r",
    value: |point| point.read_p99_us,
    words: below,
    height: step,
};
const WRITE_P99: Chart = Chart {
    name: "p99 w",
    value: |point| point.write_p99_us,
    words: below,
    height: step,
};
const fn level(name: &'static str, words: fn(u64) -> String) -> Chart {
    Chart {
        name,
        value: |point| point.level,
        words,
        height: |value| value,
    }
}
const HELD: Chart = level("held", |value| value.to_string());
const OPEN: Chart = level("open", |value| value.to_string());
const USED: Chart = level("used", size);

/// Charts of all apparatuses together, most important first.
pub const OF_POOL: &[Chart] = &[IOPS, HELD, READ, WRITTEN, READ_P99, WRITE_P99];
/// Charts of an apparatus.
pub const OF_APPARATUS: &[Chart] = &[IOPS, READ, WRITTEN, READ_P99, WRITE_P99, HELD];
/// Charts of a volume.
pub const OF_VOLUME: &[Chart] = &[IOPS, READ, WRITTEN, READ_P99, WRITE_P99, OPEN];
/// Charts of a disk.
pub const OF_DISK: &[Chart] = &[IOPS, READ, WRITTEN, READ_P99, WRITE_P99, USED];

/// Width of the text beside a chart.
const WORDS: u16 = 24;
/// The smallest width with two charts side by side.
const TWO: u16 = 90;
/// The smallest height of a chart with its text above it.
const HIGH: u16 = 3;

/// Draws as many charts as fit.
pub fn draw(frame: &mut Frame<'_>, area: Rect, theme: Theme, trace: Option<&Trace>, charts: &[Chart]) {
    if area.height == 0 {
        return;
    }
    let columns = if area.width < TWO { 1 } else { 2 };
    let lines = charts.len().div_ceil(columns).min(usize::from(area.height));
    let rows = Layout::vertical(vec![Constraint::Fill(1); lines]).split(area);
    let cells = rows.iter().flat_map(|row| {
        let cells = Layout::horizontal(vec![Constraint::Fill(1); columns])
            .spacing(2)
            .split(*row);
        cells.to_vec()
    });
    for (chart, cell) in charts.iter().zip(cells) {
        draw_one(frame, cell, theme, trace, chart);
    }
}

fn draw_one(frame: &mut Frame<'_>, area: Rect, theme: Theme, trace: Option<&Trace>, chart: &Chart) {
    let high = area.height >= HIGH;
    let [words, bars] = if high {
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area)
    } else {
        Layout::horizontal([Constraint::Length(WORDS.min(area.width / 2)), Constraint::Fill(1)]).areas(area)
    };
    let points = trace.map(|trace| &trace.points);
    let values: Vec<Option<u64>> = points
        .into_iter()
        .flatten()
        .map(|point| point.as_ref().and_then(chart.value))
        .collect();
    let width = usize::from(bars.width);
    let shown = &values[values.len().saturating_sub(width)..];
    let text = |value: Option<u64>| value.map_or("-".into(), chart.words);
    let now = format!("{:<7} {}", chart.name, text(shown.last().copied().flatten()));
    let most = format!("  most {}", text(shown.iter().flatten().max().copied()));
    let (now, most) = (Line::raw(now), Span::styled(most, theme.dim()));
    let text = match (high, words.height) {
        (true, _) => Text::from(Line::from_iter(now.spans.into_iter().chain([most]))),
        (false, 1) => Text::from(now),
        (false, _) => Text::from(vec![now, Line::from(most)]),
    };
    frame.render_widget(Paragraph::new(text), words);
    // The latest point is at the right edge.
    let blank = std::iter::repeat_n(None, width - shown.len());
    let heights = shown.iter().map(|value| value.map(chart.height));
    let line = Sparkline::default()
        .data(blank.chain(heights).collect::<Vec<Option<u64>>>())
        .bar_set(theme.bars())
        .absent_value_symbol(" ")
        .style(if theme.colour {
            Style::new().fg(Color::Green)
        } else {
            Style::new()
        });
    frame.render_widget(line, bars);
}
