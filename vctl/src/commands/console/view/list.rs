//! Draws lists with a selected line, with as many columns and lines as fit.

use super::{Theme, fit, map};
use crate::commands::console::lists::{self, Column, ColumnKind, Row, Shape, Sort, Value};
use crate::commands::console::model::{Model, Tab};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    self, Cell, Paragraph, Scrollbar, ScrollbarOrientation, ScrollbarState, Table, TableState,
};

/// The mark of the selected line.
const MARK: &str = "> ";

/// Draws the list of a page; the overview has no selection.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab, choosing: bool) {
    let choice = model.choice(tab);
    let columns = lists::columns(tab);
    let all;
    // The overview ignores filters, because it does not show them.
    let rows = if choosing || choice.filter.is_empty() {
        choice.rows()
    } else {
        all = lists::shown(lists::rows(model, tab), "", choice.sort);
        &all
    };
    let lines = usize::from(area.height.saturating_sub(1));
    // Without a selection nothing can be scrolled, so the last line tells how many rows have no line.
    let more = if choosing { 0 } else { left_out(rows.len(), lines) };
    let room = lines - usize::from(more > 0);
    let (area, note) = split_note(area, more > 0);
    let chosen = (choosing && !rows.is_empty()).then(|| choice.at());
    let first = first_shown(chosen.unwrap_or(0), rows.len(), room);
    let window = &rows[first..(first + room).min(rows.len())];
    let (table, bar) = split(area, choosing && rows.len() > room);
    let mark = if choosing { MARK } else { "" };
    let widths = fit::widths(
        columns,
        &contents(columns, rows),
        table.width.saturating_sub(width(mark)),
    );
    let shown: Vec<(usize, u16)> = widths
        .iter()
        .enumerate()
        .filter_map(|(at, width)| Some((at, (*width)?)))
        .collect();
    let lines = window.iter().map(|row| {
        let cells = shown.iter().map(|(at, width)| {
            let column = &columns[*at];
            let line = row
                .values
                .get(*at)
                .map(|value| line(model, theme, column, value, *width));
            Cell::from(line.unwrap_or_default().alignment(side(column)))
        });
        widgets::Row::new(cells)
    });
    let heading = shown
        .iter()
        .map(|(at, width)| heading(columns, *at, choice.sort, theme, *width));
    let widget = Table::new(lines, shown.iter().map(|(_, width)| Constraint::Length(*width)))
        .header(widgets::Row::new(heading).style(theme.heading()))
        .column_spacing(1)
        .row_highlight_style(theme.chosen())
        .highlight_spacing(widgets::HighlightSpacing::Always)
        .highlight_symbol(mark);
    let mut state = TableState::new().with_selected(chosen.map(|chosen| chosen - first));
    frame.render_stateful_widget(widget, table, &mut state);
    draw_bar(frame, bar, theme, (first, room, rows.len()));
    if more > 0 {
        let text = format!("and {more} more");
        frame.render_widget(
            Paragraph::new(theme.cut(&text, usize::from(note.width))).style(theme.dim()),
            note,
        );
    }
}

/// Returns how many of `rows` get no line where there is room for `lines`, one of which says so if there are any.
fn left_out(rows: usize, lines: usize) -> usize {
    match rows > lines && lines > 1 {
        true => rows - (lines - 1),
        false => 0,
    }
}

/// Splits off the last line if it is needed.
fn split_note(area: Rect, needed: bool) -> (Rect, Rect) {
    let [above, below] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(u16::from(needed))]).areas(area);
    (above, below)
}

/// Draws the filter and how many lines pass it, or the filter while it is typed.
pub fn draw_filter(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab) {
    let choice = model.choice(tab);
    let all = model.count(tab);
    let mut spans = vec![Span::styled("filter: ", theme.heading())];
    match &model.typing {
        Some(input) => spans.extend(super::dialogs::typed(theme, input, true)),
        None => spans.push(Span::raw(choice.filter.clone())),
    }
    spans.push(Span::raw(format!("  {} of {all}  ", choice.rows().len())));
    let keys = match model.typing {
        Some(_) => "Enter keeps it, Esc removes it",
        None => "Esc removes it",
    };
    let line = Line::from(spans);
    let room = usize::from(area.width).saturating_sub(line.width());
    let keys = Span::styled(theme.cut(keys, room), theme.dim());
    let line = Line::from_iter(line.spans.into_iter().chain([keys]));
    frame.render_widget(Paragraph::new(line), area);
}

/// Returns the preferred width of the list of a page.
pub fn wanted(model: &Model, tab: Tab) -> u16 {
    let columns = lists::columns(tab);
    let contents = contents(columns, model.choice(tab).rows());
    fit::wanted(columns, &contents).saturating_add(width(MARK) + 1)
}

