//! Place of a metadata copy on its disk: behind the label in extent 0, or in extents that the copy owns.

use super::{BLOCK, padded};
use crate::model::records::Area;
use crate::model::units::{ByteCount, DiskExtent, DiskId, ExtentSize};
use std::ops::Range;

/// Bytes at the start of extent 0 that the two copies of the label take.
const LABELS: u64 = 8192;
/// Maximum length of a slot in bytes.
const LONGEST: u64 = 1 << 30;
/// A new slot has room for this many bodies, so that it seldom has to grow.
const BODIES: u64 = 4;
/// Minimum room for the log in bytes.
const LEAST_LOG: u64 = 2 * BLOCK as u64;
/// Minimum length in bytes of a slot in extents that the copy owns.
const LEAST_SLOT: u64 = 256 << 10;

/// Place of a disk's metadata copy: two adjacent slots. Offsets and lengths are in bytes, in multiples of [`BLOCK`](super::BLOCK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of the first slot.
    pub at: u64,
    /// Length of each slot.
    pub slot: u64,
}

impl Place {
    /// Returns the place that every disk has: the part of extent 0 behind the labels.
    #[must_use]
    pub fn behind_the_label(extent_size: ExtentSize) -> Self {
        Self::halves(LABELS, extent_size.bytes() - LABELS)
    }

    /// Returns the place that consists of these extents.
    #[must_use]
    pub fn in_extents(extent_size: ExtentSize, area: Area) -> Option<Self> {
        let at = area.start.0.checked_mul(extent_size.bytes())?;
        Some(Self::halves(at, area.len.checked_mul(extent_size.bytes())?))
    }

    fn halves(at: u64, len: u64) -> Self {
        let (half, block) = ((len / 2).min(LONGEST), BLOCK as u64);
        Self {
            at,
            slot: half - half % block,
        }
    }

    /// Returns the number of extents of a place for a body of this length, or `None` if the body is longer than a slot may be.
    #[must_use]
    pub fn extents_for(extent_size: ExtentSize, body: u64) -> Option<u64> {
        let slot = body.checked_mul(BODIES)?.clamp(LEAST_SLOT, LONGEST);
        let extents = slot.checked_mul(2)?.div_ceil(extent_size.bytes());
        (checkpoint(body)? <= slot).then_some(extents)
    }

    /// Returns the extents that the copy owns, or `None` for a place in extent 0, which the label owns.
    #[must_use]
    pub fn extents(self, extent_size: ExtentSize, disk: DiskId) -> Option<Area> {
        let first = self.at / extent_size.bytes();
        let end = (self.at + 2 * self.slot).div_ceil(extent_size.bytes());
        (first > 0).then_some(Area {
            disk,
            start: DiskExtent(first),
            len: end - first,
        })
    }

    /// Returns the ranges of both slots on the disk.
    #[must_use]
    pub fn slots(self) -> [Range<u64>; 2] {
        let middle = self.at + self.slot;
        [self.at..middle, middle..middle + self.slot]
    }

    /// Returns whether a checkpoint with a body of this length fits into a slot.
    #[must_use]
    pub fn holds(self, body: u64) -> bool {
        checkpoint(body).is_some_and(|end| end <= self.slot)
    }

    /// Returns whether such a checkpoint fits with a log of the minimum length.
    #[must_use]
    pub fn has_room_for(self, body: u64) -> bool {
        let log = LEAST_LOG.max(body / 4);
        checkpoint(body)
            .and_then(|end| end.checked_add(log))
            .is_some_and(|end| end <= self.slot)
    }

    /// Returns whether the place is valid on a disk of this size.
    #[must_use]
    pub fn fits(self, size: ByteCount) -> bool {
        let blocks = [self.at, self.slot]
            .iter()
            .all(|at| at.is_multiple_of(BLOCK as u64));
        let end = self
            .slot
            .checked_mul(2)
            .and_then(|both| both.checked_add(self.at));
        let behind_label = self.at >= LABELS && (1..=LONGEST).contains(&self.slot);
        blocks && behind_label && end.is_some_and(|end| end <= size.0)
    }
}

/// Returns the offset of the end of a checkpoint from the start of its slot.
fn checkpoint(body: u64) -> Option<u64> {
    let end = body.checked_add(2 * BLOCK as u64)?;
    (end <= LONGEST).then(|| padded(body) + BLOCK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_behind_the_label_fits_every_extent_size() {
        for shift in 16..=26 {
            let extent_size = ExtentSize::new(1 << shift).unwrap();
            let place = Place::behind_the_label(extent_size);
            assert!(place.fits(ByteCount(extent_size.bytes())), "{shift}");
            assert!(place.slot >= 28 << 10);
            assert_eq!(place.extents(extent_size, DiskId(1)), None);
        }
        let size = ByteCount(8 << 30);
        for (at, slot) in [
            (0, 4096),
            (8192, 0),
            (8192, 5000),
            (8193, 4096),
            (8192, 4 << 30),
            (8192, (1 << 30) + 4096),
            (8192, u64::MAX - 4095),
        ] {
            assert!(!Place { at, slot }.fits(size), "{at} {slot}");
        }
    }

    #[test]
    fn extents_for_a_body_have_room_for_it_and_are_those_that_the_place_names() {
        for shift in [16, 20, 26] {
            let unit = ExtentSize::new(1 << shift).unwrap();
            for body in [1, 4096, 100_000, 8_000_000, 200_000_000] {
                let len = Place::extents_for(unit, body).unwrap();
                let area = Area {
                    disk: DiskId(3),
                    start: DiskExtent(7),
                    len,
                };
                let place = Place::in_extents(unit, area).unwrap();
                assert!(place.has_room_for(body) && place.holds(body), "{shift} {body}");
                assert!(place.fits(ByteCount((7 + len) * unit.bytes())));
                assert_eq!(place.extents(unit, DiskId(3)), Some(area));
            }
            assert_eq!(Place::extents_for(unit, 1 << 30), None);
        }
    }
}
