//! Apparatuses: started, looked at, stopped, fenced by force, awaited.

mod start;
mod stop;

pub use start::{Start, start};
pub use stop::{check as check_stop, fence, rejoin, stop, stop_unlisted};

use super::view::with_names;
use crate::change::survey::lives;
use crate::control::client;
use crate::error::{Error, Result};
use crate::member::LifeLock;
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::store::{Member, MemberState, Store};
use crate::wire::message::{Answer, Figures, Request};
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// How long an apparatus may take to tell its figures.
const PATIENCE: Duration = Duration::from_secs(2);

/// How an apparatus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In the control range, and answers.
    Serving,
    /// In the control range, lives, and does not answer.
    Silent,
    /// Out of the control range, and lives.
    Fenced,
    /// Its process has ended without leaving.
    Dead,
}

/// An apparatus as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// As the store has it.
    pub member: Member,
    /// How it is.
    pub state: State,
    /// What it tells of itself.
    pub figures: Option<Figures>,
    /// Why it does not.
    pub fault: Option<String>,
}

/// All that have not left.
///
/// # Errors
/// The store's.
pub fn list(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<View>> {
    let uuid = store.header()?.uuid;
    let (_, members) = store.members()?;
    members
        .into_iter()
        .map(|member| look(pool, uuid, member))
        .collect()
}

/// One by name.
///
/// # Errors
/// `NotFound`; the store's.
pub fn show(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<View> {
    let uuid = store.header()?.uuid;
    look(pool, uuid, member(store, name)?)
}

/// Whether a process of this name runs, whatever the database says.
///
/// # Errors
/// When its life lock cannot be read.
pub fn runs(pool: &PoolDir, name: &Name) -> Result<bool> {
    LifeLock::alive(pool, name.as_str())
}

/// The record of one that has not left.
pub(super) fn member(store: &mut dyn Store, name: &str) -> Result<Member> {
    let (_, mut members) = store.members()?;
    match members.iter().position(|member| member.name.as_str() == name) {
        Some(at) => Ok(members.swap_remove(at)),
        None => {
            let names = members.iter().map(|member| member.name.to_string()).collect();
            Err(with_names(
                Error::not_found("apparatus", name),
                "apparatuses",
                names,
            ))
        }
    }
}

/// What an apparatus tells of itself through its control socket.
///
/// # Errors
/// `NotFound` when it does not run, `TimedOut` when it does not answer in two seconds.
pub fn figures(pool: &PoolDir, uuid: Uuid, name: &Name) -> Result<Figures> {
    match client::ask(pool, uuid, name, Request::Status, PATIENCE)? {
        Answer::Status(figures) => Ok(*figures),
        other => {
            let why = format!("answered {other:?} when asked for its figures");
            Err(Error::failed(format!("apparatus {name}"), why))
        }
    }
}

fn look(pool: &PoolDir, uuid: Uuid, member: Member) -> Result<View> {
    let lives = match lives(pool, &member) {
        Ok(lives) => lives,
        Err(error) => {
            return Ok(View {
                member,
                state: State::Silent,
                figures: None,
                fault: Some(error.why().to_owned()),
            });
        }
    };
    if !lives {
        let fault = Some(format!("its process, {}, has ended", member.pid));
        return Ok(View {
            member,
            state: State::Dead,
            figures: None,
            fault,
        });
    }
    let (figures, fault) = match figures(pool, uuid, &member.name) {
        Ok(figures) => (Some(figures), None),
        Err(error) => (None, Some(error.why().to_owned())),
    };
    let state = match (member.state, &figures) {
        (MemberState::Fenced, _) => State::Fenced,
        (_, Some(_)) => State::Serving,
        (_, None) => State::Silent,
    };
    Ok(View {
        member,
        state,
        figures,
        fault,
    })
}
