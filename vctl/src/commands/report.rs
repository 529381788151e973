//! Output that the verbs of every noun share: a list, what is added to it, one object, its new state, its removal.

use super::Effect;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Column, TableOptions, details, table};
use apparatus::admin::watch::Watch;
use apparatus::model::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Prints rows as a table; in JSON they are under `nouns`.
///
/// # Errors
/// Fails when a requested column does not exist.
pub fn list<R: Serialize>(
    context: &mut Context,
    options: &TableOptions,
    columns: &[Column<R>],
    nouns: &'static str,
    mut rows: Vec<R>,
) -> Result<Done> {
    options.sort(columns, &mut rows)?;
    context.out.say(&BTreeMap::from([(nouns, &rows)]), |out| {
        table(out, options, columns, &rows)
    })?;
    Ok(Done::Plainly)
}

/// Calls `print_new` whenever the pool's database may have changed, until Ctrl-C, or until nobody reads the output.
///
/// # Errors
/// Returns the errors of `print_new` and of watching the database.
pub fn follow(
    context: &mut Context,
    mut watch: Watch,
    mut print_new: impl FnMut(&mut Context) -> Result<()>,
) -> Result<Done> {
    const EVER: Duration = Duration::from_secs(u32::MAX as u64);
    let end = Instant::now() + EVER;
    loop {
        context.out.flush()?;
        if context.out.closed() || !watch.changed(end)? {
            return Ok(Done::Plainly);
        }
        print_new(context)?;
    }
}

/// Prints one row, one column per line; in JSON it is under `noun`.
///
/// # Errors
/// Fails when it has no representation in JSON.
pub fn show<R: Serialize>(
    context: &mut Context,
    columns: &[Column<R>],
    noun: &'static str,
    row: &R,
) -> Result<Done> {
    context.out.say(&BTreeMap::from([(noun, row)]), |out| {
        details(out, columns, row);
        Ok(())
    })?;
    Ok(Done::Plainly)
}

/// Prints the new state of `noun name`: the row in JSON, a sentence as text.
///
/// # Errors
/// Fails when it has no representation in JSON.
pub fn became<R: Serialize>(
    context: &mut Context,
    change: Effect,
    (noun, name): (&'static str, &str),
    row: &R,
    (done, words): (&str, &str),
) -> Result<Done> {
    #[derive(Serialize)]
    struct StateReport<'a, R> {
        #[serde(flatten)]
        row: BTreeMap<&'static str, &'a R>,
        change: Effect,
    }
    let done = if change.changed() { done } else { "unchanged" };
    let ended = change.done();
    let row = BTreeMap::from([(noun, row)]);
    context.out.say(&StateReport { row, change }, |out| {
        out.line(&format!("{noun} {name}: {done}, {words}"));
        Ok(())
    })?;
    Ok(ended)
}

/// Prints that `noun name` has been removed.
///
/// # Errors
/// Fails when it has no representation in JSON.
pub fn removed(context: &mut Context, change: Effect, noun: &str, name: &str) -> Result<Done> {
    #[derive(Serialize)]
    struct Removed<'a> {
        removed: &'a str,
        change: Effect,
    }
    let ended = change.done();
    let body = Removed {
        removed: name,
        change,
    };
    context.out.say(&body, |out| {
        out.line(&format!("{noun} {name}: removed"));
        Ok(())
    })?;
    Ok(ended)
}
