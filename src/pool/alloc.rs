//! Where new extents go. Pure: from what is free on each disk and what is wanted to areas, or to the reason for each disk.
//!
//! In one piece where there is one; else on one disk; else over several, in few pieces. Only a contiguous wish takes one piece or nothing.

use super::model::Area;
use super::names::Name;
use super::size::Human;
use crate::error::Error;
use crate::units::{ByteCount, DiskExtent, DiskId, ExtentSize};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The runs of a disk that nobody has, by start. `taken` is by start and without overlaps. Extent 0 is the label's.
#[must_use]
pub fn free_runs(disk: DiskId, extents: u64, taken: impl IntoIterator<Item = Area>) -> Vec<Area> {
    let mut runs = Vec::new();
    let mut next = 1;
    let mut push = |from: u64, to: u64| {
        if from < to {
            runs.push(Area {
                disk,
                start: DiskExtent(from),
                len: to - from,
            });
        }
    };
    for area in taken {
        push(next, area.start.0.min(extents));
        next = next.max(area.end().0);
    }
    push(next, extents);
    runs
}

/// A disk as the allocator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The disk.
    pub disk: DiskId,
    /// For the explanation.
    pub name: Name,
    /// False: nothing new is placed here.
    pub allocate: bool,
    /// Its free runs, by start.
    pub free: Vec<Area>,
    /// Free extents that have to stay free.
    pub reserve: u64,
    /// Extents that become free when no apparatus can use them any more: for the explanation.
    pub quarantined: u64,
    /// Extents that are kept for jobs that have not ended.
    pub reserved: u64,
}

impl Space {
    fn free(&self) -> u64 {
        self.free.iter().map(|run| run.len).sum()
    }

    /// How many extents it may give.
    fn room(&self) -> u64 {
        self.free().saturating_sub(self.reserve)
    }
}

/// Which disk is taken first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The disks in the order they were asked for; where most is free when none was.
    #[default]
    Order,
    /// Where most is free.
    Spread,
    /// Where least is free, so that other disks stay empty.
    Pack,
    /// As `Order`, and in one piece or not at all.
    Contiguous,
}

impl Policy {
    /// As people write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Spread => "spread",
            Self::Pack => "pack",
            Self::Contiguous => "contiguous",
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// How many extents.
    pub extents: u64,
    /// Only these disks, in this order; all if empty.
    pub on: Vec<DiskId>,
    /// Best right behind this area, so that the two become one segment.
    pub after: Option<Area>,
    /// Which disk is taken first.
    pub policy: Policy,
}

/// Areas for all that is wanted, in the order in which they should be used.
///
/// # Errors
/// [`Shortage`] if, and only if, the disks that may be used have too little room together, or none has it in the one piece wanted.
pub fn allocate(spaces: &[Space], wish: &Wish) -> Result<Vec<Area>, Shortage> {
    let disks = candidates(spaces, wish);
    let room: u64 = disks.iter().map(|disk| disk.room()).fold(0, u64::saturating_add);
    if room < wish.extents {
        return Err(Shortage::new(spaces, wish));
    }
    if wish.extents == 0 {
        return Ok(Vec::new());
    }
    if let Some(area) = behind(&disks, wish).or_else(|| in_one_piece(&disks, wish.extents)) {
        return Ok(vec![area]);
    }
    if wish.policy == Policy::Contiguous {
        return Err(Shortage::new(spaces, wish));
    }
    let alone = disks.iter().find(|disk| disk.room() >= wish.extents);
    match alone {
        Some(disk) => Ok(pieces(disk, wish.extents)),
        None => Ok(over_several(&disks, wish.extents)),
    }
}

/// Takes areas that were given out of what is free, so that the next wish is granted from what is left.
pub fn take(spaces: &mut [Space], areas: &[Area]) {
    for area in areas {
        let Some(space) = spaces.iter_mut().find(|space| space.disk == area.disk) else {
            continue;
        };
        let at = space.free.partition_point(|run| run.end() <= area.start);
        let Some(run) = space.free.get(at).copied().filter(|run| run.overlaps(*area)) else {
            continue;
        };
        let left = [(run.start, area.start), (area.end(), run.end())];
        let rest = left.into_iter().filter(|(from, to)| from < to);
        let rest = rest.map(|(from, to)| Area {
            disk: run.disk,
            start: from,
            len: to.0 - from.0,
        });
        space.free.splice(at..=at, rest.collect::<Vec<_>>());
    }
}

