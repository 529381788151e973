//! The shape of each verb's object.

use crate::support::Pool;
use serde_json::Value;

/// Asserts that the object has these fields, each of this type: `s`tring, `i`nteger, `b`oolean, `a`rray, `o`bject, `?` anything or null.
#[track_caller]
fn has(value: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        let (name, kind) = field.split_once(':').unwrap();
        let found = value.get(name).unwrap_or_else(|| panic!("no {name} in {value}"));
        let fits = match kind {
            "s" => found.is_string(),
            "i" => found.is_u64(),
            "b" => found.is_boolean(),
            "a" => found.is_array(),
            "o" => found.is_object(),
            _ => true,
        };
        assert!(fits, "{name} is {found}, not {kind}");
    }
}

const DISK: &str = "id:i name:s uuid:s path:s size:i used:i reserved:i quarantined:i free:i largest_free:i \
                    volumes:i tags:a allocate:b reserve:i state:s fault:?";
const VOLUME: &str = "id:i name:s size:i mode:s uid:i gid:i read_only:b segments:i disks:a";
const CHANGE: &str = "changed:b generation:i held_requests:i longest_hold_us:i fenced:a";
const JOB: &str = "id:i title:s subject:s state:s why:s back:b done:i total:i copied:i held_requests:i \
                   longest_hold_us:i median_hold_us:? p99_hold_us:? abandoned:b rate:? hold_target_us:? hold_all:b skip_unreadable:b created:s ended:?";

#[test]
fn of_the_pool() {
    let pool = Pool::absent();
    let made = pool.json(["pool", "create", "--extent-size", "64K"]);
    let fields = "path:s uuid:s extent_size:i access:s generation:i layout:i membership:i term:i disks:i volumes:i \
                  apparatuses:i size:i used:i reserved:i quarantined:i free:i policy:s nearfull:i full:i";
    has(&made["pool"], fields);
    assert_eq!(made["pool"]["extent_size"], 65536);
    has(&pool.json(["pool", "show"])["pool"], fields);
    let set = pool.json(["pool", "set", "--policy", "pack"]);
    has(&set, "changed:b pool:o");
    assert_eq!(set["pool"]["policy"], "pack");
    has(&pool.json(["pool", "check"]), "problems:a repaired:a");
    has(
        &pool.json(["pool", "backup", &pool.file("b")]),
        "backup:s layout:i generation:i dry_run:b",
    );
    let restored = pool.json(["pool", "restore", &pool.file("b"), "--yes"]);
    has(
        &restored["restored"],
        "uuid:s layout:i labels_layout:i generation:i disks:i volumes:i unread:a replaces:b",
    );
}

#[test]
fn of_disks() {
    let pool = Pool::empty();
    let added = pool.json([
        "disk",
        "add",
        &pool.file("d1.img"),
        "--create",
        "16M",
        "--tag",
        "x",
        "--tag",
        "y",
    ]);
    has(&added["disk"], DISK);
    has(&added["change"], CHANGE);
    assert_eq!(added["disk"]["name"], "d1");
    assert_eq!(added["disk"]["size"], 16 << 20);
    assert_eq!(added["disk"]["tags"], serde_json::json!(["x", "y"]));
    has(&pool.json(["disk", "list"])["disks"][0], DISK);
    has(&pool.json(["disk", "show", "d1"])["disk"], DISK);
    let set = pool.json([
        "disk",
        "set",
        "d1",
        "--name",
        "e1",
        "--untag",
        "x",
        "--no-allocate",
    ]);
    assert_eq!(
        (
            &set["disk"]["name"],
            &set["disk"]["tags"],
            &set["disk"]["allocate"]
        ),
        (&"e1".into(), &serde_json::json!(["y"]), &false.into())
    );
    assert_eq!(
        pool.json(["disk", "set", "e1", "--no-allocate"])["change"]["changed"],
        false
    );
    let resized = pool.json(["disk", "resize", "e1", "32M"]);
    assert_eq!(resized["disk"]["size"], 32 << 20);
    let removed = pool.json(["disk", "remove", "e1"]);
    assert_eq!(removed["removed"], "e1");
    has(&removed["change"], CHANGE);
}

