//! The list of jobs.

use super::{Column, Row, Shape, SortKey, Value, per_second};
use crate::commands::console::model::{JobLook, Model};
use crate::commands::job::{tone, word};
use crate::output::{Tone, duration};

pub(super) const COLUMNS: &[Column] = &[
    Column::number("JOB", 3, 0),
    Column::words("STATE", 7, 0),
    Column::name("SUBJECT"),
    Column::number("DONE", 4, 0),
    Column::bar("PROGRESS", 8, 60, 4),
    Column::number("RATE", 9, 2),
    Column::number("LEFT", 6, 1),
    Column::number("HELD", 4, 6),
    Column::number("LONGEST", 7, 7),
    Column::words("WHY", 16, 5),
];

pub(super) fn row(model: &Model, job: &JobLook) -> Row {
    let record = &job.view.record;
    let id = record.id.to_string();
    let done = percent(job);
    Row {
        id: id.clone(),
        name: id,
        values: vec![
            Value::count(record.id.0),
            Value::word(match job.view.abandoned {
                true => ("abandoned", Tone::Bad),
                false => (word(record.state), tone(record.state)),
            }),
            Value::text(&job.view.subject),
            Value::known(done, |percent| format!("{percent}%")),
            Value::new(
                Shape::Part(done.unwrap_or(100)),
                done.map_or(SortKey::Nothing, SortKey::Number),
            ),
            Value::known(model.paces.rate(record.id), per_second),
            Value::known(model.paces.left_us(&job.view), duration),
            Value::count(record.held),
            Value::of(record.longest_hold_us, duration),
            Value::text(&job.phase),
        ],
    }
}

/// Returns the completed share of a job in per cent.
pub fn percent(job: &JobLook) -> Option<u64> {
    let percent = (u128::from(job.view.done.0) * 100).checked_div(u128::from(job.view.total.0))?;
    u64::try_from(percent).ok()
}