/// The disks that may be used, best first.
fn candidates<'a>(spaces: &'a [Space], wish: &Wish) -> Vec<&'a Space> {
    let mut disks: Vec<&Space> = spaces
        .iter()
        .filter(|space| is_asked_for(space, wish) && space.allocate)
        .collect();
    let asked = |space: &&Space| wish.on.iter().position(|disk| *disk == space.disk);
    match wish.policy {
        Policy::Order | Policy::Contiguous if !wish.on.is_empty() => disks.sort_by_key(asked),
        Policy::Order | Policy::Contiguous | Policy::Spread => {
            disks.sort_by_key(|space| std::cmp::Reverse(space.room()))
        }
        Policy::Pack => disks.sort_by_key(|space| space.room()),
    }
    disks
}

fn is_asked_for(space: &Space, wish: &Wish) -> bool {
    wish.on.is_empty() || wish.on.contains(&space.disk)
}

fn behind(disks: &[&Space], wish: &Wish) -> Option<Area> {
    let after = wish.after?;
    let disk = disks
        .iter()
        .find(|disk| disk.disk == after.disk && disk.room() >= wish.extents)?;
    let run = disk
        .free
        .iter()
        .find(|run| run.start == after.end() && run.len >= wish.extents)?;
    Some(Area {
        len: wish.extents,
        ..*run
    })
}

fn in_one_piece(disks: &[&Space], extents: u64) -> Option<Area> {
    let first_fit = |disk: &&Space| {
        let run = disk.free.iter().find(|run| run.len >= extents)?;
        (disk.room() >= extents).then_some(Area { len: extents, ..*run })
    };
    disks.iter().find_map(first_fit)
}

/// So many extents of one disk that has them: its longest runs, so that they are few.
fn pieces(disk: &Space, extents: u64) -> Vec<Area> {
    let mut runs: Vec<&Area> = disk.free.iter().collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.len));
    let mut left = extents;
    let mut taken: Vec<Area> = Vec::new();
    for run in runs {
        let len = run.len.min(left);
        if len > 0 {
            taken.push(Area { len, ..*run });
            left -= len;
        }
    }
    taken.sort_unstable();
    taken
}

fn over_several(disks: &[&Space], extents: u64) -> Vec<Area> {
    let mut left = extents;
    let mut taken = Vec::new();
    for disk in disks {
        let here = disk.room().min(left);
        taken.extend(pieces(disk, here));
        left -= here;
    }
    taken
}

/// What a disk lacks that was asked for.
fn lack(space: &Space, wish: &Wish) -> Reason {
    if !space.allocate {
        return Reason::NoAllocate;
    }
    if wish.policy == Policy::Contiguous && space.room() >= wish.extents {
        let longest = space.free.iter().map(|run| run.len).max().unwrap_or(0);
        return Reason::InPieces { longest };
    }
    Reason::Short {
        free: space.free(),
        reserve: space.reserve.min(space.free()),
        quarantined: space.quarantined,
        reserved: space.reserved,
    }
}

/// Disks that an error names.
const NAMED: usize = 8;

/// Why the wish could not be granted, disk by disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// How many extents were wanted.
    pub wanted: u64,
    /// For each disk that was asked for, in the order given.
    pub disks: Vec<(Name, Reason)>,
}

/// Why a disk was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing new is placed on it.
    NoAllocate,
    /// There is not enough room on it, nor on all such disks together.
    Short {
        /// Free extents.
        free: u64,
        /// Of these, so many have to stay free.
        reserve: u64,
        /// Not counted as free: so many will be when no apparatus can use them any more.
        quarantined: u64,
        /// Not counted as free: so many are kept for jobs that have not ended.
        reserved: u64,
    },
    /// There is room on it, and not in the one piece that is wanted.
    InPieces {
        /// Longest free run.
        longest: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllocate => f.write_str("no-allocate is set"),
            Self::Short {
                free,
                reserve,
                quarantined,
                reserved,
            } => {
                write!(f, "{free} extents free")?;
                if *reserve > 0 {
                    write!(f, ", {reserve} of them kept free")?;
                }
                if *quarantined > 0 {
                    write!(f, ", {quarantined} more once no apparatus can use them")?;
                }
                if *reserved > 0 {
                    write!(f, ", {reserved} reserved by jobs (vctl job list)")?;
                }
                Ok(())
            }
            Self::InPieces { longest } => write!(f, "at most {longest} extents in one piece"),
        }
    }
}

