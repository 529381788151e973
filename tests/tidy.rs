//! Checks the code against docs/ARCHITECTURE.md: the imports of each folder, where `unsafe` may stand, where decisions are made, and
//! that the project mentions itself alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod glossary;
mod reliability;

use std::collections::{BTreeMap, BTreeSet};
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

/// Returns the lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Returns a file without the items that are compiled for tests alone. It relies on the layout that rustfmt gives: an item ends at the first line
/// with its indentation that begins with a closing brace, unless it is a single line.
fn untested(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#![cfg(test)]" {
            return kept;
        }
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let mut item = lines
            .by_ref()
            .skip_while(|line| line.trim_start().starts_with("#["));
        let is_complete = |first: &str| first.ends_with([';', ',', '}']);
        if item.next().is_some_and(|first| !is_complete(first)) {
            let ends = |line: &str| {
                line.strip_prefix(indentation)
                    .is_some_and(|rest| rest.starts_with('}'))
            };
            item.by_ref().find(|line| ends(line));
        }
    }
    kept
}

#[test]
fn only_items_for_tests_are_passed_over() {
    let text = "a\n#[cfg(test)]\nmod tests;\nb\n    #[cfg(test)]\n    #[must_use]\n    fn c(\n        d: u8,\n    ) -> u8 {\n        {\n        }\n    }\n    e\n#[cfg(test)]\nmod f {\n    g\n}\nh\n";
    assert_eq!(untested(text), "a\nb\n    e\nh\n");
    assert_eq!(untested("#![cfg(test)]\na\n"), "");
}

fn only_in(word: &str, allowed: &[&str]) -> Vec<String> {
    let elsewhere = |name: &String| !allowed.iter().any(|place| name.starts_with(place));
    sources(&["src", "vctl/src"])
        .into_iter()
        .filter(|(name, text)| elsewhere(name) && code(&untested(text)).any(|line| line.contains(word)))
        .map(|(name, _)| format!("{name} uses {word}"))
        .collect()
}

#[test]
fn only_the_adapter_knows_fuser_only_the_store_sqlite_and_only_links_and_etcd_tls() {
    assert_eq!(only_in("fuser::", &["src/frontend/fuse/"]), Vec::<String>::new());
    assert_eq!(only_in("rusqlite::", &["src/store/"]), Vec::<String>::new());
    assert_eq!(
        only_in("rustls::", &["src/rpc/tls/", "src/store/etcd/"]),
        Vec::<String>::new()
    );
}

/// What the cluster of one kernel is made of, no other folder names: neither in code nor in comments.
#[test]
fn only_the_local_cluster_knows_that_there_is_one_kernel() {
    let words = [
        "boot_id",
        "bootid",
        "boot id",
        "life lock",
        "lifelock",
        "membertable",
        "cluster::local",
        "/dev/shm",
        "run/members",
        "arbitration\"",
        ".life\"",
        "\"life\"",
        "join(\"attach",
    ];
    let is_test = |name: &str| {
        (name.starts_with("src/") && folder_of(name).is_none()) || name == "src/store/sqlite/crash.rs"
    };
    let allowed = |name: &str| name.starts_with("src/cluster/") || is_test(name);
    for (name, text) in sources(&["src", "vctl/src"]) {
        let text = untested(&text).to_lowercase();
        for word in words.iter().filter(|_| !allowed(&name)) {
            assert!(!text.contains(word), "{name} speaks of {word}");
        }
    }
    // The traits themselves know no kernel either.
    for (name, text) in sources(&["src/cluster"]) {
        let is_trait = !name.starts_with("src/cluster/local/") && name != "src/cluster/mod.rs";
        for word in [
            "std::os",
            "rustix",
            "libc",
            "crate::sys",
            "membarrier",
            "mmap",
            "flock",
        ] {
            assert!(!is_trait || !text.contains(word), "{name} speaks of {word}");
        }
    }
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

/// A row of the table of folders in docs/ARCHITECTURE.md.
struct Row {
    folder: String,
    pure: bool,
    may_use: BTreeSet<String>,
}

/// Returns the words in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let architecture = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let table = architecture.split("| folder | what | may use |").nth(1).unwrap();
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            Row {
                folder: quoted(cells[0]).into_iter().next().unwrap(),
                pure: cells[1].trim().ends_with("; pure"),
                may_use: quoted(cells[2]),
            }
        })
        .collect()
}

/// Returns the folder of `src/` to which a file belongs, unless the file is a test or stands above all folders.
fn folder_of(name: &str) -> Option<&str> {
    let path = name.strip_prefix("src/")?;
    let is_test = path
        .split(['/', '.'])
        .any(|part| ["tests", "testing", "contract"].contains(&part));
    let folder = path.split(['/', '.']).next()?;
    (!is_test && !["lib", "main"].contains(&folder)).then_some(folder)
}

/// Returns the folders from which each folder imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files = sources(&["src"]);
    let folders: BTreeSet<&str> = files.iter().filter_map(|(name, _)| folder_of(name)).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in &files {
        let Some(folder) = folder_of(name) else { continue };
        let used = found.entry(folder.to_owned()).or_default();
        let text: String = code(&untested(text)).collect::<Vec<_>>().join("\n");
        for rest in text.split("crate::").skip(1) {
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').collect(),
                None => vec![rest],
            };
            let first = |name: &str| {
                let name = name.trim_start();
                let end = name
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(name.len());
                name[..end].to_owned()
            };
            let names = names.into_iter().map(first);
            used.extend(names.filter(|name| name != folder && folders.contains(name.as_str())));
        }
    }
    found
}

