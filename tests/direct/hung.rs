//! A disk of a direct pool that hangs: every request waits for its disk there, and those of this disk wait alone.

use super::support::{Daemon, TestPool, name_of, read_up_to};
use apparatus::rpc::client;
use apparatus::rpc::message::{Answer, Request};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const EXTENT: u64 = 64 << 10;
/// The longest wait for anything, also on a machine that has much else to do.
const LONG: Duration = Duration::from_secs(100);
/// Hosts of the disk that hangs: more than there are reader threads.
const HOSTS: u64 = 16;

/// Fault rules for a disk, in the file from which the apparatus reads them.
struct Faults {
    file: PathBuf,
    disk: PathBuf,
}

impl Faults {
    /// Writes the rules, each in RON; no rule is no fault.
    fn set(&self, rules: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{{ {:?}: [{rules}] }}", self.disk)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }
}

/// Has the disk answer again and the hosts end, also when the test fails.
struct End<'t>(&'t Faults, &'t AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.set("");
    }
}

fn in_flight(pool: &TestPool) -> u64 {
    let uuid = pool.store().header().unwrap().uuid;
    match client::ask(&pool.dir, uuid, &name_of("x"), Request::Status, LONG).unwrap() {
        Answer::Status(figures) => figures.in_flight,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_of_a_disk_that_hangs_wait_alone() {
    let pool = TestPool::new(EXTENT);
    let (a, b) = (pool.add_disk("a", 64).id, pool.add_disk("b", 64).id);
    pool.add_volume("v", 8 * EXTENT, &[(a, 1, 8)]);
    pool.add_volume("w", HOSTS * EXTENT, &[(b, 1, HOSTS)]);
    let faults = Faults {
        file: pool.scratch().join("faults.ron"),
        disk: pool.image("b"),
    };
    faults.set("");
    let mount = pool.mount_point("x");
    let mut command = pool.command("x", &mount);
    command.env("APPARATUS_FAULTS", &faults.file);
    let daemon = Daemon::start(command, pool.scratch(), "x", mount);

    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = End(&faults, &over);
        for host in 0..HOSTS {
            let (file, done, over) = (daemon.open("w"), &done, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match host % 2 {
                        0 => file.write_all_at(&[7; 4096], host * EXTENT).unwrap(),
                        _ => drop(read_up_to(&file, 4096, host * EXTENT)),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        faults.set("(on: Any, fault: Hang)");
        let file = daemon.open("v");
        let (ask, asked) = channel::<u8>();
        let (answer, answered) = channel();
        scope.spawn(move || {
            for round in asked {
                file.write_all_at(&[round; 5000], 3000).unwrap();
                file.sync_all().unwrap();
                assert_eq!(read_up_to(&file, 5000, 3000), [round; 5000]);
                answer.send(()).unwrap();
            }
        });
        let serves = |rounds: u8| {
            (0..rounds).for_each(|round| {
                ask.send(round).unwrap();
                answered
                    .recv_timeout(LONG)
                    .expect("the other disk's volume is served");
            });
        };
        // All hosts of the disk that hangs wait when none of them gets on.
        let begun = Instant::now();
        let mut before = u64::MAX;
        while in_flight(&pool) < HOSTS || done.load(Ordering::Relaxed) != before {
            assert!(begun.elapsed() < LONG, "the disk does not hang");
            before = done.load(Ordering::Relaxed);
            serves(20);
        }
        serves(100);
        assert_eq!(done.load(Ordering::Relaxed), before, "they still wait");
    });
    assert_eq!(read_up_to(&daemon.open("w"), 4096, 0), [7; 4096]);
    daemon.stop();
}
