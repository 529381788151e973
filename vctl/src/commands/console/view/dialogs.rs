//! Draws dialogs.

use super::{Theme, help, map};
use crate::commands::console::model::dialog::{Dialog, Layouts, Preview};
use crate::commands::console::model::form::Form;
use crate::commands::console::model::{FailureText, Model, YES};
use crate::commands::console::verb::Verb;
use crate::commands::volume::map::picture;
use crate::output::{Tone, printable};
use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Margin, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use tui_input::Input;

/// The largest width that is easy to read.
const WIDEST: u16 = 100;

/// A window over the screen: a title, lines, and the keys that have an effect.
struct Window<'a> {
    title: String,
    lines: Vec<Line<'a>>,
    keys: &'a str,
    /// The first line that is shown, if not all fit.
    scroll: usize,
}

/// Draws a dialog in the middle of `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, dialog: &Dialog) {
    let width = usize::from(area.width.min(WIDEST).saturating_sub(4));
    let (title, lines, keys) = match dialog {
        Dialog::Help => (
            "help".into(),
            help::PAGE.iter().map(|line| Line::raw(*line)).collect(),
            "any key closes",
        ),
        Dialog::Form(form) => return draw_form(frame, area, theme, form),
        Dialog::Planning(verb) => (
            verb.command(),
            vec![Line::raw("finding out what it would do ...")],
            "Esc cancels",
        ),
        Dialog::Confirm { verb, preview, typed } => (
            "to be done?".into(),
            confirmation(model, theme, (verb, preview, typed), width),
            match preview.danger {
                None => "y confirms   Esc cancels",
                Some(_) => "yes, Enter confirms   Esc cancels",
            },
        ),
        Dialog::Failed {
            command,
            reason,
            forced,
            form,
        } => (
            format!("{command}: not done"),
            failure(theme, command, reason, forced.as_deref()),
            match (forced, form) {
                (None, None) => "any key closes",
                (Some(_), None) => "o overrides it, other keys close",
                (None, Some(_)) => "e edits it, other keys close",
                (Some(_), Some(_)) => "o overrides it, e edits, others close",
            },
        ),
        Dialog::Leave => (
            "leave while this is running?".into(),
            under_way(model),
            "y leaves   Esc stays",
        ),
    };
    let window = Window {
        title,
        lines,
        keys,
        scroll: model.scroll,
    };
    draw_window(frame, area, theme, window);
}

fn under_way(model: &Model) -> Vec<Line<'static>> {
    let under_way = model.under_way.iter();
    let mut lines: Vec<Line<'_>> = under_way.map(|verb| Line::raw(verb.command())).collect();
    lines.push(Line::raw(
        "A hold is released; a job that this console runs is paused.",
    ));
    lines
}

/// Returns the lines of a failure, in full.
fn failure(theme: Theme, command: &str, reason: &FailureText, forced: Option<&Verb>) -> Vec<Line<'static>> {
    let mut lines = vec![
        Line::styled(format!("vctl {}", printable(command)), theme.dim()),
        Line::styled(printable(&reason.text), theme.tone(Tone::Bad)),
    ];
    let hint = reason.hint.as_ref();
    lines.extend(hint.map(|hint| Line::raw(format!("hint: {}", printable(hint)))));
    lines.extend(forced.map(|verb| {
        let text = format!("o: vctl {}", printable(&verb.command()));
        Line::styled(text, theme.tone(Tone::Warning))
    }));
    lines
}

/// Draws a frame as high as its content, up to the whole area.
fn draw_window(frame: &mut Frame<'_>, area: Rect, theme: Theme, window: Window<'_>) {
    let width = area.width.min(WIDEST);
    let title = theme.cut_middle(&printable(&window.title), usize::from(width.saturating_sub(4)));
    let block = Block::bordered()
        .border_set(theme.border())
        .border_style(theme.heading())
        .title_top(format!(" {title} "))
        .title_bottom(Line::styled(format!(" {} ", window.keys), theme.heading()));
    let text = Paragraph::new(Text::from(window.lines)).wrap(Wrap { trim: false });
    let rows = text.line_count(width.saturating_sub(2));
    let height = u16::try_from(rows + 2).unwrap_or(area.height).min(area.height);
    let hidden = rows.saturating_sub(usize::from(height.saturating_sub(2)));
    let first = window.scroll.min(hidden);
    let scroll = u16::try_from(first).unwrap_or(u16::MAX);
    let [row] = Layout::vertical([Constraint::Length(height)])
        .flex(Flex::Center)
        .areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)])
        .flex(Flex::Center)
        .areas(row);
    frame.render_widget(Clear, place);
    frame.render_widget(text.block(block).scroll((scroll, 0)), place);
    if hidden > 0 {
        let inside = place.inner(Margin::new(0, 1));
        super::list::draw_bar(frame, inside, theme, (first, usize::from(inside.height), rows));
    }
}

