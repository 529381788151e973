//! Answers to the completion scripts: the columns of every verb, names where names fit, and an answer in time from a pool that does not
//! answer.

use crate::support::{Pool, finish};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Returns the kind of the answer, and its candidates.
#[track_caller]
fn answer(pool: &Pool, words: &[&str]) -> (String, Vec<String>) {
    let asked = ["__complete", "zsh", "vctl"];
    let output = pool.run(asked.iter().chain(words)).ok();
    assert_eq!(output.err, "");
    let mut lines = output
        .out
        .lines()
        .map(|line| line.split('\t').next().unwrap().to_owned());
    (lines.next().unwrap_or_default(), lines.collect())
}

/// Returns every file of a pool with its length and modification time, except the memory that SQLite's connections share.
fn files(dir: &Path) -> BTreeSet<(PathBuf, u64, SystemTime)> {
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| {
            let meta = entry.metadata().unwrap();
            let below = if meta.is_dir() {
                files(&entry.path())
            } else {
                BTreeSet::new()
            };
            let shared = entry.file_name().to_string_lossy().ends_with("-shm");
            let written = if shared {
                SystemTime::UNIX_EPOCH
            } else {
                meta.modified().unwrap()
            };
            below.into_iter().chain([(entry.path(), meta.len(), written)])
        })
        .collect()
}

#[test]
fn every_table_offers_the_columns_that_it_has() {
    let pool = crate::pool();
    let tables: [&[&str]; 7] = [
        &["volume", "list"],
        &["volume", "map", "web"],
        &["disk", "list"],
        &["apparatus", "list"],
        &["job", "list"],
        &["events"],
        &["history"],
    ];
    for table in tables {
        let output = pool.run(table.iter().chain(&["-o", "help"])).ok().out;
        let columns: Vec<&str> = output.lines().collect();
        let (kind, offered) = answer(&pool, &[table, &["-o", ""]].concat());
        assert_eq!(
            (kind.as_str(), offered),
            ("list", columns.iter().map(ToString::to_string).collect()),
            "{table:?}"
        );
        let (_, offered) = answer(&pool, &[table, &["--sort", ""]].concat());
        assert_eq!(offered, columns, "{table:?}");
    }
    let (_, steps) = answer(&pool, &["job", "show", "1", "-o", ""]);
    assert_eq!(steps[0], "VOLUME");
}

#[test]
fn names_are_offered_where_they_stand_and_nothing_else_is() {
    let pool = crate::pool();
    let words = |words: &[&str]| answer(&pool, words).1;
    for verb in [
        "show", "map", "resize", "rename", "set", "remove", "move", "attach", "hold",
    ] {
        assert_eq!(words(&["volume", verb, ""]), ["data1", "data2", "web"], "{verb}");
    }
    for verb in [
        "show", "set", "resize", "evacuate", "revert", "label", "clear", "remove",
    ] {
        assert_eq!(words(&["disk", verb, ""]), ["d1", "d2"], "{verb}");
    }
    for option in ["--on", "--to"] {
        let verb: &[&str] = if option == "--on" {
            &["volume", "create", "x", "1M"]
        } else {
            &["volume", "move", "web"]
        };
        assert_eq!(words(&[verb, &[option, ""]].concat()), ["d1", "d2", "@fast"]);
    }
    assert_eq!(words(&["disk", "set", "d1", "--untag", ""]), ["fast"]);
    assert_eq!(words(&["job", "show", ""]), ["1"]);
    assert_eq!(words(&["volume", "hold", "web", "d"]), ["data1", "data2"]);
    assert_eq!(words(&["volume", "move", "--wait", "w"]), ["web"]);
    // The command after `--` is not one of vctl.
    assert_eq!(
        answer(&pool, &["volume", "hold", "web", "--", "cp", ""]).0,
        "files"
    );
    assert_eq!(words(&["volume", "remove", "--", "w"]), ["web"]);
    for no_names in [
        &["volume", "create", "d"][..],
        &["job", "cancel", "1"],
        &["volume", "show", "x"],
        &["volume", "resize", "web", "d"],
    ] {
        assert_eq!(words(no_names), [""; 0], "{no_names:?}");
    }
    pool.start("a1");
    for verb in ["stop", "show", "fence", "rejoin"] {
        assert_eq!(words(&["apparatus", verb, ""]), ["a1"], "{verb}");
    }
    assert_eq!(
        words(&["volume", "move", "web", "--background="]),
        ["--background=a1"]
    );
    for (file, kind) in [
        (&["disk", "add", ""][..], "files"),
        (&["--pool", ""], "directories"),
        (&["man", ""], "directories"),
    ] {
        assert_eq!(answer(&pool, file).0, kind);
    }
}

#[test]
fn nothing_is_made_or_written() {
    let absent = Pool::absent();
    assert_eq!(answer(&absent, &["volume", "show", "x"]).1, [""; 0]);
    assert!(!absent.pool_dir().exists());

    let pool = crate::pool();
    let before = files(&pool.pool_dir());
    assert_eq!(answer(&pool, &["volume", "show", "w"]).1, ["web"]);
    assert_eq!(files(&pool.pool_dir()), before);
}

/// The database is a pipe without a writer: opening it waits forever.
#[test]
fn a_pool_that_does_not_answer_has_no_names_and_delays_no_shell() {
    let pool = Pool::absent();
    std::fs::create_dir(pool.pool_dir()).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(pool.pool_dir().join("pool.db"))
        .status();
    assert!(made.unwrap().success());
    let begun = Instant::now();
    let output = finish(
        pool.command(["__complete", "zsh", "vctl", "volume", "show", "w"])
            .spawn()
            .unwrap(),
    );
    assert_eq!((output.status, output.out.as_str()), (0, ""));
    assert!(
        begun.elapsed() < Duration::from_secs(100),
        "{:?}",
        begun.elapsed()
    );
}
