//! Holds the code to docs/ARCHITECTURE.md: who may import what, where `unsafe` may stand, where decisions are made, and
//! that the project speaks of itself alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

fn sources(dirs: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for dir in dirs.iter().map(|dir| root().join(dir)).filter(|dir| dir.exists()) {
        files_below(&dir, ".rs", &mut found);
    }
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Code only: comments may speak of anything.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The part of a file before its unit tests.
fn untested(text: &str) -> &str {
    &text[..text.find("#[cfg(test)]").unwrap_or(text.len())]
}

fn only_in(word: &str, allowed: &[&str]) -> Vec<String> {
    let elsewhere = |name: &String| !allowed.iter().any(|place| name.starts_with(place));
    sources(&["src", "vctl/src"])
        .into_iter()
        .filter(|(name, text)| elsewhere(name) && code(untested(text)).any(|line| line.contains(word)))
        .map(|(name, _)| format!("{name} uses {word}"))
        .collect()
}

#[test]
fn only_the_adapter_knows_fuser_and_only_the_store_knows_sqlite() {
    assert_eq!(only_in("fuser::", &["src/fuse/"]), Vec::<String>::new());
    assert_eq!(only_in("rusqlite::", &["src/store/"]), Vec::<String>::new());
}

#[test]
fn unsafe_stands_only_in_the_files_the_architecture_names() {
    let architecture = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let named = |name: &str| architecture.contains(&format!("`{}`", name.trim_start_matches("src/")));
    let all: BTreeSet<String> = sources(&["src", "vctl/src"])
        .into_iter()
        .filter(|(_, text)| code(text).any(|line| line.contains("allow(unsafe_code)")))
        .map(|(name, _)| name)
        .collect();
    let unnamed: Vec<_> = all.iter().filter(|name| !named(name)).collect();
    assert!(
        unnamed.is_empty(),
        "not named in docs/ARCHITECTURE.md: {unnamed:?}"
    );
}

#[test]
fn the_pure_cores_have_no_clock_no_threads_and_no_io() {
    let pure = [
        "change/controller.rs",
        "change/participant.rs",
        "change/recovery.rs",
        "gate/core.rs",
    ];
    let impure = [
        "std::thread",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::net",
        "rustix::",
        "Mutex",
    ];
    for file in pure
        .map(|file| root().join("src").join(file))
        .iter()
        .filter(|file| file.exists())
    {
        let text = fs::read_to_string(file).unwrap();
        for word in impure {
            assert!(
                !code(untested(&text)).any(|line| line.contains(word)),
                "{} uses {word}",
                file.display()
            );
        }
    }
}

#[test]
fn the_exit_status_is_chosen_in_one_place() {
    assert_eq!(
        only_in("process::exit", &["vctl/src/exit.rs", "src/main.rs"]),
        Vec::<String>::new()
    );
    assert_eq!(
        only_in("ExitCode::from", &["vctl/src/exit.rs", "src/main.rs"]),
        Vec::<String>::new()
    );
}

/// What the kernel reports to a call that syncs, it reports to no other: those of disks go through the ledger of write errors.
#[test]
fn disks_are_synced_through_one_door() {
    let door = ["src/disk/durable.rs"];
    // A candidate is no disk of the pool yet; the database has a ledger of its own.
    let others = [
        "src/disk/labelled.rs",
        "src/disk/probe.rs",
        "src/disk/room.rs",
        "src/store/sqlite/",
        "src/sys.rs",
        "vctl/src/commands/demo/",
    ];
    let allowed: Vec<&str> = door.iter().chain(&others).copied().collect();
    let words = [
        "sync_data(",
        "sync_all(",
        "fdatasync",
        "fsync(",
        "syncfs",
        "msync",
        "sync_file_range",
        "DSYNC)",
    ];
    for word in words {
        let found: Vec<String> = only_in(word, &allowed);
        let is_a_request = |line: &String| line.starts_with("src/fuse/filesystem.rs") && word == "fsync(";
        assert!(found.iter().all(is_a_request), "{found:?}");
    }
    // Visible in `disk/` alone.
    let labelled = fs::read_to_string(root().join("src/disk/labelled.rs")).unwrap();
    assert!(code(&labelled).all(|line| !line.starts_with("pub fn") && !line.contains("pub(crate)")));
}

#[test]
fn nothing_sleeps_to_wait() {
    assert_eq!(only_in("thread::sleep", &[]), Vec::<String>::new());
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut files = Vec::new();
    let places = [
        ("src", ".rs"),
        ("vctl", ".rs"),
        ("tests", ".rs"),
        ("benches", ".rs"),
        ("docs", ".md"),
        ("mounts", ".ron"),
    ];
    for (dir, ending) in places.into_iter().filter(|(dir, _)| root().join(dir).exists()) {
        files_below(&root().join(dir), ending, &mut files);
    }
    files.push(root().join("README.md"));
    let machine_paths = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
    ];
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for word in machine_paths {
            assert!(!text.contains(word), "{} speaks of {word}", file.display());
        }
    }
}

#[test]
fn documents_named_in_the_readme_exist() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for target in readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        let local = target.split('#').next().unwrap();
        assert!(
            target.starts_with("http") || root().join(local).exists(),
            "README links to {target}"
        );
    }
}
