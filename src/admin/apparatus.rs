//! Operations on apparatuses: start, inspect, replace, stop, fence by force, wait for a rejoin.

mod start;
mod stop;
mod upgrade;
mod without_store;

pub(crate) use start::{FAILED_BECAUSE, FAILED_HINT, UNOPENED, WARNING};
pub use start::{Start, Started, UnopenedDisk, is_memory_limited, start};
pub use stop::{
    Fenced, check as check_stop, check_fence, fence, kill_supervisor_of, rejoin, stop, stop_unlisted,
};
pub use upgrade::{check_upgrade, upgrade};
pub use without_store::{check_process, kill_process, process_of, stop_process};

use super::usage::ask::ask;
use super::view::with_names;
use crate::cluster::{self, Presence};
use crate::controller::{elsewhere, node};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::member::{Member, MemberState};
use crate::model::names::Name;
use crate::rpc::client;
use crate::rpc::message::{Answer, ApparatusMetrics, Request};
use crate::store::{MemberStore, Store};
use crate::supervisor;
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// How long an apparatus may take to report its figures.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of an apparatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A member of the control range that answers.
    Serving,
    /// A member of the control range that is alive and does not answer.
    Silent,
    /// A member of the control range that answers, and serves no new hosts: it was asked to stop, or its mount was detached.
    Ending,
    /// Fenced, and alive.
    Fenced,
    /// Its server has ended, and its supervisor holds the mount and starts another.
    Restarting,
    /// Its process has ended without leaving.
    Dead,
}

/// An apparatus with its current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApparatusView {
    /// Its record in the store.
    pub member: Member,
    /// Its state.
    pub state: State,
    /// The figures that it reports.
    pub figures: Option<ApparatusMetrics>,
    /// Why it reports none.
    pub fault: Option<String>,
    /// The process that holds its mount and starts its server again, if there is one.
    pub supervisor: Option<u32>,
}

/// Returns all apparatuses that have not left.
///
/// # Errors
/// Returns the errors of the store.
pub fn list(pool: &PoolDir, store: &mut dyn Store) -> Result<Vec<ApparatusView>> {
    let (uuid, cluster) = (store.header()?.uuid, cluster::open(pool)?);
    let (_, members) = store.members()?;
    members
        .into_iter()
        .map(|member| look(pool, &*cluster, uuid, member))
        .collect()
}

/// Returns an apparatus by name.
///
/// # Errors
/// Fails with `NotFound`; returns the errors of the store.
pub fn show(pool: &PoolDir, store: &mut dyn Store, name: &str) -> Result<ApparatusView> {
    let uuid = store.header()?.uuid;
    look(pool, &*cluster::open(pool)?, uuid, member(store, name)?)
}

/// An apparatus whose supervisor holds the mount though it is no member of the pool: its server is being started, or none comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutServer {
    /// Its name.
    pub name: Name,
    /// What can be said about it.
    pub fault: String,
}

/// Returns the apparatuses that have a supervisor and are none of these members.
///
/// # Errors
/// Fails when the run directory cannot be read.
pub fn without_server(pool: &PoolDir, members: &[&Name]) -> Result<Vec<WithoutServer>> {
    let found = supervisor::supervisors(pool);
    let mut found = found.map_err(|error| Error::because(format!("{}", pool.run().display()), error))?;
    found.retain(|(name, _)| !members.contains(&name));
    let describe = |(name, supervisor): (Name, u32)| WithoutServer {
        fault: format!(
            "its supervisor, process {supervisor}, holds the mount, and no server of it has joined the pool: {} says why, if none comes up",
            pool.log(&name).display()
        ),
        name,
    };
    Ok(found.into_iter().map(describe).collect())
}

/// Returns whether an apparatus process of this name runs, whatever the database contains.
///
/// # Errors
/// Fails when that cannot be determined.
pub fn runs(pool: &PoolDir, name: &Name) -> Result<bool> {
    cluster::open(pool)?.is_claimed(name.as_str())
}

