//! Runs the command blocks of the documents as they are: the session of the README, and every procedure of the operating guide after its
//! first one. `/tmp` is a separate directory for each, and the programs are those under test. They run as an ordinary user where the blocks
//! allow it; blocks that need root, or missing programs, are skipped by name.

// Helpers of tests may fail a test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on has failed; the terminal is shared with other tests"
)]

#[cfg(feature = "etcd")]
mod nodes;
mod place;
mod scenario;
mod states;
#[path = "../console/terminal.rs"]
mod terminal;

use place::{Place, has, is_root};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The procedure whose pool all others continue to use.
const FIRST: &str = "First pool";

fn document(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

/// A block of commands.
#[derive(Clone, Debug)]
struct Block {
    needs: Needs,
    text: String,
}

/// What a block needs beyond the programs of the guide: the word behind `sh` in its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// `root`, and loop devices.
    Root,
    /// Root that may create memory cgroups.
    Cgroup,
    /// A program with the feature `etcd`, and etcd.
    Etcd,
}

impl Needs {
    fn of(line: &str) -> Option<Self> {
        match line {
            "```sh" => Some(Self::Nothing),
            "```sh root" => Some(Self::Root),
            "```sh cgroup" => Some(Self::Cgroup),
            "```sh etcd" => Some(Self::Etcd),
            _ => None,
        }
    }

    fn is_roots(self) -> bool {
        matches!(self, Self::Root | Self::Cgroup)
    }

    /// Returns what is missing here, if anything is.
    fn missing(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Root if is_root() && Path::new("/dev/loop-control").exists() => None,
            Self::Root => Some("root and loop devices"),
            Self::Cgroup if is_root() && may_make_cgroups() => None,
            Self::Cgroup => Some("root and writable memory cgroups"),
            Self::Etcd if cfg!(feature = "etcd") && has("etcd") => None,
            Self::Etcd => Some("etcd"),
        }
    }
}

/// Returns whether a memory cgroup with a limit can be created.
fn may_make_cgroups() -> bool {
    let top = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
    let top = top.into_iter().find(|dir| dir.is_dir());
    top.is_some_and(|top| {
        let dir = top.join(format!("guide-{}", std::process::id()));
        let made = fs::create_dir(&dir).is_ok();
        let limits = ["memory.limit_in_bytes", "memory.max"]
            .iter()
            .any(|file| dir.join(file).exists());
        made && fs::remove_dir(&dir).is_ok() && limits
    })
}

