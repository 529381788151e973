//! Members of the control range.

use super::change::{deltas_since, not_stale, unfinished};
use super::convert::{Ron, Word, to_ron};
use super::table::{self, guards};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::member::{Joined, Joiner, Member, MemberState, SLOTS};
use crate::model::names::Name;
use crate::model::units::{CacheEpoch, Generation, Incarnation, MembershipVersion, Slot, Term, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

const MEMBER: &str =
    "SELECT slot, name, incarnation, state, pid, mount, joined_at, since, origin, node, port FROM members";

fn member_row(row: &Row<'_>) -> rusqlite::Result<Member> {
    Ok(Member {
        slot: Slot(row.get(0)?),
        name: row.get::<_, Word<_>>(1)?.0,
        incarnation: Incarnation(row.get(2)?),
        state: row.get::<_, Word<_>>(3)?.0,
        pid: row.get(4)?,
        mount: row.get::<_, String>(5)?.into(),
        joined_at: Generation(row.get(6)?),
        since: Timestamp(row.get(7)?),
        origin: row.get::<_, Option<Ron<_>>>(8)?.map(|origin| origin.0),
        node: row.get::<_, Option<Word<_>>>(9)?.map(|node| node.0),
        port: row.get(10)?,
    })
}

/// Returns all members, including those that have left, by slot.
fn all(db: &Connection) -> Result<Vec<Member>> {
    let mut query = db.prepare_cached(&format!("{MEMBER} ORDER BY slot"))?;
    let rows = query.query_map([], member_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn in_slot(db: &Connection, slot: Slot) -> Result<Option<Member>> {
    let mut query = db.prepare_cached(&format!("{MEMBER} WHERE slot = ?1"))?;
    Ok(query.query_row([slot.0], member_row).optional()?)
}

pub(super) fn members(db: &Connection) -> Result<(MembershipVersion, Vec<Member>)> {
    let mut members = all(db)?;
    members.retain(|member| member.state != MemberState::Left);
    Ok((guards(db)?.membership, members))
}

fn raise_version(db: &Connection) -> Result<MembershipVersion> {
    let sql = "UPDATE pool SET membership = membership + 1 RETURNING membership";
    Ok(db
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0).map(MembershipVersion))?)
}

fn next_incarnation(db: &Connection) -> Result<Incarnation> {
    let sql = "UPDATE pool SET incarnation = incarnation + 1 RETURNING incarnation";
    Ok(db
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0).map(Incarnation))?)
}

fn set_state(db: &Connection, slot: Slot, state: MemberState) -> Result<MembershipVersion> {
    db.prepare_cached("UPDATE members SET state = ?2 WHERE slot = ?1")?
        .execute(params![slot.0, Word(state)])?;
    raise_version(db)
}

