//! Tables with selectable and sortable columns, and details with one value per line.

use super::{Cell, Output};
use apparatus::model::error::{Error, Result};
use clap::Args;

/// When a column is shown, unless columns are asked for.
#[derive(Clone, Copy)]
enum Shown {
    Always,
    /// If some row has a value in it.
    IfAny,
    OnRequest,
}

/// A column of rows `R`.
pub struct Column<R> {
    /// Its heading, in upper case.
    pub name: &'static str,
    /// When it is shown.
    shown: Shown,
    /// Returns its value for a row.
    pub cell: fn(&R) -> Cell,
}

impl<R> Column<R> {
    /// Creates a column that is shown by default.
    pub const fn shown(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self {
            name,
            shown: Shown::Always,
            cell,
        }
    }

    /// Creates a column that is shown on request.
    pub const fn hidden(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self {
            name,
            shown: Shown::OnRequest,
            cell,
        }
    }

    /// Creates a column that is shown if some row has a value in it.
    pub const fn if_any(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self {
            name,
            shown: Shown::IfAny,
            cell,
        }
    }

    /// Returns whether it is shown with these rows, unless columns are asked for.
    fn is_usual(&self, rows: &[R]) -> bool {
        match self.shown {
            Shown::Always => true,
            Shown::IfAny => rows.iter().any(|row| !matches!((self.cell)(row), Cell::None)),
            Shown::OnRequest => false,
        }
    }

    /// Returns the names of these columns.
    pub fn names(columns: &[Self]) -> Vec<&'static str> {
        columns.iter().map(|column| column.name).collect()
    }
}

/// Options of every verb that lists.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Table options")]
pub struct TableOptions {
    /// Show these columns, or `+COL,…` for these in addition to the usual ones; `help` lists them
    #[arg(
        short = 'o',
        long = "output",
        value_name = "COL,…",
        allow_hyphen_values = false
    )]
    columns: Option<String>,
    /// Sort by this column; `-COL` for descending order
    #[arg(long, value_name = "COL", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Omit the headings
    #[arg(long)]
    no_headings: bool,
}

impl TableOptions {
    /// Sorts rows as requested; otherwise keeps their order.
    ///
    /// # Errors
    /// Fails when there is no such column.
    pub fn sort<R>(&self, columns: &[Column<R>], rows: &mut [R]) -> Result<()> {
        let Some(by) = &self.sort else { return Ok(()) };
        let (name, backwards) = by
            .strip_prefix('-')
            .map_or((by.as_str(), false), |name| (name, true));
        let column = find(columns, name)?;
        rows.sort_by(|a, b| {
            let order = (column.cell)(a).order(&(column.cell)(b));
            if backwards { order.reverse() } else { order }
        });
        Ok(())
    }

    /// Returns whether the names of the columns are requested instead of rows.
    fn asks_for_columns(&self) -> bool {
        self.columns.as_deref() == Some("help")
    }

    fn chosen<'a, R>(&self, columns: &'a [Column<R>], rows: &[R]) -> Result<Vec<&'a Column<R>>> {
        let usual = || columns.iter().filter(|column| column.is_usual(rows));
        let Some(list) = &self.columns else {
            return Ok(usual().collect());
        };
        let (mut chosen, list) = match list.strip_prefix('+') {
            Some(more) => (usual().collect(), more),
            None => (Vec::new(), list.as_str()),
        };
        for name in list.split(',') {
            chosen.push(find(columns, name)?);
        }
        Ok(chosen)
    }
}

fn find<'a, R>(columns: &'a [Column<R>], name: &str) -> Result<&'a Column<R>> {
    columns
        .iter()
        .find(|column| column.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            let names = Column::names(columns);
            Error::usage(format!("column {name:?}"), "no such column")
                .hint(format!("columns: {}", names.join(", ")))
        })
}

/// Writes rows as an aligned table.
///
/// # Errors
/// Fails when a requested column does not exist.
pub fn table<R>(out: &mut Output, options: &TableOptions, columns: &[Column<R>], rows: &[R]) -> Result<()> {
    if options.asks_for_columns() {
        columns.iter().for_each(|column| out.line(column.name));
        return Ok(());
    }
    let chosen = options.chosen(columns, rows)?;
    let style = out.style();
    let grid: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| chosen.iter().map(|column| (column.cell)(row)).collect())
        .collect();
    let widths: Vec<usize> = chosen
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let heading = if options.no_headings { 0 } else { column.name.len() };
            grid.iter()
                .map(|row| row[i].plain(style).chars().count())
                .fold(heading, usize::max)
        })
        .collect();
    let right: Vec<bool> = (0..chosen.len())
        .map(|i| grid.iter().any(|row| row[i].right()))
        .collect();
    if !options.no_headings {
        let names = chosen.iter().map(|column| (column.name.to_owned(), ("", "")));
        out.line(&line(names, &widths, &right));
    }
    for row in &grid {
        let cells = row.iter().map(|cell| (cell.plain(style), cell.paint(style)));
        out.line(&line(cells, &widths, &right));
    }
    Ok(())
}

type Painted = (String, (&'static str, &'static str));

fn line(cells: impl Iterator<Item = Painted>, widths: &[usize], right: &[bool]) -> String {
    let mut line = String::new();
    for ((text, (before, after)), (width, right)) in cells.zip(widths.iter().zip(right)) {
        let pad = " ".repeat(width.saturating_sub(text.chars().count()));
        if !line.is_empty() {
            line.push_str("  ");
        }
        let painted = format!("{before}{text}{after}");
        line.push_str(&if *right { pad + &painted } else { painted + &pad });
    }
    line.truncate(line.trim_end().len());
    line
}

/// Writes all columns of one row, one line each.
pub fn details<R>(out: &mut Output, columns: &[Column<R>], row: &R) {
    let style = out.style();
    let width = columns.iter().map(|column| column.name.len()).max().unwrap_or(0);
    for column in columns {
        let cell = (column.cell)(row);
        let (before, after) = cell.paint(style);
        let label = column.name.to_lowercase();
        out.line(&format!("{label:<width$}  {before}{}{after}", cell.plain(style)));
    }
}
