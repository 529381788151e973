//! A real file system on a loop device on a volume, and a database in it that is written all the time, while the volume moves back
//! and forth twenty times and its disk is evacuated: integrity checks pass, the kernel logs nothing, no request fails.
//!
//! These tests need root, loop devices and e2fsprogs (xfsprogs for XFS); where those are missing they print that and pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod history;
mod moving;
mod support;

use apparatus::jobs::Request;
use apparatus::model::job::{JobLimits, JobState};
use moving::{PATIENCE, Scene};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::Daemon;

const EXTENT: u64 = 1 << 20;

#[test]
fn a_process_that_works_on_a_job() {
    moving::work_on_a_job();
}

/// Returns why such a test cannot run here.
fn missing(tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("needs loop devices".into());
    }
    let found = |tool: &&&str| Command::new(tool).arg("-V").output().is_err();
    tools.iter().find(found).map(|tool| format!("needs {tool}"))
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}",
        output.status
    );
    out.trim().to_owned()
}

/// A mounted file system on a loop device on a volume. It is unmounted on drop, at the latest lazily.
struct Mounted {
    device: String,
    place: PathBuf,
    mounted: bool,
}

impl Mounted {
    fn new(daemon: &Daemon, volume: &str, place: PathBuf, mkfs: &[&str]) -> Self {
        let device = run(Command::new("losetup")
            .args(["--direct-io=on", "-f", "--show"])
            .arg(daemon.path(volume)));
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&device));
        fs::create_dir_all(&place).unwrap();
        run(Command::new("mount").arg(&device).arg(&place));
        Self {
            device,
            place,
            mounted: true,
        }
    }

    fn unmount(&mut self) {
        run(Command::new("umount").arg(&self.place));
        self.mounted = false;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// Returns what the kernel logged about a device after the first `mark` lines of its log.
fn complaints(device: &str, mark: usize) -> Vec<String> {
    let name = device.trim_start_matches("/dev/");
    let log = run(Command::new("dmesg").arg("--notime"));
    let grave = |line: &&str| {
        let line = line.to_lowercase();
        line.contains(name)
            && ["error", "corrupt", "aborted", "fail", "lost"]
                .iter()
                .any(|word| line.contains(word))
    };
    log.lines().skip(mark).filter(grave).map(str::to_owned).collect()
}

/// A database whose rows can be verified: each transaction moves an amount between accounts.
struct Database {
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
    writer: JoinHandle<()>,
    path: PathBuf,
}

const ACCOUNTS: i64 = 500;

impl Database {
    fn start(path: PathBuf) -> Self {
        let (stop, transactions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER, note BLOB);
             CREATE TABLE log (number INTEGER PRIMARY KEY, taken INTEGER, given INTEGER);",
            )
            .unwrap();
        for id in 0..ACCOUNTS {
            database
                .execute("INSERT INTO account VALUES (?1, 1000, zeroblob(2000))", [id])
                .unwrap();
        }
        let writer = thread::spawn({
            let (stop, transactions) = (stop.clone(), transactions.clone());
            move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    transfer(&database, number);
                    transactions.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            transactions,
            writer,
            path,
        }
    }

    fn wait_for(&self, more: u64) {
        let (goal, end) = (
            self.transactions.load(Ordering::Relaxed) + more,
            Instant::now() + PATIENCE,
        );
        while self.transactions.load(Ordering::Relaxed) < goal {
            assert!(!self.writer.is_finished(), "the database's writer has ended");
            assert!(Instant::now() < end, "the database makes no progress");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(self) -> (PathBuf, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
        (self.path, self.transactions.load(Ordering::Relaxed))
    }
}

fn transfer(database: &Connection, number: i64) {
    let (from, to) = (number % ACCOUNTS, (number * 7 + 3) % ACCOUNTS);
    database
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
         UPDATE account SET amount = amount - 1, note = randomblob(2000) WHERE id = {from};
         UPDATE account SET amount = amount + 1, note = randomblob(2000) WHERE id = {to};
         INSERT INTO log VALUES ({number}, {from}, {to});
         COMMIT;"
        ))
        .unwrap();
}

fn check_database(path: &Path, transactions: u64) {
    let database = Connection::open(path).unwrap();
    let integrity: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
    let sum: i64 = database
        .query_row("SELECT sum(amount) FROM account", [], |row| row.get(0))
        .unwrap();
    let logged: i64 = database
        .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
        .unwrap();
    assert_eq!(
        (sum, logged),
        (ACCOUNTS * 1000, i64::try_from(transactions).unwrap())
    );
}

fn a_database_survives_moves(mkfs: &[&str], check: &[&str]) {
    if let Some(why) = missing(&[mkfs[0], check[0]]) {
        println!("skipped: {why}");
        return;
    }
    let scene = Scene::new(EXTENT, 384);
    let daemons = ["x", "y"].map(|name| scene.pool.start(name));
    let mark = run(Command::new("dmesg").arg("--notime")).lines().count();
    let mut mounted = Mounted::new(&daemons[0], "v", scene.pool.scratch().join("fs"), mkfs);
    let database = Database::start(mounted.place.join("database"));
    database.wait_for(20);
    for round in 0..20 {
        let job = scene.move_to([1, 0][round % 2]);
        assert!(job.copied.0 <= scene.bytes());
        database.wait_for(5);
    }
    let job = scene.create(
        &Request::Evacuate {
            disk: scene.disks[0],
            to: vec![],
            use_reserve: false,
        },
        JobLimits::default(),
    );
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!(scene.pool.store().uses(scene.disks[0]).unwrap(), vec![]);
    let (path, transactions) = database.end();
    check_database(&path, transactions);
    mounted.unmount();
    run(Command::new(check[0]).args(&check[1..]).arg(&mounted.device));
    // The check is repeated through the other apparatus, after everything has been written and dropped from memory.
    let device = mounted.device.clone();
    drop(mounted);
    let again = run(Command::new("losetup")
        .args(["-r", "-f", "--show"])
        .arg(daemons[1].path("v")));
    let checked = Command::new(check[0])
        .args(&check[1..])
        .arg(&again)
        .output()
        .unwrap();
    run(Command::new("losetup").args(["-d", &again]));
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
    assert_eq!(complaints(&device, mark), Vec::<String>::new());
    let errors: u64 = daemons.iter().map(|daemon| errors_of(&scene, daemon)).sum();
    assert_eq!(errors, 0);
    println!("{transactions} transactions during 21 moves");
    daemons.into_iter().for_each(Daemon::stop);
}

/// Returns the number of requests that an apparatus has answered with an I/O error.
fn errors_of(scene: &Scene, daemon: &Daemon) -> u64 {
    use apparatus::rpc::client;
    use apparatus::rpc::message::{Answer, Request};
    let name = support::name_of(daemon.mount().file_name().unwrap().to_str().unwrap());
    let uuid = scene.pool.store().header().unwrap().uuid;
    match client::ask(&scene.pool.dir, uuid, &name, Request::Status, PATIENCE).unwrap() {
        Answer::Status(figures) => figures
            .volumes
            .values()
            .chain(figures.disks.values())
            .map(|io| io.errors)
            .sum(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ext4_and_a_database_move_twenty_times() {
    a_database_survives_moves(&["mkfs.ext4", "-q", "-F"], &["e2fsck", "-f", "-n"]);
}

#[test]
fn xfs_and_a_database_move_twenty_times() {
    a_database_survives_moves(&["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]);
}