pub(super) fn join(
    db: &Connection,
    joiner: &Joiner,
    place: table::OpenedIn<'_>,
    alive: &dyn Fn(&Member) -> bool,
) -> Result<Joined> {
    let Joiner {
        name,
        pid,
        mount,
        origin,
        node,
        port,
        known,
    } = joiner;
    let members = all(db)?;
    let slot = match members.iter().find(|member| member.name == *name) {
        Some(same) if same.state != MemberState::Left && alive(same) => return Err(runs_already(same)),
        Some(same) => same.slot,
        None => slot_for(&members, alive)?,
    };
    let mount = mount.to_str().ok_or_else(|| {
        Error::usage(
            format!("apparatus {name}"),
            format!("mount point {mount:?} is not UTF-8"),
        )
    })?;
    let sql =
        "INSERT OR REPLACE INTO members (slot, name, incarnation, state, pid, mount, joined_at, since, boot, origin, node, port)
               VALUES (?1, ?2, ?3, 'joined', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let incarnation = next_incarnation(db)?;
    let (at, now) = (guards(db)?.generation, Timestamp::now());
    let values = params![
        slot.0,
        name.as_str(),
        incarnation.0,
        pid,
        mount,
        at.0,
        now.0,
        Word(place.0),
        origin.as_ref().map(to_ron).transpose()?,
        node.as_ref().map(Name::as_str),
        port
    ];
    db.prepare_cached(sql)?.execute(values)?;
    raise_version(db)?;
    joined(db, slot, (place, *known))
}

fn joined(
    db: &Connection,
    slot: Slot,
    (place, known): (table::OpenedIn<'_>, Option<Generation>),
) -> Result<Joined> {
    let since = match known {
        Some(known) => deltas_since(db, known)?,
        None => None,
    };
    let snapshot = match since {
        Some(_) => table::without_segments(db, place)?,
        None => table::snapshot(db, place)?,
    };
    Ok(Joined {
        member: in_slot(db, slot)?
            .ok_or_else(|| Error::not_found("apparatus", &format!("in slot {slot}")))?,
        snapshot,
        since,
        unfinished: unfinished(db)?,
    })
}

fn runs_already(member: &Member) -> Error {
    let Member { name, pid, mount, .. } = member;
    Error::failed(
        format!("apparatus {name}"),
        format!("runs already: process {pid}, mounted at {}", mount.display()),
    )
    .hint("stop that one first, or choose another name")
}

/// Returns the lowest slot whose member has left or that was never used; else that of a member whose process has ended, which
/// leaves by this.
fn slot_for(known: &[Member], alive: &dyn Fn(&Member) -> bool) -> Result<Slot> {
    let inside = |member: &&Member| member.state != MemberState::Left;
    let taken = |slot: &Slot| known.iter().filter(inside).any(|member| member.slot == *slot);
    if let Some(slot) = (0..SLOTS).map(Slot).find(|slot| !taken(slot)) {
        return Ok(slot);
    }
    let dead = known.iter().filter(inside).find(|member| !alive(member));
    dead.map(|member| member.slot).ok_or_else(|| {
        Error::failed(
            "pool",
            format!("has {SLOTS} apparatuses, which is the most it can have"),
        )
        .hint("stop one: vctl apparatus list")
    })
}

pub(super) fn rejoin(
    db: &Connection,
    slot: Slot,
    incarnation: Incarnation,
    with: (table::OpenedIn<'_>, Option<Generation>),
) -> Result<Joined> {
    let fenced = in_slot(db, slot)?
        .filter(|member| (member.state, member.incarnation) == (MemberState::Fenced, incarnation));
    let Some(member) = fenced else {
        return Err(Error::new(
            ErrorKind::Stale,
            format!("apparatus in slot {slot}"),
            format!("incarnation {incarnation} is not fenced"),
        ));
    };
    let sql =
        "UPDATE members SET incarnation = ?2, state = 'joined', joined_at = ?3, since = ?4 WHERE slot = ?1";
    let (new, at, now) = (next_incarnation(db)?, guards(db)?.generation, Timestamp::now());
    db.prepare_cached(sql)?
        .execute(params![member.slot.0, new.0, at.0, now.0])?;
    raise_version(db)?;
    joined(db, slot, with)
}

pub(super) fn fence(
    db: &Connection,
    term: Term,
    slot: Slot,
    incarnation: Incarnation,
) -> Result<Option<MembershipVersion>> {
    not_stale(db, term)?;
    match in_slot(db, slot)? {
        Some(member) if (member.state, member.incarnation) == (MemberState::Joined, incarnation) => {
            set_state(db, slot, MemberState::Fenced).map(Some)
        }
        _ => Ok(None),
    }
}

pub(super) fn leave(db: &Connection, slot: Slot, incarnation: Incarnation) -> Result<()> {
    let leaves = in_slot(db, slot)?
        .is_some_and(|member| member.state != MemberState::Left && member.incarnation == incarnation);
    if leaves {
        set_state(db, slot, MemberState::Left)?;
    }
    Ok(())
}

/// Marks the members of another epoch, which is no node's present one, as left: their processes have ended.
pub(super) fn end_of_epoch(db: &Connection, epoch: CacheEpoch) -> Result<bool> {
    let sql = "UPDATE members SET state = 'left' WHERE state <> 'left' AND boot <> ?1 AND boot NOT IN (SELECT boot FROM nodes)";
    let gone = db.prepare_cached(sql)?.execute([Word(epoch)])?;
    if gone > 0 {
        raise_version(db)?;
    }
    Ok(gone > 0)
}
