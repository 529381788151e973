//! A rejoin, in the store.

use crate::model::error::{ErrorKind, Result};
use crate::model::member::{Joined, Joiner};
use crate::model::units::{Incarnation, Slot};
use crate::store::MemberStore;

/// Rejoins with a new incarnation. If this one is not fenced in the store, or a rejoin took place whose result was lost, the apparatus leaves and
/// joins again: the claim on its name proves that this is the only process of that name.
///
/// # Errors
/// Fails with the error of the store.
pub fn rejoin(
    store: &mut (impl MemberStore + ?Sized),
    (slot, incarnation): (Slot, Incarnation),
    joiner: &Joiner,
) -> Result<Joined> {
    match store.rejoin(slot, incarnation, joiner.known) {
        Err(why) if why.kind() == ErrorKind::Stale => {
            store.leave(slot, incarnation)?;
            store.join(joiner, &|_| false)
        }
        other => other,
    }
}
