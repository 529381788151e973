use super::*;
use crate::model::build::{area, space};
use crate::model::units::ExtentSize;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn request(extents: u64, on: &[u32]) -> AllocRequest {
    AllocRequest {
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
    assert_eq!(allocate(&spaces, &request(5, &[1, 2])).unwrap(), [area(1, 5, 5)]);
    assert_eq!(allocate(&spaces, &request(6, &[1, 2])).unwrap(), [area(2, 1, 6)]);
    assert_eq!(
        allocate(&spaces, &request(6, &[1])).unwrap(),
        [area(1, 1, 1), area(1, 5, 5)]
    );
    assert_eq!(
        allocate(&spaces, &request(11, &[1, 2])).unwrap(),
        [area(1, 1, 3), area(1, 5, 5), area(2, 1, 3)]
    );
    assert_eq!(
        allocate(&spaces, &request(11, &[])).unwrap(),
        [area(2, 1, 9), area(1, 5, 2)]
    );
}

#[test]
fn growing_goes_on_where_the_volume_ends() {
    let spaces = [space(1, 100, &[(50, 3)]), space(2, 10, &[(2, 3)])];
    let mut grow = request(5, &[]);
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
    let mut request = request(5, &[]);
    request.policy = Policy::Pack;
    assert_eq!(allocate(&spaces, &request).unwrap(), [area(2, 1, 5)]);
}

#[test]
fn contiguous_is_one_piece_or_nothing() {
    let spaces = [space(1, 12, &[(6, 1)]), space(2, 10, &[(4, 1)])];
    let contiguous = |extents| AllocRequest {
        policy: Policy::Contiguous,
        ..request(extents, &[])
    };
    assert_eq!(allocate(&spaces, &contiguous(5)).unwrap(), [area(1, 1, 5)]);
    assert_eq!(allocate(&spaces, &request(6, &[])).unwrap().len(), 2);
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
fn a_shortage_names_the_reason_for_each_disk() {
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
    let shortage = allocate(&spaces, &request(6, &[1, 3, 4])).unwrap_err();
    let reasons: Vec<_> = shortage.disks.iter().map(|(_, reason)| reason.clone()).collect();
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
    let text = allocate(&many, &request(21, &[])).unwrap_err();
    let text = text.error("volume v", ExtentSize::DEFAULT).to_string();
    assert!(
        text.contains("d8: ") && !text.contains("d9: ") && text.contains("and 12 disks more"),
        "{text}"
    );
    assert!(
        allocate(&[], &request(1, &[]))
            .unwrap_err()
            .error("x", ExtentSize::DEFAULT)
            .why()
            .contains("no disk")
    );
    assert_eq!(
        allocate(&spaces, &request(5, &[1, 3, 4])).unwrap(),
        [area(3, 7, 3), area(4, 1, 2)]
    );
}

#[test]
fn a_disk_with_a_fault_is_used_only_by_name() {
    let mut spaces = [space(1, 20, &[]), space(2, 10, &[]), space(3, 30, &[])];
    spaces[0].fault = Some(Fault::Fails(12));
    spaces[2].fault = Some(Fault::Waits);
    assert_eq!(allocate(&spaces, &request(5, &[])).unwrap(), [area(2, 1, 5)]);
    assert_eq!(allocate(&spaces, &request(5, &[1, 2])).unwrap(), [area(2, 1, 5)]);
    assert_eq!(allocate(&spaces, &request(5, &[1])).unwrap(), [area(1, 1, 5)]);
    let mut grow = request(5, &[]);
    grow.after = Some(area(1, 1, 3));
    assert_eq!(allocate(&spaces, &grow).unwrap(), [area(2, 1, 5)]);
    for on in [&[][..], &[1, 2, 3]] {
        let shortage = allocate(&spaces, &request(10, on)).unwrap_err();
        let error = shortage.error("volume v", ExtentSize::DEFAULT);
        assert!(
            error.why().contains(
                "d1: 12 requests have failed on it; d2: 9 extents free; d3: does not answer: requests of hosts wait for it"
            ),
            "{error}"
        );
        assert!(
            error.way_out().unwrap().contains("vctl disk clear DISK"),
            "{error}"
        );
    }
}

/// Disks with holes; some allow no allocation, some have a reserve.
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

/// A disk of alternating free and taken runs of the given lengths, and a free tail.
fn with_holes(disk: u32, runs: &[(u64, u64)], tail: u64) -> Space {
    let mut at = 1;
    let mut taken = Vec::new();
    for &(gap, len) in runs {
        taken.push((at + gap, len));
        at += gap + len;
    }
    space(disk, at + tail, &taken)
}

fn any_request() -> impl Strategy<Value = AllocRequest> {
    let policy = prop::sample::select(vec![
        Policy::Order,
        Policy::Spread,
        Policy::Pack,
        Policy::Contiguous,
    ]);
    let on = prop::sample::subsequence(vec![3, 2, 1, 0], 0..=4);
    let after = prop::option::of((0..4_u32, 1..9_u64, 1..4_u64));
    (0..40_u64, on, after, policy).prop_map(|(extents, on, after, policy)| AllocRequest {
        after: after.map(|(disk, start, len)| area(disk, start, len)),
        policy,
        ..request(extents, &on)
    })
}

fn extents(areas: &[Area]) -> Vec<(DiskId, u64)> {
    areas
        .iter()
        .flat_map(|area| (area.start.0..area.end().0).map(|extent| (area.disk, extent)))
        .collect()
}

/// Extents that the disk may give, counted without the code under test.
fn usable(space: &Space, request: &AllocRequest) -> u64 {
    let asked = request.on.is_empty() || request.on.contains(&space.disk);
    let free = extents(&space.free).len() as u64;
    if asked && space.allocate {
        free.saturating_sub(space.reserve)
    } else {
        0
    }
}

proptest! {
    #[test]
    fn gives_exactly_what_is_wanted_from_what_is_free(spaces in any_spaces(), request in any_request()) {
        let room: u64 = spaces.iter().map(|space| usable(space, &request)).sum();
        let Ok(areas) = allocate(&spaces, &request) else {
            let could = room >= request.extents && request.policy != Policy::Contiguous;
            prop_assert!(!could, "there was room for {}", request.extents);
            return Ok(());
        };
        let given = extents(&areas);
        prop_assert_eq!(given.len() as u64, request.extents);
        let distinct: BTreeSet<_> = given.iter().copied().collect();
        prop_assert_eq!(distinct.len(), given.len(), "an extent is given twice");
        for space in &spaces {
            let free: BTreeSet<_> = extents(&space.free).into_iter().collect();
            let here: Vec<_> = given.iter().filter(|(disk, _)| *disk == space.disk).collect();
            prop_assert!(here.iter().all(|extent| free.contains(extent)));
            prop_assert!(here.len() as u64 <= usable(space, &request));
        }
        prop_assert!(areas.iter().all(|area| area.start.0 > 0 && area.len > 0));
    }

    #[test]
    fn what_was_taken_is_not_given_again(mut spaces in any_spaces(), requests in prop::collection::vec(any_request(), 1..5)) {
        let mut given = BTreeSet::new();
        for request in requests {
            let Ok(areas) = allocate(&spaces, &request) else { continue };
            take(&mut spaces, &areas);
            for extent in extents(&areas) {
                prop_assert!(given.insert(extent), "given twice");
            }
            let free: Vec<_> = spaces.iter().flat_map(|space| extents(&space.free)).collect();
            prop_assert!(free.iter().all(|extent| !given.contains(extent)));
        }
    }

    #[test]
    fn is_in_one_piece_where_one_fits(spaces in any_spaces(), request in any_request()) {
        let fits = |space: &Space| {
            usable(space, &request) >= request.extents && space.free.iter().any(|run| run.len >= request.extents)
        };
        if request.extents > 0 && spaces.iter().any(fits) {
            prop_assert_eq!(allocate(&spaces, &request).unwrap().len(), 1);
        }
    }

    #[test]
    fn free_runs_are_the_extents_without_an_owner(len in 0..40_u64, runs in prop::collection::vec((0..5_u64, 1..5_u64), 0..8)) {
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

#[test]
fn extents_of_removed_volumes_are_given_last_and_those_of_few() {
    let kept = |start, len| vec![area(1, start, len)];
    let pool = |reserve| {
        [Space {
            reserve,
            // Free: 1 to 29, of which two removed volumes had 1 to 8 and 15 to 22.
            kept: vec![kept(15, 8), kept(1, 8)],
            ..space(1, 30, &[])
        }]
    };
    let ask = |extents, policy| AllocRequest {
        extents,
        on: Vec::new(),
        after: None,
        policy,
    };
    let given = |extents, policy, reserve| allocate(&pool(reserve), &ask(extents, policy));
    assert_eq!(given(6, Policy::Order, 0), Ok(vec![area(1, 9, 6)]));
    assert_eq!(
        given(13, Policy::Order, 0),
        Ok(vec![area(1, 9, 6), area(1, 23, 7)]),
        "others are enough, though in two pieces"
    );
    assert_eq!(
        given(13, Policy::Contiguous, 0),
        Ok(vec![area(1, 9, 13)]),
        "one piece costs the first of the removed volumes"
    );
    assert_eq!(given(14, Policy::Order, 0), Ok(vec![area(1, 9, 14)]));
    assert_eq!(given(22, Policy::Order, 0), Ok(vec![area(1, 1, 22)]));
    assert_eq!(
        given(13, Policy::Order, 16),
        Ok(vec![area(1, 9, 6), area(1, 23, 7)]),
        "what is kept counts as free for the reserve"
    );
    assert!(
        given(14, Policy::Order, 16).is_err(),
        "and no more than before is given"
    );
}
