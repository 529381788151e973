//! The actions that make a pool match a description. Pure: the pool is a snapshot in memory.

use super::*;
use crate::admin::testing::{EXTENT, area, name, pool, volume};
use crate::model::alloc::Policy;
use crate::model::change::HoldMode;
use crate::model::units::{DiskId, Generation, VolumeExtent, VolumeId};

/// Two disks and two volumes, as [`scene`] has them.
const SAME: &str = r#"(
    disks: [
        (name: "d1", path: "/disks/d1.img", tags: ["old"]),
        (name: "d2", path: "/disks/d2.img", tags: ["new"]),
    ],
    volumes: [
        (name: "v1", size: "3MiB", on: ["@old"], owner: "7:8"),
        (name: "v2", size: "2MiB"),
    ],
)"#;

fn scene() -> Snapshot {
    pool(&[volume(1, 3 * EXTENT), volume(2, 2 * EXTENT)])
}

fn described(text: &str) -> Description {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pool.ron");
    std::fs::write(&file, text).unwrap();
    describe::read(&file).unwrap()
}

fn request(prune: bool) -> ApplyRequest {
    let owner = describe::Owner { user: 1, group: 2 };
    ApplyRequest {
        prune,
        owner,
        cut_off_users: false,
    }
}

/// Returns the next action when the description is `new` and the pool is as described by `old`.
fn after(old: &str, new: &str) -> Option<Action> {
    assert!(SAME.contains(old), "{old}");
    due(
        Options::default(),
        &scene(),
        &described(&SAME.replace(old, new)),
        request(false),
    )
    .unwrap()
    .into_iter()
    .next()
}

#[test]
fn nothing_is_due_where_all_is_as_described() {
    for prune in [false, true] {
        let due = due(Options::default(), &scene(), &described(SAME), request(prune)).unwrap();
        assert_eq!(due, []);
    }
    // Owners that are not described are left alone.
    assert_eq!(after(", owner: \"7:8\"", ""), None);
}

#[test]
fn each_thing_that_differs_is_changed_and_nothing_else() {
    let d1 = r#"path: "/disks/d1.img", tags: ["old"]"#;
    let set_disk = |change| Some(Action::SetDisk("d1".into(), change));
    let set_volume = |change| Some(Action::SetVolume("v1".into(), change));
    let cases = [
        (
            "disks: [\n",
            "policy: pack, disks: [\n",
            Some(Action::SetPool(OptionsChange {
                policy: Some(Policy::Pack),
                ..OptionsChange::default()
            })),
        ),
        (
            d1,
            r#"path: "/disks/d1.img", tags: ["old", "x"], reserve: "1MiB""#,
            set_disk(DiskChange {
                tag: [name("x")].into(),
                reserve: Some(ByteCount(EXTENT)),
                ..DiskChange::default()
            }),
        ),
        (
            d1,
            r#"path: "/else/d1.img", tags: [], allocate: false"#,
            set_disk(DiskChange {
                untag: [name("old")].into(),
                allocate: Some(false),
                path: Some("/else/d1.img".into()),
                ..DiskChange::default()
            }),
        ),
        (
            r#"size: "3MiB""#,
            r#"size: "4MiB""#,
            Some(Action::ResizeVolume(
                "v1".into(),
                ByteCount(4 * EXTENT),
                vec!["@old".into()],
            )),
        ),
        (
            r#"owner: "7:8""#,
            r#"owner: "7:9", mode: "0644", read_only: true"#,
            set_volume(VolumeChange {
                mode: Some(0o644),
                gid: Some(9),
                read_only: Some(true),
                ..VolumeChange::default()
            }),
        ),
    ];
    for (old, new, expected) in cases {
        assert_eq!(after(old, new), expected, "{new}");
    }
}

