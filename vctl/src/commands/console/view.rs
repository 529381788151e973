//! The screen as it is drawn. Pure: the same model gives the same picture.

mod chart;
mod detail;
mod dialogs;
mod events;
mod help;
mod list;
mod map;
mod overview;
mod tables;
mod theme;

pub use theme::Theme;

use super::model::{Model, Tab};
use crate::output::{Tone, printable};
use apparatus::store::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// With less than this there is nothing to see.
const LEAST: (u16, u16) = (40, 12);

/// Draws everything.
pub fn render(model: &Model, theme: Theme, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("needs {} x {}\nq leaves", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let happened = if model.tab == Tab::Events {
        0
    } else {
        (area.height / 5).clamp(3, 9)
    };
    let parts = [1, 1, 0, happened, 1, 1].map(|rows| match rows {
        0 => Constraint::Fill(1),
        rows => Constraint::Length(rows),
    });
    let [head, tabs, body, below, notice, keys] = if happened == 0 {
        let [head, tabs, body, notice, keys] =
            Layout::vertical([parts[0], parts[1], parts[2], parts[4], parts[5]]).areas(area);
        [head, tabs, body, Rect::ZERO, notice, keys]
    } else {
        Layout::vertical(parts).areas(area)
    };
    draw_head(frame, head, model, theme);
    draw_tabs(frame, tabs, model, theme);
    match model.tab {
        Tab::Overview => overview::draw(frame, body, model, theme),
        Tab::Events => events::draw(frame, body, model, theme, model.back),
        tab => draw_list_and_detail(frame, body, model, theme, tab),
    }
    if below.height > 0 {
        events::draw(frame, below, model, theme, 0);
    }
    draw_notice(frame, notice, model, theme);
    help::draw_keys(frame, keys, model, theme);
    if let Some(dialog) = &model.dialog {
        dialogs::draw(frame, body.union(below), model, theme, dialog);
    }
}

/// The list has as many lines as it needs, up to half; what is known of the chosen line has the rest.
fn draw_list_and_detail(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, tab: Tab) {
    let lines = u16::try_from(model.names(tab).len()).unwrap_or(u16::MAX);
    let most = (area.height / 2).max(3).saturating_sub(1);
    let [list, detail] = Layout::vertical([
        Constraint::Length(lines.max(1).min(most).saturating_add(1)),
        Constraint::Fill(1),
    ])
    .areas(area);
    tables::draw(frame, list, model, theme, tab, Some(model.chosen(tab)));
    detail::draw(frame, detail, model, theme, tab);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let (health, tone) = health(model);
    let generation = model.look.as_ref().map(|look| look.view.header.generation);
    let mut left = format!("vctl console  {}", printable(&model.pool));
    if let Some(generation) = generation {
        left.push_str(&format!("  generation {generation}"));
    }
    let line = Line::styled(left, theme.heading());
    let right = Line::styled(health, theme.tone(tone)).right_aligned();
    let width = u16::try_from(right.width())
        .unwrap_or(area.width)
        .saturating_add(1);
    let [left, end] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
    frame.render_widget(Paragraph::new(line), left);
    frame.render_widget(Paragraph::new(right), end);
}

/// How the pool is, in a word or two.
fn health(model: &Model) -> (String, Tone) {
    if model.fault.is_some() {
        return ("cannot be looked at".into(), Tone::Bad);
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
    let tab = |(at, tab): (usize, &Tab)| {
        let title = format!("{} {}", at + 1, tab.title());
        // Brackets tell it where nothing else does.
        match *tab == model.tab {
            true => Span::styled(format!("[{title}]"), theme.chosen()),
            false => Span::raw(format!(" {title} ")),
        }
    };
    let spans: Vec<Span<'_>> = Tab::ALL.iter().enumerate().map(tab).collect();
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// What is wrong before what was done, what was done before what is being done.
fn draw_notice(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let line = match (&model.fault, &model.notice) {
        (Some(fault), _) => Line::styled(printable(&fault.text), theme.tone(Tone::Bad)),
        (None, Some((tone, text))) => Line::styled(printable(text), theme.tone(*tone)),
        (None, None) => {
            let verbs: Vec<String> = model.under_way.iter().map(super::verb::Verb::command).collect();
            let acting = model.look.as_ref().and_then(|look| look.controller.as_deref());
            let mut spans = Vec::new();
            if !verbs.is_empty() {
                spans.push(Span::raw(format!("under way: {}   ", verbs.join("; "))));
            }
            let acting = acting.map(|acting| format!("acting: {}", printable(acting)));
            spans.extend(acting.map(|acting| Span::styled(acting, theme.dim())));
            Line::from(spans)
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// A line with a title, between parts of the screen; answers what is below it.
fn titled(frame: &mut Frame<'_>, area: Rect, theme: Theme, title: &str) -> Rect {
    let [rule, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let title = printable(title);
    let used = title.chars().count() + 4;
    let dashes = theme.rule().repeat(usize::from(rule.width).saturating_sub(used));
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
