//! Keeps volumes closed while a change takes something away from their users.

use super::{PATIENCE, ask, check_vacant, may_live};
use crate::admin::plan::Vacate;
use crate::controller::Controller;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::Member;
use crate::protocol::controller::Outcome;
use crate::rpc::client::Links;
use crate::rpc::message::{Answer, Request};
use crate::store::Store;
use uuid::Uuid;

/// For how long a volume is kept closed at most, in microseconds.
const CLOSED_FOR_US: u64 = 30_000_000;

/// Keeps volumes from being opened, from a moment under the change's hold until it is dropped.
pub(in crate::admin) struct Guard {
    pool: PoolDir,
    uuid: Uuid,
    store: Box<dyn Store>,
    vacate: Vacate,
    links: Option<Links>,
    found_in_use: bool,
}

impl Guard {
    /// Checks once before anything is held.
    ///
    /// # Errors
    /// Fails with `Busy` and the users' names; returns the errors of the store.
    pub(in crate::admin) fn begin(controller: &mut Controller, vacate: &Vacate) -> Result<Self> {
        let pool = controller.pool().clone();
        check_vacant(&pool, controller.store(), vacate)?;
        Ok(Self {
            uuid: controller.store().header()?.uuid,
            store: crate::admin::open(&pool)?,
            pool,
            vacate: vacate.clone(),
            links: None,
            found_in_use: false,
        })
    }

    /// Closes the volumes, under the hold. The members that serve now are those that the change will
    /// be committed with, because the commit names the membership that the holds were counted by.
    ///
    /// # Errors
    /// Fails when a volume is in use after all.
    pub(in crate::admin) fn keep_closed(&mut self) -> Result<(), String> {
        self.links = None;
        let (_, members) = self.store.members().map_err(|why| why.to_string())?;
        let alive = |member: &Member| may_live(&self.pool, member);
        let living: Vec<Member> = members.into_iter().filter(alive).collect();
        let request = Request::Vacate {
            volumes: self.vacate.volumes.clone(),
            writers_only: self.vacate.writers_only,
            for_us: CLOSED_FOR_US,
        };
        let asked = ask::ask(&self.pool, self.uuid, &living, &request, PATIENCE);
        let vacant = |answer: &Result<Answer, String>| matches!(answer, Ok(Answer::Vacant));
        if asked.answers.values().all(vacant) {
            self.links = Some(asked.links);
            return Ok(());
        }
        self.found_in_use = true;
        Err("is in use".into())
    }

    /// Returns the outcome of the change, with the users' names if it was refused because of them.
    pub(in crate::admin) fn explain(
        self,
        controller: &mut Controller,
        outcome: Result<Outcome>,
    ) -> Result<Outcome> {
        let (Err(_), true) = (&outcome, self.found_in_use) else {
            return outcome;
        };
        check_vacant(&self.pool, controller.store(), &self.vacate)?;
        Err(Error::new(
            ErrorKind::Busy,
            "volume",
            "was opened meanwhile, and nothing has changed",
        )
        .hint("try again"))
    }
}
