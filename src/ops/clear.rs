//! Forgets what failed on a disk: its error counts in all apparatuses, and that an image was shorter for a while.

use super::usage::ask;
use super::view::PoolView;
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{Member, MemberState, Store};
use crate::wire::message::{Answer, Request};
use std::time::Duration;

/// How long an apparatus may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has every apparatus forget; answers which have.
///
/// # Errors
/// When there is no such disk; `TimedOut` when an apparatus does not answer, by name: the others have done it.
pub fn clear(pool: &PoolDir, store: &mut dyn Store, disk: &str) -> Result<Vec<Name>> {
    let view = PoolView::load(store)?;
    let record = &view.disk(disk)?.record;
    let members: Vec<Member> = serving(store)?;
    let request = Request::ClearDisk { disk: record.id };
    let mut asked = ask::ask(pool, view.header.uuid, &members, &request, PATIENCE);
    let mut cleared = Vec::new();
    let mut silent = Vec::new();
    for member in members {
        match asked.answers.remove(&member.slot) {
            Some(Ok(Answer::Accepted)) => cleared.push(member.name),
            Some(Err(why)) => silent.push(format!("{} ({why})", member.name)),
            _ => silent.push(format!("{} (it did something else)", member.name)),
        }
    }
    if silent.is_empty() {
        return Ok(cleared);
    }
    let why = format!("not cleared by apparatus {}", silent.join(", "));
    Err(Error::new(Kind::TimedOut, format!("disk {}", record.name), why)
        .hint("vctl status tells how these apparatuses are; what they have counted is gone when they end"))
}

/// Those that could be asked.
///
/// # Errors
/// The store's.
pub fn serving(store: &mut dyn Store) -> Result<Vec<Member>> {
    let (_, members) = store.members()?;
    let serves = |member: &Member| member.state != MemberState::Left;
    Ok(members.into_iter().filter(serves).collect())
}
