//! Placement of volumes: tags, policies, reserves; and the events when a pool becomes full.

use crate::support::Pool;
use serde_json::Value;

/// Creates three disks of 16 extents (15 for volumes) of 1 MiB: `a` and `b` with the tag `ssd`, and `c`.
fn three() -> Pool {
    let pool = Pool::empty();
    for (name, tag) in [("a", "ssd"), ("b", "ssd"), ("c", "hdd")] {
        let image = pool.file(&format!("{name}.img"));
        pool.run(["disk", "add", &image, "--create", "16M", "--tag", tag])
            .ok();
    }
    pool
}

/// Returns the disks of a volume in the order of its segments.
fn placements(pool: &Pool, volume: &str) -> Vec<String> {
    let map = pool.json(["volume", "map", volume]);
    let segments = map["segments"].as_array().unwrap().iter();
    segments
        .map(|segment| segment["disk"].as_str().unwrap().to_owned())
        .collect()
}

fn create(pool: &Pool, name: &str, size: &str, words: &[&str]) -> Vec<String> {
    pool.run(["volume", "create", name, size].iter().chain(words))
        .ok();
    placements(pool, name)
}

#[test]
fn policies_choose_the_disk() {
    let pool = three();
    assert_eq!(create(&pool, "v1", "4M", &["--on", "c", "--on", "a"]), ["c"]);
    assert_eq!(create(&pool, "v2", "2M", &["--policy", "pack"]), ["c"]);
    assert_eq!(create(&pool, "v3", "2M", &["--policy", "spread"]), ["a"]);
    assert_eq!(create(&pool, "v4", "2M", &["--policy", "spread"]), ["b"]);
    pool.run(["pool", "set", "--policy", "pack"]).ok();
    assert_eq!(create(&pool, "v5", "1M", &[]), ["c"], "the pool's policy");
    assert_eq!(create(&pool, "v6", "1M", &["--on", "@ssd"]), ["a"]);
    assert_eq!(create(&pool, "v7", "1M", &["--policy", "spread"]), ["b"]);
}

#[test]
fn policies_choose_where_a_volume_moves() {
    let pool = three();
    create(&pool, "v", "2M", &["--on", "c"]);
    create(&pool, "w", "3M", &["--on", "a"]);
    let moved = |words: &[&str], volume: &str| {
        pool.run(["volume", "move", volume].iter().chain(words)).ok();
        placements(&pool, volume)
    };
    let ssd = ["--to", "@ssd", "--policy"];
    let seen = pool.json(["volume", "map", "v", "--to", "@ssd", "--policy", "pack"]);
    assert_eq!(seen["after"][0]["disk"], "a");
    assert_eq!(moved(&[&ssd[..], &["pack"]].concat(), "v"), ["a"]);
    moved(&["--to", "c"], "v");
    assert_eq!(moved(&[&ssd[..], &["spread"]].concat(), "v"), ["b"]);
    pool.run(["volume", "map", "v", "--policy", "pack"])
        .ended(2)
        .complains(&["--to"]);
    // Contiguous or not at all, if the command asks for that; if it is only the policy of the pool, in pieces too.
    for (name, size) in [("x", "7M"), ("y", "1M"), ("z", "7M")] {
        create(&pool, name, size, &["--on", "c"]);
    }
    pool.run(["volume", "remove", "x", "--yes", "--discard"]).ok();
    pool.run(["volume", "remove", "z", "--yes", "--discard"]).ok();
    create(&pool, "u", "8M", &["--on", "a"]);
    pool.run(["volume", "move", "u", "--to", "c", "--policy", "contiguous"])
        .ended(1)
        .complains(&["volume u", "c: at most 7 extents in one piece"]);
    assert_eq!(placements(&pool, "u"), ["a"]);
    pool.run(["pool", "set", "--policy", "contiguous"]).ok();
    assert_eq!(moved(&["--to", "c"], "u"), ["c", "c"]);
}

