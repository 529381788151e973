//! Ranges that cannot be read and stay where they are: they are not planned again, and they are listed for the user. Pure.

use super::steps::{Chunk, Remainder};
use crate::model::units::{ExtentSize, VolumeExtent};

/// At most this many ranges are listed one by one.
const LISTED: usize = 8;

/// The ranges that a job has left where they are.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftBehind {
    runs: Vec<Remainder>,
    places: Vec<String>,
}

impl LeftBehind {
    /// Adds a range, and with it, if `whole`, all of its volume that has not been moved.
    pub(super) fn add(&mut self, chunk: &Chunk, volume: &str, size: ExtentSize, whole: bool) {
        let (start, end) = if whole {
            (VolumeExtent(0), VolumeExtent(u64::MAX))
        } else {
            (chunk.from.start, chunk.from.end())
        };
        self.runs.push(Remainder {
            volume: chunk.volume,
            start,
            end,
        });
        let span = chunk.span(size);
        self.places
            .push(format!("volume {volume} bytes {} to {}", span.start, span.end));
    }

    /// Returns the ranges that are not to be planned again.
    pub(super) fn runs(&self) -> &[Remainder] {
        &self.runs
    }

    /// Describes the ranges for the user; `None` if there are none.
    pub(super) fn describe(&self) -> Option<String> {
        let more = match self.places.len() {
            0 => return None,
            count if count > LISTED => format!("; and {} more, see vctl events", count - LISTED),
            _ => String::new(),
        };
        let some: Vec<&str> = self.places.iter().take(LISTED).map(String::as_str).collect();
        Some(format!(
            "could not be read, and stays where it is: {}{more}",
            some.join("; ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::records::{Area, Segment};
    use crate::model::units::{DiskExtent, DiskId, VolumeId};

    fn chunk(start: u64) -> Chunk {
        let placement = Area {
            disk: DiskId(1),
            start: DiskExtent(start + 1),
            len: 1,
        };
        Chunk {
            volume: VolumeId(1),
            from: Segment {
                start: VolumeExtent(start),
                placement,
            },
            to: placement,
        }
    }

    #[test]
    fn places_are_listed_in_bytes_up_to_a_bound() {
        let mut left = LeftBehind::default();
        assert_eq!(left.describe(), None);
        left.add(&chunk(2), "v", ExtentSize::DEFAULT, false);
        let text = left.describe().unwrap();
        assert!(text.ends_with("volume v bytes 2097152 to 3145728"), "{text}");
        (3..13).for_each(|at| left.add(&chunk(at), "v", ExtentSize::DEFAULT, false));
        assert!(left.describe().unwrap().ends_with("and 3 more, see vctl events"));
        assert_eq!(left.runs().len(), 11);
        assert_eq!(
            (left.runs()[0].start, left.runs()[0].end),
            (VolumeExtent(2), VolumeExtent(3))
        );
        left.add(&chunk(2), "v", ExtentSize::DEFAULT, true);
        assert_eq!(left.runs()[11].end, VolumeExtent(u64::MAX));
    }
}
