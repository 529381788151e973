//! Sends one request to all apparatuses at once.

use crate::controller::elsewhere;
use crate::model::dir::PoolDir;
use crate::model::member::Member;
use crate::model::units::{Slot, Term};
use crate::rpc::client::{Links, Loss, WaitOutcome};
use crate::rpc::message::{Answer, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The answers, or why there is none. The effect of the request may last as long as the connections, so they are kept.
pub(in crate::admin) struct Answers {
    pub(in crate::admin) answers: BTreeMap<Slot, Result<Answer, String>>,
    pub(in crate::admin) links: Links,
}

/// Sends the request to these members, and waits for their answers, at most for `patience` in all.
pub(in crate::admin) fn ask(
    pool: &PoolDir,
    uuid: Uuid,
    members: &[Member],
    request: &Request,
    patience: Duration,
) -> Answers {
    // Members on other nodes that cannot be found now do not answer.
    let others = elsewhere::addresses(pool, members).unwrap_or_default();
    let mut links = match others.is_empty() {
        true => Links::new(uuid, Term(0)),
        false => elsewhere::links(pool, uuid).unwrap_or_else(|_| Links::new(uuid, Term(0))),
    };
    let mut awaited: BTreeSet<Slot> = members.iter().map(|member| member.slot).collect();
    let mut answers = BTreeMap::new();
    for member in members {
        match others.get(&member.slot) {
            Some(address) => links.connect_to(member.slot, address.clone()),
            None => links.connect(member.slot, pool, &member.name),
        }
    }
    let deadline = Instant::now() + patience;
    while !awaited.is_empty() {
        let (slot, answer) = match links.wait(deadline) {
            Some(WaitOutcome::Welcomed(slot, ..)) => {
                links.send(slot, request.clone());
                links.flush();
                continue;
            }
            Some(WaitOutcome::Answered(slot, answer)) => (slot, Ok(answer)),
            Some(WaitOutcome::Refused(slot, refusal)) => (slot, Err(refusal.to_string())),
            Some(WaitOutcome::Lost(slot, Loss::Absent)) => (slot, Err("has no control socket".into())),
            Some(WaitOutcome::Lost(slot, Loss::Broken(why))) => (slot, Err(why)),
            None => break,
        };
        if awaited.remove(&slot) {
            answers.insert(slot, answer);
        }
    }
    let silent = || Err(format!("does not answer in {} ms", patience.as_millis()));
    answers.extend(awaited.into_iter().map(|slot| (slot, silent())));
    Answers { answers, links }
}
