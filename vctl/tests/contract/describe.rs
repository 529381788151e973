//! Pools created from descriptions: a repetition has no effect, a rehearsal leaves no trace, and a dump equals the pool.

use crate::support::{Pool, write};

const DESCRIPTION: &str = r#"(
    extent_size: "64KiB",
    disks: [
        (name: "fast", path: "fast.img", create: "16MiB", tags: ["ssd"]),
        (name: "slow", path: "slow.img", create: "16MiB"),
    ],
    volumes: [
        (name: "v", size: "2MiB", on: ["@ssd"], mode: "0640", owner: "7:8"),
        (name: "w", size: "1MiB"),
    ],
    apparatuses: [(name: "a", mount: "mount-a")],
)"#;

fn described(text: &str) -> (Pool, String) {
    let pool = Pool::absent();
    write(&pool.path("pool.ron"), text.as_bytes());
    let file = pool.file("pool.ron");
    (pool, file)
}

#[test]
fn applied_from_nothing_and_again() {
    let (pool, file) = described(DESCRIPTION);
    let would = pool.json(["pool", "apply", &file, "--dry-run"]);
    assert!(!pool.pool_dir().exists() && !pool.path("fast.img").exists());
    let titles = |output: &serde_json::Value| {
        let steps = output["steps"].as_array().unwrap().iter();
        steps
            .map(|step| step["title"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(titles(&would).len(), 4, "{would}");
    assert!(
        would["steps"][2]["difference"]["edits"][0]["AddVolume"].is_object(),
        "{would}"
    );
    let done = pool.json(["pool", "apply", &file]);
    assert_eq!(titles(&done), titles(&would));
    assert_eq!(
        (&done["created"], &done["started"]),
        (&true.into(), &serde_json::json!(["a"]))
    );
    let volume = &pool.json(["volume", "show", "v"])["volume"];
    assert_eq!(
        (&volume["mode"], &volume["uid"], &volume["disks"][0]["disk"]),
        (&"0640".into(), &7.into(), &"fast".into())
    );
    assert!(pool.path("mount-a").join("v").exists());
    let before = pool.state();
    let again = pool.json(["pool", "apply", &file]);
    assert_eq!(
        (&again["steps"], &again["started"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    assert_eq!(pool.state(), before);
    assert!(
        pool.run(["pool", "apply", &file, "--dry-run"])
            .ok()
            .out
            .contains("the pool is as described")
    );
}

#[test]
fn deviations_are_changed_and_destruction_is_confirmed() {
    let (pool, file) = described(DESCRIPTION);
    pool.run(["pool", "apply", &file]).ok();
    let moved = DESCRIPTION.replace(r#"on: ["@ssd"]"#, r#"on: ["slow"]"#).replace(
        r#"(name: "w", size: "1MiB")"#,
        r#"(name: "w", size: "512KiB", read_only: true)"#,
    );
    write(&pool.path("pool.ron"), moved.as_bytes());
    pool.run(["pool", "apply", &file])
        .ended(2)
        .complains(&["volume w", "--yes"]);
    assert_eq!(pool.json(["volume", "show", "w"])["volume"]["size"], 1 << 20);
    pool.run(["pool", "apply", &file, "--yes"]).ok();
    let listed = pool.json(["volume", "list"]);
    assert_eq!(listed["volumes"][0]["disks"][0]["disk"], "slow");
    assert_eq!(
        (&listed["volumes"][1]["size"], &listed["volumes"][1]["read_only"]),
        (&(512 << 10).into(), &true.into())
    );
    write(
        &pool.path("pool.ron"),
        moved.replace(r#"(name: "w""#, r#"(name: "x""#).as_bytes(),
    );
    let output = pool.json(["pool", "apply", &file, "--yes"]);
    assert_eq!(output["unasked"], serde_json::json!(["volume w"]));
    assert_eq!(
        pool.json(["volume", "list"])["volumes"].as_array().unwrap().len(),
        3,
        "nothing goes unasked"
    );
    pool.run(["pool", "apply", &file, "--prune"])
        .ended(2)
        .complains(&["volume w", "--yes"]);
    pool.run(["pool", "apply", &file, "--prune", "--yes"]).ok();
    assert_eq!(
        pool.json(["volume", "list"])["volumes"].as_array().unwrap().len(),
        2
    );
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_dump_describes_the_pool_it_was_made_of() {
    let (pool, file) = described(DESCRIPTION);
    pool.run(["pool", "apply", &file]).ok();
    let dump = pool.run(["pool", "dump"]).ok().out;
    write(&pool.path("dump.ron"), dump.as_bytes());
    let applied = pool.json(["pool", "apply", &pool.file("dump.ron"), "--prune"]);
    assert_eq!(
        (&applied["steps"], &applied["started"]),
        (&serde_json::json!([]), &serde_json::json!([])),
        "{dump}"
    );
    assert_eq!(
        pool.json(["pool", "dump"])["description"]["volumes"][0]["name"],
        "v"
    );
}

#[test]
fn options_placement_and_reserves_are_applied_and_dumped() {
    let text = r#"(
        extent_size: "64KiB", policy: pack, nearfull: 70, full: 80,
        disks: [
            (name: "a", path: "a.img", create: "16MiB"),
            (name: "b", path: "b.img", create: "8MiB", reserve: "4MiB", allocate: false),
        ],
        apparatuses: [(name: "x", mount: "mount-x", threads: 8)],
    )"#;
    let (pool, file) = described(text);
    let plan = pool.run(["pool", "apply", &file, "--dry-run"]).ok().out;
    assert!(plan.contains("would pool set"), "{plan}");
    pool.run(["pool", "apply", &file]).ok();
    let shown = &pool.json(["pool", "show"])["pool"];
    assert_eq!(
        (&shown["policy"], &shown["nearfull"], &shown["full"]),
        (&"pack".into(), &70.into(), &80.into())
    );
    assert_eq!(pool.json(["disk", "show", "b"])["disk"]["reserve"], 4 << 20);
    let dump = pool.run(["pool", "dump"]).ok().out;
    for part in [
        "policy:pack",
        "nearfull:70",
        "reserve:\"4MiB\"",
        "allocate:false",
        "threads:8",
    ] {
        assert!(dump.replace(' ', "").contains(part), "{part} in {dump}");
    }
    write(&pool.path("dump.ron"), dump.as_bytes());
    let again = pool.run(["pool", "apply", &pool.file("dump.ron"), "--prune"]);
    assert_eq!(again.ok().out, "the pool is as described\n");
}

#[test]
fn a_supervisor_is_shown_dumped_and_started() {
    let supervised = DESCRIPTION.replace(r#"mount: "mount-a""#, r#"mount: "mount-a", supervisor: true"#);
    let (pool, file) = described(&supervised);
    pool.run(["pool", "apply", &file]).ok();
    let shown = &pool.json(["apparatus", "show", "a"])["apparatus"];
    assert!(shown["supervisor"].as_u64().is_some_and(|pid| pid > 1), "{shown}");
    assert_ne!(shown["supervisor"], shown["pid"], "{shown}");
    let text = pool.run(["apparatus", "show", "a"]).ok().out;
    let pid = shown["supervisor"].to_string();
    assert!(
        text.lines()
            .any(|line| line.to_lowercase().contains("supervisor") && line.contains(&pid)),
        "{text}"
    );
    let dump = pool.run(["pool", "dump"]).ok().out;
    assert!(dump.replace(' ', "").contains("supervisor:true"), "{dump}");
    write(&pool.path("dump.ron"), dump.as_bytes());
    let again = pool.run(["pool", "apply", &pool.file("dump.ron"), "--prune"]);
    assert_eq!(again.ok().out, "the pool is as described\n");

    pool.run(["apparatus", "stop", "a"]).ok();
    pool.start("a");
    let shown = &pool.json(["apparatus", "show", "a"])["apparatus"];
    assert!(shown["supervisor"].is_null(), "{shown}");
    assert!(!pool.run(["pool", "dump"]).ok().out.contains("supervisor"));
    pool.run(["pool", "apply", &file]).ended(1).complains(&[
        "apparatus a",
        "runs with supervisor false, not true",
        "vctl apparatus stop a",
    ]);
    pool.run(["apparatus", "stop", "a"]).ok();
}

#[test]
fn an_apparatus_that_deviates_is_named_and_not_stopped() {
    let (pool, _) = described(DESCRIPTION);
    pool.run(["pool", "apply", &pool.file("pool.ron")]).ok();
    for (mount, words) in [
        (r#"mount: "mount-b""#, "runs at"),
        (r#"mount: "mount-a", threads: 7"#, "threads, not 7"),
        (r#"mount: "mount-a", allow_other: true"#, "allow_other"),
    ] {
        let text = DESCRIPTION.replace(r#"mount: "mount-a""#, mount);
        write(&pool.path("other.ron"), text.as_bytes());
        pool.run(["pool", "apply", &pool.file("other.ron")])
            .ended(1)
            .complains(&["apparatus a", words, "vctl apparatus stop a"]);
    }
    let none = DESCRIPTION.replace(r#"(name: "a", mount: "mount-a")"#, "");
    write(&pool.path("none.ron"), none.as_bytes());
    let output = pool
        .run(["pool", "apply", &pool.file("none.ron"), "--prune"])
        .ok();
    assert!(
        output.out.contains("apparatus a is not described, and stays"),
        "{output:?}"
    );
    assert_eq!(
        pool.json(["apparatus", "show", "a"])["apparatus"]["state"],
        "serving"
    );
}

#[test]
fn disks_that_are_not_described_are_emptied_before_they_go() {
    let (pool, file) = described(DESCRIPTION);
    pool.run(["pool", "apply", &file]).ok();
    let fewer = DESCRIPTION
        .replace(
            r#"(name: "fast", path: "fast.img", create: "16MiB", tags: ["ssd"]),"#,
            "",
        )
        .replace(r#"on: ["@ssd"], "#, "");
    write(&pool.path("pool.ron"), fewer.as_bytes());
    let would = pool.json(["pool", "apply", &file, "--prune", "--dry-run"]);
    let done = pool.json(["pool", "apply", &file, "--prune"]);
    let titles = |output: &serde_json::Value| {
        let steps = output["steps"].as_array().unwrap().iter();
        steps.map(|step| step["title"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(titles(&done), ["disk evacuate fast", "disk remove fast"]);
    assert_eq!(titles(&would), titles(&done));
    assert_eq!(
        pool.json(["volume", "show", "v"])["volume"]["disks"][0]["disk"],
        "slow"
    );
}

#[test]
fn an_impossible_request_is_refused_before_any_step() {
    for (text, words) in [
        (
            "(volumes: [(name: \"v\", size: \"1M\", nonsense: 1)])",
            &["nonsense", "pool.ron"][..],
        ),
        (
            "(volumes: [(name: \"v\", size: \"1M\")])",
            &["volume v", "not enough room"],
        ),
        ("(volumes: [(name: \"v\", size: \"1M\", on: [\"@x\"])])", &["@x"]),
        (
            "(disks: [(name: \"d\", path: \"none.img\")])",
            &["none.img", "--create"],
        ),
    ] {
        let (pool, file) = described(text);
        let output = pool.run(["pool", "apply", &file]).complains(words);
        assert_ne!(output.status, 0);
        assert!(!pool.pool_dir().exists(), "{text}");
    }
    let (pool, _) = described("");
    pool.run(["pool", "apply", &pool.file("none.ron")])
        .ended(3)
        .complains(&["none.ron"]);
}

#[test]
fn many_new_volumes_are_created_in_one_change_and_reported_one_by_one() {
    let volumes: Vec<String> = (0..300)
        .map(|number| format!(r#"(name: "v{number}", size: "64KiB")"#))
        .collect();
    let text = format!(
        r#"(extent_size: "64KiB", disks: [(name: "d", path: "d.img", create: "32MiB")], volumes: [{}])"#,
        volumes.join(", ")
    );
    let (pool, file) = described(&text);
    let done = pool.json(["pool", "apply", &file]);
    let steps = done["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 301);
    assert_eq!(steps[300]["title"], "volume create v299 64KiB");
    // The disk is one change, the volumes are another.
    assert_eq!(pool.json(["pool", "show"])["pool"]["generation"], 2);
    let listed = pool.json(["volume", "list"]);
    assert_eq!(listed["volumes"].as_array().unwrap().len(), 300);
    let would = pool.json(["pool", "apply", &file, "--dry-run"]);
    assert_eq!(would["steps"], serde_json::json!([]));
    pool.run(["pool", "check"]).ok();
}

#[test]
fn an_extent_size_that_the_pool_does_not_have_is_refused() {
    let (pool, file) = described(r#"(extent_size: "64KiB")"#);
    pool.run(["pool", "apply", &file]).ok();
    write(&pool.path("pool.ron"), br#"(extent_size: "1MiB")"#);
    for words in [
        &["pool", "apply", &file][..],
        &["pool", "apply", &file, "--dry-run"],
    ] {
        pool.run(words)
            .ended(2)
            .complains(&["extent_size", "1MiB", "64KiB", "cannot be changed"]);
    }
    write(&pool.path("pool.ron"), b"()");
    assert_eq!(
        pool.run(["pool", "apply", &file]).ok().out,
        "the pool is as described\n"
    );
}
