//! The lists as data: names of the columns, contents of the lines, filter and order. Pure. The view decides the width of columns and draws
//! them.

mod apparatuses;
mod disks;
mod jobs;
mod volumes;

pub use disks::{errors, fault};
pub use jobs::percent;

use super::model::{Model, Tab};
use crate::output::{Tone, duration, printable, size};
use apparatus::model::units::{DiskId, VolumeId};
use std::cmp::Ordering;
use unicode_width::UnicodeWidthStr;

/// How the width of a column is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A name: shown in full if there is room, otherwise cut with a mark.
    Name,
    /// Words that may be cut down to this many columns.
    Words(u16),
    /// A number, which is never cut; it has at least this width, so that the list does not jump when numbers change.
    Number(u16),
    /// A bar with at least and at most these numbers of columns.
    Bar(u16, u16),
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// How its width is chosen.
    pub kind: ColumnKind,
    /// Without enough room, columns with the highest rank are dropped first; those of rank 0 stay.
    pub rank: u8,
}

impl Column {
    const fn new(name: &'static str, kind: ColumnKind, rank: u8) -> Self {
        Self { name, kind, rank }
    }

    const fn name(name: &'static str) -> Self {
        Self::new(name, ColumnKind::Name, 0)
    }

    const fn words(name: &'static str, least: u16, rank: u8) -> Self {
        Self::new(name, ColumnKind::Words(least), rank)
    }

    const fn number(name: &'static str, usual: u16, rank: u8) -> Self {
        Self::new(name, ColumnKind::Number(usual), rank)
    }

    const fn bar(name: &'static str, least: u16, most: u16, rank: u8) -> Self {
        Self::new(name, ColumnKind::Bar(least, most), rank)
    }

    /// Returns whether its values are right-aligned, and sorted in descending order first.
    pub fn is_number(&self) -> bool {
        matches!(self.kind, ColumnKind::Number(_))
    }
}

/// The sort key of a value. Unknown values come last in either order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Sorted by number.
    Number(u64),
    /// Sorted by text.
    Text(String),
    /// Unknown.
    Nothing,
}

/// What a value shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A text, possibly with a tone.
    Text(String, Option<Tone>),
    /// The letter and the name of a disk.
    Disk(DiskId, String),
    /// The placement of a volume as a bar.
    Map(VolumeId),
    /// The usage of a disk as a bar.
    Use(DiskId),
    /// A share in per cent, as a bar.
    Part(u64),
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it shows.
    pub shape: Shape,
    /// Its sort key.
    pub key: SortKey,
}

impl Value {
    fn new(shape: Shape, key: SortKey) -> Self {
        Self { shape, key }
    }

    fn text(text: &str) -> Self {
        let text = printable(text);
        let key = SortKey::Text(text.to_lowercase());
        Self::new(Shape::Text(text, None), key)
    }

    fn word((word, tone): (&str, Tone)) -> Self {
        Self::new(Shape::Text(word.into(), Some(tone)), SortKey::Text(word.into()))
    }

    fn of(number: u64, words: impl FnOnce(u64) -> String) -> Self {
        Self::new(Shape::Text(words(number), None), SortKey::Number(number))
    }

    fn known(number: Option<u64>, words: impl FnOnce(u64) -> String) -> Self {
        number.map_or_else(
            || Self::new(Shape::Text("-".into(), None), SortKey::Nothing),
            |number| Self::of(number, words),
        )
    }

    fn count(number: u64) -> Self {
        Self::of(number, |number| number.to_string())
    }

    /// Returns its width in columns; a bar fits any width.
    pub fn width(&self) -> usize {
        match &self.shape {
            Shape::Text(text, _) => text.width(),
            Shape::Disk(_, name) => name.width() + 2,
            Shape::Map(_) | Shape::Use(_) | Shape::Part(_) => 0,
        }
    }

    fn says(&self, word: &str) -> bool {
        match &self.shape {
            Shape::Text(text, _) | Shape::Disk(_, text) => text.to_lowercase().contains(word),
            Shape::Map(_) | Shape::Use(_) | Shape::Part(_) => false,
        }
    }
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The identity of the object, which does not change with its name.
    pub id: String,
    /// The name of the object.
    pub name: String,
    /// One value for each column.
    pub values: Vec<Value>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The index of the column.
    pub column: usize,
    /// Whether the order is descending.
    pub down: bool,
}

