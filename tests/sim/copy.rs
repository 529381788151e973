//! The work of a change: the blocks that it copies or fills.

use super::disk::BLOCKS;
use super::history::Tag;
use apparatus::pool::model::{Area, Edit};
use apparatus::store::ChangeRecord;
use apparatus::units::DiskId;

/// One block of a disk.
pub type At = (usize, u64);

/// One block to be copied, or filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Where from; nowhere for a fill.
    pub from: Option<At>,
    pub to: At,
    /// What was read, or what it is filled with.
    pub tag: Tag,
}

/// The blocks of an area, in order.
pub fn blocks(area: Area) -> impl Iterator<Item = At> {
    (area.start.0 * BLOCKS..area.end().0 * BLOCKS).map(move |block| (area.disk.0 as usize - 1, block))
}

/// Copies of one area to another.
pub fn copies(from: Area, to: Area) -> Vec<Copy> {
    let pairs = blocks(from).zip(blocks(to));
    pairs
        .map(|(from, to)| Copy {
            from: Some(from),
            to,
            tag: Tag::GARBAGE,
        })
        .collect()
}

/// The disks that a change maps onto.
pub fn mapped(record: &ChangeRecord) -> Vec<DiskId> {
    let edits = record.change.difference.edits.iter();
    let segments = edits.flat_map(|edit| match edit {
        Edit::Map { segments, .. } => segments.as_slice(),
        _ => &[],
    });
    segments.map(|segment| segment.home.disk).collect()
}
