//! What stands over the rest.

use super::{Theme, help, map};
use crate::commands::console::model::Model;
use crate::commands::console::model::dialog::{Dialog, Layouts, Preview};
use crate::commands::console::model::form::{Form, Subject};
use crate::commands::console::verb::Verb;
use crate::commands::volume::map::picture;
use crate::output::{Tone, printable};
use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

/// Wider than this is hard to read.
const WIDEST: u16 = 100;

/// Draws it in the middle of `area`.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme, dialog: &Dialog) {
    let width = usize::from(area.width.min(WIDEST).saturating_sub(4));
    match dialog {
        Dialog::Help => {
            let lines = help::PAGE.iter().map(|line| Line::raw(*line)).collect();
            window(frame, area, theme, "help", lines, "any key goes on");
        }
        Dialog::Form(form) => draw_form(frame, area, theme, form),
        Dialog::Planning(verb) => {
            let lines = vec![Line::raw("finding out what it would do ...")];
            window(frame, area, theme, &verb.command(), lines, "Esc leaves it");
        }
        Dialog::Confirm {
            verb,
            preview,
            scroll,
        } => {
            let lines = confirmation(model, theme, verb, preview, *scroll, width);
            let keys = "y does it   Esc leaves it   up, down: the difference";
            window(frame, area, theme, "to be done?", lines, keys);
        }
        Dialog::Failed(command, told) => {
            let mut lines = vec![Line::styled(printable(&told.text), theme.tone(Tone::Bad))];
            let hint = told.hint.as_ref();
            lines.extend(hint.map(|hint| Line::raw(format!("hint: {}", printable(hint)))));
            window(
                frame,
                area,
                theme,
                &format!("{command}: not done"),
                lines,
                "any key goes on",
            );
        }
        Dialog::Leave => {
            let under_way = model.under_way.iter();
            let mut lines: Vec<Line<'_>> = under_way.map(|verb| Line::raw(verb.command())).collect();
            lines.push(Line::raw(
                "A hold is released; a job that is worked on here is paused.",
            ));
            window(
                frame,
                area,
                theme,
                "leave while this is under way?",
                lines,
                "y leaves   Esc stays",
            );
        }
    }
}

/// A frame as high as its content, up to the whole area.
fn window(frame: &mut Frame<'_>, area: Rect, theme: Theme, title: &str, lines: Vec<Line<'_>>, keys: &str) {
    let block = Block::bordered()
        .border_set(theme.border())
        .border_style(theme.heading())
        .title_top(format!(" {} ", printable(title)))
        .title_bottom(Line::styled(format!(" {keys} "), theme.heading()));
    let width = area.width.min(WIDEST);
    let inner = usize::from(width.saturating_sub(2)).max(1);
    let rows: usize = lines.iter().map(|line| line.width().div_ceil(inner).max(1)).sum();
    let height = u16::try_from(rows + 2).unwrap_or(area.height);
    let text = Paragraph::new(Text::from(lines))
        .wrap(Wrap { trim: false })
        .block(block);
    let [row] = Layout::vertical([Constraint::Length(height.min(area.height))])
        .flex(Flex::Center)
        .areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)])
        .flex(Flex::Center)
        .areas(row);
    frame.render_widget(Clear, place);
    frame.render_widget(text, place);
}

fn draw_form(frame: &mut Frame<'_>, area: Rect, theme: Theme, form: &Form) {
    let title = match &form.subject {
        Subject::Move(volume) => format!("move volume {volume}"),
        Subject::Evacuate(disk) => format!("evacuate disk {disk}"),
        Subject::Rate(job) => format!("rate of job {job}"),
        Subject::Hold(volume) => format!("hold volume {volume}"),
    };
    let mut lines = Vec::new();
    for (at, field) in form.fields.iter().enumerate() {
        let here = at == form.at;
        let text = format!("{}{}", printable(&field.text), if here { "_" } else { "" });
        lines.push(Line::from(vec![
            Span::styled(
                format!("{} {:<9}", if here { ">" } else { " " }, field.name),
                theme.heading(),
            ),
            if here {
                Span::styled(text, theme.chosen())
            } else {
                Span::raw(text)
            },
        ]));
        if here {
            let offers = match field.offers.is_empty() {
                true => String::new(),
                false => format!(" (arrows: {})", field.offers.join(" ")),
            };
            lines.push(Line::styled(
                format!("           {}{offers}", field.help),
                theme.dim(),
            ));
        }
    }
    if let Some(complaint) = &form.complaint {
        lines.push(Line::styled(printable(complaint), theme.tone(Tone::Bad)));
    }
    let keys = "Enter shows what it would do   Tab next   Esc leaves it";
    window(frame, area, theme, &title, lines, keys);
}

/// What it would do, then as much of the difference as there is room for.
fn confirmation(
    model: &Model,
    theme: Theme,
    verb: &Verb,
    preview: &Preview,
    scroll: usize,
    width: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        format!("vctl {}", printable(&verb.command())),
        theme.heading(),
    )];
    lines.extend(preview.summary.iter().map(|line| Line::raw(printable(line))));
    for layouts in &preview.layouts {
        lines.extend(before_and_after(model, theme, layouts, width));
    }
    lines.extend(
        preview
            .difference
            .iter()
            .skip(scroll)
            .map(|line| Line::raw(printable(line))),
    );
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
