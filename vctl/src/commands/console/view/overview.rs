//! A little of everything: what is wrong, and the first lines of each list.

use super::Theme;
use super::tables;
use crate::commands::console::model::{Model, Tab};
use crate::commands::status;
use crate::output::printable;
use apparatus::ops::status::Finding;
use apparatus::store::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;

/// Windows at least so wide and high show charts as well.
const WIDE: (u16, u16) = (132, 24);
const LISTS: [Tab; 4] = [Tab::Apparatuses, Tab::Volumes, Tab::Disks, Tab::Jobs];

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let wide = area.width >= WIDE.0 && area.height >= WIDE.1;
    let [lists, charts] = if wide {
        Layout::horizontal([Constraint::Length(82), Constraint::Fill(1)]).areas(area)
    } else {
        [area, Rect::ZERO]
    };
    draw_lists(frame, lists, model, theme);
    if wide {
        draw_charts(frame, charts, model, theme);
    }
}

fn draw_lists(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let findings = findings(model);
    // Two lines each, and no more than leaves room for the lists.
    let most = (area.height / 4).max(2);
    let lines: Vec<Line<'_>> = findings.iter().flat_map(|finding| told(finding, theme)).collect();
    let found = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(most);
    let rows = LISTS.map(|tab| u16::try_from(model.names(tab).len()).unwrap_or(u16::MAX).max(1));
    let heights = shared(&rows, area.height.saturating_sub(found).saturating_sub(4));
    let parts = [Constraint::Length(found)].into_iter();
    let parts = parts.chain(heights.map(|rows| Constraint::Length(rows + 1)));
    let areas = Layout::vertical(parts).split(area);
    frame.render_widget(Paragraph::new(Text::from(lines)), areas[0]);
    for (tab, area) in LISTS.into_iter().zip(areas.iter().skip(1)) {
        tables::draw(frame, *area, model, theme, tab, None);
    }
}

/// What has to be done; jobs that simply run are in their list.
fn findings(model: &Model) -> Vec<&Finding> {
    let all = model.pulse.iter().flat_map(|pulse| &pulse.status.findings);
    let running =
        |finding: &Finding| finding.severity == Severity::Info && finding.subject.starts_with("job ");
    all.filter(|finding| !running(finding)).collect()
}

fn told(finding: &Finding, theme: Theme) -> Vec<Line<'static>> {
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

/// Gives each what it wants, or its share and what others leave.
fn shared<const N: usize>(wanted: &[u16; N], room: u16) -> [u16; N] {
    let mut given = [0; N];
    for _ in 0..room {
        let least = (0..N)
            .filter(|&at| given[at] < wanted[at])
            .min_by_key(|&at| given[at]);
        let Some(at) = least else { break };
        given[at] += 1;
    }
    given
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let views = model.apparatuses();
    let area = Rect {
        x: area.x + 2,
        width: area.width - 2,
        ..area
    };
    let parts = Layout::vertical(views.iter().map(|_| Constraint::Max(13))).split(area);
    for (view, part) in views.iter().zip(parts.iter()) {
        let name = view.member.name.as_str();
        let rest = super::titled(frame, *part, theme, &format!("apparatus {name}"));
        super::chart::draw(frame, rest, theme, model.traces.apparatuses.get(name));
    }
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
