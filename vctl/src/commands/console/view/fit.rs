//! Chooses the width of each column from its contents and the available width. Numbers are never cut, and names are not cut in favour of a
//! less important column: that column is dropped.

use crate::commands::console::lists::{Column, ColumnKind};

/// The shortest form of a name.
const SHORTEST: u16 = 4;

/// Columns above this rank are optional.
const NICE: u8 = 4;

/// The range of widths of a column.
#[derive(Clone, Copy, Debug)]
struct ColumnWidth {
    rank: u8,
    least: u16,
    wanted: u16,
    most: u16,
}

fn request(column: &Column, content: u16, room: u16) -> ColumnWidth {
    let heading = u16::try_from(column.name.chars().count() + 1).unwrap_or(u16::MAX);
    let natural = content.max(heading);
    let (least, wanted, most) = match column.kind {
        ColumnKind::Name => (natural.min((room / 2).max(heading)), natural, natural),
        ColumnKind::Words(least) => (natural.min(least.max(heading)), natural, natural),
        ColumnKind::Number(usual) => {
            let width = natural.max(usual);
            (width, width, width)
        }
        ColumnKind::Bar(least, most) => {
            let least = least.max(heading);
            (least, (2 * least).min(most), most)
        }
    };
    ColumnWidth {
        rank: column.rank,
        least,
        wanted,
        most,
    }
}

/// Returns the width of each column that is shown; `contents` has the widths of their contents. One column stays free between two.
pub fn widths(columns: &[Column], contents: &[u16], room: u16) -> Vec<Option<u16>> {
    let columns_wanted: Vec<ColumnWidth> = columns
        .iter()
        .zip(contents)
        .map(|(column, content)| request(column, *content, room))
        .collect();
    let mut widths: Vec<Option<u16>> = columns
        .iter()
        .zip(contents)
        .zip(&columns_wanted)
        .map(|((column, content), request)| (*content > 0 || !is_idle(column)).then_some(request.least))
        .collect();
    let name = columns.iter().position(|column| column.kind == ColumnKind::Name);
    // Optional columns are dropped for a whole name, others only for half of one.
    if let Some(name) = name {
        widths[name] = Some(columns_wanted[name].wanted);
        drop_columns(&columns_wanted, &mut widths, room, NICE);
        widths[name] = Some(columns_wanted[name].least);
    }
    drop_columns(&columns_wanted, &mut widths, room, 0);
    shorten(columns, &mut widths, room);
    for goal in [
        |request: &ColumnWidth| request.wanted,
        |request: &ColumnWidth| request.most,
    ] {
        grow(&columns_wanted, &mut widths, room, goal);
    }
    widths
}

/// Returns whether a column of words is empty; it then takes no room.
fn is_idle(column: &Column) -> bool {
    matches!(column.kind, ColumnKind::Words(_)) && column.rank > 0
}

/// Drops columns, least important first, until the rest fits, but none of this rank or below.
fn drop_columns(columns_wanted: &[ColumnWidth], widths: &mut [Option<u16>], room: u16, rank: u8) {
    while total(widths) > room {
        let shown = columns_wanted
            .iter()
            .enumerate()
            .filter(|(at, _)| widths[*at].is_some());
        let least = shown.max_by_key(|(at, request)| (request.rank, *at));
        match least.filter(|(_, request)| request.rank > rank) {
            Some((at, _)) => widths[at] = None,
            None => return,
        }
    }
}

/// Returns the width of a list with all its columns in full.
pub fn wanted(columns: &[Column], contents: &[u16]) -> u16 {
    let columns_wanted = columns.iter().zip(contents);
    let columns_wanted =
        columns_wanted.map(|(column, content)| Some(request(column, *content, u16::MAX).wanted));
    total(&columns_wanted.collect::<Vec<_>>())
}

/// Returns the total width, with the gaps between columns.
fn total(widths: &[Option<u16>]) -> u16 {
    let shown = widths.iter().flatten();
    let sum = shown
        .clone()
        .fold(0, |sum: u16, width| sum.saturating_add(*width));
    sum.saturating_add(u16::try_from(shown.count().saturating_sub(1)).unwrap_or(u16::MAX))
}

/// As the last resort, shortens a name to less than half of its width.
fn shorten(columns: &[Column], widths: &mut [Option<u16>], room: u16) {
    let over = total(widths).saturating_sub(room);
    let name = columns.iter().position(|column| column.kind == ColumnKind::Name);
    if let Some(Some(width)) = name.and_then(|at| widths.get_mut(at)) {
        *width = width.saturating_sub(over).max(SHORTEST);
    }
}

/// Distributes the remaining width, most important columns first.
fn grow(
    columns_wanted: &[ColumnWidth],
    widths: &mut [Option<u16>],
    room: u16,
    goal: fn(&ColumnWidth) -> u16,
) {
    let mut order: Vec<usize> = (0..columns_wanted.len()).collect();
    order.sort_by_key(|at| columns_wanted[*at].rank);
    for at in order {
        let left = room.saturating_sub(total(widths));
        if let Some(width) = &mut widths[at] {
            *width += goal(&columns_wanted[at]).saturating_sub(*width).min(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::console::lists;
    use crate::commands::console::model::Tab;

    const CONTENTS: u16 = 7;

    fn of(tab: Tab, name: u16, room: u16) -> Vec<(&'static str, u16)> {
        let columns = lists::columns(tab);
        let contents: Vec<u16> = columns
            .iter()
            .map(|column| {
                if column.kind == ColumnKind::Name {
                    name
                } else {
                    CONTENTS
                }
            })
            .collect();
        let widths = widths(columns, &contents, room);
        let shown = columns.iter().zip(widths);
        shown
            .filter_map(|(column, width)| Some((column.name, width?)))
            .collect()
    }

    #[test]
    fn no_list_is_wider_than_its_room_and_no_number_is_cut() {
        for tab in Tab::LISTS {
            for room in 38..220 {
                for name in [1, 12, 64, 100] {
                    let shown = of(tab, name, room);
                    let sum: u16 = shown.iter().map(|(_, width)| width + 1).sum();
                    assert!(sum <= room + 1, "{tab:?} {room} {name} {shown:?}");
                    for (column, width) in &shown {
                        let kind = lists::columns(tab).iter().find(|each| each.name == *column);
                        if matches!(kind.unwrap().kind, ColumnKind::Number(_)) {
                            assert!(*width >= CONTENTS, "{tab:?} {room} {shown:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_is_whole_where_it_fits_and_has_half_of_the_width_where_not() {
        for (room, name, width) in [
            (200, 64, 64),
            (120, 64, 64),
            (80, 64, 46),
            (80, 12, 12),
            (38, 64, 22),
        ] {
            let shown = of(Tab::Volumes, name, room);
            assert_eq!(shown[0], ("VOLUME", width), "{room} {shown:?}");
        }
    }

    #[test]
    fn the_least_important_columns_are_dropped_first() {
        let names = |room| -> Vec<&str> { of(Tab::Volumes, 8, room).iter().map(|(name, _)| *name).collect() };
        assert_eq!(names(38), ["VOLUME", "SIZE", "IOPS", "RATE"]);
        assert_eq!(names(54), ["VOLUME", "SIZE", "OPEN", "IOPS", "RATE", "LIES ON"]);
        assert_eq!(names(200).len(), lists::columns(Tab::Volumes).len());
    }
}
