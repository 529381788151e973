//! Draws the screen. Pure: the same model gives the same picture.

mod chart;
mod detail;
mod dialogs;
mod events;
mod fit;
mod help;
mod list;
mod map;
mod overview;
mod theme;

pub use theme::Theme;

use super::model::{Model, Tab};
use crate::output::{Tone, printable};
use apparatus::model::event::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Tabs, Wrap};
use unicode_width::UnicodeWidthStr;

/// The smallest window that shows anything.
const LEAST: (u16, u16) = (40, 12);

/// The smallest height with lines for events at the bottom.
const EVENTS_FROM: u16 = 18;
/// The smallest width with details beside the list.
const SIDE_FROM: u16 = 150;
/// The largest width with abbreviated titles and keys.
const NARROW: u16 = 66;

/// Draws the whole screen.
pub fn render(model: &Model, theme: Theme, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("needs {} x {}\nq leaves", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let happened = match area.height {
        _ if model.tab == Tab::Events || model.zoomed => 0,
        ..EVENTS_FROM => 0,
        height => (height / 5)
            .clamp(3, 9)
            .min(u16::try_from(model.events.len() + 1).unwrap_or(9)),
    };
    let message = notice(model, theme);
    let message_lines = u16::try_from(message.line_count(area.width))
        .unwrap_or(1)
        .clamp(1, area.height / 4);
    let keys = help::keys(
        model,
        theme,
        area.width,
        if area.height < EVENTS_FROM { 1 } else { 2 },
    );
    let key_lines = u16::try_from(keys.len()).unwrap_or(1);
    let parts = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(happened),
        Constraint::Length(message_lines),
        Constraint::Length(key_lines),
    ];
    let [head, tabs, body, below, notice, key_area] = Layout::vertical(parts).areas(area);
    draw_head(frame, head, model, theme);
    draw_tabs(frame, tabs, model, theme);
    draw_body(frame, body, model, theme);
    if happened > 0 {
        events::draw(frame, below, model, theme, 0);
    }
    frame.render_widget(message, notice);
    frame.render_widget(Paragraph::new(Text::from(keys)), key_area);
    if let Some(dialog) = &model.dialog {
        dialogs::draw(frame, body.union(below), model, theme, dialog);
    }
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    match model.tab {
        Tab::Overview => overview::draw(frame, area, model, theme),
        Tab::Events => events::draw(frame, area, model, theme, model.back),
        tab if model.zoomed => detail::draw(frame, area, model, theme, tab),
        tab => {
            let filtered = model.typing.is_some() || !model.choice(tab).filter.is_empty();
            let parts = [Constraint::Length(u16::from(filtered)), Constraint::Fill(1)];
            let [filter, rest] = Layout::vertical(parts).areas(area);
            if filtered {
                list::draw_filter(frame, filter, model, theme, tab);
            }
            draw_list_and_detail(frame, rest, model, theme, tab);
        }
    }
}

/// Draws list and details side by side if there is room, otherwise one above the other: the list gets as many lines as it needs, up to
/// half, and the details get the rest.
fn draw_list_and_detail(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab) {
    let (list, detail) = if area.width >= SIDE_FROM {
        let wide = list::wanted(model, tab).clamp(area.width * 2 / 5, area.width * 3 / 5);
        let parts = [Constraint::Length(wide), Constraint::Fill(1)];
        let [list, detail] = Layout::horizontal(parts).spacing(2).areas(area);
        (list, detail)
    } else {
        let lines = u16::try_from(model.choice(tab).rows().len()).unwrap_or(u16::MAX);
        let most = (area.height / 2).max(3).saturating_sub(1);
        let lines = lines.max(1).min(most).saturating_add(1);
        let [list, detail] = Layout::vertical([Constraint::Length(lines), Constraint::Fill(1)]).areas(area);
        (list, detail)
    };
    list::draw(frame, list, model, theme, tab, true);
    detail::draw(frame, detail, model, theme, tab);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let (health, tone) = health(model);
    let right = Line::styled(health, theme.tone(tone)).right_aligned();
    let width = u16::try_from(right.width())
        .unwrap_or(area.width)
        .saturating_add(1);
    let [left, end] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
    let room = usize::from(left.width);
    let generation = model.look.as_ref().map(|look| look.view.header.generation);
    let generation = generation.map_or(String::new(), |generation| format!("  generation {generation}"));
    let (name, pool) = ("vctl console  ", printable(&model.pool));
    let text = if name.len() + pool.width() + generation.len() <= room {
        format!("{name}{pool}{generation}")
    } else {
        format!(
            "{name}{}",
            theme.cut_middle(&pool, room.saturating_sub(name.len()))
        )
    };
    frame.render_widget(Paragraph::new(Line::styled(text, theme.heading())), left);
    frame.render_widget(Paragraph::new(right), end);
}

