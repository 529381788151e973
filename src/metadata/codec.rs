//! Encoding of numbers, strings, records, segments and edits.
//!
//! A number has seven bits in each byte, the lowest first; the high bit is set in all bytes but the last (LEB128). A string is its length and its bytes. The record of a disk
//! or a volume is a string in RON. A list is its length and its members. A segment has four numbers: the distance of its start from the segment before it, the number of the disk
//! plus one (zero is reserved for a segment without a placement), the first extent on that disk, and the length. An edit is one byte for its kind, followed by its fields.

use super::Fault;
use crate::model::records::{Area, Edit, Segment};
use crate::model::units::{DiskExtent, DiskId, VolumeExtent, VolumeId};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Buffer that encoded values are appended to.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn record(&mut self, record: &impl Serialize) -> Result<(), Fault> {
        let text = ron::to_string(record).map_err(|_| Fault::Field("a record cannot be written"))?;
        self.text(&text);
        Ok(())
    }

    pub(super) fn segments(&mut self, count: usize, segments: impl Iterator<Item = Segment>) {
        self.number(count as u64);
        let mut before = 0;
        for segment in segments {
            self.number(segment.start.0.saturating_sub(before));
            self.number(u64::from(segment.placement.disk.0) + 1);
            self.number(segment.placement.start.0);
            self.number(segment.placement.len);
            before = segment.end().0;
        }
    }

    pub(super) fn edit(&mut self, edit: &Edit) -> Result<(), Fault> {
        let mut tag = |tag: u8| self.bytes.push(tag);
        match edit {
            Edit::AddDisk(record) => {
                tag(1);
                self.record(record)?;
            }
            Edit::SetDisk(record) => {
                tag(2);
                self.record(record)?;
            }
            Edit::RemoveDisk(disk) => {
                tag(3);
                self.number(disk.0.into());
            }
            Edit::AddVolume(record) => {
                tag(4);
                self.record(record)?;
            }
            Edit::SetVolume(record) => {
                tag(5);
                self.record(record)?;
            }
            Edit::RemoveVolume(volume) => {
                tag(6);
                self.number(volume.0);
            }
            Edit::Map { volume, segments } => {
                tag(7);
                self.number(volume.0);
                self.segments(segments.len(), segments.iter().copied());
            }
            Edit::Unmap { volume, start, end } => {
                tag(8);
                [volume.0, start.0, end.0]
                    .into_iter()
                    .for_each(|number| self.number(number));
            }
        }
        Ok(())
    }
}

/// Encoded bytes that have not been decoded yet.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

const CUT: Fault = Fault::Field("it ends too early");

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let (byte, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::Field("a number is too large"))
    }

    /// Decodes the length of a list. Each member takes at least one byte, so a length above the number of bytes left is refused.
    pub(super) fn count(&mut self) -> Result<usize, Fault> {
        let count = usize::try_from(self.number()?).map_err(|_| CUT)?;
        if count > self.rest.len() {
            Err(CUT)
        } else {
            Ok(count)
        }
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        let len = self.count()?;
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| Fault::Field("a text is not UTF-8"))
    }

    pub(super) fn record<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        ron::from_str(self.text()?).map_err(|_| Fault::Field("a record cannot be read"))
    }

    pub(super) fn disk(&mut self) -> Result<DiskId, Fault> {
        let number = u32::try_from(self.number()?);
        number
            .map(DiskId)
            .map_err(|_| Fault::Field("the number of a disk"))
    }

    fn segment(&mut self, before: u64) -> Result<Segment, Fault> {
        let start = self.number()?.checked_add(before);
        let disk = self.number()?.checked_sub(1).map(u32::try_from);
        let (place, len) = (self.number()?, self.number()?);
        let outside = Fault::Field("a segment is nowhere");
        let (Some(start), Some(Ok(disk))) = (start, disk) else {
            return Err(outside);
        };
        let ends = start.checked_add(len).and(place.checked_add(len));
        if place == 0 || len == 0 || ends.is_none() {
            return Err(outside);
        }
        Ok(Segment {
            start: VolumeExtent(start),
            placement: Area {
                disk: DiskId(disk),
                start: DiskExtent(place),
                len,
            },
        })
    }

    pub(super) fn segments(&mut self) -> Result<Vec<Segment>, Fault> {
        let count = self.count()?;
        let mut segments = Vec::with_capacity(count);
        let mut before = 0;
        for _ in 0..count {
            let segment = self.segment(before)?;
            before = segment.end().0;
            segments.push(segment);
        }
        Ok(segments)
    }

    pub(super) fn edit(&mut self) -> Result<Edit, Fault> {
        Ok(match self.byte()? {
            1 => Edit::AddDisk(self.record()?),
            2 => Edit::SetDisk(self.record()?),
            3 => Edit::RemoveDisk(self.disk()?),
            4 => Edit::AddVolume(self.record()?),
            5 => Edit::SetVolume(self.record()?),
            6 => Edit::RemoveVolume(VolumeId(self.number()?)),
            7 => Edit::Map {
                volume: VolumeId(self.number()?),
                segments: self.segments()?,
            },
            8 => Edit::Unmap {
                volume: VolumeId(self.number()?),
                start: VolumeExtent(self.number()?),
                end: VolumeExtent(self.number()?),
            },
            _ => return Err(Fault::Field("an edit of no known kind")),
        })
    }

    /// Checks that all bytes have been decoded.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Fault::Field("there is more than there should be"))
        }
    }
}
