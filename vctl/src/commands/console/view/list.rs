//! Aligned lists of which one line is chosen.

use super::Theme;
use crate::output::{Tone, printable};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, TableState};

/// A column: what it is called, how wide, and on which side its values stand.
pub struct Column {
    name: &'static str,
    width: Constraint,
    right: bool,
}

impl Column {
    /// Words.
    pub const fn words(name: &'static str, width: u16) -> Self {
        Self {
            name,
            width: Constraint::Length(width),
            right: false,
        }
    }

    /// Numbers.
    pub const fn number(name: &'static str, width: u16) -> Self {
        Self {
            name,
            width: Constraint::Length(width),
            right: true,
        }
    }

    /// What takes the room that is left.
    pub const fn rest(name: &'static str) -> Self {
        Self {
            name,
            width: Constraint::Min(4),
            right: false,
        }
    }
}

/// A value.
pub struct Value(Line<'static>);

impl Value {
    /// As it is.
    pub fn plain(text: impl Into<String>) -> Self {
        Self(Line::from(printable(&text.into())))
    }

    /// A word with a tone.
    pub fn word((word, tone): (&'static str, Tone), theme: Theme) -> Self {
        Self(Line::styled(word, theme.tone(tone)))
    }

    /// Several pieces.
    pub fn spans(spans: Vec<Span<'static>>) -> Self {
        Self(Line::from(spans))
    }

    /// Only where it is known.
    pub fn known(text: Option<String>) -> Self {
        Self::plain(text.unwrap_or_else(|| "-".into()))
    }
}

/// Draws headings and as many rows as there is room for, the chosen one among them.
pub fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    theme: Theme,
    columns: &[Column],
    rows: Vec<Vec<Value>>,
    chosen: Option<usize>,
) {
    let side = |column: &Column| {
        if column.right {
            Alignment::Right
        } else {
            Alignment::Left
        }
    };
    let heading = columns
        .iter()
        .map(|column| Cell::from(Line::from(column.name).alignment(side(column))));
    let heading = Row::new(heading).style(theme.heading());
    let rows = rows.into_iter().map(|values| {
        let cells = values.into_iter().zip(columns);
        Row::new(cells.map(|(value, column)| Cell::from(value.0.alignment(side(column)))))
    });
    let table = Table::new(rows, columns.iter().map(|column| column.width))
        .header(heading)
        .column_spacing(1)
        .row_highlight_style(theme.chosen())
        .highlight_symbol(if chosen.is_some() { "> " } else { "" })
        .style(Style::new());
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}
