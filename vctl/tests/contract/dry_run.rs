//! `--dry-run` says exactly what would be sent, and changes nothing: not the database, not a file, not even the term.

use crate::support::Pool;
use serde_json::Value;

/// The difference that a dry run shows as RON and as JSON.
#[track_caller]
fn would_send(pool: &Pool, words: &[&str]) -> Value {
    let before = pool.state();
    let text = pool.run(words.iter().chain(&["--dry-run"])).ok().out;
    let ron: apparatus::pool::model::Difference = ron::from_str(&text).unwrap();
    let told = pool.json(words.iter().chain(&["--dry-run"]));
    assert_eq!(told["dry_run"], true);
    assert_eq!(told["difference"], serde_json::to_value(&ron).unwrap());
    assert_eq!(pool.state(), before, "{words:?} --dry-run");
    told["difference"].clone()
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
        let difference = would_send(&pool, words);
        assert_eq!(difference["from"], generation, "{words:?}");
        let edits = difference["edits"].as_array().unwrap();
        assert!(
            edits.iter().any(|each| each.get(*edit).is_some()),
            "{words:?}: {difference}"
        );
    }
    assert_eq!(
        would_send(&pool, &["volume", "hold", "v"])["edits"],
        serde_json::json!([])
    );
    assert_eq!(
        would_send(&pool, &["volume", "rename", "v", "v"])["edits"],
        serde_json::json!([])
    );
}

/// What is said is what is done: all but the UUID that adding a disk draws.
#[test]
fn what_is_said_is_what_is_done() {
    let pool = Pool::with_volume();
    let said = would_send(&pool, &["volume", "create", "w", "3M"]);
    let home = &said["edits"][1]["Map"]["segments"][0]["home"];
    pool.run(["volume", "create", "w", "3M"]).ok();
    let map = pool.json(["volume", "map", "w"]);
    assert_eq!(
        map["segments"][0]["disk_offset"].as_u64().unwrap(),
        home["start"].as_u64().unwrap() << 20
    );
    assert_eq!(
        map["segments"][0]["length"].as_u64().unwrap(),
        home["len"].as_u64().unwrap() << 20
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

/// A dry run refuses what the verb itself would refuse.
#[test]
fn refuses_what_would_be_refused() {
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
