//! The list of volumes.

use super::{Column, Row, Shape, SortKey, Value, below, per_second};
use crate::commands::console::model::{JobLook, Model};
use crate::output::{Tone, size};
use apparatus::admin::job::wants_work;
use apparatus::admin::usage::Usage;
use apparatus::admin::view::VolumeView;
use apparatus::model::units::VolumeId;
use std::collections::BTreeMap;

pub(super) const COLUMNS: &[Column] = &[
    Column::name("VOLUME"),
    Column::number("SIZE", 6, 0),
    Column::number("OPEN", 4, 3),
    Column::number("IOPS", 6, 1),
    Column::number("RATE", 9, 2),
    Column::bar("MAP", 8, 64, 5),
    Column::words("LIES ON", 8, 4),
    Column::words("JOB", 6, 6),
    Column::number("P99-R", 7, 7),
    Column::number("P99-W", 7, 8),
    Column::words("ACCESS", 6, 9),
    Column::words("USERS", 10, 10),
];

/// Returns the volumes that are being moved, with their jobs.
pub(super) fn moving(model: &Model) -> BTreeMap<VolumeId, &JobLook> {
    let jobs = model.open_jobs();
    let volumes = jobs.flat_map(|job| job.view.steps.iter().map(move |step| (step.volume, job)));
    volumes.collect()
}

pub(super) fn row(model: &Model, moving: &BTreeMap<VolumeId, &JobLook>, view: &VolumeView) -> Row {
    let record = &view.record;
    let name = record.name.as_str();
    let point = model.traces.volumes.now(name).unwrap_or_default();
    let usage = model.pulse.as_ref().map(|pulse| pulse.usage.get(&record.id));
    let on: Vec<String> = view.on.iter().map(|(disk, _)| disk.to_string()).collect();
    let map = Value::new(Shape::Map(record.id), SortKey::Text(on.join(" ")));
    Row {
        id: record.id.to_string(),
        name: name.into(),
        values: vec![
            Value::text(name),
            Value::of(record.size.0, size),
            Value::known(usage.and_then(open), |open| open.to_string()),
            Value::count(point.requests),
            Value::of(point.bytes(), per_second),
            map,
            Value::text(&on.join(" ")),
            moving.get(&record.id).map_or(Value::text(""), |job| of_job(job)),
            Value::known(point.read_p99_us, below),
            Value::known(point.write_p99_us, below),
            if record.read_only {
                Value::word(("ro", Tone::Warning))
            } else {
                Value::text("rw")
            },
            Value::text(&usage.flatten().map_or(String::new(), users)),
        ],
    }
}

/// Returns how often a volume is open in all apparatuses; `None` if one does not answer.
fn open(usage: Option<&Usage>) -> Option<u64> {
    match usage {
        None => Some(0),
        Some(usage) => usage.unknown.is_empty().then_some(usage.open),
    }
}

fn users(usage: &Usage) -> String {
    let users: Vec<String> = usage.users.iter().map(ToString::to_string).collect();
    users.join(", ")
}

fn of_job(job: &JobLook) -> Value {
    let id = job.view.record.id;
    let goes_on = wants_work(job.view.record.state);
    match super::percent(job).filter(|_| goes_on) {
        Some(percent) => Value::text(&format!("{id} {percent}%")),
        None => Value::word((&format!("{id} paused"), Tone::Warning)),
    }
}
