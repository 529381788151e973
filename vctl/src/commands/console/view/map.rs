//! Maps: a letter and a colour for each disk.

use super::Theme;
use crate::commands::volume::map::picture;
use crate::output::size;
use apparatus::ops::view::PoolView;
use apparatus::pool::model::Segment;
use apparatus::units::DiskId;
use ratatui::text::{Line, Span};

/// A bar of `width` cells.
pub fn bar(
    pool: &PoolView,
    theme: Theme,
    segments: &[Segment],
    extents: u64,
    width: usize,
) -> Vec<Span<'static>> {
    let cells = picture::bar(segments, extents, width);
    cells
        .chunk_by(|a, b| a == b)
        .map(|run| match run.first().copied().flatten() {
            None => Span::raw(".".repeat(run.len())),
            Some(disk) => {
                let mark = picture::mark(pool, disk);
                let text: String = std::iter::repeat_n(mark.letter, run.len()).collect();
                Span::styled(text, theme.disk(mark))
            }
        })
        .collect()
}

/// A disk's letter, as it stands in maps.
pub fn letter(pool: &PoolView, theme: Theme, disk: DiskId) -> Span<'static> {
    let mark = picture::mark(pool, disk);
    Span::styled(mark.letter.to_string(), theme.disk(mark))
}

/// What the letters of a bar mean, and how much lies where.
pub fn legend(pool: &PoolView, theme: Theme, segments: &[Segment]) -> Line<'static> {
    let bytes = pool.header.extent_size.bytes();
    let mut spans = Vec::new();
    for (disk, extents) in picture::shares(segments) {
        spans.push(letter(pool, theme, disk));
        let held = size(extents.saturating_mul(bytes));
        spans.push(Span::raw(format!(" {} {held}   ", pool.disk_name(disk))));
    }
    Line::from(spans)
}
