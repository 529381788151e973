//! `vctl history`: every change is recorded with time, user, command line and result; rehearsals and queries are not; no command fails
//! because it cannot be recorded.

use crate::support::{Pool, write};
use serde_json::Value;

/// Returns state, status and command line of all records.
fn output(pool: &Pool) -> Vec<(String, Value, String)> {
    let output = pool.json(["history", "--lines", "1000"]);
    let row = |row: &Value| {
        let words = row["command"].as_array().unwrap().iter();
        let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
        let state = row["state"].as_str().unwrap().to_owned();
        (state, row["status"].clone(), words.join(" "))
    };
    output["history"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn lists_changes_with_their_results() {
    let pool = Pool::with_volume();
    let done = |line: &str| ("done".to_owned(), Value::from(0), line.to_owned());
    let before = output(&pool);
    assert_eq!((before.len(), &before[0]), (4, &done("pool create")));
    assert_eq!(before[3], done("volume create v 8M --on d1"));

    for look in [
        "volume list",
        "status",
        "volume rename v w --dry-run",
        "pool check",
        "history",
    ] {
        pool.run(look.split(' ')).ok();
    }
    assert_eq!(output(&pool), before);

    pool.run(["volume", "rename", "v", "a\u{1b}[2J"]).ended(2);
    pool.run(["volume", "remove", "nosuch", "--yes"]).ended(3);
    pool.run(["pool", "check", "--repair"]).ok();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    let after = output(&pool);
    let failed = (
        "failed".to_owned(),
        Value::from(3),
        "volume remove nosuch --yes".to_owned(),
    );
    assert_eq!(after[4..6], [failed, done("pool check --repair")]);

    let shown = pool.json(["history"])["history"][4].clone();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!((&shown["uid"], &shown["by"]), (&Value::from(uid), &"vctl".into()));
    assert!(shown["why"].as_str().unwrap().contains("nosuch"), "{shown}");
    let time = |field: &str| shown[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("began") <= time("ended"));
    let text = pool.run(["history", "-n", "4", "--no-headings"]).ok().out;
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("vctl volume remove nosuch --yes"), "{text}");

    // A restored database is an older one, and records its restore.
    pool.run(["pool", "restore", &pool.file("b"), "--yes"]).ok();
    let restored = output(&pool);
    assert_eq!(restored.last().unwrap().0, "done");
    assert!(
        restored.last().unwrap().2.starts_with("pool restore"),
        "{restored:?}"
    );
}

#[test]
fn names_what_was_killed_and_what_still_runs() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let running = pool.json(["history", "--since", "1h"])["history"].clone();
    let serving = running
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["by"] == "apparatus a");
    assert_eq!(serving.unwrap()["state"], "running");

    let mut held = pool
        .command(["volume", "hold", "v", "--for", "60s"])
        .spawn()
        .unwrap();
    let state = || {
        let all = output(&pool);
        let hold = all.iter().find(|(_, _, line)| line.starts_with("volume hold"));
        hold.map(|(state, ..)| state.clone())
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while state().as_deref() != Some("running") {
        assert!(std::time::Instant::now() < end);
    }
    held.kill().unwrap();
    held.wait().unwrap();
    assert_eq!(state().as_deref(), Some("unfinished"));

    rustix::process::kill_process(pool.pid_of("a"), rustix::process::Signal::KILL).unwrap();
    crate::support::unmount(&mount);
    pool.run(["volume", "rename", "v", "w", "--wait=100s"]).ok();
    let all = pool.json(["history"])["history"].clone();
    let all = all.as_array().unwrap();
    let seen = |row: &&Value| {
        row["by"] == "controller" && row["command"].to_string().contains("apparatus a has ended")
    };
    assert!(all.iter().any(|row| seen(&row)), "{all:?}");
    let served = all.iter().find(|row| row["by"] == "apparatus a").unwrap();
    assert_eq!(served["state"], "unfinished");
}

#[test]
fn can_be_followed() {
    use std::io::{BufRead, BufReader};
    let pool = Pool::empty();
    let mut child = pool.command(["history", "--follow", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["entry"]["command"][1], "create");
    pool.run(["pool", "set", "--policy", "pack"]).ok();
    let end = loop {
        let output = next();
        assert_eq!(
            (&output["format"], &output["entry"]["seq"]),
            (&1.into(), &2.into())
        );
        if output["entry"]["state"] == "done" {
            break output;
        }
    };
    assert_eq!(end["entry"]["status"], 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A database that cannot be read fails the commands that need it with its own error, and adds no other message.
#[test]
fn is_no_reason_to_fail() {
    let pool = Pool::with_volume();
    write(&pool.path("pool/pool.db"), &[7; 8192]);
    pool.run(["volume", "rename", "v", "w"])
        .ended(1)
        .complains(&["damaged"]);
}

#[test]
fn events_and_history_take_the_same_options() {
    let pool = Pool::with_volume();
    for (verb, key) in [("history", "history"), ("events", "events")] {
        for option in ["-n", "--lines", "--limit"] {
            let output = pool.json([verb, option, "1"]);
            assert!(output[key].as_array().unwrap().len() <= 1, "{output}");
        }
    }
}