/// Returns the typed text with its cursor.
pub fn typed(theme: Theme, input: &Input, here: bool) -> Vec<Span<'static>> {
    let text = input.value();
    if !here {
        return vec![Span::raw(printable(text))];
    }
    let at = text
        .char_indices()
        .nth(input.cursor())
        .map_or(text.len(), |(at, _)| at);
    let (before, behind) = text.split_at(at);
    let mut behind = behind.chars();
    let under = behind.next().map_or("_".into(), |letter| letter.to_string());
    vec![
        Span::raw(printable(before)),
        Span::styled(printable(&under), theme.chosen()),
        Span::raw(printable(behind.as_str())),
    ]
}

fn draw_form(frame: &mut Frame<'_>, area: Rect, theme: Theme, form: &Form) {
    let mut lines = Vec::new();
    for (at, field) in form.fields.iter().enumerate() {
        let here = at == form.at;
        let name = format!("{} {:<10} ", if here { ">" } else { " " }, field.name);
        let name = Span::styled(name, theme.heading());
        let text = typed(theme, &field.input, here);
        lines.push(Line::from_iter(std::iter::once(name).chain(text)));
        if here {
            lines.push(Line::styled(
                format!("             {}{}", field.help, offers(&field.offers)),
                theme.dim(),
            ));
            let complaint = form.complaint.iter();
            lines.extend(complaint.map(|why| Line::styled(printable(why), theme.tone(Tone::Bad))));
        }
    }
    let command = form
        .verb()
        .map(|verb| format!("vctl {}", printable(&verb.command())));
    lines.extend([Line::raw(""), Line::raw(command.unwrap_or_default())]);
    let window = Window {
        title: form.subject.title(),
        lines,
        keys: "Enter previews  Tab next  Esc cancels",
        // The selected field stays visible in a low window too.
        scroll: form.at.saturating_sub(1),
    };
    draw_window(frame, area, theme, window);
}

/// Returns the offered values, as many as fit.
fn offers(offers: &[String]) -> String {
    const MOST: usize = 8;
    let some = offers.iter().take(MOST).cloned().collect::<Vec<_>>().join(" ");
    match offers.len() {
        0 => String::new(),
        1..=MOST => format!(" (arrows: {some})"),
        count => format!(" (arrows: {some} and {} more)", count - MOST),
    }
}

/// Returns the description of a verb, then its changes.
fn confirmation(
    model: &Model,
    theme: Theme,
    (verb, preview, input): (&Verb, &Preview, &Input),
    width: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!("vctl {}", printable(&verb.command())),
        theme.heading(),
    )];
    if let Some(danger) = &preview.danger {
        lines.push(Line::styled(printable(danger), theme.tone(Tone::Bad)));
        let ask = Span::raw(format!("type {YES} to confirm: "));
        lines.push(Line::from_iter(
            std::iter::once(ask).chain(typed(theme, input, true)),
        ));
    }
    lines.extend(preview.summary.iter().map(|line| Line::raw(printable(line))));
    for layouts in &preview.layouts {
        lines.extend(before_and_after(model, theme, layouts, width));
    }
    lines.extend(preview.changes.iter().map(|line| Line::raw(printable(line))));
    lines
}

fn before_and_after(model: &Model, theme: Theme, layouts: &Layouts, width: usize) -> Vec<Line<'static>> {
    let Some(look) = &model.look else {
        return Vec::new();
    };
    let bar = |name: &str, segments| {
        let mut spans = vec![Span::raw(format!("{name:<7}"))];
        let extents = picture::extents(&layouts.before);
        spans.extend(map::bar(
            &look.view,
            theme,
            segments,
            extents,
            width.saturating_sub(7),
        ));
        Line::from(spans)
    };
    vec![
        Line::raw(format!("volume {}", layouts.volume)),
        bar("now", &layouts.before),
        bar("then", &layouts.after),
        map::legend(&look.view, theme, &layouts.after),
    ]
}
