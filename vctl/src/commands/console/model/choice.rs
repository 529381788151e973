//! Selection, filter and order of each list.

use super::{Model, Tab};
use crate::commands::console::lists::{self, Row, Sort};

/// The view of a list.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The lines that are shown, in order.
    rows: Vec<Row>,
    /// The identity of the selected line, which stays selected when the list changes.
    id: String,
    /// The index of that line when it was last shown, used after it has gone.
    at: usize,
    /// Words by which the list is filtered.
    pub filter: String,
    /// The order; `None` is the natural order.
    pub sort: Option<Sort>,
}

impl Choice {
    /// Returns the lines that are shown, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns the index of the selected line or, if that line is not shown, of the line in its place.
    pub fn at(&self) -> usize {
        let found = self.rows.iter().position(|row| row.id == self.id);
        found.unwrap_or(self.at).min(self.rows.len().saturating_sub(1))
    }

    /// Returns the identity of the selected line; `None` if no line is shown.
    pub fn id(&self) -> Option<&str> {
        self.rows.get(self.at()).map(|row| row.id.as_str())
    }

    /// Moves the selection by this many lines.
    pub fn go(&mut self, by: isize) {
        let last = self.rows.len().saturating_sub(1);
        self.choose(self.at().saturating_add_signed(by).min(last));
    }

    /// Makes the line that appears selected the selected one, for the case that the previous one is only hidden by the filter.
    pub fn keep(&mut self) {
        self.choose(self.at());
    }

    fn choose(&mut self, at: usize) {
        self.at = at;
        if let Some(row) = self.rows.get(at) {
            self.id.clone_from(&row.id);
        }
    }

    /// Selects the line with this name; returns whether it is shown.
    pub fn choose_named(&mut self, name: &str) -> bool {
        let found = self.rows.iter().position(|row| row.name == name);
        if let Some(at) = found {
            self.choose(at);
        }
        found.is_some()
    }

    /// Replaces the lines.
    fn take(&mut self, rows: Vec<Row>) {
        self.at = self.at();
        self.rows = lists::shown(rows, &self.filter, self.sort);
        if self.id.is_empty() {
            self.choose(self.at);
        }
    }

    /// Sorts by the next column to the right, or to the left; after the last column follows the natural order. Numbers begin in descending
    /// order.
    pub fn sort_by_next(&mut self, tab: Tab, forward: bool) {
        self.keep();
        let columns = lists::columns(tab);
        let stops = columns.len() + 1;
        let now = self.sort.map_or(0, |sort| sort.column + 1);
        let next = (now + if forward { 1 } else { stops - 1 }) % stops;
        self.sort = next.checked_sub(1).map(|column| Sort {
            column,
            down: columns.get(column).is_some_and(lists::Column::is_number),
        });
    }

    /// Reverses the order.
    pub fn turn_around(&mut self) {
        self.keep();
        self.sort = Some(self.sort.map_or(
            Sort {
                column: 0,
                down: true,
            },
            |sort| Sort {
                down: !sort.down,
                ..sort
            },
        ));
    }
}

impl Model {
    /// Returns the view of a list.
    pub fn choice(&self, tab: Tab) -> &Choice {
        static NONE: Choice = Choice {
            rows: Vec::new(),
            id: String::new(),
            at: 0,
            filter: String::new(),
            sort: None,
        };
        self.choices.get(&tab).unwrap_or(&NONE)
    }

    /// Returns the view of the current list, to change it.
    pub(super) fn choice_mut(&mut self) -> &mut Choice {
        self.choices.entry(self.tab).or_default()
    }

    /// Builds the lines of these lists again.
    pub(super) fn settle(&mut self, tabs: &[Tab]) {
        for tab in tabs {
            let rows = lists::rows(self, *tab);
            self.choices.entry(*tab).or_default().take(rows);
        }
        let wanted = self.wanted.take_if(|(tab, name)| {
            let choice = self.choices.get_mut(tab);
            choice.is_some_and(|choice| choice.choose_named(name))
        });
        drop(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &[&str]) -> Vec<Row> {
        let row = |name: &&str| Row {
            id: (*name).into(),
            name: (*name).into(),
            values: Vec::new(),
        };
        names.iter().map(row).collect()
    }

    #[test]
    fn the_selection_stays_and_keeps_its_position_when_its_object_has_gone() {
        let mut choice = Choice::default();
        assert_eq!(choice.id(), None);
        choice.take(rows(&["a", "b", "c", "d"]));
        choice.go(2);
        assert_eq!(choice.id(), Some("c"));
        choice.take(rows(&["c", "a"]));
        assert_eq!((choice.id(), choice.at()), (Some("c"), 0));
        choice.take(rows(&["x", "a", "b", "c", "d"]));
        assert_eq!(choice.at(), 3);
        choice.take(rows(&["x", "a", "b", "d", "e"]));
        assert_eq!(choice.id(), Some("d"), "what has its place");
        choice.take(rows(&["x"]));
        assert_eq!(choice.id(), Some("x"));
        choice.take(rows(&["x", "c"]));
        assert_eq!(
            choice.id(),
            Some("c"),
            "it is back, and nothing else was chosen meanwhile"
        );
        choice.go(isize::MIN / 2);
        assert_eq!(choice.id(), Some("x"));
    }

    #[test]
    fn sorting_goes_around_all_columns() {
        let mut choice = Choice::default();
        let columns = lists::columns(Tab::Volumes);
        for (at, column) in columns.iter().enumerate() {
            choice.sort_by_next(Tab::Volumes, true);
            let sort = choice.sort.unwrap();
            assert_eq!((sort.column, sort.down), (at, column.is_number()));
        }
        choice.turn_around();
        choice.sort_by_next(Tab::Volumes, true);
        assert_eq!(choice.sort, None);
        choice.sort_by_next(Tab::Volumes, false);
        assert_eq!(choice.sort.unwrap().column, columns.len() - 1);
    }
}
