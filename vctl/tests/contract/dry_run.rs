//! `--dry-run` prints exactly what would be sent, and changes nothing: not the database, not a file, not even the term.

use crate::support::Pool;
use serde_json::Value;

/// Returns the delta that a dry run prints as JSON, after checking that its text consists of plain sentences.
#[track_caller]
fn would_send(pool: &Pool, words: &[&str]) -> Value {
    let before = pool.state();
    let text = in_words(pool, words);
    let output = pool.json(words.iter().chain(&["--dry-run"]));
    assert_eq!(output["dry_run"], true);
    let delta: apparatus::model::records::Delta =
        serde_json::from_value(output["difference"].clone()).unwrap();
    assert_eq!(
        delta.edits.is_empty(),
        text.starts_with("nothing would "),
        "{text}"
    );
    assert_eq!(pool.state(), before, "{words:?} --dry-run");
    output["difference"].clone()
}

/// Checks that the text contains nothing that only a program would print.
#[track_caller]
fn in_words(pool: &Pool, words: &[&str]) -> String {
    let text = pool.run(words.iter().chain(&["--dry-run"])).ok().out;
    for line in text.lines() {
        assert!(
            line.starts_with("would ") || line.starts_with("nothing would "),
            "{line}"
        );
        assert!(!line.contains(['{', '(', '[', '"']), "{line}");
    }
    text
}

#[test]
fn text_output_is_plain_sentences() {
    let pool = Pool::with_volume();
    let expected: &[(&[&str], &str)] = &[
        (
            &["volume", "create", "w", "1M", "--on", "d2", "--owner", "5:6"],
            "would create volume w: 1M, mode 0600, owner 5:6\nwould place 1M of volume w at 0 on d2 at 1M\n",
        ),
        (
            &["volume", "rename", "v", "w"],
            "would change volume v: name from v to w\n",
        ),
        (
            &["volume", "remove", "v"],
            "would remove volume v and the 8M that it holds\n",
        ),
        (&["volume", "rename", "v", "v"], "nothing would change\n"),
        (
            &["volume", "move", "v", "--to", "d2"],
            "would move 8M of volume v at 0 from d1 at 1M to d2 at 1M\n",
        ),
        (
            &["volume", "move", "v", "--to", "d1"],
            "nothing would be moved: everything is at its destination\n",
        ),
        (
            &["disk", "set", "d1", "--untag", "fast"],
            "would change disk d1: tags from fast to none\n",
        ),
        (&["disk", "remove", "d2"], "would remove disk d2\n"),
    ];
    for (words, text) in expected {
        assert_eq!(in_words(&pool, words), *text, "{words:?}");
    }
}

#[test]
fn of_every_verb_that_changes_the_table() {
    let pool = Pool::with_volume();
    let (new, img) = (pool.file("new.img"), pool.file("d3.img"));
    std::fs::File::create(&img).unwrap().set_len(16 << 20).unwrap();
    let generation = pool.json(["pool", "show"])["pool"]["generation"].clone();
    let verbs: &[(&[&str], &str)] = &[
        (&["disk", "add", &new, "--create", "16M"], "AddDisk"),
        (&["disk", "add", &img], "AddDisk"),
        (&["disk", "set", "d1", "--name", "x"], "SetDisk"),
        (&["disk", "resize", "d1", "128M"], "SetDisk"),
        (&["disk", "remove", "d2"], "RemoveDisk"),
        (&["disk", "evacuate", "d1"], "Map"),
        (&["volume", "create", "w", "1M"], "AddVolume"),
        (&["volume", "resize", "v", "+1M"], "SetVolume"),
        (&["volume", "resize", "v", "1M"], "Unmap"),
        (&["volume", "rename", "v", "w"], "SetVolume"),
        (&["volume", "set", "v", "--mode", "644"], "SetVolume"),
        (&["volume", "remove", "v"], "RemoveVolume"),
        (&["volume", "move", "v", "--to", "d2"], "Map"),
        (&["volume", "move", "v", "--to", "d2", "--range", "1M..3M"], "Map"),
    ];
    for (words, edit) in verbs {
        let delta = would_send(&pool, words);
        assert_eq!(delta["from"], generation, "{words:?}");
        let edits = delta["edits"].as_array().unwrap();
        assert!(
            edits.iter().any(|each| each.get(*edit).is_some()),
            "{words:?}: {delta}"
        );
    }
    let held = pool.json(["volume", "hold", "v", "--dry-run"]);
    assert_eq!(held["difference"]["edits"], serde_json::json!([]));
    assert_eq!(
        in_words(&pool, &["volume", "hold", "v", "--for", "500ms"]),
        "would hold all requests of volume v for 500.0ms\n"
    );
    assert_eq!(
        would_send(&pool, &["volume", "rename", "v", "v"])["edits"],
        serde_json::json!([])
    );
}

