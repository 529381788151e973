//! What verbs of every noun have in common to say: a list, one of it, what it has become, that it is gone.

use super::Effect;
use crate::context::Context;
use crate::exit::Done;
use crate::output::{Column, TableOptions, details, table};
use apparatus::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows as a table; the object has them under `nouns`.
///
/// # Errors
/// When there is no such column.
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

/// A row, a column a line; the object has it under `noun`.
///
/// # Errors
/// When it has no JSON.
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

/// What `noun name` has become: the row for scripts, and in words for people.
///
/// # Errors
/// When it has no JSON.
pub fn became<R: Serialize>(
    context: &mut Context,
    change: Effect,
    (noun, name): (&'static str, &str),
    row: &R,
    (done, words): (&str, &str),
) -> Result<Done> {
    #[derive(Serialize)]
    struct Became<'a, R> {
        #[serde(flatten)]
        row: BTreeMap<&'static str, &'a R>,
        change: Effect,
    }
    let done = if change.changed() { done } else { "is so already" };
    let ended = change.done();
    let row = BTreeMap::from([(noun, row)]);
    context.out.say(&Became { row, change }, |out| {
        out.line(&format!("{noun} {name}: {done}, {words}"));
        Ok(())
    })?;
    Ok(ended)
}

/// That `noun name` is gone.
///
/// # Errors
/// When it has no JSON.
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
