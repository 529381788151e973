//! One question to all apparatuses at once.

use crate::control::client::{Happening, Links, Loss};
use crate::pool::dir::PoolDir;
use crate::store::Member;
use crate::units::{Slot, Term};
use crate::wire::message::{Answer, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The answers, or why there is none. What was asked for may last as long as the connections, so they are kept.
pub(in crate::ops) struct Asked {
    pub(in crate::ops) answers: BTreeMap<Slot, Result<Answer, String>>,
    pub(in crate::ops) links: Links,
}

/// Asks these, and waits for each as long as `patience` at most.
pub(in crate::ops) fn ask(
    pool: &PoolDir,
    uuid: Uuid,
    members: &[Member],
    request: &Request,
    patience: Duration,
) -> Asked {
    let mut links = Links::new(uuid, Term(0));
    let mut awaited: BTreeSet<Slot> = members.iter().map(|member| member.slot).collect();
    let mut answers = BTreeMap::new();
    for member in members {
        links.connect(member.slot, pool, &member.name);
    }
    let deadline = Instant::now() + patience;
    while !awaited.is_empty() {
        let (slot, answer) = match links.wait(deadline) {
            Some(Happening::Welcomed(slot, ..)) => {
                links.send(slot, request.clone());
                links.flush();
                continue;
            }
            Some(Happening::Answered(slot, answer)) => (slot, Ok(answer)),
            Some(Happening::Refused(slot, refusal)) => (slot, Err(refusal.to_string())),
            Some(Happening::Lost(slot, Loss::Absent)) => (slot, Err("has no control socket".into())),
            Some(Happening::Lost(slot, Loss::Broken(why))) => (slot, Err(why)),
            None => break,
        };
        if awaited.remove(&slot) {
            answers.insert(slot, answer);
        }
    }
    let silent = || Err(format!("does not answer in {} ms", patience.as_millis()));
    answers.extend(awaited.into_iter().map(|slot| (slot, silent())));
    Asked { answers, links }
}
