//! The list of disks.

use super::{Column, Row, Shape, SortKey, Value, below, per_second};
use crate::commands::console::model::Model;
use crate::output::{Tone, size};
use apparatus::admin::view::DiskView;
use apparatus::model::event::Severity;

pub(super) const COLUMNS: &[Column] = &[
    Column::name("DISK"),
    Column::words("STATE", 6, 1),
    Column::number("SIZE", 6, 2),
    Column::number("USED", 6, 3),
    Column::number("FREE", 6, 0),
    Column::bar("USE", 8, 40, 8),
    Column::number("IOPS", 6, 4),
    Column::number("RATE", 9, 5),
    Column::number("ERRORS", 6, 6),
    Column::words("ALLOC", 5, 7),
    Column::number("QUAR", 5, 9),
    Column::number("VOLUMES", 7, 11),
    Column::words("TAGS", 6, 7),
    Column::number("P99-R", 7, 12),
    Column::number("P99-W", 7, 13),
    Column::words("PATH", 12, 14),
];

pub(super) fn row(model: &Model, view: &DiskView) -> Row {
    let (record, usage) = (&view.record, view.usage);
    let name = record.name.as_str();
    let point = model.traces.disks.now(name);
    let tags: Vec<String> = record.tags.iter().map(|tag| format!("@{tag}")).collect();
    let disk = Shape::Disk(record.id, name.into());
    let used = usage.size.0.saturating_sub(usage.free.0);
    let share = (u128::from(used) * 1000).checked_div(u128::from(usage.size.0));
    let share = u64::try_from(share.unwrap_or(0)).unwrap_or(0);
    Row {
        id: record.id.to_string(),
        name: name.into(),
        values: vec![
            Value::new(disk, SortKey::Text(name.to_lowercase())),
            Value::word(match fault(model, view) {
                Some(_) => ("faulty", Tone::Bad),
                None => ("ok", Tone::Good),
            }),
            Value::of(usage.size.0, size),
            Value::of(usage.used.0, size),
            Value::of(usage.free.0, size),
            Value::new(Shape::Use(record.id), SortKey::Number(share)),
            Value::known(point.map(|point| point.requests), |number| number.to_string()),
            Value::known(point.map(|point| point.bytes()), per_second),
            of_errors(errors(model, view)),
            match record.allocate {
                true => Value::text("yes"),
                false => Value::word(("no", Tone::Warning)),
            },
            Value::of(usage.quarantined.0, size),
            Value::count(view.volumes),
            Value::text(&tags.join(" ")),
            Value::known(point.and_then(|point| point.read_p99_us), below),
            Value::known(point.and_then(|point| point.write_p99_us), below),
            Value::text(&record.path.to_string_lossy()),
        ],
    }
}

fn of_errors(errors: u64) -> Value {
    let tone = (errors > 0).then_some(Tone::Bad);
    Value::new(Shape::Text(errors.to_string(), tone), SortKey::Number(errors))
}

/// Returns what is wrong with a disk, according to the last status.
pub fn fault<'a>(model: &'a Model, disk: &DiskView) -> Option<&'a str> {
    let subject = format!("disk {}", disk.record.name);
    let findings = &model.pulse.as_ref()?.status.findings;
    let mut grave = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    let found = grave.find(|finding| finding.subject == subject);
    found.map(|finding| finding.text.as_str())
}

/// Returns the number of failed requests in all apparatuses.
pub fn errors(model: &Model, disk: &DiskView) -> u64 {
    let figures = model
        .apparatuses()
        .iter()
        .filter_map(|view| view.figures.as_ref());
    figures
        .filter_map(|figures| figures.disks.get(disk.record.name.as_str()))
        .map(|io| io.errors)
        .sum()
}
