//! Draws the events, the latest at the bottom.

use super::Theme;
use crate::commands::console::model::Model;
use crate::commands::status;
use crate::output::printable;
use apparatus::model::event::Event;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;
use unicode_width::UnicodeWidthStr;

/// Draws the events without the `back` latest ones.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, back: usize) {
    let rest = super::titled(frame, area, theme, "events");
    let room = usize::from(rest.height);
    let end = model
        .events
        .len()
        .saturating_sub(back)
        .max(room.min(model.events.len()));
    let start = end.saturating_sub(room);
    let lines: Vec<Line<'_>> = model
        .events
        .range(start..end)
        .map(|event| line(event, theme, usize::from(rest.width)))
        .collect();
    frame.render_widget(Paragraph::new(Text::from(lines)), rest);
}

fn line(event: &Event, theme: Theme, width: usize) -> Line<'static> {
    let time = event.at.to_string();
    // Hours, minutes and seconds of an RFC 3339 time; `vctl events` shows the date.
    let time = time.get(11..19).unwrap_or(&time).to_owned();
    let (word, _) = status::word(event.severity);
    let text = format!("{}: {}", printable(&event.subject), printable(&event.text));
    let word = format!(" {word:<7} ");
    let room = width.saturating_sub(time.width() + word.width());
    Line::from(vec![
        Span::styled(time, theme.dim()),
        Span::styled(word, theme.severity(event.severity)),
        Span::raw(theme.cut(&text, room)),
    ])
}
