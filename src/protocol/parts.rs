//! Splits a change that is too heavy for one delta into several changes, pure.
//!
//! A volume of a million segments is not created, removed or resized in one change: the delta would not fit a frame, the
//! apparatuses would take longer to apply it than the controller waits, and its transactions would block all others of the
//! store for seconds. So it is done in parts; each is a change by itself that leads to a sound table:
//!
//! ```text
//! make:    AddVolume under a hidden name, Map | Map | … | SetVolume with its name
//! remove:  SetVolume with a hidden name, all requests held | Unmap from the end | … | RemoveVolume
//! grow:    SetVolume to a size in between, Map | … | SetVolume to the new size, Map
//! shrink:  Unmap the end, SetVolume to a size in between, requests behind it held | … | the same to the new size
//! ```
//!
//! Hosts and lists do not see a volume with a hidden name ([`Name::hidden`]). So a volume is visible as a whole or not at all:
//! creating it takes effect with the last part, removing it with the first. The next holder of the controller lock removes a
//! hidden volume that a dead controller has left. A resize that is cut short leaves the volume at a size in between, and the
//! same command continues from there.

use crate::model::names::Name;
use crate::model::records::{Edit, Segment, Span, VolumeRecord};
use crate::model::units::{ByteCount, ExtentSize, VolumeExtent, VolumeId, VolumeOffset};

/// Largest number of segments that one part maps or removes.
pub const LIGHT: usize = 4096;

/// One of the changes that a heavy change is split into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The edits of the table.
    pub edits: Vec<Edit>,
    /// The address ranges in which requests are held.
    pub spans: Vec<Span>,
}

/// A volume before a change, and the segments of it that the change removes.
pub type SourceVolume = (VolumeRecord, Vec<Segment>);

/// Returns the volume and its range from which these edits remove segments, if they do.
#[must_use]
pub fn source_of(edits: &[Edit]) -> Option<(VolumeId, VolumeExtent, VolumeExtent)> {
    match edits {
        [Edit::RemoveVolume(volume)] => Some((*volume, VolumeExtent(0), VolumeExtent(u64::MAX))),
        [Edit::Unmap { volume, start, end }, Edit::SetVolume(_)] => Some((*volume, *start, *end)),
        _ => None,
    }
}

/// Returns the changes, in order, that make up this one: just this one if it is light. `source` is the volume that loses
/// segments.
#[must_use]
pub fn of(edits: &[Edit], spans: &[Span], source: Option<&SourceVolume>, unit: ExtentSize) -> Vec<Part> {
    match (edits, source) {
        ([Edit::AddVolume(record), Edit::Map { segments, .. }], _) if segments.len() > LIGHT => {
            making(record, segments)
        }
        ([Edit::SetVolume(record), Edit::Map { segments, .. }], _) if segments.len() > LIGHT => {
            growing(record, segments, unit)
        }
        ([Edit::RemoveVolume(_)], Some((record, segments))) if segments.len() > LIGHT => {
            removing(record, segments)
        }
        ([Edit::Unmap { .. }, Edit::SetVolume(record)], Some((_, segments))) if segments.len() > LIGHT => {
            shrinking(record, segments, unit)
        }
        _ => vec![Part {
            edits: edits.to_vec(),
            spans: spans.to_vec(),
        }],
    }
}

fn making(record: &VolumeRecord, segments: &[Segment]) -> Vec<Part> {
    let mut parts: Vec<Part> = segments
        .chunks(LIGHT)
        .map(|chunk| unheld(vec![map(record.id, chunk)]))
        .collect();
    if let Some(first) = parts.first_mut() {
        first.edits.insert(0, Edit::AddVolume(hidden(record)));
    }
    parts.push(unheld(vec![Edit::SetVolume(record.clone())]));
    parts
}

fn growing(record: &VolumeRecord, segments: &[Segment], unit: ExtentSize) -> Vec<Part> {
    let part = |chunk: &[Segment]| {
        let end = chunk.last().map_or(VolumeExtent(0), |last| last.end());
        // The last segment ends where the volume ends.
        let size = bytes(unit, end).min(record.size);
        unheld(vec![sized(record, size), map(record.id, chunk)])
    };
    segments.chunks(LIGHT).map(part).collect()
}

/// Returns the changes that remove a volume or the rest of a hidden one; the first renames the volume if it is not hidden yet.
#[must_use]
pub fn removing(record: &VolumeRecord, segments: &[Segment]) -> Vec<Part> {
    let mut parts = Vec::new();
    if !record.name.is_hidden() {
        parts.push(Part {
            edits: vec![Edit::SetVolume(hidden(record))],
            spans: vec![Span::whole(record.id)],
        });
    }
    let chunks: Vec<&[Segment]> = segments.chunks(LIGHT).collect();
    let taken = chunks.iter().skip(1).rev().filter_map(|chunk| {
        Some(Edit::Unmap {
            volume: record.id,
            start: chunk.first()?.start,
            end: chunk.last()?.end(),
        })
    });
    parts.extend(taken.map(|edit| unheld(vec![edit])));
    parts.push(unheld(vec![Edit::RemoveVolume(record.id)]));
    parts
}

fn shrinking(record: &VolumeRecord, segments: &[Segment], unit: ExtentSize) -> Vec<Part> {
    let chunks: Vec<&[Segment]> = segments.chunks(LIGHT).collect();
    let part = |(index, chunk): (usize, &&[Segment])| {
        let (first, last) = (chunk.first()?, chunk.last()?);
        let size = match index {
            0 => record.size,
            _ => bytes(unit, first.start),
        };
        let unmap = Edit::Unmap {
            volume: record.id,
            start: first.start,
            end: last.end(),
        };
        Some(Part {
            edits: vec![unmap, sized(record, size)],
            spans: vec![Span {
                start: VolumeOffset(size.0),
                ..Span::whole(record.id)
            }],
        })
    };
    chunks.iter().enumerate().rev().filter_map(part).collect()
}

fn unheld(edits: Vec<Edit>) -> Part {
    Part {
        edits,
        spans: Vec::new(),
    }
}

fn hidden(record: &VolumeRecord) -> VolumeRecord {
    VolumeRecord {
        name: Name::hidden(record.id.0),
        ..record.clone()
    }
}

fn sized(record: &VolumeRecord, size: ByteCount) -> Edit {
    Edit::SetVolume(VolumeRecord {
        size,
        ..record.clone()
    })
}

fn map(volume: VolumeId, segments: &[Segment]) -> Edit {
    Edit::Map {
        volume,
        segments: segments.to_vec(),
    }
}

fn bytes(unit: ExtentSize, end: VolumeExtent) -> ByteCount {
    ByteCount(end.0.saturating_mul(unit.bytes()))
}

#[cfg(test)]
mod tests;
