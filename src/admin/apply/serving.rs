//! Compares the running apparatuses with the described ones, and lists what exists and is not described.

use super::{ApplyRequest, Description};
use crate::admin::apparatus::{self, ApparatusView, State};
use crate::admin::describe::Apparatus;
use crate::frontend::fuse::allows_others;
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::records::VolumeRecord;
use crate::model::words::count;
use crate::store::Store;
use std::collections::HashSet;

/// Returns the apparatuses that are described and do not run.
///
/// # Errors
/// Fails when one runs with other settings than described, because it is not stopped without being asked to; returns the errors of the
/// store.
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

fn check(view: &ApparatusView, wanted: &Apparatus) -> Result<()> {
    let mount = &view.member.mount;
    let others = allows_others(mount).map_err(|error| Error::because("mount table", error))?;
    let threads = view.figures.as_ref().map(|figures| figures.thread_limit);
    let why = if *mount != wanted.mount {
        format!("runs at {}, not at {}", mount.display(), wanted.mount.display())
    } else if others != wanted.allow_other {
        format!("runs with allow_other {others}, not {}", wanted.allow_other)
    } else if let Some(expected) = wanted.supervisor
        && expected != view.supervisor.is_some()
    {
        format!("runs with supervisor {}, not {expected}", !expected)
    } else if let (Some(is), Some(expected)) = (threads, wanted.threads)
        && is != Some(expected)
    {
        let is = is.map_or_else(
            || "the default number of threads".into(),
            |is| count(is, "thread"),
        );
        format!("runs with {is}, not {expected}")
    } else {
        return Ok(());
    };
    let name = &wanted.name;
    let hint = format!("when no host uses it: vctl apparatus stop {name}, then apply again");
    Err(Error::failed(format!("apparatus {name}"), why).hint(hint))
}

/// Lists what exists, is not described, and stays, for the user. With `prune` these are apparatuses only: their hosts end them.
///
/// # Errors
/// Returns the errors of the store.
pub fn unasked(store: &mut dyn Store, wanted: &Description, request: ApplyRequest) -> Result<Vec<String>> {
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
        .filter(|(noun, _)| !request.prune || *noun == "apparatus")
        .filter(|(noun, name)| !wanted.names(noun, name))
        .map(|(noun, name)| format!("{noun} {name}"))
        .collect())
}

impl Description {
    fn names(&self, noun: &str, name: &Name) -> bool {
        match noun {
            // Volumes may be many, and have been filtered before.
            "volume" => false,
            "disk" => self.disks.iter().any(|disk| disk.name == *name),
            _ => self.apparatuses.iter().any(|apparatus| apparatus.name == *name),
        }
    }
}