impl Shortage {
    fn new(spaces: &[Space], wish: &Wish) -> Self {
        let asked = spaces.iter().filter(|space| is_asked_for(space, wish));
        Self {
            wanted: wish.extents,
            disks: asked
                .map(|space| (space.name.clone(), lack(space, wish)))
                .collect(),
        }
    }

    /// As what an operator sees; `what` is what should have been placed.
    #[must_use]
    pub fn error(&self, what: impl Into<String>, extent_size: ExtentSize) -> Error {
        let size = Human(ByteCount(self.wanted.saturating_mul(extent_size.bytes())));
        let said = |(name, reason): &(Name, Reason)| format!("{name}: {reason}");
        let mut each: Vec<String> = self.disks.iter().take(NAMED).map(said).collect();
        if self.disks.len() > NAMED {
            each.push(format!("and {} disks more", self.disks.len() - NAMED));
        }
        let disks = if each.is_empty() {
            "there is no disk".to_owned()
        } else {
            each.join("; ")
        };
        Error::failed(
            what,
            format!(
                "needs {} extents ({size}), and there is no room: {disks}",
                self.wanted
            ),
        )
        .hint("add a disk (vctl disk add), name other disks, or allow one again (vctl disk set DISK --allocate)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn area(disk: u32, start: u64, len: u64) -> Area {
        Area {
            disk: DiskId(disk),
            start: DiskExtent(start),
            len,
        }
    }

    fn space(disk: u32, extents: u64, taken: &[(u64, u64)]) -> Space {
        let taken = taken.iter().map(|&(start, len)| area(disk, start, len));
        Space {
            disk: DiskId(disk),
            name: Name::new("disk", &format!("d{disk}")).unwrap(),
            allocate: true,
            free: free_runs(DiskId(disk), extents, taken),
            reserve: 0,
            quarantined: 0,
            reserved: 0,
        }
    }

    fn wish(extents: u64, on: &[u32]) -> Wish {
        Wish {
            extents,
            on: on.iter().copied().map(DiskId).collect(),
            after: None,
            policy: Policy::Order,
        }
    }

    #[test]
    fn free_runs_leave_out_the_label_and_what_is_taken() {
        let free = |extents, taken: &[(u64, u64)]| space(2, extents, taken).free;
        assert_eq!(free(10, &[]), [area(2, 1, 9)]);
        assert_eq!(free(10, &[(1, 3), (6, 4)]), [area(2, 4, 2)]);
        assert_eq!(free(10, &[(4, 2)]), [area(2, 1, 3), area(2, 6, 4)]);
        assert_eq!(free(10, &[(4, 2), (20, 1)]), [area(2, 1, 3), area(2, 6, 4)]);
        assert_eq!(
            (free(0, &[]), free(1, &[]), free(3, &[(1, 9)])),
            (vec![], vec![], vec![])
        );
    }

    #[test]
    fn one_piece_is_better_than_the_first_disk() {
        let spaces = [space(1, 10, &[(4, 1)]), space(2, 10, &[])];
        assert_eq!(allocate(&spaces, &wish(5, &[1, 2])).unwrap(), [area(1, 5, 5)]);
        assert_eq!(allocate(&spaces, &wish(6, &[1, 2])).unwrap(), [area(2, 1, 6)]);
        assert_eq!(
            allocate(&spaces, &wish(6, &[1])).unwrap(),
            [area(1, 1, 1), area(1, 5, 5)]
        );
        assert_eq!(
            allocate(&spaces, &wish(11, &[1, 2])).unwrap(),
            [area(1, 1, 3), area(1, 5, 5), area(2, 1, 3)]
        );
        assert_eq!(
            allocate(&spaces, &wish(11, &[])).unwrap(),
            [area(2, 1, 9), area(1, 5, 2)]
        );
    }

    #[test]
    fn growing_goes_on_where_the_volume_ends() {
        let spaces = [space(1, 100, &[(50, 3)]), space(2, 10, &[(2, 3)])];
        let mut grow = wish(5, &[]);
        grow.after = Some(area(2, 2, 3));
        assert_eq!(allocate(&spaces, &grow).unwrap(), [area(2, 5, 5)]);
        grow.extents = 6;
        assert_eq!(allocate(&spaces, &grow).unwrap(), [area(1, 1, 6)]);
        grow.on = vec![DiskId(1)];
        grow.extents = 5;
        assert_eq!(allocate(&spaces, &grow).unwrap(), [area(1, 1, 5)]);
    }

    #[test]
    fn packing_fills_the_fullest_disk_first() {
        let spaces = [space(1, 100, &[]), space(2, 10, &[])];
        let mut wish = wish(5, &[]);
        wish.policy = Policy::Pack;
        assert_eq!(allocate(&spaces, &wish).unwrap(), [area(2, 1, 5)]);
    }

    #[test]
    fn contiguous_is_one_piece_or_nothing() {
        let spaces = [space(1, 12, &[(6, 1)]), space(2, 10, &[(4, 1)])];
        let contiguous = |extents| Wish {
            policy: Policy::Contiguous,
            ..wish(extents, &[])
        };
        assert_eq!(allocate(&spaces, &contiguous(5)).unwrap(), [area(1, 1, 5)]);
        assert_eq!(allocate(&spaces, &wish(6, &[])).unwrap().len(), 2);
        let shortage = allocate(&spaces, &contiguous(6)).unwrap_err();
        let text = shortage.error("v", ExtentSize::DEFAULT).to_string();
        assert!(text.contains("at most 5 extents in one piece"), "{text}");
        let shortage = allocate(&spaces, &contiguous(9)).unwrap_err();
        let text = shortage.error("v", ExtentSize::DEFAULT).to_string();
        assert!(
            text.contains("d1: at most 5 extents in one piece; d2: 8 extents free"),
            "{text}"
        );
    }

    #[test]
    fn a_shortage_says_for_each_disk_why() {
        let mut spaces = [
            space(1, 10, &[]),
            space(2, 10, &[]),
            space(3, 10, &[(1, 6)]),
            space(4, 8, &[]),
        ];
        spaces[0].allocate = false;
        spaces[2].quarantined = 6;
        spaces.iter_mut().for_each(|space| space.reserved = 2);
        spaces[3].reserve = 5;
        let shortage = allocate(&spaces, &wish(6, &[1, 3, 4])).unwrap_err();
        let reasons: Vec<_> = shortage.disks.iter().map(|(_, reason)| *reason).collect();
        let short = |free, reserve, quarantined| Reason::Short {
            free,
            reserve,
            quarantined,
            reserved: 2,
        };
        assert_eq!(reasons, [Reason::NoAllocate, short(3, 0, 6), short(7, 5, 0)]);
        let text = shortage.error("volume v", ExtentSize::DEFAULT).to_string();
        for part in [
            "volume v: needs 6 extents (6MiB)",
            "d1: no-allocate",
            "d3: 3 extents free, 6 more",
            "5 of them kept",
            "2 reserved by jobs",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("d2"), "it was not asked for: {text}");
        let many: Vec<Space> = (1..=20).map(|disk| space(disk, 2, &[])).collect();
        let text = allocate(&many, &wish(21, &[])).unwrap_err();
        let text = text.error("volume v", ExtentSize::DEFAULT).to_string();
        assert!(
            text.contains("d8: ") && !text.contains("d9: ") && text.contains("and 12 disks more"),
            "{text}"
        );
        assert!(
            allocate(&[], &wish(1, &[]))
                .unwrap_err()
                .error("x", ExtentSize::DEFAULT)
                .why()
                .contains("no disk")
        );
        assert_eq!(
            allocate(&spaces, &wish(5, &[1, 3, 4])).unwrap(),
            [area(3, 7, 3), area(4, 1, 2)]
        );
    }

    /// Disks with holes, some closed, some with a reserve.
    fn any_spaces() -> impl Strategy<Value = Vec<Space>> {
        let runs = prop::collection::vec((0..5_u64, 1..5_u64), 0..6);
        let reserve = prop_oneof![7 => Just(0), 3 => 0..8_u64];
        let one = (runs, prop::bool::weighted(0.7), reserve, 0..6_u64);
        prop::collection::vec(one, 0..4).prop_map(|disks| {
            let numbered = (0..).zip(disks);
            let spaces = numbered.map(|(disk, (runs, allocate, reserve, tail))| Space {
                allocate,
                reserve,
                ..with_holes(disk, &runs, tail)
            });
            spaces.collect()
        })
    }

    /// Runs of so many free and so many taken extents in turn, and a free tail.
    fn with_holes(disk: u32, runs: &[(u64, u64)], tail: u64) -> Space {
        let mut at = 1;
        let mut taken = Vec::new();
        for &(gap, len) in runs {
            taken.push((at + gap, len));
            at += gap + len;
        }
        space(disk, at + tail, &taken)
    }

    fn any_wish() -> impl Strategy<Value = Wish> {
        let policy = prop::sample::select(vec![
            Policy::Order,
            Policy::Spread,
            Policy::Pack,
            Policy::Contiguous,
        ]);
        let on = prop::sample::subsequence(vec![3, 2, 1, 0], 0..=4);
        let after = prop::option::of((0..4_u32, 1..9_u64, 1..4_u64));
        (0..40_u64, on, after, policy).prop_map(|(extents, on, after, policy)| Wish {
            after: after.map(|(disk, start, len)| area(disk, start, len)),
            policy,
            ..wish(extents, &on)
        })
    }

    fn extents(areas: &[Area]) -> Vec<(DiskId, u64)> {
        areas
            .iter()
            .flat_map(|area| (area.start.0..area.end().0).map(|extent| (area.disk, extent)))
            .collect()
    }

    /// Extents that the disk may give, counted without the code under test.
    fn usable(space: &Space, wish: &Wish) -> u64 {
        let asked = wish.on.is_empty() || wish.on.contains(&space.disk);
        let free = extents(&space.free).len() as u64;
        if asked && space.allocate {
            free.saturating_sub(space.reserve)
        } else {
            0
        }
    }

    proptest! {
        #[test]
        fn gives_exactly_what_is_wanted_from_what_is_free(spaces in any_spaces(), wish in any_wish()) {
            let room: u64 = spaces.iter().map(|space| usable(space, &wish)).sum();
            let Ok(areas) = allocate(&spaces, &wish) else {
                let could = room >= wish.extents && wish.policy != Policy::Contiguous;
                prop_assert!(!could, "there was room for {}", wish.extents);
                return Ok(());
            };
            let given = extents(&areas);
            prop_assert_eq!(given.len() as u64, wish.extents);
            let distinct: BTreeSet<_> = given.iter().copied().collect();
            prop_assert_eq!(distinct.len(), given.len(), "an extent is given twice");
            for space in &spaces {
                let free: BTreeSet<_> = extents(&space.free).into_iter().collect();
                let here: Vec<_> = given.iter().filter(|(disk, _)| *disk == space.disk).collect();
                prop_assert!(here.iter().all(|extent| free.contains(extent)));
                prop_assert!(here.len() as u64 <= usable(space, &wish));
            }
            prop_assert!(areas.iter().all(|area| area.start.0 > 0 && area.len > 0));
        }

        #[test]
        fn what_was_taken_is_not_given_again(mut spaces in any_spaces(), wishes in prop::collection::vec(any_wish(), 1..5)) {
            let mut given = BTreeSet::new();
            for wish in wishes {
                let Ok(areas) = allocate(&spaces, &wish) else { continue };
                take(&mut spaces, &areas);
                for extent in extents(&areas) {
                    prop_assert!(given.insert(extent), "given twice");
                }
                let free: Vec<_> = spaces.iter().flat_map(|space| extents(&space.free)).collect();
                prop_assert!(free.iter().all(|extent| !given.contains(extent)));
            }
        }

        #[test]
        fn is_in_one_piece_where_one_fits(spaces in any_spaces(), wish in any_wish()) {
            let fits = |space: &Space| {
                usable(space, &wish) >= wish.extents && space.free.iter().any(|run| run.len >= wish.extents)
            };
            if wish.extents > 0 && spaces.iter().any(fits) {
                prop_assert_eq!(allocate(&spaces, &wish).unwrap().len(), 1);
            }
        }

        #[test]
        fn free_runs_are_what_nobody_has(len in 0..40_u64, runs in prop::collection::vec((0..5_u64, 1..5_u64), 0..8)) {
            let mut at = 1;
            let taken: Vec<_> = runs.iter().map(|&(gap, len)| {
                let run = (at + gap, len);
                at += gap + len;
                run
            }).collect();
            let free: Vec<u64> = extents(&space(1, len, &taken).free).into_iter().map(|(_, extent)| extent).collect();
            let expected: Vec<u64> = (1..len).filter(|e| !taken.iter().any(|&(s, l)| (s..s + l).contains(e))).collect();
            prop_assert_eq!(free, expected);
        }
    }
}
