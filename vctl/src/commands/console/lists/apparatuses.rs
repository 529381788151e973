//! The list of apparatuses.

use super::{Column, Row, Value, below, per_second};
use crate::commands::apparatus;
use crate::commands::console::model::Model;
use crate::output::duration;
use ::apparatus::admin::apparatus::ApparatusView;
use ::apparatus::rpc::message::ApparatusMetrics;

pub(super) const COLUMNS: &[Column] = &[
    Column::name("APPARATUS"),
    Column::words("STATE", 7, 0),
    Column::number("GEN", 5, 8),
    Column::number("FLIGHT", 6, 6),
    Column::number("HELD", 5, 3),
    Column::number("IOPS", 6, 1),
    Column::number("RATE", 9, 2),
    Column::number("P99-R", 7, 4),
    Column::number("P99-W", 7, 5),
    Column::number("UP", 6, 9),
    Column::number("THREADS", 7, 10),
    Column::number("PID", 7, 11),
    Column::words("MOUNT", 12, 12),
];

pub(super) fn row(model: &Model, view: &ApparatusView) -> Row {
    let name = view.member.name.as_str();
    let now = model.traces.apparatuses.now(name);
    let figure = |figure: fn(&ApparatusMetrics) -> u64| view.figures.as_ref().map(figure);
    let count = |number: Option<u64>| Value::known(number, |number| number.to_string());
    Row {
        id: name.into(),
        name: name.into(),
        values: vec![
            Value::text(name),
            Value::word(apparatus::word(view.state)),
            count(figure(|figures| figures.generation.0)),
            count(figure(|figures| figures.in_flight)),
            count(figure(|figures| figures.parked)),
            count(now.map(|point| point.requests)),
            Value::known(now.map(|point| point.bytes()), per_second),
            Value::known(now.and_then(|point| point.read_p99_us), below),
            Value::known(now.and_then(|point| point.write_p99_us), below),
            Value::known(figure(|figures| figures.uptime_us), duration),
            count(figure(|figures| figures.threads)),
            Value::count(u64::from(view.member.pid)),
            Value::text(&view.member.mount.to_string_lossy()),
        ],
    }
}
