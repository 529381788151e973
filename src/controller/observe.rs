//! Observes the members: combines the store, the published entries and the presence of their processes, read in that order.

use super::elsewhere::Elsewhere;
use crate::cluster::{Membership, Presence};
use crate::model::error::Result;
use crate::model::member::Member;
use crate::protocol::recovery::MemberView;
use crate::store::Store;

/// Returns a view of every member that has not left.
///
/// # Errors
/// Returns the errors of the store, or fails when the presence of a process cannot be determined.
pub(crate) fn observe_members(
    store: &mut dyn Store,
    (published, presence): (&dyn Membership, &dyn Presence),
    elsewhere: &mut Elsewhere,
) -> Result<Vec<MemberView>> {
    let (_, members) = store.members()?;
    observe(&members, store, (published, presence), elsewhere)
}

/// Returns a view of each of these members.
///
/// # Errors
/// Fails as [`observe_members`] does.
pub(crate) fn observe(
    members: &[Member],
    store: &mut dyn Store,
    (published, presence): (&dyn Membership, &dyn Presence),
    elsewhere: &mut Elsewhere,
) -> Result<Vec<MemberView>> {
    elsewhere.look(store, members)?;
    members
        .iter()
        .map(|member| match elsewhere.view(member, published) {
            Some(view) => Ok(view),
            None => observe_member(member, published, presence),
        })
        .collect()
}

/// Returns a view of a member of this machine.
///
/// # Errors
/// Fails when that cannot be determined.
fn observe_member(
    member: &Member,
    published: &dyn Membership,
    presence: &dyn Presence,
) -> Result<MemberView> {
    let entry = published.entry(member.slot);
    let ended = presence.has_ended(member)?;
    Ok(MemberView::new(member, &entry, !ended))
}
