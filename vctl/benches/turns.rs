//! The wait of other commands while a move runs at a rate limit: a hundred commands, each in its own process, first without a move and then
//! beside one. `cargo bench -p vctl --bench turns [-- SECONDS]`; the move lasts that long, a minute by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// The rate of the move in bytes per second.
const RATE: u64 = 10 * MIB;
const COMMANDS: usize = 100;

/// One round of commands; `N` stands for a unique number, `D` for a unique image file.
const MIX: [&str; 20] = [
    "volume create nN 4M --on d1",
    "volume resize nN 8M",
    "volume set nN --read-only",
    "volume set nN --read-write",
    "volume hold nN --for 1ms",
    "volume hold v --for 1ms",
    "disk set d2 --tag tN",
    "volume move nN --to d2",
    "volume rename nN mN",
    "disk set d2 --untag tN",
    "disk add D --create 32M --name xN",
    "volume create oN 2M --on xN",
    "disk evacuate xN --to d1",
    "disk remove xN",
    "volume resize oN 1M --yes",
    "pool set --nearfull 80",
    "volume create pN 1M",
    "volume remove pN --yes",
    "volume remove oN --yes",
    "volume remove mN --yes",
];

struct Pool {
    dir: TempDir,
}

impl Pool {
    /// Creates a served pool with a volume full of data on the first of two disks.
    fn new(mib: u64) -> Self {
        let pool = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        pool.run("pool create");
        for disk in ["d1", "d2"] {
            pool.run(&format!(
                "disk add {} --create {}M",
                pool.file(&format!("{disk}.img")),
                mib + 256
            ));
        }
        pool.run(&format!("volume create v {mib}M --on d1"));
        pool.run(&format!("apparatus start a {}", pool.file("mount")));
        let volume = File::options()
            .write(true)
            .open(pool.dir.path().join("mount/v"))
            .unwrap();
        let piece: Vec<u8> = (0..MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
        (0..mib).for_each(|at| volume.write_all_at(&piece, at * MIB).unwrap());
        volume.sync_all().unwrap();
        pool
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a command; returns its duration and its output.
    fn run(&self, words: &str) -> (Duration, String) {
        let pool: PathBuf = self.dir.path().join("pool");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vctl"));
        command.env("VCTL_POOL", pool).args(words.split(' '));
        let start = Instant::now();
        let output = command.output().unwrap();
        let took = start.elapsed();
        assert!(output.status.success(), "{words}: {output:?}");
        (took, String::from_utf8(output.stdout).unwrap())
    }

    /// Runs the commands one after the other; returns the duration of each.
    fn commands(&self, first: usize) -> Vec<(Duration, String)> {
        let each = |index: usize| {
            let number = first + index / MIX.len();
            let image = self.file(&format!("x{number}.img"));
            let words = MIX[index % MIX.len()].replace('N', &number.to_string());
            let words = words.replace('D', &image);
            (self.run(&words).0, MIX[index % MIX.len()].to_owned())
        };
        (0..COMMANDS).map(each).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.run("apparatus stop a");
    }
}

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(60);
    let pool = Pool::new(RATE / MIB * seconds);
    println!("| {COMMANDS} commands | median | p99 | slowest |\n|---|---|---|---|");
    row("without a move", pool.commands(0));
    let (_, begun) = pool.run(&format!("volume move v --to d2 --rate {RATE} --background"));
    let id = begun
        .trim_start_matches("job ")
        .split(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let first = COMMANDS / MIX.len();
    let beside = pool.commands(first);
    let (_, job) = pool.run(&format!("job show {id} --json"));
    assert!(
        job.contains("\"running\""),
        "the move ended before the commands did: {job}"
    );
    row("beside a move", beside);
    let start = Instant::now();
    pool.run(&format!("job wait {id}"));
    println!(
        "\nthe move went on for {:.0?} after the last command",
        start.elapsed()
    );
}

fn row(what: &str, mut took: Vec<(Duration, String)>) {
    took.sort();
    let at = |share: usize| took[(took.len() - 1) * share / 100].0;
    let (slowest, which) = took.last().unwrap();
    println!(
        "| {what} | {:.1?} | {:.1?} | {slowest:.1?} ({which}) |",
        at(50),
        at(99)
    );
}
