//! Colours and signs, and their substitutes on terminals without them.

use crate::commands::volume::map::picture::{COLOURS, DiskMark};
use crate::output::Tone;
use apparatus::model::event::Severity;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::{bar, border};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The capabilities of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Whether it shows colours.
    pub colour: bool,
    /// Whether it shows characters beyond ASCII.
    pub unicode: bool,
}

const GROUNDS: [Color; COLOURS] = [
    Color::Blue,
    Color::Yellow,
    Color::Green,
    Color::Magenta,
    Color::Cyan,
    Color::Gray,
];

const ASCII_BARS: bar::Set<'static> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "*",
    five_eighths: "*",
    half: "+",
    three_eighths: "+",
    one_quarter: "-",
    one_eighth: ".",
    empty: " ",
};

const ASCII_BORDER: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

impl Theme {
    /// Detects the capabilities: no colour with `NO_COLOR`; ASCII unless the locale says UTF-8.
    pub fn of_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.map(|locale| locale.to_string_lossy().to_lowercase());
        Self {
            colour: set("NO_COLOR").is_none(),
            unicode: locale.is_some_and(|locale| locale.contains("utf-8") || locale.contains("utf8")),
        }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// Returns the style of a tone.
    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Good => self.coloured(Color::Green),
            Tone::Warning => self.coloured(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::Bad => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Returns the style of an event or finding.
    pub fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Info => Style::new(),
            Severity::Warning => self.tone(Tone::Warning),
            Severity::Error => self.tone(Tone::Bad),
        }
    }

    /// Returns the style of headings.
    pub fn heading(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Returns the style of secondary text.
    pub fn dim(self) -> Style {
        if self.colour {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new()
        }
    }

    /// Returns the style of the selected line.
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Returns the style of a part of a map that is on this disk.
    pub fn disk(self, mark: DiskMark) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Black).bg(GROUNDS[mark.colour]),
            false => Style::new(),
        }
    }

    /// Returns the signs for the steps of a chart.
    pub fn bars(self) -> bar::Set<'static> {
        if self.unicode {
            bar::NINE_LEVELS
        } else {
            ASCII_BARS
        }
    }

    /// Returns the signs for frames.
    pub fn border(self) -> border::Set<'static> {
        if self.unicode { border::PLAIN } else { ASCII_BORDER }
    }

    /// Returns the sign after the name of the column by which a list is sorted.
    pub fn order(self, down: bool) -> &'static str {
        match (self.unicode, down) {
            (true, true) => "↓",
            (true, false) => "↑",
            (false, true) => "v",
            (false, false) => "^",
        }
    }

    /// Returns the signs for the track and the thumb of a scroll bar.
    pub fn scrollbar(self) -> (&'static str, &'static str) {
        if self.unicode { ("│", "█") } else { ("|", "#") }
    }

    /// Returns the sign for text that was cut off.
    fn mark(self) -> &'static str {
        if self.unicode { "…" } else { "..." }
    }

    /// Returns as much of the beginning as fits, with a sign if anything is cut off.
    pub fn cut(self, text: &str, width: usize) -> String {
        if text.width() <= width {
            return text.to_owned();
        }
        let mark = self.mark();
        format!(
            "{}{}",
            beginning(text, width.saturating_sub(mark.width())),
            beginning(mark, width)
        )
    }

    /// Returns as much of both ends as fits: names often differ at their ends.
    pub fn cut_middle(self, text: &str, width: usize) -> String {
        let mark = self.mark();
        if text.width() <= width || width < mark.width() + 2 {
            return self.cut(text, width);
        }
        let room = width - mark.width();
        let backwards: String = text.chars().rev().collect();
        let end: String = beginning(&backwards, room / 2).chars().rev().collect();
        format!("{}{mark}{end}", beginning(text, room - room / 2))
    }

    /// Returns the sign for a line between parts.
    pub fn rule(self) -> &'static str {
        if self.unicode { "─" } else { "-" }
    }
}

/// Returns as many letters as fit into this many columns.
fn beginning(text: &str, width: usize) -> String {
    let mut left = width;
    let fits = |letter: &char| {
        let wide = letter.width().unwrap_or(0);
        let fits = wide <= left;
        left = left.saturating_sub(wide);
        fits
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_has_a_mark_and_fits() {
        let theme = |unicode| Theme {
            colour: false,
            unicode,
        };
        assert_eq!(theme(true).cut("volume", 6), "volume");
        assert_eq!(theme(true).cut("volumes", 6), "volum…");
        assert_eq!(theme(false).cut("volumes", 6), "vol...");
        assert_eq!(theme(false).cut("volumes", 2), "..");
        assert_eq!(theme(true).cut_middle("data-0001", 7), "dat…001");
        assert_eq!(theme(false).cut_middle("data-000001", 9), "dat...001");
        assert_eq!(theme(true).cut("日本語", 4), "日…");
        for width in 0..12 {
            for unicode in [false, true] {
                for text in ["customer-database-01", "日本語日本語日本語"] {
                    assert!(theme(unicode).cut(text, width).width() <= width);
                    assert!(theme(unicode).cut_middle(text, width).width() <= width);
                }
            }
        }
    }
}
