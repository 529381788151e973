//! Clears the failures recorded for a disk: its error counts in all apparatuses, and that an image was shorter for a while.

use super::usage::ask;
use super::view::PoolView;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::{Member, MemberState};
use crate::model::names::Name;
use crate::rpc::message::{Answer, Request};
use crate::store::{MemberStore, Store};
use std::time::Duration;

/// How long an apparatus may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has every apparatus clear the failures of a disk. Returns the apparatuses that have.
///
/// # Errors
/// Fails when there is no such disk, and with `TimedOut` and their names when apparatuses do not answer: the others have done it.
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
            _ => silent.push(format!("{} (it gave an unexpected answer)", member.name)),
        }
    }
    if silent.is_empty() {
        return Ok(cleared);
    }
    let why = format!("not cleared by apparatus {}", silent.join(", "));
    Err(
        Error::new(ErrorKind::TimedOut, format!("disk {}", record.name), why)
            .hint("vctl status shows the state of these apparatuses; their counts are lost when they end"),
    )
}

/// Returns the members that can be asked.
///
/// # Errors
/// Returns the errors of the store.
pub fn serving(store: &mut dyn MemberStore) -> Result<Vec<Member>> {
    let (_, members) = store.members()?;
    let serves = |member: &Member| member.state != MemberState::Left;
    Ok(members.into_iter().filter(serves).collect())
}