#[test]
fn folders_import_what_the_architecture_allows_and_nothing_else() {
    let rows = rows();
    let allowed: BTreeMap<String, BTreeSet<String>> = rows
        .iter()
        .map(|row| (row.folder.clone(), row.may_use.clone()))
        .collect();
    assert_eq!(
        imports(),
        allowed,
        "left: the imports in src/; right: the table in docs/ARCHITECTURE.md"
    );
    // Each folder comes after those that it uses, so there is no cycle.
    for (index, row) in rows.iter().enumerate() {
        let above: BTreeSet<&str> = rows[..index].iter().map(|row| row.folder.as_str()).collect();
        for used in &row.may_use {
            assert!(
                above.contains(used.as_str()),
                "{} uses {used}, which stands below it",
                row.folder
            );
        }
    }
}

#[test]
fn pure_folders_have_no_clock_no_threads_and_no_io() {
    let impure = [
        "std::thread",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::process",
        "rustix::",
        "Mutex",
        "RwLock",
        "Atomic",
        "crossbeam",
    ];
    let rows = rows();
    let pure: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.pure)
        .map(|row| row.folder.as_str())
        .collect();
    assert!(pure.contains("protocol") && pure.contains("model"));
    let is_pure = |name: &str| {
        folder_of(name).is_some_and(|folder| pure.contains(folder))
            || (name.starts_with("src/gate/core") && folder_of(name).is_some())
    };
    for (name, text) in sources(&["src"]) {
        for word in impure.iter().filter(|_| is_pure(&name)) {
            assert!(
                !code(&untested(&text)).any(|line| line.contains(word)),
                "{name} uses {word}"
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

/// The kernel reports a write error to one call that syncs: syncs of disks go through the ledger of write errors.
#[test]
fn disks_are_synced_through_one_door() {
    let door = ["src/blockdev/durable.rs"];
    // A candidate is no disk of the pool yet; the database has a ledger of its own; the place of the metadata is a file beside it;
    // certificates are of no pool.
    let others = [
        "src/admin/certificates.rs",
        "src/blockdev/device/",
        "src/blockdev/labelled.rs",
        "src/blockdev/probe.rs",
        "src/blockdev/room.rs",
        "src/place.rs",
        "src/store/sqlite/",
        "src/sys.rs",
        "src/sys/file.rs",
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
        let is_a_request =
            |line: &String| line.starts_with("src/frontend/fuse/filesystem.rs") && word == "fsync(";
        assert!(found.iter().all(is_a_request), "{found:?}");
    }
    // The sync calls of a device are made in one place only; labels are written through it.
    for word in [
        "device.flush(",
        "device.wait_for_writeback(",
        "device.start_writeback(",
        "device.write_durably(",
        "device.write_apart(",
    ] {
        let allowed = [
            "src/blockdev/durable.rs",
            "src/blockdev/device/",
            "src/blockdev/labelled.rs",
        ];
        assert_eq!(only_in(word, &allowed), Vec::<String>::new());
    }
    // These are visible in `blockdev/` only.
    let labelled = fs::read_to_string(root().join("src/blockdev/labelled.rs")).unwrap();
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
        ("torture", ".rs"),
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

/// All text of the project: code, documents, descriptions and packaging.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in [
        "src",
        "vctl",
        "tests",
        "benches",
        "docs",
        "mounts",
        "packaging",
        "torture",
    ] {
        for ending in [".rs", ".md", ".ron"] {
            files_below(&root().join(dir), ending, &mut files);
        }
    }
    for document in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
        files.push(root().join(document));
    }
    let name = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    let text = |path: &PathBuf| (name(path), fs::read_to_string(path).unwrap());
    files.iter().map(text).collect()
}

#[test]
fn the_glossary_is_sorted_and_each_term_lives_in_a_file() {
    let terms = glossary::terms(&fs::read_to_string(root().join("docs/GLOSSARY.md")).unwrap());
    assert!(terms.len() > 30);
    for pair in terms.windows(2) {
        let (one, next) = (&pair[0].name, &pair[1].name);
        assert!(one < next, "{next} stands after {one}");
    }
    for term in &terms {
        let lives = root().join(&term.file).is_file();
        assert!(lives, "{} lives in {}, which is no file", term.name, term.file);
    }
}

#[test]
fn retired_words_stand_nowhere() {
    // The lists of words themselves.
    let lists = "tests/glossary/";
    let texts = texts();
    let checked = texts.iter().filter(|(file, _)| !file.starts_with(lists));
    let found: Vec<String> = checked
        .flat_map(|(file, text)| glossary::retired_in(file, text))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    let idle = glossary::idle_exceptions(&texts);
    assert!(idle.is_empty(), "exceptions without need: {idle:#?}");
}

#[test]
fn promises_planted_faults_and_defences_name_tests_that_exist() {
    let document = fs::read_to_string(root().join("docs/RELIABILITY.md")).unwrap();
    let code = sources(&["src", "tests", "vctl", "torture"]);
    let promises = reliability::rows(&document, "Promises, and the tests that hold them");
    let subjects: Vec<_> = promises.iter().map(|row| row.subject.as_str()).collect();
    let all: Vec<_> = (1..=12).map(|n| format!("P{n}")).collect();
    assert_eq!(subjects, all);
    let faults = reliability::rows(&document, "Planted faults");
    assert!(faults.len() > 20);
    let document = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let defended = reliability::rows(&document, "What is defended");
    assert!(defended.len() > 10);
    for row in promises.iter().chain(&faults).chain(&defended) {
        let same_as_before = row.tests.is_empty() && faults.iter().any(|fault| fault.subject == row.subject);
        assert!(
            same_as_before || !row.tests.is_empty(),
            "{} names no test",
            row.subject
        );
        for test in &row.tests {
            assert!(
                reliability::is_test(&code, test),
                "{}: there is no test {test}",
                row.subject
            );
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
