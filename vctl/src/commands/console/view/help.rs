//! Help: the keys of the current page at the bottom, and all keys in a dialog.

use super::Theme;
use crate::commands::console::model::{Model, Tab};
use ratatui::text::{Line, Span};

/// The lines of the help dialog.
pub const PAGE: &[&str] = &[
    "1 to 6, Tab, arrows left and right: choose a page",
    "up and down, j k, PgUp PgDn, Home End: select; in Events, scroll",
    "Enter zooms the selected line to the window, Esc returns",
    "/ filters: words that a line must have, !word: must not; Esc removes it",
    "< > choose the column to sort by, i reverses the order",
    "",
    "Volumes      n new   z resize   R rename   t settings   r remove",
    "             a attach   d detach   m move   h hold requests (x releases it)",
    "Disks        n add   z resize   t settings   e evacuate: empty it   r remove",
    "Jobs         p pause   r resume   l rate   c cancel   b cancel and move back",
    "Apparatuses  n start   s stop   f fence: kill it by force",
    "             r wait until it has rejoined",
    "A verb shows its command line and what it would do; y confirms, Esc cancels",
    "it. A verb that destroys data, or cuts users off (o), needs a typed yes.",
    "In a form: Tab next line, up down offer, Ctrl-U empties, Enter previews.",
    "Ctrl-L redraws, ? shows this page, q or Ctrl-C leaves.",
    "",
    "Maps: a letter (and colour) for each disk, as in the list of disks.",
    "Disk: # used  r for jobs  q quarantined (QUAR): freed, may be read  . free",
    "P99-R, P99-W: 99 of 100 reads, writes took less. HELD: wait for a hold.",
];

/// A key and its effect.
type KeyHelp = (&'static str, &'static str);

/// Returns the keys of the current state in lines of this width; the least important are dropped if not all fit.
pub fn keys(model: &Model, theme: Theme, width: u16, lines: usize) -> Vec<Line<'static>> {
    let always = [("?", "help"), ("q", "leave")];
    let wide = |(key, does): &KeyHelp| key.len() + does.len() + 3;
    let mut rows: Vec<Vec<KeyHelp>> = vec![Vec::new()];
    let mut left = usize::from(width);
    // Keys that are always available are placed at the end.
    let kept: usize = always.iter().map(wide).sum();
    for key in here(model) {
        let last = rows.len() == lines;
        if wide(&key) + if last { kept } else { 0 } > left && !last {
            rows.push(Vec::new());
            left = usize::from(width);
        }
        let kept = if rows.len() == lines { kept } else { 0 };
        if wide(&key) + kept <= left {
            left -= wide(&key);
            rows.last_mut().into_iter().for_each(|row| row.push(key));
        }
    }
    if kept > left && rows.len() < lines {
        rows.push(Vec::new());
    }
    rows.last_mut().into_iter().for_each(|row| row.extend(always));
    rows.into_iter().map(|row| line(theme, &row)).collect()
}

fn line(theme: Theme, keys: &[KeyHelp]) -> Line<'static> {
    let spans = keys.iter().flat_map(|(key, does)| {
        [
            Span::styled(*key, theme.heading()),
            Span::raw(format!(" {does}  ")),
        ]
    });
    Line::from_iter(spans)
}

/// Returns the keys of the current page, most important first.
fn here(model: &Model) -> Vec<KeyHelp> {
    let here: &[KeyHelp] = match model.tab {
        Tab::Overview => &[],
        Tab::Apparatuses => &[("n", "start"), ("s", "stop"), ("f", "fence"), ("r", "rejoin")],
        Tab::Volumes => &[
            ("n", "new"),
            ("m", "move"),
            ("z", "resize"),
            ("a", "attach"),
            ("d", "detach"),
            ("h", "hold"),
            ("t", "settings"),
            ("R", "rename"),
            ("r", "remove"),
        ],
        Tab::Disks => &[
            ("n", "add"),
            ("e", "evacuate"),
            ("z", "resize"),
            ("t", "settings"),
            ("r", "remove"),
        ],
        Tab::Jobs => &[
            ("p", "pause"),
            ("r", "resume"),
            ("l", "rate"),
            ("c", "cancel"),
            ("b", "move back"),
        ],
        Tab::Events => &[("up", "older"), ("down", "newer")],
    };
    let release: &[KeyHelp] = if model.holding() {
        &[("x", "release the hold")]
    } else {
        &[]
    };
    let lists: &[KeyHelp] = match model.tab {
        Tab::Overview | Tab::Events => &[],
        _ if model.zoomed => &[("Esc", "list")],
        _ => &[("/", "filter"), ("< >", "sort"), ("i", "turn"), ("Enter", "zoom")],
    };
    let (first, then) = if model.zoomed {
        (lists, here)
    } else {
        (here, lists)
    };
    let keys = release.iter().chain(first).chain(then);
    keys.chain(&[("1-6", "look at")]).copied().collect()
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
