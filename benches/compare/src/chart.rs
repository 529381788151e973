//! Draws grouped bars as SVG, with a legend.

use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;

/// Pixels of a bar, between two groups, of the bars' area, and of a line of the legend.
const BAR: i32 = 12;
const GAP: i32 = 18;
const HEIGHT: i32 = 220;
const LINE: i32 = 20;
/// Free pixels around the whole chart.
const MARGIN: i32 = 20;

/// A row of the legend and its bars: one height for each group, 0 to 1.
type Bars<'a> = (&'a str, Vec<f64>);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws one group of bars for each of `groups`, in which the bars stand in the order of `rows`.
///
/// # Errors
/// Fails when the plotting library cannot draw.
pub(crate) fn grouped_bars(groups: &[String], rows: &[Bars<'_>]) -> Result<String, Box<dyn Error>> {
    let [bars_in_group, group_count] =
        [rows.len(), groups.len()].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
    let group = BAR.saturating_mul(bars_in_group).saturating_add(GAP);
    let width = group.saturating_mul(group_count).saturating_add(2 * MARGIN);
    let height = HEIGHT + 2 * MARGIN + LINE.saturating_mul(bars_in_group.saturating_add(1));
    let mut svg = String::new();
    {
        let size = (u32::try_from(width)?, u32::try_from(height)?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (left, (at, name)) in (MARGIN..)
            .step_by(usize::try_from(group)?)
            .zip(groups.iter().enumerate())
        {
            let heights = rows
                .iter()
                .map(|(_, heights)| heights.get(at).copied().unwrap_or(0.0));
            draw_group(&area, left, name, heights)?;
        }
        draw_legend(&area, rows)?;
        area.present()?;
    }
    Ok(svg)
}

/// Draws the bars of one group from the left edge on, and its name below.
fn draw_group(
    area: &Area<'_>,
    left: i32,
    name: &str,
    heights: impl Iterator<Item = f64>,
) -> Result<(), Box<dyn Error>> {
    for (bar, height) in heights.enumerate() {
        let x = left + BAR * i32::try_from(bar)?;
        // Heights are shares of the tallest bar: the product fits by far.
        #[expect(clippy::cast_possible_truncation)]
        let tall = (height.clamp(0.0, 1.0) * f64::from(HEIGHT)).round() as i32;
        let corners = [(x, MARGIN + HEIGHT - tall), (x + BAR - 2, MARGIN + HEIGHT)];
        area.draw(&Rectangle::new(corners, Palette99::pick(bar).filled()))?;
    }
    area.draw(&Text::new(
        name.to_owned(),
        (left, MARGIN + HEIGHT + 4),
        ("sans-serif", 11),
    ))?;
    Ok(())
}

/// Draws a square in each row's colour with its name, below the bars.
fn draw_legend(area: &Area<'_>, rows: &[Bars<'_>]) -> Result<(), Box<dyn Error>> {
    for (row, (name, _)) in rows.iter().enumerate() {
        let y = HEIGHT + 2 * MARGIN + LINE * i32::try_from(row)?;
        area.draw(&Rectangle::new(
            [(MARGIN, y), (MARGIN + 12, y + 12)],
            Palette99::pick(row).filled(),
        ))?;
        area.draw(&Text::new(
            (*name).to_owned(),
            (MARGIN + 18, y + 1),
            ("sans-serif", 11),
        ))?;
    }
    Ok(())
}
