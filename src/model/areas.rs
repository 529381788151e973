//! Sets of extents of disks as areas. Pure.

use super::records::Area;
use super::units::{DiskExtent, DiskId};

/// Returns the parts of `areas` that are in none of `others`, by disk and start. (Areas that one change both maps and gives up
/// were never in a table.)
pub(crate) fn without(mut areas: Vec<Area>, others: impl Iterator<Item = Area>) -> Vec<Area> {
    let mut others: Vec<Area> = others.collect();
    areas.sort_unstable();
    others.sort_unstable();
    let mut left = Vec::new();
    for area in areas {
        let first = others.partition_point(|other| (other.disk, other.end()) <= (area.disk, area.start));
        let mut at = area.start;
        for other in others[first..].iter().take_while(|other| other.overlaps(area)) {
            append(&mut left, area.disk, at, other.start);
            at = other.end();
        }
        append(&mut left, area.disk, at, area.end());
    }
    left
}

/// Appends an area, merged with an adjacent one: a removed volume often lies in one place, whatever its segments.
pub(crate) fn append(areas: &mut Vec<Area>, disk: DiskId, start: DiskExtent, end: DiskExtent) {
    if start >= end {
        return;
    }
    let len = end.0 - start.0;
    match areas.last_mut() {
        Some(last) if last.disk == disk && last.end() == start => last.len += len,
        _ => areas.push(Area { disk, start, len }),
    }
}
