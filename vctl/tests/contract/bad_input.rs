//! Invalid input: one clear line names the object, and nothing changes.

use crate::support::{Pool, write};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

#[test]
fn no_pool() {
    let pool = Pool::absent();
    for words in [
        &["volume", "list"][..],
        &["status"],
        &["volume", "create", "v", "1M"],
        &["pool", "check"],
    ] {
        pool.run(words)
            .ended(3)
            .complains(&["no pool", "vctl pool create"]);
    }
    assert!(
        !pool.pool_dir().exists(),
        "nothing is made where there is no pool"
    );
}

#[test]
fn a_pool_that_is_there() {
    Pool::empty()
        .run(["pool", "create"])
        .ended(1)
        .complains(&["already"]);
}

#[test]
fn a_file_in_the_place_of_a_pool() {
    let pool = Pool::with_volume();
    let database = pool.file("pool/pool.db");
    let disk = pool.file("d1.img");
    for words in [
        &["status"][..],
        &["volume", "create", "w", "1M"],
        &["pool", "create"],
    ] {
        let with = |file| pool.run(words.iter().chain(&["--pool", file]));
        with(&database)
            .ended(2)
            .complains(&["is a file", &pool.file("pool")]);
        with(&disk).ended(2).complains(&["is a file", "--pool DIR"]);
    }
}

#[test]
fn words_that_are_none() {
    let pool = Pool::empty();
    pool.run(["nonsense"]).ended(2).complains(&["nonsense"]);
    pool.run(["volume", "create"])
        .ended(2)
        .complains(&["NAME", "SIZE"]);
    pool.run(["volume", "list", "--nonsense"])
        .ended(2)
        .complains(&["--nonsense"]);
    pool.run(["volume"]).ended(2);
    pool.run(Vec::<&str>::new()).ended(2);
    pool.run(["pool", "create", "--extent-size", "3M"])
        .ended(2)
        .complains(&["power of two", "64K"]);
    pool.run(["disk", "set", "d1"]).ended(2);
}

#[test]
fn sizes() {
    let pool = Pool::with_volume();
    for (size, words) in [
        ("0", &["at least one sector", "512"][..]),
        ("1", &["multiple of 512", "512"]),
        ("1000", &["multiple of 512", "512 or 1024"]),
        ("1KB", &["multiple of 512"]),
        ("1X", &["unknown suffix"]),
        ("", &["empty"]),
        ("1.0001K", &["whole number"]),
        ("99999999999999999999", &["larger"]),
        ("15.9999P", &["whole number"]),
        ("16383P", &["more than a file"]),
    ] {
        pool.run(["volume", "create", "w", size])
            .ended(2)
            .complains(words);
    }
    pool.run(["volume", "create", "w", "-1"]).ended(2);
    pool.run(["volume", "resize", "v", "0"])
        .ended(2)
        .complains(&["at least one sector"]);
    pool.run(["volume", "resize", "v", "+1"])
        .ended(2)
        .complains(&["multiple of 512"]);
    pool.run(["volume", "resize", "v", "+16383P"]).ended(2);
    pool.run(["disk", "add", &pool.file("x.img"), "--create", "1M"])
        .ended(2)
        .complains(&["extent"]);
    assert!(!pool.path("x.img").exists());
}

#[test]
fn names() {
    let pool = Pool::with_volume();
    for name in [
        "a/b",
        "..",
        ".",
        "",
        "a b",
        "a\nb",
        "\u{1b}[31m",
        "ü",
        "-x",
        &"x".repeat(101),
    ] {
        let output = pool
            .run(["volume", "create", "--", name, "1M"])
            .ended(2)
            .complains(&["volume name"]);
        assert!(!output.err.contains('\u{1b}'), "{output:?}");
        pool.run(["volume", "rename", "v", "--", name]).ended(2);
        pool.run([
            "disk",
            "add",
            &pool.file("x.img"),
            "--create",
            "16M",
            &format!("--name={name}"),
        ])
        .ended(2);
        pool.run(["apparatus", "start", "--", name, &pool.file("m")])
            .ended(2);
    }
    pool.run(["volume", "create", "v", "1M"])
        .ended(1)
        .complains(&["volume v", "exists already"]);
    pool.run(["volume", "show", "a/b"]).ended(3);
    let unnamed = pool.file("d 1.img");
    pool.run(["disk", "add", &unnamed, "--create", "16M"])
        .ended(2)
        .complains(&["--name"]);
}