#[test]
fn disks_come_before_the_volumes_that_need_them_and_removals_come_last() {
    let text = SAME
        .replace(r#"(name: "d1", path: "/disks/d1.img", tags: ["old"]),"#, "")
        .replace(
            "disks: [",
            r#"disks: [(name: "d3", path: "/none/d3.img", create: "64MiB", tags: ["old"]), "#,
        )
        .replace(
            "volumes: [",
            r#"volumes: [(name: "w", size: "1MiB", on: ["d3"]), "#,
        )
        .replace(r#"(name: "v2", size: "2MiB"),"#, "");
    let wanted = described(&text);
    let mut now = scene();
    let next = |now: &Snapshot| {
        let due = due(Options::default(), now, &wanted, request(true)).unwrap();
        assert!(due.len() <= 1, "{due:?}");
        due.into_iter().next()
    };
    let Some(Action::AddDisk(new)) = next(&now) else {
        panic!("{:?}", next(&now));
    };
    assert_eq!(new.create, Some(ByteCount(64 * EXTENT)));
    now.disks.push(crate::admin::testing::disk(3, &["old"]));
    now.disks[2].path = "/none/d3.img".into();
    let Some(Action::CreateVolumes(all)) = next(&now) else {
        panic!("{:?}", next(&now));
    };
    let [(new, on)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((new.uid, new.gid, on), (1, 2, &vec!["d3".to_owned()]));
    now.volumes.push(VolumeRecord {
        name: name("w"),
        ..volume(3, EXTENT)
    });
    // v1 lies on d1, which still has the tag: a volume moves only if its own placement is wrong.
    assert_eq!(next(&now), Some(Action::RemoveVolume("v2".into())));
    now.volumes.remove(1);
    now.segments.retain(|(id, _)| *id != VolumeId(2));
    let Some(Action::Evacuate(disk, evacuation)) = next(&now) else {
        panic!("{:?}", next(&now));
    };
    let expected = Request::Evacuate {
        disk: DiskId(1),
        to: vec![DiskId(2), DiskId(3)],
        use_reserve: false,
    };
    assert_eq!((disk.as_str(), evacuation), ("d1", expected));
    now.segments[0].1.placement = area(3, 1, 3);
    assert_eq!(next(&now), Some(Action::RemoveDisk("d1".into())));
    now.disks.remove(0);
    assert_eq!(next(&now), None);
    // Nothing is removed without `prune`.
    let unasked = due(Options::default(), &scene(), &described("()"), request(false)).unwrap();
    assert_eq!(unasked, []);
}

#[test]
fn a_volume_that_lies_in_part_where_it_may_not_moves() {
    let mut now = scene();
    let segment = &mut now.segments[0].1;
    segment.placement.len = 2;
    let rest = Segment {
        start: VolumeExtent(2),
        placement: area(2, 1, 1),
    };
    now.segments.insert(1, (VolumeId(1), rest));
    let due_now = due(Options::default(), &now, &described(SAME), request(false)).unwrap();
    let Some(Action::Move(
        volume,
        on,
        Request::Move {
            to,
            from: None,
            range: None,
            ..
        },
    )) = due_now.into_iter().next()
    else {
        panic!("does not move");
    };
    assert_eq!(
        (volume.as_str(), on, to),
        ("v1", vec!["@old".to_owned()], vec![DiskId(1)])
    );
    let nowhere = described(&SAME.replace("@old", "@none"));
    assert!(due(Options::default(), &scene(), &nowhere, request(false)).is_err());
}

#[test]
fn only_what_destroys_data_is_a_loss() {
    let planned = |edits: Vec<Edit>| {
        Planned::only(Delta {
            from: Generation(1),
            edits,
        })
    };
    let resize = Action::ResizeVolume("v".into(), ByteCount(EXTENT), vec![]);
    let unmap = Edit::Unmap {
        volume: VolumeId(1),
        start: VolumeExtent(1),
        end: VolumeExtent(2),
    };
    assert!(loss(&resize, &planned(vec![unmap])).is_some());
    assert_eq!(loss(&resize, &planned(vec![])), None, "it grows");
    // The volume shrinks within its last extent: nothing is unmapped, and yet data is lost.
    let mut within = planned(vec![]);
    within.spans = vec![crate::model::records::Span::whole(VolumeId(1))];
    assert_eq!(within.mode, HoldMode::All);
    assert!(loss(&resize, &within).is_some());
    let removed = loss(&Action::RemoveVolume("v".into()), &planned(vec![])).unwrap();
    assert!(removed.contains("volume v"), "{removed}");
    assert_eq!(loss(&Action::RemoveDisk("d".into()), &planned(vec![])), None);
}

#[test]
fn volumes_that_are_not_there_are_one_action_and_so_is_each_of_the_rest() {
    let text = SAME.replace(
        "volumes: [",
        r#"volumes: [(name: "a", size: "1M"), (name: "b", size: "1M"), "#,
    );
    let text = text.replace(
        r#"(name: "v2", size: "2MiB"),"#,
        r#"(name: "v2", size: "3MiB"), (name: "c", size: "1M"),"#,
    );
    let actions = due(Options::default(), &scene(), &described(&text), request(false)).unwrap();
    let titles: Vec<Vec<String>> = actions.iter().map(Action::titles).collect();
    let create = |name: &str| format!("volume create {name} 1MiB");
    let expected = [
        vec![create("a"), create("b")],
        vec!["volume resize v2 3MiB".to_owned()],
        vec![create("c")],
    ];
    assert_eq!(titles, expected);
}

#[test]
fn another_extent_size_than_the_pools_is_refused() {
    let with = |size: &str| SAME.replace("disks: [\n", &format!("extent_size: \"{size}\", disks: [\n"));
    let due = |size: &str| {
        due(
            Options::default(),
            &scene(),
            &described(&with(size)),
            request(false),
        )
    };
    assert_eq!(due("1MiB").unwrap(), []);
    let error = due("2MiB").unwrap_err();
    assert!(
        error.to_string().contains("2MiB") && error.why().contains("cannot be changed"),
        "{error}"
    );
}
