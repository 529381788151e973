//! Completion in the shells themselves: bash, zsh and fish in a pseudo-terminal, the script that `vctl completions` writes, and a real
//! pool. Shells that are not installed are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "helpers of tests may fail a test, and are shared with other tests"
)]

mod answers;
mod shell;
#[path = "../contract/support.rs"]
mod support;

use shell::Shell;
use support::Pool;

/// Creates a pool with names to complete, and another one.
fn pool() -> Pool {
    let pool = Pool::with_volume();
    pool.run(["volume", "rename", "v", "data1"]).ok();
    pool.run(["volume", "create", "data2", "1M"]).ok();
    pool.run(["volume", "create", "web", "1M"]).ok();
    pool.run(["volume", "move", "data1", "--to", "d2"]).ok();
    let other = pool.file("other");
    pool.run(["--pool", &other, "pool", "create"]).ok();
    pool.run([
        "--pool",
        &other,
        "disk",
        "add",
        &pool.file("o.img"),
        "--create",
        "16M",
    ])
    .ok();
    pool.run(["--pool", &other, "volume", "create", "elsewhere", "1M"])
        .ok();
    support::write(&pool.path("an image.img"), b"");
    pool
}

/// A typed line, and the line after the tabulator key.
const LINES: &[(&str, &str)] = &[
    ("vctl vol", "vctl volume"),
    ("vctl apparatus sto", "vctl apparatus stop"),
    ("vctl volume show w", "vctl volume show web"),
    ("vctl volume move web --to @f", "vctl volume move web --to @fast"),
    ("vctl volume move web --to=@f", "vctl volume move web --to=@fast"),
    (
        "vctl volume move web --from=d1 --to d2 --pol",
        "vctl volume move web --from=d1 --to d2 --policy",
    ),
    (
        "vctl volume list -o name,seg",
        "vctl volume list -o name,segments",
    ),
    ("vctl volume list -o +I", "vctl volume list -o +ID"),
    ("vctl volume list --sort -siz", "vctl volume list --sort -size"),
    ("vctl job list -o LONG", "vctl job list -o LONGEST-HOLD"),
    ("vctl job show ", "vctl job show 1"),
    (
        "vctl --pool other volume show ",
        "vctl --pool other volume show elsewhere",
    ),
    (
        "vctl --pool=other volume show e",
        "vctl --pool=other volume show elsewhere",
    ),
    (
        "vctl --pool 'other' volume show e",
        "vctl --pool 'other' volume show elsewhere",
    ),
    ("vctl disk add an", "vctl disk add an\\ image.img"),
    ("vctl --pool oth", "vctl --pool other/"),
    ("vctl --pool=oth", "vctl --pool=other/"),
    ("vctl completions fi", "vctl completions fish"),
];

fn completes(shell: &str) {
    let pool = pool();
    let Some(shell) = Shell::open(shell, &pool) else {
        println!("passed over: there is no {shell} here");
        return;
    };
    for (typed, expected) in LINES {
        shell.line_becomes(&format!("{typed}\t"), expected);
    }
    shell.shows("vctl volume show data\t\t", &["data1", "data2"]);
}

#[test]
fn bash_completes_names_columns_and_files() {
    completes("bash");
}

#[test]
fn zsh_completes_names_columns_and_files() {
    completes("zsh");
}

#[test]
fn fish_completes_names_columns_and_files() {
    completes("fish");
}
