//! How a change that is too heavy for one difference is made in several, pure.
//!
//! A volume of a million segments is not made, removed or resized in one change: its difference would not fit a frame, the apparatuses would take
//! longer to apply it than the controller waits, and its transactions would keep every other one from the store for seconds. So it is done in
//! parts, each a change of its own that leads to a sound table:
//!
//! ```text
//! make:    AddVolume under a hidden name, Map | Map | … | SetVolume with its name
//! remove:  SetVolume with a hidden name, all requests held | Unmap from the end | … | RemoveVolume
//! grow:    SetVolume to a size in between, Map | … | SetVolume to the new size, Map
//! shrink:  Unmap the end, SetVolume to a size in between, requests behind it held | … | the same to the new size
//! ```
//!
//! No host has a volume of a hidden name ([`Name::hidden`]), and no list shows it. So for everybody a volume is there in whole or not at all: making it
//! takes place with the last part, removing it with the first. Whoever takes the arbitration next removes a hidden volume that a dead controller has left.
//! A resize that is cut short leaves the volume at a size in between, and the same command goes on from there.

use crate::pool::model::{Edit, Segment, Span, VolumeRecord};
use crate::pool::names::Name;
use crate::units::{ByteCount, ExtentSize, VolumeExtent, VolumeId, VolumeOffset};

/// Segments that one part maps or takes away.
pub const LIGHT: usize = 4096;

/// One change of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it changes.
    pub edits: Vec<Edit>,
    /// The address ranges whose requests are held.
    pub spans: Vec<Span>,
}

/// What a change takes segments from, as it is before: the volume, and the segments of it that the change takes away.
pub type Loser = (VolumeRecord, Vec<Segment>);

/// The volume, and the range of it, that these edits take segments from.
#[must_use]
pub fn loser(edits: &[Edit]) -> Option<(VolumeId, VolumeExtent, VolumeExtent)> {
    match edits {
        [Edit::RemoveVolume(volume)] => Some((*volume, VolumeExtent(0), VolumeExtent(u64::MAX))),
        [Edit::Unmap { volume, start, end }, Edit::SetVolume(_)] => Some((*volume, *start, *end)),
        _ => None,
    }
}

/// The changes that together are this one, in order: itself alone where it is light.
#[must_use]
pub fn of(edits: &[Edit], spans: &[Span], loser: Option<&Loser>, unit: ExtentSize) -> Vec<Part> {
    match (edits, loser) {
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
        // The last segment ends where the volume does.
        let size = bytes(unit, end).min(record.size);
        unheld(vec![sized(record, size), map(record.id, chunk)])
    };
    segments.chunks(LIGHT).map(part).collect()
}

/// What is left of a hidden volume goes too: the first change renames it, if it is not hidden yet.
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