#[test]
fn things_that_are_not_there() {
    let pool = Pool::with_volume();
    let absent: &[&[&str]] = &[
        &["volume", "show", "x"],
        &["volume", "map", "x"],
        &["volume", "resize", "x", "1M"],
        &["volume", "remove", "x", "--yes"],
        &["volume", "move", "x", "--to", "d1"],
        &["volume", "move", "v", "--to", "x"],
        &["volume", "move", "v", "--to", "@x"],
        &["volume", "create", "w", "1M", "--on", "x"],
        &["volume", "create", "w", "1M", "--on", "@x"],
        &["volume", "hold", "v", "x"],
        &["volume", "attach", "x"],
        &["volume", "detach", "v"],
        &["disk", "show", "x"],
        &["disk", "remove", "x"],
        &["disk", "evacuate", "x"],
        &["disk", "revert", "x", "--yes"],
        &["apparatus", "show", "x"],
        &["apparatus", "stop", "x"],
        &["apparatus", "fence", "x"],
        &["apparatus", "rejoin", "x"],
        &["job", "show", "7"],
        &["job", "wait", "7"],
        &["job", "cancel", "7"],
        &["job", "set", "7", "--rate", "1M"],
        &["disk", "add", "nowhere/at/all.img"],
        &["pool", "apply", "nowhere.ron"],
        &["pool", "apply", "nowhere.ron", "--dry-run"],
        &["pool", "restore", "nowhere.backup", "--yes"],
        &["pool", "restore", "nowhere.backup", "--dry-run"],
    ];
    for words in absent {
        pool.run(*words).ended(3).complains(&[]);
    }
    pool.run(["volume", "show", "x"]).complains(&["hint: volumes: v"]);
    pool.run(["disk", "show", "x"])
        .complains(&["hint: disks: d1, d2"]);
}

#[test]
fn a_full_pool_says_why_for_each_disk() {
    let pool = Pool::with_volume();
    pool.run(["disk", "set", "d2", "--no-allocate"]).ok();
    let output = pool.run(["volume", "create", "w", "60M"]).ended(1);
    output.complains(&["d1: 55 extents free", "d2: ", "no-allocate", "hint: "]);
    let output = pool
        .run(["volume", "create", "w", "60M", "--on", "d2"])
        .ended(1)
        .complains(&["d2: "]);
    assert!(!output.err.contains("d1: "), "d1 was not asked for: {output:?}");
    pool.run(["volume", "resize", "v", "+60M"])
        .ended(1)
        .complains(&["d1: ", "d2: "]);
}

#[test]
fn disks_that_cannot_be_taken() {
    let pool = Pool::with_volume();
    let other = Pool::with_volume();
    pool.run(["disk", "add", &pool.file("d1.img")])
        .ended(2)
        .complains(&["d1", "already"]);
    std::os::unix::fs::symlink(pool.path("d1.img"), pool.path("link.img")).unwrap();
    pool.run(["disk", "add", &pool.file("link.img")])
        .ended(2)
        .complains(&["disk d1"]);
    std::fs::hard_link(pool.path("d1.img"), pool.path("hard.img")).unwrap();
    pool.run(["disk", "add", &pool.file("hard.img")])
        .ended(2)
        .complains(&["disk d1"]);
    pool.run(["disk", "add", &other.file("d1.img")])
        .ended(2)
        .complains(&["another pool"]);
    pool.run(["disk", "add", "/dev/null"])
        .ended(2)
        .complains(&["character device"]);
    pool.run(["disk", "add", &pool.file(".")]).ended(2);
    pool.run([
        "disk",
        "add",
        &pool.file("d1.img"),
        "--create",
        "16M",
        "--name",
        "z",
    ])
    .ended(2)
    .complains(&["exists already"]);
    write(&pool.path("small.img"), &[0; 4096]);
    pool.run(["disk", "add", &pool.file("small.img")])
        .ended(2)
        .complains(&["too small"]);
}

