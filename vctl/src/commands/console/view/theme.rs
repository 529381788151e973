//! Colours and signs, and what stands in for them where there are none.

use crate::commands::volume::map::picture::{COLOURS, Mark};
use crate::output::Tone;
use apparatus::store::Severity;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::{bar, border};

/// What this terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Colours.
    pub colour: bool,
    /// More than ASCII.
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
    /// No colour with `NO_COLOR`; ASCII unless the locale says UTF-8.
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

    /// Of a word that is good or bad.
    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Good => self.coloured(Color::Green),
            Tone::Warning => self.coloured(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::Bad => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Of an event or finding.
    pub fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Info => Style::new(),
            Severity::Warning => self.tone(Tone::Warning),
            Severity::Error => self.tone(Tone::Bad),
        }
    }

    /// Of headings.
    pub fn heading(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Of what is said besides.
    pub fn dim(self) -> Style {
        if self.colour {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new()
        }
    }

    /// Of what is chosen.
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Of a part of a map that lies on this disk.
    pub fn disk(self, mark: Mark) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Black).bg(GROUNDS[mark.colour]),
            false => Style::new(),
        }
    }

    /// Steps of a chart.
    pub fn bars(self) -> bar::Set<'static> {
        if self.unicode {
            bar::NINE_LEVELS
        } else {
            ASCII_BARS
        }
    }

    /// Frames.
    pub fn border(self) -> border::Set<'static> {
        if self.unicode { border::PLAIN } else { ASCII_BORDER }
    }

    /// A line between parts.
    pub fn rule(self) -> &'static str {
        if self.unicode { "─" } else { "-" }
    }
}
