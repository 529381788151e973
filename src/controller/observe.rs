//! Observes the members: combines the store, the published entries and the presence of their processes, read in that order.

use crate::cluster::{Membership, Presence};
use crate::model::error::Result;
use crate::model::member::Member;
use crate::protocol::recovery::MemberView;
use crate::store::MemberStore;

/// Returns a view of every member that has not left.
///
/// # Errors
/// Returns the errors of the store, or fails when the presence of a process cannot be determined.
pub(crate) fn observe_members(
    store: &mut dyn MemberStore,
    published: &dyn Membership,
    presence: &dyn Presence,
) -> Result<Vec<MemberView>> {
    let (_, members) = store.members()?;
    members
        .iter()
        .map(|member| observe_member(member, published, presence))
        .collect()
}

/// Returns a view of one member.
///
/// # Errors
/// Fails when that cannot be determined.
pub(crate) fn observe_member(
    member: &Member,
    published: &dyn Membership,
    presence: &dyn Presence,
) -> Result<MemberView> {
    let entry = published.entry(member.slot);
    let ended = presence.has_ended(member)?;
    Ok(MemberView::new(member, &entry, !ended))
}