/// The hint is one that can be followed: what is no option of a verb is no value of it either.
#[test]
fn options_that_are_none_are_not_offered_as_values() {
    let pool = Pool::with_volume();
    for words in [
        &["volume", "set", "v", "--size", "4M"][..],
        &["apparatus", "start", "a", "/nowhere", "--metrics", "127.0.0.1:1"],
    ] {
        let refused = pool
            .run(words)
            .ended(2)
            .complains(&["unexpected argument", "usage: vctl "]);
        assert!(!refused.err.contains("as a value"), "{refused:?}");
    }
    pool.run(["disk", "evacuate", "d1", "--to", "d1"])
        .ended(2)
        .complains(&["vctl: disk d1: is both source and destination", "hint: "]);
}

/// A disk that new space cannot be had on is one of several: the way out is another one.
#[test]
fn new_space_on_a_disk_with_a_fault_is_offered_elsewhere() {
    let pool = Pool::with_volume();
    std::fs::rename(pool.path("d2.img"), pool.path("gone.img")).unwrap();
    for words in [
        &["volume", "create", "w", "8M", "--on", "d2"][..],
        &["volume", "resize", "v", "60M", "--on", "d2"],
    ] {
        pool.run(words).ended(1).complains(&[
            "disk d2",
            "No such file",
            "--on",
            "vctl disk set d2 --no-allocate",
        ]);
    }
    pool.run(["volume", "create", "w", "8M", "--policy", "spread"])
        .ok();
}

#[test]
fn names_that_cannot_be_seen_are_quoted_and_missing_users_named() {
    let pool = Pool::with_volume();
    pool.run(["volume", "show", ""])
        .ended(3)
        .complains(&["volume \"\": no such volume"]);
    pool.run(["volume", "create", "w", "1M", "--owner", ":nogroup"])
        .ended(2)
        .complains(&["names no user", "USER:GROUP"]);
}