#[test]
fn contiguous_is_one_piece_or_a_reason() {
    let pool = three();
    assert_eq!(create(&pool, "big", "20M", &[]).len(), 2);
    pool.run(["volume", "remove", "big", "--yes", "--discard"]).ok();
    pool.run(["volume", "create", "big", "20M", "--policy", "contiguous"])
        .ended(1)
        .complains(&["volume big", "a: 15 extents free", "c: 15 extents free"]);
    assert_eq!(create(&pool, "v1", "15M", &["--policy", "contiguous"]), ["a"]);
    create(&pool, "v2", "7M", &["--on", "b"]);
    create(&pool, "v3", "1M", &["--on", "b"]);
    create(&pool, "v4", "7M", &["--on", "b"]);
    pool.run(["volume", "remove", "v2", "--yes", "--discard"]).ok();
    pool.run(["volume", "remove", "v4", "--yes", "--discard"]).ok();
    pool.run([
        "volume",
        "create",
        "v5",
        "8M",
        "--on",
        "b",
        "--policy",
        "contiguous",
    ])
    .ended(1)
    .complains(&["b: at most 7 extents in one piece"]);
    assert_eq!(create(&pool, "v5", "8M", &["--on", "b"]), ["b", "b"]);
}

#[test]
fn a_reserve_is_for_evacuations_that_say_so() {
    let pool = three();
    pool.run(["disk", "set", "b", "--reserve", "10M"]).ok();
    let listed = pool.json(["disk", "show", "b"]);
    assert_eq!(listed["disk"]["reserve"], 10 << 20);
    pool.run(["disk", "set", "b", "--reserve", "16M"])
        .ended(2)
        .complains(&["disk b", "16M", "15M"]);
    pool.run(["volume", "create", "v", "6M", "--on", "b"])
        .ended(1)
        .complains(&["b: 15 extents free, 10 of them kept free"]);
    pool.run(["volume", "create", "v", "12M", "--on", "a"]).ok();
    for words in [
        &["volume", "move", "v", "--to", "b"][..],
        &["disk", "evacuate", "a", "--to", "b"],
    ] {
        pool.run(words)
            .ended(1)
            .complains(&["needs 12 extents", "10 of them kept free"]);
    }
    assert_eq!(pool.json(["disk", "show", "a"])["disk"]["allocate"], true);
    pool.run(["disk", "evacuate", "a", "--to", "b", "--use-reserve"])
        .ok();
    assert_eq!(placements(&pool, "v"), ["b"]);
    // The way back of a job may use the reserve of the disk from which it came.
    pool.run(["disk", "set", "a", "--reserve", "15M"]).ok();
    pool.run(["job", "cancel", "1", "--roll-back"]);
    let text = pool.run(["disk", "list", "-o", "name,reserve", "--no-headings"]);
    assert_eq!(text.ok().out, "a  15M\nb  10M\nc    0\n");
    pool.run(["disk", "set", "a", "--reserve", "0"]).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn tags_name_destinations_of_moves_and_evacuations() {
    let pool = three();
    create(&pool, "v", "4M", &["--on", "c"]);
    pool.run(["volume", "move", "v", "--to", "@ssd"]).ok();
    assert_eq!(placements(&pool, "v"), ["a"]);
    pool.run(["disk", "evacuate", "a", "--to", "@hdd"]).ok();
    assert_eq!(placements(&pool, "v"), ["c"]);
    pool.run(["volume", "move", "v", "--to", "@none"])
        .ended(3)
        .complains(&["tag @none", "@hdd, @ssd"]);
    pool.run(["disk", "set", "b", "--no-allocate"]).ok();
    pool.run(["volume", "move", "v", "--to", "@ssd"])
        .ended(1)
        .complains(&["a: no-allocate", "b: no-allocate"]);
}

/// Returns the severities of the events about the pool's space, oldest first.
fn output(pool: &Pool) -> Vec<String> {
    let events = pool.json(["events"]);
    let of_pool = |event: &&Value| event["subject"] == "pool";
    let events = events["events"].as_array().unwrap().iter().filter(of_pool);
    events
        .map(|event| event["severity"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_full_pool_is_reported_once() {
    let pool = three();
    let space = |pool: &Pool| {
        let status = pool.run(["status", "--json"]).json();
        let findings = status["findings"].as_array().unwrap().clone();
        let found = findings.iter().find(|finding| finding["subject"] == "space");
        found.map_or(Value::Null, |finding| finding["severity"].clone())
    };
    create(&pool, "v", "38M", &[]);
    assert_eq!((output(&pool), space(&pool)), (vec![], Value::Null));
    pool.run(["volume", "resize", "v", "39M"]).ok();
    assert_eq!(
        (output(&pool), space(&pool)),
        (vec!["warning".into()], "warning".into())
    );
    // Near the threshold there is no further event.
    pool.run(["volume", "resize", "v", "38M", "--yes"]).ok();
    pool.run(["volume", "resize", "v", "40M"]).ok();
    assert_eq!((output(&pool).len(), space(&pool)), (1, "warning".into()));
    pool.run(["volume", "resize", "v", "43M"]).ok();
    assert_eq!((output(&pool).len(), space(&pool)), (2, "error".into()));
    pool.run(["pool", "set", "--full", "100%"]).ok();
    assert_eq!((output(&pool).len(), space(&pool)), (3, "warning".into()));
    pool.run(["volume", "remove", "v", "--yes", "--discard"]).ok();
    assert_eq!(output(&pool), ["warning", "error", "warning", "info"]);
    assert_eq!(space(&pool), Value::Null);
    pool.run(["pool", "set", "--nearfull", "99", "--full", "98"])
        .ended(2)
        .complains(&["thresholds 99 % and 98 %", "85 and 95"]);
    pool.run(["pool", "set"]).ended(2);
    // The reserve counts as used.
    create(&pool, "w", "42M", &[]);
    for disk in ["a", "b", "c"] {
        pool.run(["disk", "set", disk, "--reserve", "11M"]).ok();
    }
    assert_eq!(output(&pool).last().unwrap(), "error");
}

#[test]
fn options_are_rehearsed() {
    let pool = Pool::empty();
    let would = pool.json(["pool", "set", "--policy", "spread", "--full", "97%", "--dry-run"]);
    assert_eq!(would["dry_run"], true);
    assert_eq!(would["from"]["policy"], "order");
    assert_eq!(
        would["to"],
        serde_json::json!({"policy": "spread", "thresholds": {"nearfull": 85, "full": 97}})
    );
    assert_eq!(pool.json(["pool", "show"])["pool"]["policy"], "order");
    assert_eq!(pool.json(["pool", "set", "--policy", "order"])["changed"], false);
}

/// New space goes to a disk with a known fault only by its name.
#[test]
fn new_space_avoids_disks_with_faults() {
    let pool = three();
    create(&pool, "here", "2M", &["--on", "b"]);
    create(&pool, "there", "2M", &["--on", "c"]);
    let image = std::fs::File::options()
        .write(true)
        .open(pool.path("a.img"))
        .unwrap();
    create(&pool, "v", "1M", &["--on", "a"]);
    let file = pool.start("x").join("v");
    assert_eq!(create(&pool, "sound", "1M", &[]), ["a"], "it has the most room");
    image.set_len(1 << 20).unwrap();
    assert_ne!(create(&pool, "short", "1M", &[]), ["a"]);
    std::fs::read(&file).unwrap_err();
    image.set_len(16 << 20).unwrap();
    for (name, words) in [("w1", &[][..]), ("w2", &["--policy", "spread"])] {
        assert_ne!(create(&pool, name, "1M", words), ["a"]);
    }
    pool.run(["volume", "resize", "v", "+1M"]).ok();
    assert_eq!(placements(&pool, "v").first().unwrap(), "a");
    assert_ne!(placements(&pool, "v").last().unwrap(), "a");
    pool.run(["disk", "evacuate", "b"]).ok();
    assert_eq!(placements(&pool, "here"), ["c"]);
    for dry_run in [&[][..], &["--dry-run"]] {
        pool.run(["volume", "create", "w3", "12M"].iter().chain(dry_run))
            .ended(1)
            .complains(&["failed on it", "b: no-allocate", "vctl disk clear DISK"]);
    }
    assert_eq!(create(&pool, "named", "1M", &["--on", "a"]), ["a"]);
    pool.run(["disk", "clear", "a"]).ok();
    assert_eq!(create(&pool, "w4", "1M", &[]), ["a"]);
}
