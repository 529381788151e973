//! Details of a disk.

use super::Details;
use crate::commands::console::lists::{errors, fault};
use crate::commands::console::model::Model;
use crate::commands::console::view::{Theme, chart, map};
use crate::output::{Tone, count, printable, size};
use apparatus::admin::view::{DiskView, PoolView};
use ratatui::text::Line;

pub(super) fn known<'a>(model: &'a Model, theme: Theme, width: usize) -> Option<Details<'a>> {
    let (view, look) = (model.disk()?, model.look.as_ref()?);
    let record = &view.record;
    let usage = view.usage;
    let mut lines = vec![
        Line::raw(format!("at {}", printable(&record.path.display().to_string()))),
        map::usage(theme, view, width),
        Line::raw(format!(
            "# used {}   r for jobs {}   q quarantined {}   . free {}, longest run {}",
            size(usage.used.0),
            size(usage.reserved.0),
            size(usage.quarantined.0),
            size(usage.free.0),
            size(usage.largest_free.0)
        )),
        Line::raw(volumes_on(&look.view, view)),
    ];
    if record.reserve > 0 {
        let kept = record
            .reserve
            .saturating_mul(look.view.header.extent_size.bytes());
        lines.push(Line::raw(format!("{} of what is free is kept free", size(kept))));
    }
    lines.extend(complaints(model, theme, view));
    Some(Details {
        title: format!("disk {}", record.name),
        lines,
        trace: model.traces.disks.trace(record.name.as_str()),
        charts: chart::OF_DISK,
        ..Details::default()
    })
}

fn volumes_on(pool: &PoolView, view: &DiskView) -> String {
    let on = pool.volumes.iter().filter_map(|volume| {
        let here = volume.on.iter().find(|(disk, _)| *disk == view.record.name)?;
        Some(format!("{} {}", volume.record.name, size(here.1.0)))
    });
    let on: Vec<String> = on.collect();
    match on.is_empty() {
        true => "volumes: none".into(),
        false => format!("volumes: {}", on.join(", ")),
    }
}

fn complaints(model: &Model, theme: Theme, view: &DiskView) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if !view.record.allocate {
        let hint = format!("takes nothing new; vctl disk set {} --allocate", view.record.name);
        lines.push(Line::styled(hint, theme.tone(Tone::Warning)));
    }
    if let Some(fault) = fault(model, view) {
        lines.push(Line::styled(printable(fault), theme.tone(Tone::Bad)));
    }
    let errors = errors(model, view);
    if errors > 0 {
        let failed = count(errors, "request");
        let text = format!("{failed} failed; vctl events says which, e empties it");
        lines.push(Line::styled(text, theme.tone(Tone::Bad)));
    }
    lines
}
