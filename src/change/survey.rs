//! Who is where: what the store, the member table and the life locks say, put together in that order.

use crate::change::recovery::Seen;
use crate::error::Result;
use crate::member::{LifeLock, MemberTable};
use crate::pool::dir::PoolDir;
use crate::store::{Member, Store};

/// Everyone who has not left.
///
/// # Errors
/// The store's, or that of a life lock that cannot be read.
pub(crate) fn see(store: &mut dyn Store, table: &MemberTable, pool: &PoolDir) -> Result<Vec<Seen>> {
    let (_, members) = store.members()?;
    members
        .iter()
        .map(|member| look_at(member, table, pool))
        .collect()
}

/// One of them.
///
/// # Errors
/// When its life lock cannot be read.
pub(crate) fn look_at(member: &Member, table: &MemberTable, pool: &PoolDir) -> Result<Seen> {
    let line = table.line(member.slot);
    let alive = LifeLock::alive(&pool.run(), member.name.as_str())?;
    Ok(Seen::new(member, &line, alive))
}
