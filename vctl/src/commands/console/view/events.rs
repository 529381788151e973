//! What happened, the latest at the bottom.

use super::Theme;
use crate::commands::console::model::Model;
use crate::commands::status;
use crate::output::printable;
use apparatus::store::Event;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;

/// Draws them, `back` of the latest left out.
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
        .map(|event| line(event, theme))
        .collect();
    frame.render_widget(Paragraph::new(Text::from(lines)), rest);
}

fn line(event: &Event, theme: Theme) -> Line<'static> {
    let time = event.at.to_string();
    // Hours, minutes, seconds of an RFC 3339 time; the date is in `vctl events`.
    let time = time.get(11..19).unwrap_or(&time).to_owned();
    let (word, _) = status::word(event.severity);
    let text = format!("{}: {}", printable(&event.subject), printable(&event.text));
    Line::from(vec![
        Span::styled(time, theme.dim()),
        Span::styled(format!(" {word:<7} "), theme.severity(event.severity)),
        Span::raw(text),
    ])
}
