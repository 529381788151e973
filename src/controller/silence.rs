//! Fences members of other nodes for good: nothing may rest on a fence before its member is known to acknowledge nothing any more.
//!
//! The store has the fence first. Then another apparatus of that node sets the fence word there, or the lease of the fenced life is waited out, with
//! nothing held. This machine remembers the result in the fence word that it has for that slot, so no other process of it waits again.

use super::Controller;
use crate::held::may_wait;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::member::MemberState;
use crate::model::units::Slot;
use crate::protocol::controller::Participant;
use crate::protocol::lease::lease_has_run_out_us;
use crate::protocol::recovery::MemberView;
use crate::store::leases::leases;
use crate::sys::boottime_us;
use std::time::Duration;

/// Longest sleep of a wait, by a clock that may stand still while the one of the lease goes on.
const STEP: Duration = Duration::from_secs(1);

impl Controller {
    /// Returns whether a member is fenced in the store, and may acknowledge requests nevertheless.
    pub(super) fn is_to_be_silenced(&self, seen: &MemberView) -> bool {
        self.elsewhere.has(seen.who.slot) && seen.state == MemberState::Fenced && !seen.fenced
    }

    /// Makes sure that a member that is fenced in the store acknowledges nothing any more. Waits for that if it is on another node.
    ///
    /// # Errors
    /// Fails when that cannot be known; returns the errors of the store.
    pub(super) fn silence(&mut self, who: Participant) -> Result<()> {
        if self.elsewhere.has(who.slot) && self.members.entry(who.slot).fenced < who.incarnation {
            self.silence_elsewhere(who)?;
        }
        self.members.fence(who.slot, who.incarnation);
        Ok(())
    }

    fn silence_elsewhere(&mut self, who: Participant) -> Result<()> {
        may_wait("waiting for a lease");
        // The store has answered the fence by now, so every renewal that it has accepted was sent before.
        let answered_us = boottime_us();
        let Some(name) = self.names.get(&who.slot).cloned() else {
            // Nothing is known of it, so nothing may rest on its fence.
            return Err(
                Error::failed(format!("apparatus {}", who.slot), "has joined meanwhile").hint("try again"),
            );
        };
        if let Some(ended) = self.elsewhere.fence_by_neighbour(who, &name) {
            return match ended {
                true => self.store.leave(who.slot, who.incarnation),
                false => Ok(()),
            };
        }
        let node = self
            .elsewhere
            .node(who.slot)
            .map_or_else(String::new, ToString::to_string);
        let length_us = match leases(&self.pool)? {
            Some(mut leases) => leases.published(who.slot, who.incarnation)?,
            None => None,
        };
        let Some(length_us) = length_us else {
            let why = format!(
                "runs on node {node}, does not answer, and holds no lease yet whose end could be waited for"
            );
            return Err(Error::new(ErrorKind::TimedOut, format!("apparatus {name}"), why)
                .hint(format!("stop it there: vctl apparatus stop {name}")));
        };
        let until_us = lease_has_run_out_us(answered_us, length_us);
        let seconds = (until_us - answered_us).div_ceil(1_000_000);
        let text = format!("waits {seconds} s for the lease of {name} on {node}");
        log::warn!("{text}");
        self.notes
            .push((Severity::Warning, format!("apparatus {name}"), text));
        self.wait_out(until_us);
        Ok(())
    }

    fn wait_out(&mut self, until_us: u64) {
        loop {
            let left = Duration::from_micros(until_us.saturating_sub(boottime_us()));
            if left.is_zero() {
                return;
            }
            let deadline = self.environment.now() + left.min(STEP);
            self.elsewhere.wait_until(deadline);
        }
    }

    /// Fences a member of another node that was silent while others held. Nothing is held now. One that answers after all is only slow, and stays.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(super) fn fence_silent(&mut self, slot: Slot) -> Result<()> {
        may_wait("fencing on another node");
        if self.elsewhere.answers(slot) {
            return Ok(());
        }
        let (_, members) = self.store.members()?;
        let joined = |member: &&crate::model::member::Member| {
            member.slot == slot && member.state == MemberState::Joined
        };
        let Some(member) = members.iter().find(joined) else {
            return Ok(());
        };
        self.links.forget(slot);
        if self.store.fence(self.term, slot, member.incarnation)?.is_some() {
            let text = "silent on another node: fenced; its hosts wait until it has rejoined";
            self.notes.push((
                Severity::Warning,
                format!("apparatus {}", member.name),
                text.to_owned(),
            ));
            self.fenced.push(member.name.clone());
        }
        Ok(())
    }
}
