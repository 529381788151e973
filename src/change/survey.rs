//! Who is where: what the store, the member table and the life locks say, put together in that order.

use crate::change::recovery::Seen;
use crate::error::Result;
use crate::member::{self, MemberTable};
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

/// Whether the process of a member lives.
///
/// # Errors
/// `Kind::Busy` when it may live, and cannot be seen from here; when its life lock cannot be read.
pub(crate) fn lives(pool: &PoolDir, member: &Member) -> Result<bool> {
    member::lives(pool, &member.name, member.pid, member.origin)
}

/// One of them.
///
/// # Errors
/// When its life lock cannot be read.
pub(crate) fn look_at(member: &Member, table: &MemberTable, pool: &PoolDir) -> Result<Seen> {
    let line = table.line(member.slot);
    let alive = lives(pool, member)?;
    Ok(Seen::new(member, &line, alive))
}