/// A path may hold what a terminal obeys.
#[test]
fn control_characters_of_paths_are_shown() {
    let pool = Pool::with_volume();
    let path = pool.file("an\nother\u{1b}[31m.img");
    let added = pool
        .run(["disk", "add", &path, "--create", "16M", "--name", "d3"])
        .ok();
    std::fs::remove_file(&path).unwrap();
    let removed = pool.run(["disk", "remove", "d3"]).ok();
    assert!(removed.err.contains("no label to erase"), "{removed:?}");
    for text in [&added.out, &removed.err] {
        assert!(text.contains("an\\nother\\u{1b}[31m.img"), "{text}");
        assert!(!text.contains('\u{1b}') && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn data_is_not_destroyed_unasked() {
    let pool = Pool::with_volume();
    let mut swap = vec![0_u8; 16 << 20];
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    write(&pool.path("swap.img"), &swap);
    let add = ["disk", "add", &pool.file("swap.img")].map(str::to_owned);
    pool.run(&add).ended(2).complains(&["swap", "--yes"]);
    assert_eq!(std::fs::read(pool.path("swap.img")).unwrap(), swap);
    pool.run(add.iter().map(String::as_str).chain(["--yes"])).ok();
    pool.run(["volume", "remove", "v"]).ended(2).complains(&["--yes"]);
    pool.run(["volume", "resize", "v", "1M"])
        .ended(2)
        .complains(&["--yes"]);
    assert_eq!(pool.json(["volume", "show", "v"])["volume"]["size"], 8 << 20);
}

fn overwrite(path: &std::path::Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn disks_that_went_wrong_are_named() {
    let pool = Pool::with_volume();
    pool.run(["pool", "check"]).ok();
    std::fs::rename(pool.path("d2.img"), pool.path("gone.img")).unwrap();
    pool.run(["pool", "check"]).ended(7);
    let problems = pool.run(["pool", "check", "--json"]).ended(7).json();
    assert_eq!(problems["problems"].as_array().unwrap().len(), 1, "{problems}");
    let listed = pool.json(["disk", "list"]);
    assert_eq!(
        (&listed["disks"][0]["state"], &listed["disks"][1]["state"]),
        (&"ok".into(), &"faulty".into())
    );
    let status = pool.run(["status", "--json"]).ended(7).json();
    assert_eq!(status["healthy"], false);
    pool.run(["disk", "set", "d2", "--path", &pool.file("d1.img")])
        .ended(1)
        .complains(&["d2", "disk"]);
    pool.run(["disk", "set", "d2", "--path", &pool.file("gone.img")])
        .ok();
    pool.run(["pool", "check"]).ok();

    overwrite(&pool.path("d1.img"), 0, &[0xff; 8192]);
    let output = pool.run(["pool", "check"]).ended(7);
    assert!(output.out.contains("d1"), "{output:?}");
    OpenOptions::new()
        .write(true)
        .open(pool.path("gone.img"))
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    let output = pool.run(["pool", "check"]).ended(7);
    assert!(output.out.contains("shorter"), "{output:?}");
}

#[test]
fn a_damaged_database_is_named() {
    let pool = Pool::with_volume();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    let database = pool.pool_dir().join("pool.db");
    let sound = std::fs::read(&database).unwrap();
    write(&database, b"this is no database at all, but text");
    let newest = "hint: the newest copy of it: vctl pool restore";
    pool.run(["volume", "list"])
        .ended(1)
        .complains(&["is damaged", newest, "/archive/"]);
    pool.run(["pool", "restore", &pool.file("b"), "--yes"]).ok();
    pool.run(["pool", "check"]).ok();
    write(&database, &sound[..sound.len() / 2]);
    let output = pool.run(["pool", "check"]);
    assert!(matches!(output.status, 1 | 7), "{output:?}");
    write(&database, b"");
    pool.run(["volume", "list"]).ended(1).complains(&["pool"]);
}

#[test]
fn a_database_that_is_a_directory_is_not_a_matter_of_permission() {
    let pool = Pool::with_volume();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    let (database, away) = (pool.pool_dir().join("pool.db"), pool.path("away"));
    std::fs::rename(&database, &away).unwrap();
    std::fs::create_dir(&database).unwrap();
    for words in [&["status"][..], &["volume", "create", "w", "1M"]] {
        let refused = pool.run(words).ended(1);
        let refused = refused.complains(&["pool.db, is not a file", "vctl pool restore FILE"]);
        assert!(!refused.err.contains("permission"), "{refused:?}");
    }
}

#[test]
fn a_hold_of_no_time_is_refused() {
    let pool = Pool::with_volume();
    for time in ["0", "0s", "0.0ms"] {
        pool.run(["volume", "hold", "v", "--for", time])
            .ended(2)
            .complains(&[time, "would hold nothing"]);
    }
    pool.run(["volume", "hold", "v", "--for", "1us", "--dry-run"])
        .ok();
}

#[test]
fn an_older_database_is_refused_by_name() {
    let pool = Pool::with_volume();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["pool", "backup", &pool.file("b")])
        .ended(1)
        .complains(&["already"]);
    let output = pool.run(["pool", "restore", &pool.file("b"), "--yes"]).ended(1);
    output.complains(&["older than the disks", "--accept-older-layout"]);
    let old = std::fs::read(pool.path("b")).unwrap();
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(pool.pool_dir().join(format!("pool.db{ending}")));
    }
    write(&pool.pool_dir().join("pool.db"), &old);
    let output = pool.run(["pool", "check"]).ended(7);
    assert!(output.out.contains("newer database"), "{output:?}");
    pool.run(["volume", "create", "x", "1M"])
        .ended(1)
        .complains(&["newer database"]);
    pool.run([
        "pool",
        "restore",
        &pool.file("b"),
        "--yes",
        "--accept-older-layout",
    ])
    .ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn backups_that_are_none_or_anothers() {
    let pool = Pool::with_volume();
    let other = Pool::with_volume();
    other.run(["pool", "backup", &other.file("b")]).ok();
    pool.run(["pool", "restore", &other.file("b"), "--yes"])
        .ended(1)
        .complains(&["belongs to pool"]);
    write(&pool.path("text"), b"text");
    pool.run(["pool", "restore", &pool.file("text"), "--yes"])
        .ended(1)
        .complains(&["text"]);
    pool.run(["pool", "check"]).ok();
}