/// Returns the state of the pool in a word or two.
fn health(model: &Model) -> (String, Tone) {
    if model.fault.is_some() {
        return ("cannot be read".into(), Tone::Bad);
    }
    let Some(pulse) = &model.pulse else {
        return ("looking ...".into(), Tone::Warning);
    };
    let count = |severity| {
        let findings = pulse.status.findings.iter();
        findings.filter(|finding| finding.severity == severity).count()
    };
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => ("healthy".into(), Tone::Good),
        (0, warnings) => (format!("warnings: {warnings}"), Tone::Warning),
        (errors, 0) => (format!("errors: {errors}"), Tone::Bad),
        (errors, warnings) => (format!("errors: {errors}, warnings: {warnings}"), Tone::Bad),
    }
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let narrow = area.width < NARROW;
    let title = |(at, tab): (usize, &Tab)| {
        let name = if narrow { tab.short() } else { tab.title() };
        // Brackets mark the current page without colour.
        match *tab == model.tab {
            true => format!("[{} {name}]", at + 1),
            false if narrow => format!(" {} {name}", at + 1),
            false => format!(" {} {name} ", at + 1),
        }
    };
    let tabs = Tabs::new(Tab::ALL.iter().enumerate().map(title))
        .padding("", "")
        .divider("")
        .select(Tab::ALL.iter().position(|tab| *tab == model.tab))
        .highlight_style(theme.chosen());
    frame.render_widget(tabs, area);
}

/// Shows failures before results, and results before running verbs.
fn notice(model: &Model, theme: Theme) -> Paragraph<'static> {
    let line = match (&model.fault, &model.notice) {
        (Some(fault), _) => Line::styled(printable(&fault.text), theme.tone(Tone::Bad)),
        (None, Some((tone, text))) => Line::styled(printable(text), theme.tone(*tone)),
        (None, None) => under_way(model, theme),
    };
    Paragraph::new(line).wrap(Wrap { trim: false })
}

fn under_way(model: &Model, theme: Theme) -> Line<'static> {
    let verbs: Vec<String> = model.under_way.iter().map(super::verb::Verb::command).collect();
    let acting = model.look.as_ref().and_then(|look| look.controller.as_deref());
    let mut spans = Vec::new();
    if !verbs.is_empty() {
        spans.push(Span::raw(format!("running: {}   ", verbs.join("; "))));
    }
    let acting = acting.map(|acting| format!("acting: {}", printable(acting)));
    spans.extend(acting.map(|acting| Span::styled(acting, theme.dim())));
    Line::from(spans)
}

/// Columns of a title line that the title does not use.
const AROUND_TITLE: usize = 4;

/// Draws a line with a title; returns the area below it.
fn titled(frame: &mut Frame<'_>, area: Rect, theme: Theme, title: &str) -> Rect {
    let [rule, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let room = usize::from(rule.width).saturating_sub(AROUND_TITLE);
    let title = theme.cut_middle(&printable(title), room);
    let dashes = theme.rule().repeat(room.saturating_sub(title.width()));
    let line = Line::from(vec![
        Span::styled(theme.rule().repeat(2), theme.dim()),
        Span::styled(format!(" {title} "), theme.heading()),
        Span::styled(dashes, theme.dim()),
    ]);
    frame.render_widget(Paragraph::new(line), rule);
    rest
}

#[cfg(test)]
mod tests;