/// The verb does what its dry run printed, except for the UUID that adding a disk draws.
#[test]
fn the_verb_does_what_its_dry_run_printed() {
    let pool = Pool::with_volume();
    let output = would_send(&pool, &["volume", "create", "w", "3M"]);
    let placement = &output["edits"][1]["Map"]["segments"][0]["home"];
    pool.run(["volume", "create", "w", "3M"]).ok();
    let map = pool.json(["volume", "map", "w"]);
    assert_eq!(
        map["segments"][0]["disk_offset"].as_u64().unwrap(),
        placement["start"].as_u64().unwrap() << 20
    );
    assert_eq!(
        map["segments"][0]["length"].as_u64().unwrap(),
        placement["len"].as_u64().unwrap() << 20
    );
}

#[test]
fn of_the_other_verbs() {
    let pool = Pool::with_volume();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let before = pool.state();
    let verbs: &[&[&str]] = &[
        &["pool", "backup", &pool.file("c")],
        &["apparatus", "start", "a", &pool.file("m")],
    ];
    for words in verbs {
        assert_eq!(
            pool.json(words.iter().chain(&["--dry-run"]))["dry_run"],
            true,
            "{words:?}"
        );
        pool.run(words.iter().chain(&["--dry-run"])).ok();
    }
    assert_eq!(pool.state(), before);
    assert!(!pool.path("m").exists());
    let absent = Pool::absent();
    assert_eq!(
        absent.json(["pool", "create", "--dry-run"])["extent_size"],
        1 << 20
    );
    assert!(!absent.pool_dir().exists());
    pool.run(["pool", "create", "--dry-run"])
        .ended(1)
        .complains(&["already"]);
}

/// A dry run refuses what the verb refuses.
#[test]
fn a_dry_run_refuses_what_the_verb_refuses() {
    let pool = Pool::with_volume();
    let refused: &[(&[&str], i32)] = &[
        (&["volume", "create", "v", "1M", "--dry-run"], 1),
        (&["volume", "create", "w", "1T", "--dry-run"], 1),
        (&["volume", "rename", "x", "w", "--dry-run"], 3),
        (&["disk", "remove", "d1", "--dry-run"], 4),
        (&["disk", "add", &pool.file("d1.img"), "--dry-run"], 2),
        (&["volume", "move", "v", "--to", "d9", "--dry-run"], 3),
        (&["volume", "hold", "x", "--dry-run"], 3),
    ];
    for (words, status) in refused {
        pool.run(*words).ended(*status);
    }
}

#[test]
fn repairs_are_reported_and_not_made() {
    let pool = Pool::with_volume();
    pool.start("a");
    rustix::process::kill_process(pool.pid_of("a"), rustix::process::Signal::KILL).unwrap();
    crate::support::until("it has ended", || pool.run(["status"]).out.contains("has ended"));
    for _ in 0..2 {
        let check = pool.run(["pool", "check", "--repair", "--dry-run"]).ended(7).out;
        let lines: Vec<&str> = check.lines().collect();
        assert!(lines[0].starts_with("apparatus a: "), "{check}");
        assert_eq!(lines[1], "  would be repaired", "{check}");
    }
    pool.run(["pool", "check", "--dry-run"]).ended(2);
    pool.run(["pool", "check", "--repair"]).ok();
    let recorded = pool.json(["history"]);
    let recorded = recorded["history"].to_string();
    assert!(!recorded.contains("--dry-run"), "{recorded}");
}

#[test]
fn a_volume_shrinks_by_a_size_too() {
    let pool = Pool::with_volume();
    pool.run(["volume", "resize", "v", "-512", "--yes"]).ok();
    let shown = pool.json(["volume", "show", "v"]);
    assert_eq!(shown["volume"]["size"], (8 << 20) - 512, "{shown}");
    pool.run(["volume", "resize", "v", "-9M", "--yes"])
        .ended(2)
        .complains(&["is more than the volume has"]);
    pool.run(["volume", "resize", "v", "--nonsense", "--yes"])
        .ended(2);
}
