//! Who serves, held against who shall; and what is there and not described.

use super::{Description, Wish};
use crate::error::{Error, Result};
use crate::fuse::allows_others;
use crate::ops::apparatus::{self, State, View};
use crate::ops::describe::Apparatus;
use crate::pool::dir::PoolDir;
use crate::pool::model::VolumeRecord;
use crate::pool::names::Name;
use crate::store::Store;
use std::collections::HashSet;

/// The apparatuses that are described and do not run.
///
/// # Errors
/// When one runs otherwise than described: its hosts are not taken from it unasked; the store's.
pub fn to_start<'a>(
    pool: &PoolDir,
    store: &mut dyn Store,
    wanted: &'a Description,
) -> Result<Vec<&'a Apparatus>> {
    let running = apparatus::list(pool, store)?;
    let mut missing = Vec::new();
    for wanted in &wanted.apparatuses {
        let found = running.iter().find(|view| view.member.name == wanted.name);
        match found.filter(|view| view.state != State::Dead) {
            None => missing.push(wanted),
            Some(view) => check(view, wanted)?,
        }
    }
    Ok(missing)
}

fn check(view: &View, wanted: &Apparatus) -> Result<()> {
    let mount = &view.member.mount;
    let others = allows_others(mount).map_err(|error| Error::because("mount table", error))?;
    let threads = view.figures.as_ref().map(|figures| figures.threads);
    let why = if *mount != wanted.mount {
        format!("runs at {}, not at {}", mount.display(), wanted.mount.display())
    } else if others != wanted.allow_other {
        format!("runs with allow_other {others}, not {}", wanted.allow_other)
    } else if let (Some(is), Some(shall)) = (threads, wanted.threads)
        && is != u64::from(shall)
    {
        format!("runs with {is} threads, not {shall}")
    } else {
        return Ok(());
    };
    let name = &wanted.name;
    let hint = format!("when its hosts can do without it: vctl apparatus stop {name}, and apply again");
    Err(Error::failed(format!("apparatus {name}"), why).hint(hint))
}

/// What is there, is not described, and stays, as words. With the wish to prune these are apparatuses alone: their hosts end them.
///
/// # Errors
/// The store's.
pub fn unasked(store: &mut dyn Store, wanted: &Description, wish: Wish) -> Result<Vec<String>> {
    let (volumes, disks) = (store.volumes()?, store.disks()?);
    let (_, members) = store.members()?;
    let described: HashSet<&Name> = wanted.volumes.iter().map(|volume| &volume.name).collect();
    let surplus = |volume: &&VolumeRecord| !volume.name.is_hidden() && !described.contains(&volume.name);
    let volumes = volumes
        .iter()
        .filter(surplus)
        .map(|volume| ("volume", &volume.name));
    let disks = disks.iter().map(|disk| ("disk", &disk.name));
    let members = members.iter().map(|member| ("apparatus", &member.name));
    let all = volumes.chain(disks).chain(members);
    Ok(all
        .filter(|(noun, _)| !wish.prune || *noun == "apparatus")
        .filter(|(noun, name)| !wanted.names(noun, name))
        .map(|(noun, name)| format!("{noun} {name}"))
        .collect())
}

impl Description {
    fn names(&self, noun: &str, name: &Name) -> bool {
        match noun {
            // They are many, and were looked for at once.
            "volume" => false,
            "disk" => self.disks.iter().any(|disk| disk.name == *name),
            _ => self.apparatuses.iter().any(|apparatus| apparatus.name == *name),
        }
    }
}