/// Returns the columns of a list.
pub fn columns(tab: Tab) -> &'static [Column] {
    match tab {
        Tab::Overview | Tab::Events => &[],
        Tab::Apparatuses => apparatuses::COLUMNS,
        Tab::Volumes => volumes::COLUMNS,
        Tab::Disks => disks::COLUMNS,
        Tab::Jobs => jobs::COLUMNS,
    }
}

/// Returns all lines of a list in its natural order.
pub fn rows(model: &Model, tab: Tab) -> Vec<Row> {
    match tab {
        Tab::Overview | Tab::Events => Vec::new(),
        Tab::Apparatuses => {
            let views = model.apparatuses().iter();
            views.map(|view| apparatuses::row(model, view)).collect()
        }
        Tab::Volumes => {
            let moving = volumes::moving(model);
            let views = model.volumes().iter();
            views.map(|view| volumes::row(model, &moving, view)).collect()
        }
        Tab::Disks => {
            let views = model.disks().iter();
            views.map(|view| disks::row(model, view)).collect()
        }
        Tab::Jobs => {
            let jobs = model.jobs().into_iter();
            jobs.map(|job| jobs::row(model, job)).collect()
        }
    }
}

/// Returns the lines that pass the filter, sorted. A line passes if it contains every word of the filter, and no word that has a `!` before
/// it.
pub fn shown(rows: Vec<Row>, filter: &str, sort: Option<Sort>) -> Vec<Row> {
    let filter = filter.to_lowercase();
    let words: Vec<&str> = filter.split_whitespace().collect();
    let says = |row: &Row, word: &str| row.values.iter().any(|value| value.says(word));
    let passes = |row: &Row| {
        words.iter().all(|word| match word.strip_prefix('!') {
            None => says(row, word),
            Some("") => true,
            Some(word) => !says(row, word),
        })
    };
    let mut rows: Vec<Row> = rows.into_iter().filter(passes).collect();
    if let Some(sort) = sort {
        // The sort is stable.
        rows.sort_by(|a, b| order(a, b, sort));
    }
    rows
}

fn order(a: &Row, b: &Row, sort: Sort) -> Ordering {
    match (key(a, sort), key(b, sort)) {
        (SortKey::Nothing, SortKey::Nothing) => Ordering::Equal,
        (SortKey::Nothing, _) => Ordering::Greater,
        (_, SortKey::Nothing) => Ordering::Less,
        (a, b) if sort.down => b.cmp(a),
        (a, b) => a.cmp(b),
    }
}

fn key(row: &Row, sort: Sort) -> &SortKey {
    row.values
        .get(sort.column)
        .map_or(&SortKey::Nothing, |value| &value.key)
}

/// Formats bytes per second.
pub fn per_second(bytes: u64) -> String {
    format!("{}/s", size(bytes))
}

/// Formats a latency of which only the upper bound is known.
pub fn below(micros: u64) -> String {
    format!("<{}", duration(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, size: Option<u64>) -> Row {
        Row {
            id: name.into(),
            name: name.into(),
            values: vec![Value::text(name), Value::known(size, |size| size.to_string())],
        }
    }

    fn names(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.name.as_str()).collect()
    }

    fn some() -> Vec<Row> {
        vec![
            row("web-2", Some(9)),
            row("DB", None),
            row("web-10", Some(10)),
            row("old", Some(9)),
        ]
    }

    #[test]
    fn a_line_passes_a_filter_if_it_has_all_words() {
        let by = |filter: &str| names(&shown(some(), filter, None)).join(" ");
        assert_eq!(by(""), "web-2 DB web-10 old");
        assert_eq!(by("web"), "web-2 web-10");
        assert_eq!(by("WEB 10"), "web-10");
        assert_eq!(by("db"), "DB");
        assert_eq!(by("!web"), "DB old");
        assert_eq!(by("!"), "web-2 DB web-10 old");
        assert_eq!(by("nowhere"), "");
    }

    #[test]
    fn numbers_are_sorted_by_value_and_unknown_values_come_last() {
        let by = |column, down| {
            let rows = shown(some(), "", Some(Sort { column, down }));
            names(&rows).join(" ")
        };
        assert_eq!(by(1, true), "web-10 web-2 old DB");
        assert_eq!(by(1, false), "web-2 old web-10 DB");
        assert_eq!(by(0, false), "DB old web-10 web-2");
        assert_eq!(by(9, false), "web-2 DB web-10 old", "no such column");
    }
}