fn width(text: &str) -> u16 {
    u16::try_from(text.chars().count()).unwrap_or(u16::MAX)
}

/// Returns the first line to show, so that the selected line is in the middle unless it is near an end.
fn first_shown(chosen: usize, count: usize, room: usize) -> usize {
    chosen.saturating_sub(room / 2).min(count.saturating_sub(room))
}

/// Returns the width of the contents of each column.
fn contents(columns: &[Column], rows: &[Row]) -> Vec<u16> {
    let widest = |at: usize| {
        let values = rows.iter().filter_map(|row| row.values.get(at));
        let widest = values.map(Value::width).max();
        u16::try_from(widest.unwrap_or(0)).unwrap_or(u16::MAX)
    };
    (0..columns.len()).map(widest).collect()
}

fn side(column: &Column) -> Alignment {
    if column.is_number() {
        Alignment::Right
    } else {
        Alignment::Left
    }
}

/// Returns the heading of a column, with a sign if the list is sorted by it.
fn heading(columns: &[Column], at: usize, sort: Option<Sort>, theme: Theme, width: u16) -> Cell<'static> {
    let column = &columns[at];
    let sign = match sort.filter(|sort| sort.column == at) {
        None => "",
        Some(sort) => theme.order(sort.down),
    };
    let name = theme.cut(
        column.name,
        usize::from(width).saturating_sub(sign.chars().count()),
    );
    Cell::from(Line::from(format!("{name}{sign}")).alignment(side(column)))
}

fn line(model: &Model, theme: Theme, column: &Column, value: &Value, width: u16) -> Line<'static> {
    let width = usize::from(width);
    match &value.shape {
        Shape::Text(text, _) if column.kind == ColumnKind::Name => Line::raw(theme.cut_middle(text, width)),
        Shape::Text(text, tone) => {
            let style = tone.map(|tone| theme.tone(tone)).unwrap_or_default();
            Line::styled(theme.cut(text, width), style)
        }
        Shape::Disk(id, name) => {
            let pool = model.look.as_ref().map(|look| &look.view);
            let letter = pool.map(|pool| map::letter(pool, theme, *id));
            let name = theme.cut_middle(name, width.saturating_sub(2));
            Line::from_iter(letter.into_iter().chain([Span::raw(format!(" {name}"))]))
        }
        Shape::Map(id) => {
            let spans = model.look.as_ref().and_then(|look| {
                let volume = look.view.volumes.iter().find(|each| each.record.id == *id)?;
                Some(map::whole(&look.view, theme, &volume.segments, width))
            });
            Line::from(spans.unwrap_or_default())
        }
        Shape::Use(id) => {
            let disk = model.disks().iter().find(|each| each.record.id == *id);
            disk.map_or_else(Line::default, |disk| map::usage(theme, disk, width))
        }
        Shape::Part(percent) => map::part(theme, *percent, width),
    }
}

/// Splits off a column at the right for the scroll bar of a long list.
fn split(area: Rect, long: bool) -> (Rect, Rect) {
    if !long {
        return (area, Rect::ZERO);
    }
    let [table, bar] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(2)]).areas(area);
    (table, bar)
}

/// Draws a scroll bar at the right of a long list or text.
pub fn draw_bar(
    frame: &mut Frame<'_>,
    area: Rect,
    theme: Theme,
    (first, room, count): (usize, usize, usize),
) {
    if area.width == 0 {
        return;
    }
    let mut state = ScrollbarState::new(count.saturating_sub(room) + 1)
        .position(first)
        .viewport_content_length(room);
    let (track, thumb) = theme.scrollbar();
    let bar = Scrollbar::new(ScrollbarOrientation::VerticalRight)
        .begin_symbol(None)
        .end_symbol(None)
        .track_symbol(Some(track))
        .thumb_symbol(thumb);
    frame.render_stateful_widget(bar, area, &mut state);
}

#[cfg(test)]
mod tests {
    use super::{first_shown, left_out};

    #[test]
    fn rows_without_a_line_are_counted() {
        assert_eq!(left_out(10, 10), 0);
        assert_eq!(left_out(10, 8), 3, "seven rows, and a line that says so");
        assert_eq!(left_out(10, 2), 9);
        assert_eq!(left_out(10, 1), 0, "there is room for one row only");
        assert_eq!(left_out(10, 0), 0);
    }

    #[test]
    fn the_selected_line_is_shown_and_no_line_is_left_empty() {
        for count in 0..40 {
            for room in 1..20 {
                for chosen in 0..count {
                    let first = first_shown(chosen, count, room);
                    assert!(first <= chosen && chosen < first + room);
                    assert!(first + room <= count.max(room));
                }
            }
        }
    }
}
