//! Bars: the placement of a volume, with a letter and a colour for each disk; the usage of a disk; the progress of a job.

use super::Theme;
use crate::commands::volume::map::picture;
use crate::output::{Tone, size};
use apparatus::admin::view::{DiskView, PoolView};
use apparatus::model::records::Segment;
use apparatus::model::units::DiskId;
use ratatui::text::{Line, Span};

/// Returns a bar of `width` cells.
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

/// Returns a bar of a whole volume.
pub fn whole(pool: &PoolView, theme: Theme, segments: &[Segment], width: usize) -> Vec<Span<'static>> {
    bar(pool, theme, segments, picture::extents(segments), width)
}

/// Returns a bar of the usage of a disk. Signs distinguish its parts without colour.
pub fn usage(theme: Theme, view: &DiskView, width: usize) -> Line<'static> {
    let usage = view.usage;
    let cells = |bytes: u64| {
        let cells = u128::from(bytes) * width as u128 / u128::from(usage.size.0.max(1));
        // A part that is not empty has at least one cell.
        usize::try_from(cells)
            .unwrap_or(width)
            .max(usize::from(bytes > 0))
    };
    let parts = [
        ("#", usage.used.0, Tone::Good),
        ("r", usage.reserved.0, Tone::Warning),
        ("q", usage.quarantined.0, Tone::Bad),
    ];
    let mut left = width;
    let mut spans = Vec::new();
    for (sign, bytes, tone) in parts {
        let count = cells(bytes).min(left);
        left -= count;
        spans.push(Span::styled(sign.repeat(count), theme.tone(tone)));
    }
    spans.push(Span::raw(".".repeat(left)));
    Line::from(spans)
}

/// Returns a bar of a share in per cent.
pub fn part(theme: Theme, percent: u64, width: usize) -> Line<'static> {
    let percent = usize::try_from(percent.min(100)).unwrap_or(100);
    let done = width * percent / 100;
    Line::from(vec![
        Span::styled("#".repeat(done), theme.tone(Tone::Good)),
        Span::raw(".".repeat(width - done)),
    ])
}

/// Returns the letter of a disk as in maps.
pub fn letter(pool: &PoolView, theme: Theme, disk: DiskId) -> Span<'static> {
    let mark = picture::mark(pool, disk);
    Span::styled(mark.letter.to_string(), theme.disk(mark))
}

/// Returns the legend of a bar, with the size on each disk.
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