/// Returns the record of an apparatus that has not left. Reads the store only.
///
/// # Errors
/// Fails with `NotFound`; returns the errors of the store.
pub fn member(store: &mut dyn MemberStore, name: &str) -> Result<Member> {
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

/// Returns the figures that an apparatus reports through its control socket.
///
/// # Errors
/// Fails with `NotFound` when it does not run, and with `TimedOut` when it does not answer in two seconds.
pub fn figures(pool: &PoolDir, uuid: Uuid, name: &Name) -> Result<ApparatusMetrics> {
    match client::ask(pool, uuid, name, Request::Status, PATIENCE)? {
        Answer::Status(figures) => Ok(*figures),
        other => {
            let why = format!("answered {other:?} when asked for its figures");
            Err(Error::failed(format!("apparatus {name}"), why))
        }
    }
}

/// Returns the figures that a member reports, on whatever node it is.
fn figures_of(pool: &PoolDir, uuid: Uuid, member: &Member) -> Result<ApparatusMetrics> {
    if elsewhere::addresses(pool, std::slice::from_ref(member))?.is_empty() {
        return figures(pool, uuid, &member.name);
    }
    let mut asked = ask(
        pool,
        uuid,
        std::slice::from_ref(member),
        &Request::Status,
        PATIENCE,
    );
    match asked.answers.remove(&member.slot) {
        Some(Ok(Answer::Status(figures))) => Ok(*figures),
        Some(Err(why)) => Err(Error::failed(format!("apparatus {}", member.name), why)),
        _ => Err(Error::failed(
            format!("apparatus {}", member.name),
            "does not answer",
        )),
    }
}

/// Refuses what a process of this machine alone can do, for a member on another node.
fn refuse_elsewhere(pool: &PoolDir, member: &Member) -> Result<()> {
    match &member.node {
        Some(node) if elsewhere::is_on_another(pool, member)? => {
            let why = format!("runs on node {node}, and only that machine can do this");
            Err(Error::failed(format!("apparatus {}", member.name), why)
                .hint(format!("type the command on {node}")))
        }
        _ => Ok(()),
    }
}

/// Says why a member does not answer, and between which nodes.
fn not_reached(pool: &PoolDir, member: &Member, why: &str) -> String {
    let own = node::own(pool).ok().flatten();
    match (&member.node, own) {
        (Some(node), Some(own)) if *node != own.name => {
            format!("on node {node} is not reached from node {}: {why}", own.name)
        }
        _ => why.to_owned(),
    }
}

fn look(pool: &PoolDir, presence: &dyn Presence, uuid: Uuid, member: Member) -> Result<ApparatusView> {
    let supervisor = supervisor::supervisor_of(pool, &member.name).ok().flatten();
    let ended = match presence.has_ended(&member) {
        Ok(ended) => ended,
        Err(error) => {
            return Ok(ApparatusView {
                member,
                state: State::Silent,
                figures: None,
                fault: Some(error.why().to_owned()),
                supervisor,
            });
        }
    };
    if ended {
        let fault = Some(match supervisor {
            Some(supervisor) => format!(
                "its server, process {}, has ended; its supervisor, process {supervisor}, holds the mount and starts another: {} says why none comes up",
                member.pid,
                pool.log(&member.name).display()
            ),
            None => format!("its process, {}, has ended", member.pid),
        });
        return Ok(ApparatusView {
            member,
            state: match supervisor {
                Some(_) => State::Restarting,
                None => State::Dead,
            },
            figures: None,
            fault,
            supervisor,
        });
    }
    let (figures, fault) = match figures_of(pool, uuid, &member) {
        Ok(figures) => {
            let fault = figures.ending.map(|ending| ending.to_string());
            (Some(figures), fault)
        }
        Err(error) => (None, Some(not_reached(pool, &member, error.why()))),
    };
    let state = match (member.state, &figures, &fault) {
        (MemberState::Fenced, ..) => State::Fenced,
        (_, None, _) => State::Silent,
        (_, Some(_), None) => State::Serving,
        (_, Some(_), Some(_)) => State::Ending,
    };
    Ok(ApparatusView {
        member,
        state,
        figures,
        fault,
        supervisor,
    })
}
