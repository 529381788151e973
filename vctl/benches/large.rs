//! A pool of many volumes under realistic conditions: the built program, a real pool, a real mount. Prints the median and the longest of
//! five runs of each command. `cargo bench -p vctl`, or `cargo bench -p vctl -- 1000` for another number of volumes.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so")]

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TIMES: usize = 5;

/// The pool, with its mount beside it.
struct Pool {
    dir: tempfile::TempDir,
}

impl Pool {
    fn vctl(&self, words: &[&str]) -> Duration {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vctl"));
        command.env("VCTL_POOL", self.dir.path().join("pool")).args(words);
        took(&mut command)
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.vctl(&["apparatus", "stop", "a"]);
    }
}

/// Returns the duration of a command, which must succeed.
fn took(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let ended = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let took = begun.elapsed();
    assert!(ended.success(), "{command:?}: {ended}");
    took
}

fn print_row(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("| {what} | {:.0} | {:.0} |", millis(median), millis(longest));
}

fn repeated(what: &str, once: impl Fn() -> Duration) {
    print_row(what, (0..TIMES).map(|_| once()).collect());
}

fn ls(mount: &Path, flags: &str) -> Duration {
    took(Command::new("ls").arg(flags).arg(mount))
}

fn main() {
    let wanted = std::env::args().filter_map(|word| word.parse().ok()).next();
    let volumes: usize = wanted.unwrap_or(10_000);
    let pool = Pool {
        dir: tempfile::tempdir().unwrap(),
    };
    pool.vctl(&["pool", "create", "--extent-size", "64K"]);
    pool.vctl(&["disk", "add", &pool.file("d.img"), "--create", "4G"]);
    let mut description = String::from("(volumes: [");
    for number in 0..volumes {
        write!(description, "(name: \"v{number:06}\", size: \"64K\"),").unwrap();
    }
    description.push_str("], disks: [(name: \"d\", path: \"d.img\")])");
    std::fs::write(pool.dir.path().join("pool.ron"), description).unwrap();

    println!("{volumes} volumes, times in ms\n\n| | median | longest |\n|---|---|---|");
    print_row(
        "`vctl pool apply`, all new",
        vec![pool.vctl(&["pool", "apply", &pool.file("pool.ron")])],
    );
    let mount = pool.dir.path().join("m");
    let start = pool.vctl(&["apparatus", "start", "a", mount.to_str().unwrap()]);
    print_row("`vctl apparatus start`", vec![start]);
    print_row("`ls -l`, the first time", vec![ls(&mount, "-l")]);
    repeated("`ls -l`", || ls(&mount, "-l"));
    repeated("`ls`", || ls(&mount, "-1"));
    repeated("`vctl volume list`", || pool.vctl(&["volume", "list"]));
    repeated("`vctl status`", || pool.vctl(&["status"]));
    repeated("`vctl volume create` and `remove`", || {
        pool.vctl(&["volume", "create", "one", "64K"]) + pool.vctl(&["volume", "remove", "one", "--yes"])
    });
}
