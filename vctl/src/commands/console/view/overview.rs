//! The overview: findings, the first lines of each list, charts of the whole pool.

use super::{Theme, chart, list};
use crate::commands::console::model::{Model, Tab};
use crate::commands::status;
use crate::output::printable;
use apparatus::admin::status::Finding;
use apparatus::model::event::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};

/// The smallest width with lists side by side.
const WIDE: u16 = 120;
/// Height of the charts, with their title.
const CHARTS: u16 = 4;

/// Draws the overview.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let columns: &[&[Tab]] = if area.width >= WIDE {
        &[&[Tab::Apparatuses, Tab::Volumes], &[Tab::Disks, Tab::Jobs]]
    } else {
        &[&Tab::LISTS]
    };
    let found = findings(model, theme);
    let lines = u16::try_from(found.line_count(area.width)).unwrap_or(u16::MAX);
    let lines = lines.min((area.height / 4).max(2));
    let room = area.height.saturating_sub(lines);
    let wanted = columns.iter().map(|tabs| height(model, tabs));
    let left = room.saturating_sub(wanted.max().unwrap_or(0));
    let charts = if left >= CHARTS { left } else { 0 };
    let parts = [
        Constraint::Length(lines),
        Constraint::Fill(1),
        Constraint::Length(charts),
    ];
    let [above, middle, below] = Layout::vertical(parts).areas(area);
    frame.render_widget(found, above);
    let places = Layout::horizontal(vec![Constraint::Fill(1); columns.len()])
        .spacing(2)
        .split(middle);
    let mut rest = Rect::ZERO;
    for (tabs, place) in columns.iter().zip(places.iter()) {
        rest = draw_lists(frame, *place, model, theme, tabs);
    }
    // If one column is long, the charts use the room below the other.
    let place = if charts > 0 { below } else { rest };
    if place.height >= CHARTS {
        let rest = super::titled(frame, place, theme, "all apparatuses");
        chart::draw(frame, rest, theme, Some(&model.traces.pool), chart::OF_POOL);
    }
}

fn lines_of(model: &Model, tab: Tab) -> u16 {
    u16::try_from(model.count(tab)).unwrap_or(u16::MAX).max(1)
}

/// Returns the height of these lists with their headings.
fn height(model: &Model, tabs: &[Tab]) -> u16 {
    let heights = tabs.iter().map(|tab| lines_of(model, *tab).saturating_add(1));
    heights.fold(0, u16::saturating_add)
}

/// Draws lists one below the other; returns the area below them.
fn draw_lists(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tabs: &[Tab]) -> Rect {
    let wanted: Vec<u16> = tabs.iter().map(|tab| lines_of(model, *tab)).collect();
    let headings = u16::try_from(tabs.len()).unwrap_or(u16::MAX);
    let heights = shared(&wanted, area.height.saturating_sub(headings));
    let parts = heights.into_iter().map(|rows| Constraint::Length(rows + 1));
    let places = Layout::vertical(parts.chain([Constraint::Fill(1)])).split(area);
    for (tab, place) in tabs.iter().zip(places.iter()) {
        list::draw(frame, *place, model, theme, *tab, false);
    }
    places.last().copied().unwrap_or_default()
}

/// Draws the findings; running jobs are in their list.
fn findings(model: &Model, theme: Theme) -> Paragraph<'static> {
    let all = model.pulse.iter().flat_map(|pulse| &pulse.status.findings);
    let running =
        |finding: &Finding| finding.severity == Severity::Info && finding.subject.starts_with("job ");
    let lines = all
        .filter(|finding| !running(finding))
        .flat_map(|finding| finding_lines(finding, theme));
    Paragraph::new(Text::from_iter(lines)).wrap(Wrap { trim: false })
}

fn finding_lines(finding: &Finding, theme: Theme) -> Vec<Line<'static>> {
    let (word, _) = status::word(finding.severity);
    let text = format!("{}: {}", printable(&finding.subject), printable(&finding.text));
    let first = Line::from(vec![
        Span::styled(format!("{word:<8}"), theme.severity(finding.severity)),
        Span::raw(text),
    ]);
    let next = finding.next.as_ref();
    let next = next.map(|next| Line::styled(format!("        next: {}", printable(next)), theme.dim()));
    std::iter::once(first).chain(next).collect()
}

/// Divides the room: each gets what it wants, or its share and what others leave.
fn shared(wanted: &[u16], room: u16) -> Vec<u16> {
    let mut given = vec![0; wanted.len()];
    for _ in 0..room {
        let least = (0..wanted.len())
            .filter(|&at| given[at] < wanted[at])
            .min_by_key(|&at| given[at]);
        let Some(at) = least else { break };
        given[at] += 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::shared;

    #[test]
    fn room_is_shared_fairly_and_none_is_left_unused() {
        assert_eq!(shared(&[1, 1, 1, 1], 10), [1, 1, 1, 1]);
        assert_eq!(shared(&[9, 1, 1, 9], 8), [3, 1, 1, 3]);
        assert_eq!(shared(&[9, 9, 9, 9], 3), [1, 1, 1, 0]);
    }
}