/// Returns the sections with their blocks, in order.
fn sections(text: &str) -> Vec<(String, Vec<Block>)> {
    let mut sections: Vec<(String, Vec<Block>)> = Vec::new();
    let mut inside: Option<Block> = None;
    for line in text.lines() {
        match (&mut inside, line) {
            (Some(block), "```") => {
                let block = block.clone();
                sections.last_mut().unwrap().1.push(block);
                inside = None;
            }
            (Some(block), line) => block.text.extend([line, "\n"]),
            (None, line) if Needs::of(line).is_some() => {
                inside = Needs::of(line).map(|needs| Block {
                    needs,
                    text: String::new(),
                });
            }
            (None, line) => {
                if let Some(title) = line.strip_prefix("## ") {
                    sections.push((title.to_owned(), Vec::new()));
                }
            }
        }
    }
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

fn commands(blocks: &[Block]) -> String {
    blocks.iter().map(|block| block.text.as_str()).collect()
}

fn section(path: &str, title: &str) -> Vec<Block> {
    let found = sections(&document(path))
        .into_iter()
        .find(|(name, _)| name == title);
    found
        .unwrap_or_else(|| panic!("{path} has no section {title:?} with commands"))
        .1
}

/// Runs the blocks that can be run here, and names the others.
fn procedure(path: &str, title: &str, before: &[Block]) {
    for program in ["mkfs.ext4", "e2fsck", "fusermount3", "setpriv"] {
        if !has(program) {
            return eprintln!("skipped: {title}: needs {program}");
        }
    }
    let mut mine = section(path, title);
    mine.retain(|block| match block.needs.missing() {
        None => true,
        Some(missing) => {
            eprintln!("skipped: {title}: a block needs {missing}");
            false
        }
    });
    let ordinary: Vec<Block> = mine
        .iter()
        .filter(|block| !block.needs.is_roots())
        .cloned()
        .collect();
    if ordinary.is_empty() {
        // There is nothing to run as an ordinary user.
    } else if users_may_mount() {
        Place::new(is_root()).run(&commands(&[before, &ordinary].concat()));
    } else {
        eprintln!("skipped: {title}: only root may use /dev/fuse here");
    }
    if ordinary.len() < mine.len() {
        Place::new(false).run(&commands(&[before, &mine].concat()));
    }
}

/// Returns whether an ordinary user may open the FUSE device here. Some machines without udev restrict it to root.
fn users_may_mount() -> bool {
    !is_root() || fs::metadata("/dev/fuse").is_ok_and(|meta| meta.permissions().mode() & 0o6 == 0o6)
}

fn of_the_guide(title: &str) {
    after_the_first("docs/OPERATING.md", title);
}

fn after_the_first(path: &str, title: &str) {
    let first: Vec<Block> = section("docs/OPERATING.md", FIRST)
        .into_iter()
        .filter(|block| !block.needs.is_roots())
        .collect();
    procedure(path, title, &first);
}

macro_rules! procedures {
    ($($name:ident: $title:literal,)*) => {
        const TITLES: &[&str] = &[$($title),*];
        $(#[test]
        fn $name() {
            of_the_guide($title);
        })*
    };
}

procedures! {
    a_pool_from_a_description: "A pool from a description",
    replacing_a_failing_disk: "Replacing a failing disk",
    moving_to_faster_disks: "Moving to faster disks",
    backup_under_a_hold: "Backup under a hold",
    upgrade: "Upgrade",
    when_an_apparatus_is_fenced: "When an apparatus is fenced",
    when_an_apparatus_crashes: "When an apparatus crashes",
    upgrading_a_running_apparatus: "Upgrading a running apparatus",
    when_a_disk_dies: "When a disk dies",
    when_a_disk_loses_what_was_moved_to_it: "When a disk loses what was moved to it",
    when_a_disk_is_refused: "When a disk is refused",
    when_the_pools_directory_is_lost: "When the pool's directory is lost",
    a_volume_that_was_removed_by_mistake: "A volume that was removed by mistake",
    when_the_pool_fills: "When the pool fills",
}

#[test]
fn first_pool() {
    procedure("docs/OPERATING.md", FIRST, &[]);
}

#[test]
fn every_procedure_is_run() {
    let written = sections(&document("docs/OPERATING.md"));
    let titles: Vec<&str> = written.iter().map(|(title, _)| title.as_str()).collect();
    let mut run = vec![FIRST];
    run.extend(TITLES);
    assert_eq!(titles, run);
}

/// The programs that the documents build are those under test.
#[test]
fn session_of_the_readme() {
    let title = "A first session by hand";
    let mut blocks = section("README.md", title);
    let (build, rest) = blocks[0].text.split_once('\n').unwrap();
    assert!(build.starts_with("cargo build"), "{build}");
    blocks[0].text = rest.to_owned();
    if !has("mkfs.ext4") || !has("fusermount3") {
        return eprintln!("skipped: {title}: needs mkfs.ext4 and fusermount3");
    }
    if !users_may_mount() {
        return eprintln!("skipped: {title}: only root may use /dev/fuse here");
    }
    Place::new(is_root()).run(&commands(&blocks));
}

/// The example of a description: it is applied, found to be applied already, and dumped; the dump is found to be applied too.
#[test]
fn the_example_of_a_description() {
    let place = Place::new(false);
    fs::write(place.path().join("pool.ron"), document("mounts/pool.ron")).unwrap();
    let text = "export VCTL_POOL=/tmp/pool
        vctl pool apply pool.ron
        test \"$(vctl pool apply pool.ron)\" = 'the pool is as described'
        vctl pool dump > dump.ron
        test \"$(vctl pool apply dump.ron --prune)\" = 'the pool is as described'
        test -f /tmp/a1/vm && test -f /tmp/a2/archive
        vctl status";
    place.run(text);
}
