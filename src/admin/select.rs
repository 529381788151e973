//! Selects disks by the user's words: `DISK`, or `@TAG` for all that have the tag.

use super::view::{no_disk, no_volume, with_names};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::records::{DiskRecord, VolumeRecord};
use crate::model::units::DiskId;
use std::collections::BTreeSet;

/// Returns the disks that the words select, each once, in the order of the words and then of the disks.
///
/// # Errors
/// Fails with `NotFound` for an unknown disk or tag.
pub fn disks(all: &[DiskRecord], words: &[String]) -> Result<Vec<DiskId>> {
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for word in words {
        let matching = match word.strip_prefix('@') {
            Some(tag) => tagged(all, tag)?,
            None => vec![disk(all, word)?.id],
        };
        chosen.extend(matching.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(chosen)
}

fn tagged(all: &[DiskRecord], tag: &str) -> Result<Vec<DiskId>> {
    let has = |disk: &&DiskRecord| disk.tags.iter().any(|each| each.as_str() == tag);
    let matching: Vec<DiskId> = all.iter().filter(has).map(|disk| disk.id).collect();
    if matching.is_empty() {
        let tags: BTreeSet<String> = all
            .iter()
            .flat_map(|disk| disk.tags.iter())
            .map(|tag| format!("@{tag}"))
            .collect();
        let error = Error::new(ErrorKind::NotFound, format!("tag @{tag}"), "no disk has it");
        return Err(with_names(error, "tags", tags.into_iter().collect()));
    }
    Ok(matching)
}

/// Returns a disk by name.
///
/// # Errors
/// Fails with `NotFound`.
pub fn disk<'a>(all: &'a [DiskRecord], name: &str) -> Result<&'a DiskRecord> {
    all.iter()
        .find(|disk| disk.name.as_str() == name)
        .ok_or_else(|| match name.contains(',') {
            true => Error::not_found("disk", name)
                .hint("name several disks by repeating the option, as in --to d1 --to d2, or by a tag, as in --to @ssd"),
            false => no_disk(name, all.iter()),
        })
}

/// Returns a volume by name.
///
/// # Errors
/// Fails with `NotFound`.
pub fn volume<'a>(all: &'a [VolumeRecord], name: &str) -> Result<&'a VolumeRecord> {
    let mut seen = all.iter().filter(|volume| !volume.name.is_hidden());
    seen.clone()
        .find(|volume| volume.name.as_str() == name)
        .ok_or_else(|| no_volume(name, seen.by_ref()))
}
