//! Live charts of an apparatus: requests, throughput, latency of reads and of writes.

use super::Theme;
use super::tables::{below, per_second};
use crate::commands::console::rates::{Point, Trace};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Paragraph, Sparkline};

/// One chart.
struct Chart {
    name: &'static str,
    value: fn(&Point) -> Option<u64>,
    words: fn(u64) -> String,
}

const CHARTS: [Chart; 4] = [
    Chart {
        name: "IOPS",
        value: |point| Some(point.requests),
        words: |value| value.to_string(),
    },
    Chart {
        name: "bytes",
        value: |point| Some(point.bytes),
        words: per_second,
    },
    Chart {
        name: "p99 r",
        value: |point| point.read_p99_us,
        words: below,
    },
    Chart {
        name: "p99 w",
        value: |point| point.write_p99_us,
        words: below,
    },
];
/// Columns of the words beside a chart.
const WORDS: u16 = 22;

/// Draws all of them, one below the other, the latest at the right.
pub fn draw(frame: &mut Frame<'_>, area: Rect, theme: Theme, trace: Option<&Trace>) {
    let rows = Layout::vertical([Constraint::Fill(1); CHARTS.len()]).split(area);
    for (chart, row) in CHARTS.iter().zip(rows.iter()) {
        draw_one(frame, *row, theme, trace, chart);
    }
}

fn draw_one(frame: &mut Frame<'_>, area: Rect, theme: Theme, trace: Option<&Trace>, chart: &Chart) {
    let [words, bars] = Layout::horizontal([Constraint::Length(WORDS), Constraint::Fill(1)]).areas(area);
    let points = trace.map(|trace| &trace.points);
    let values: Vec<Option<u64>> = points
        .into_iter()
        .flatten()
        .map(|point| point.as_ref().and_then(chart.value))
        .collect();
    let width = usize::from(bars.width);
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().flatten().max().copied();
    let said = |value: Option<u64>| value.map_or("-".into(), chart.words);
    let mut lines = vec![Line::styled(
        format!("{:<6}{}", chart.name, said(shown.last().copied().flatten())),
        Style::new(),
    )];
    if area.height > 1 {
        lines.push(Line::styled(format!("  most {}", said(most)), theme.dim()));
    }
    frame.render_widget(Paragraph::new(Text::from(lines)), words);
    // The latest stands at the right edge.
    let blank = std::iter::repeat_n(None, width - shown.len());
    let style = if theme.colour {
        Style::new().fg(Color::Green)
    } else {
        Style::new()
    };
    let line = Sparkline::default()
        .data(blank.chain(shown.iter().copied()).collect::<Vec<Option<u64>>>())
        .bar_set(theme.bars())
        .absent_value_symbol(" ")
        .style(style);
    frame.render_widget(line, bars);
}
