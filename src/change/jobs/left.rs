//! Places that cannot be read and stay where they are: what is not asked for again, and how they are told. Pure.

use super::steps::{Chunk, Left};
use crate::units::{ExtentSize, VolumeExtent};

/// So many are told one by one.
const TOLD: usize = 8;

/// What a job has left where it is.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftBehind {
    runs: Vec<Left>,
    told: Vec<String>,
}

impl LeftBehind {
    /// One more place, and with it, if `whole`, all of its volume that has not been moved.
    pub(super) fn add(&mut self, chunk: &Chunk, volume: &str, size: ExtentSize, whole: bool) {
        let (start, end) = if whole {
            (VolumeExtent(0), VolumeExtent(u64::MAX))
        } else {
            (chunk.from.start, chunk.from.end())
        };
        self.runs.push(Left {
            volume: chunk.volume,
            start,
            end,
        });
        let span = chunk.span(size);
        self.told
            .push(format!("volume {volume} bytes {} to {}", span.start, span.end));
    }

    /// What is not asked for again.
    pub(super) fn runs(&self) -> &[Left] {
        &self.runs
    }

    /// The places, for people; `None` if there are none.
    pub(super) fn in_words(&self) -> Option<String> {
        let more = match self.told.len() {
            0 => return None,
            count if count > TOLD => format!("; and {} more, see vctl events", count - TOLD),
            _ => String::new(),
        };
        let some: Vec<&str> = self.told.iter().take(TOLD).map(String::as_str).collect();
        Some(format!(
            "could not be read, and stays where it is: {}{more}",
            some.join("; ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::model::{Area, Segment};
    use crate::units::{DiskExtent, DiskId, VolumeId};

    fn chunk(start: u64) -> Chunk {
        let home = Area {
            disk: DiskId(1),
            start: DiskExtent(start + 1),
            len: 1,
        };
        Chunk {
            volume: VolumeId(1),
            from: Segment {
                start: VolumeExtent(start),
                home,
            },
            to: home,
        }
    }

    #[test]
    fn places_are_told_in_bytes_and_not_all_of_many() {
        let mut left = LeftBehind::default();
        assert_eq!(left.in_words(), None);
        left.add(&chunk(2), "v", ExtentSize::DEFAULT, false);
        let text = left.in_words().unwrap();
        assert!(text.ends_with("volume v bytes 2097152 to 3145728"), "{text}");
        (3..13).for_each(|at| left.add(&chunk(at), "v", ExtentSize::DEFAULT, false));
        assert!(left.in_words().unwrap().ends_with("and 3 more, see vctl events"));
        assert_eq!(left.runs().len(), 11);
        assert_eq!(
            (left.runs()[0].start, left.runs()[0].end),
            (VolumeExtent(2), VolumeExtent(3))
        );
        left.add(&chunk(2), "v", ExtentSize::DEFAULT, true);
        assert_eq!(left.runs()[11].end, VolumeExtent(u64::MAX));
    }
}
