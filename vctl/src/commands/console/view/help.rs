//! Keys: those of the moment at the bottom, all of them on a page.

use super::Theme;
use crate::commands::console::model::{Model, Tab};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// The page, a line each.
pub const PAGE: &[&str] = &[
    "1 to 6, Tab, arrows left and right: what is looked at",
    "up and down, j k, PgUp PgDn, Home End: what is chosen; in Events, scroll",
    "Volumes      m move        h hold its requests      x release the hold",
    "Disks        e evacuate: empty it, place nothing new    r remove when empty",
    "Jobs         p pause   r resume   l rate   c cancel   b cancel and move back",
    "Apparatuses  f fence: kill it by force        r wait until it has rejoined",
    "Every verb shows what it would do; y does it, Esc leaves it.",
    "In a form: Tab next line, arrows offer, Del empties, Enter shows the preview.",
    "Ctrl-L draws anew, ? this page, q or Ctrl-C leaves.",
    "",
    "Maps: a letter (and colour) for each disk, as in the list of disks.",
    "Disk: # used  r for jobs  q quarantined (QUAR): freed, may be read  . free",
    "P99-R, P99-W: 99 of 100 reads, writes took less. HELD: wait for a hold.",
];

/// The keys that do something here.
pub fn draw_keys(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let here: &[(&str, &str)] = match model.tab {
        Tab::Overview => &[],
        Tab::Apparatuses => &[("f", "fence"), ("r", "rejoin")],
        Tab::Volumes => &[("m", "move"), ("h", "hold")],
        Tab::Disks => &[("e", "evacuate"), ("r", "remove")],
        Tab::Jobs => &[
            ("p", "pause"),
            ("r", "resume"),
            ("l", "rate"),
            ("c", "cancel"),
            ("b", "move back"),
        ],
        Tab::Events => &[("up", "older"), ("down", "newer")],
    };
    let release: &[(&str, &str)] = if model.holding() {
        &[("x", "release the hold")]
    } else {
        &[]
    };
    let always = [("1-6", "look at"), ("?", "help"), ("q", "leave")];
    let mut spans = Vec::new();
    for (key, does) in release.iter().chain(here).chain(&always) {
        spans.push(Span::styled(*key, theme.heading()));
        spans.push(Span::raw(format!(" {does}  ")));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_fits_a_window_of_80_columns() {
        for line in super::PAGE {
            assert!(line.len() <= 78, "{} {line}", line.len());
        }
    }
}