#[test]
fn of_volumes() {
    let pool = Pool::with_volume();
    let made = pool.json([
        "volume",
        "create",
        "w",
        "1M",
        "--mode",
        "640",
        "--owner",
        "7:8",
        "--read-only",
        "--on",
        "@fast",
    ]);
    has(&made["volume"], VOLUME);
    has(&made["change"], CHANGE);
    let volume = &made["volume"];
    assert_eq!(
        (&volume["mode"], &volume["uid"], &volume["gid"]),
        (&"0640".into(), &7.into(), &8.into())
    );
    assert_eq!(
        (&volume["read_only"], &volume["disks"][0]["disk"]),
        (&true.into(), &"d1".into())
    );
    let used = format!("{VOLUME} open:i writers:i users:a unknown:a");
    has(&pool.json(["volume", "list"])["volumes"][0], &used);
    has(&pool.json(["volume", "show", "w"])["volume"], &used);
    let map = pool.json(["volume", "map", "w"]);
    has(&map, "volume:s size:i extent_size:i segments:a");
    has(&map["segments"][0], "start:i end:i length:i disk:s disk_offset:i");
    assert_eq!(
        pool.json(["volume", "resize", "w", "+512"])["volume"]["size"],
        (1 << 20) + 512
    );
    assert_eq!(pool.json(["volume", "rename", "w", "x"])["volume"]["name"], "x");
    assert_eq!(
        pool.json(["volume", "set", "x", "--read-write"])["volume"]["read_only"],
        false
    );
    let held = pool.json(["volume", "hold", "x", "v", "--for", "1ms", "--flush"]);
    has(&held, "volumes:a held_us:i flushed:b command_status:? change:o");
    assert!(held["held_us"].as_u64().unwrap() >= 1000);
    assert_eq!(pool.json(["volume", "remove", "x", "--yes"])["removed"], "x");
}

#[test]
fn of_jobs_events_and_status() {
    let pool = Pool::with_volume();
    let moved = pool.json(["volume", "move", "v", "--to", "d2"]);
    has(&moved["job"], JOB);
    has(&moved, "fenced:a");
    assert_eq!(moved["job"]["state"], "done");
    has(&pool.json(["job", "list"])["jobs"][0], JOB);
    let shown = pool.json(["job", "show", "1"]);
    has(&shown, "job:o phase:s steps:a");
    has(
        &shown["steps"][0],
        "volume:s start:i length:i from:s from_offset:i to:s to_offset:i done:i",
    );
    has(&pool.json(["job", "wait", "1"])["job"], JOB);
    has(&pool.json(["disk", "evacuate", "d2"])["job"], JOB);
    let events = pool.json(["events"]);
    for event in events["events"].as_array().unwrap() {
        has(event, "seq:i at:s severity:s subject:s text:s");
    }
    has(
        &pool.json(["status"]),
        "healthy:b pool:s findings:a access:s disks:i volumes:i apparatuses:i serving:i jobs:i size:i free:i controller:?",
    );
    has(&pool.json(["metrics"]), "metrics:s");
}

#[test]
fn times_are_rfc_3339_and_sizes_integers() {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let job = &pool.json(["job", "list"])["jobs"][0];
    for field in ["created", "ended"] {
        let text = job[field].as_str().unwrap();
        let time: jiff::Timestamp = text.parse().unwrap();
        assert!(text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text}");
        assert!(time <= jiff::Timestamp::now());
    }
    assert_eq!(job["total"], 8 << 20);
}

#[test]
fn of_a_failure() {
    let pool = Pool::empty();
    let output = pool.run(["volume", "show", "x", "--json"]).ended(3);
    let error = &output.json()["error"];
    has(error, "kind:s what:s why:s hint:s");
    assert_eq!(error["kind"], "not-found");
    output.complains(&["volume x: no such volume"]);
    let output = pool.run(["volume", "create", "x", "nonsense", "--json"]).ended(2);
    assert_eq!(output.json()["error"]["kind"], "usage");
}
