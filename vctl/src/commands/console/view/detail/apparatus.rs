//! Details of an apparatus.

use super::Details;
use crate::commands::apparatus::word;
use crate::commands::console::model::Model;
use crate::commands::console::view::{Theme, chart};
use crate::output::{Tone, count, duration, printable, size};
use apparatus::rpc::message::ApparatusMetrics;
use ratatui::text::Line;

pub(super) fn known<'a>(model: &'a Model, theme: Theme) -> Option<Details<'a>> {
    let view = model.apparatus()?;
    let member = &view.member;
    let mut lines = vec![Line::raw(format!(
        "{} at {}  process {}  life {}",
        word(view.state).0,
        printable(&member.mount.display().to_string()),
        member.pid,
        member.incarnation
    ))];
    if let Some(figures) = &view.figures {
        lines.push(Line::raw(of_figures(figures)));
        for (volume, waiting) in &figures.waiting {
            let disks: Vec<&str> = waiting.disks.iter().map(String::as_str).collect();
            let text = format!(
                "{} of volume {volume} for up to {}, on {}",
                count(waiting.requests, "slow request"),
                duration(waiting.longest_us),
                if disks.is_empty() {
                    "-".into()
                } else {
                    disks.join(", ")
                }
            );
            lines.push(Line::styled(printable(&text), theme.tone(Tone::Warning)));
        }
    }
    if let Some(fault) = &view.fault {
        lines.push(Line::styled(printable(fault), theme.tone(Tone::Bad)));
    }
    Some(Details {
        title: format!("apparatus {}", member.name),
        lines,
        trace: model.traces.apparatuses.trace(member.name.as_str()),
        charts: chart::OF_APPARATUS,
        ..Details::default()
    })
}

fn of_figures(figures: &ApparatusMetrics) -> String {
    format!(
        "up {}  term {}  holds {}  held {} ever, {} now, longest {}  threads {}",
        duration(figures.uptime_us),
        figures.term,
        figures.holds,
        figures.ever_parked,
        size(figures.parked_bytes),
        duration(figures.longest_parked_us),
        figures.threads
    )
}
