//! The layout of a volume as an SVG drawing.

use super::picture::{COLOURS, DiskMark, extents, mark, shares};
use crate::output::size;
use apparatus::admin::view::PoolView;
use apparatus::model::records::Segment;
use std::fmt::Write;

/// The palette of Okabe and Ito, which colour-blind readers can distinguish; with each colour, the colour of text on it.
const PALETTE: [(&str, &str); COLOURS] = [
    ("#0072b2", "#ffffff"),
    ("#e69f00", "#000000"),
    ("#009e73", "#000000"),
    ("#cc79a7", "#000000"),
    ("#56b4e9", "#000000"),
    ("#d55e00", "#000000"),
];
const WIDTH: u64 = 900;
const MARGIN: u64 = 30;
const BAR: u64 = 44;
/// Height of a bar, its caption, and the space below it.
const STRIP: u64 = 100;
/// The smallest width of a rectangle that has room for its letter.
const LETTER: u64 = 14;

/// One bar of the drawing.
pub struct Strip<'a> {
    /// Its caption: `now`, `after the move`.
    pub caption: String,
    /// The segments that it shows.
    pub segments: &'a [Segment],
}

/// Returns the drawing as the text of an SVG file.
pub fn draw(view: &PoolView, title: &str, strips: &[Strip<'_>]) -> String {
    let count = u64::try_from(strips.len()).unwrap_or(1);
    let disks = disks_of(view, strips);
    let rows = u64::try_from(disks.len()).unwrap_or(1);
    let height = 60 + count * STRIP + rows * 22 + 20;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" viewBox=\"0 0 {0} {height}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n<title>{1}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"34\" font-size=\"18\">{1}</text>\n",
        WIDTH + 2 * MARGIN,
        escaped(title)
    );
    let mut y = 60;
    for strip in strips {
        draw_strip(&mut text, view, strip, y);
        y += STRIP;
    }
    for (name, mark, held) in disks {
        let _ = writeln!(
            text,
            "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"16\" height=\"16\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{} {}: {held}</text>",
            PALETTE[mark.colour].0,
            MARGIN + 24,
            y + 13,
            mark.letter,
            escaped(&name)
        );
        y += 22;
    }
    text.push_str("</svg>\n");
    text
}

/// Returns each disk in the drawing, its mark, and its share in each strip.
fn disks_of(view: &PoolView, strips: &[Strip<'_>]) -> Vec<(String, DiskMark, String)> {
    let bytes = view.header.extent_size.bytes();
    let all: Vec<_> = strips.iter().map(|strip| shares(strip.segments)).collect();
    let has = |id| {
        all.iter()
            .any(|shares| shares.iter().any(|(disk, _)| *disk == id))
    };
    let shown = view.disks.iter().filter(|disk| has(disk.record.id));
    shown
        .map(|disk| {
            let id = disk.record.id;
            let held = all.iter().map(|shares| {
                let share = shares.iter().find(|(disk, _)| *disk == id);
                size(share.map_or(0, |(_, extents)| extents.saturating_mul(bytes)))
            });
            let held: Vec<String> = held.collect();
            (disk.record.name.to_string(), mark(view, id), held.join(", then "))
        })
        .collect()
}

fn draw_strip(text: &mut String, view: &PoolView, strip: &Strip<'_>, y: u64) {
    let all = extents(strip.segments).max(1);
    let at = |extent: u64| {
        let x = u128::from(extent) * u128::from(WIDTH) / u128::from(all);
        MARGIN + u64::try_from(x).unwrap_or(WIDTH)
    };
    let _ = writeln!(
        text,
        "<text x=\"{MARGIN}\" y=\"{}\">{}</text>",
        y + 12,
        escaped(&strip.caption)
    );
    for segment in strip.segments {
        let mark = mark(view, segment.placement.disk);
        let (paper, ink) = PALETTE[mark.colour];
        let (from, to) = (at(segment.start.0), at(segment.end().0));
        let width = (to - from).max(1);
        let _ = writeln!(
            text,
            "<rect x=\"{from}\" y=\"{}\" width=\"{width}\" height=\"{BAR}\" fill=\"{paper}\" stroke=\"#ffffff\" \
             stroke-width=\"0.5\"/>",
            y + 20
        );
        if width >= LETTER {
            let _ = writeln!(
                text,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{}</text>",
                from + width / 2,
                y + 20 + BAR / 2 + 5,
                mark.letter
            );
        }
    }
    let mut quarters: Vec<u64> = (0..=4).map(|quarter| all * quarter / 4).collect();
    // A small volume has fewer offsets to label.
    quarters.dedup();
    for extent in quarters {
        let label = size(extent.saturating_mul(view.header.extent_size.bytes()));
        let anchor = match extent {
            0 => "start",
            _ if extent == all => "end",
            _ => "middle",
        };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" font-size=\"11\" text-anchor=\"{anchor}\" fill=\"#555555\">{label}</text>",
            at(extent),
            y + 20 + BAR + 14
        );
    }
}

/// Escapes text between tags.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
