//! What is done from the console is done to the pool: each verb previewed, confirmed, and looked for where it took effect.

use crate::support::{Pool, unmount};
use crate::terminal::Terminal;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

fn disks_of(pool: &Pool, volume: &str) -> Vec<String> {
    let shown = pool.json(["volume", "show", volume]);
    let disks = shown["volume"]["disks"].as_array().unwrap();
    disks
        .iter()
        .map(|share| share["disk"].as_str().unwrap().to_owned())
        .collect()
}

fn job(pool: &Pool, id: &str) -> Value {
    pool.json(["job", "show", id])["job"].clone()
}

/// Served by `a`, and so large that a slow move of it does not end before it is looked at.
fn with_much_to_move() -> (Pool, PathBuf) {
    let pool = Pool::with_volume();
    pool.run(["volume", "resize", "v", "40M", "--on", "d1"]).ok();
    let mount = pool.start("a");
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    file.write_all_at(&vec![0x5a; 40 << 20], 0).unwrap();
    (pool, mount)
}

/// Data that is told from zeroes and from itself elsewhere.
fn fill(mount: &Path) -> Vec<u8> {
    let data: Vec<u8> = (0..8_u32 << 18)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    file.write_all_at(&data, 0).unwrap();
    file.sync_all().unwrap();
    data
}

fn content(mount: &Path) -> Vec<u8> {
    std::fs::read(mount.join("v")).unwrap()
}

/// Asks for a move of `v` to `d2`, at this rate.
fn start_move(screen: &Terminal, rate: &str) {
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v", "d2_"]);
    screen.keys("\x1b[Z\x1b[3~");
    screen.keys_show(
        &format!("{rate}\r"),
        &["vctl volume move v --to d2", "moves 40M", "y does it"],
    );
    screen.keys("y");
}

#[test]
fn a_move_is_seen_before_and_while_it_happens() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let data = fill(&mount);
    let screen = Terminal::open(&pool.pool_dir(), 100, 40, &[]);
    screen.shows(&["healthy"]);
    screen.keys_show("3", &["> v", "A d1 8M"]);
    screen.keys_show("m", &["move volume v", "> to", "d2_", "arrows: d2"]);
    screen.keys_show(
        "\r",
        &[
            "vctl volume move v --to d2",
            "moves 8M in 1 run",
            "now ",
            "then ",
            "B d2 8M",
            "Map(",
        ],
    );
    assert_eq!(disks_of(&pool, "v"), ["d1"], "a preview moves nothing");
    assert_eq!(pool.json(["job", "list"])["jobs"].as_array().unwrap().len(), 0);
    screen.keys_show("y", &["job 1: apparatus a works on it"]);
    screen.keys_show("3", &["B d2 8M", "BBBBBBBBBB"]);
    screen.keys_show("5", &["done", "100%", "all is where it was to go"]);
    assert_eq!(disks_of(&pool, "v"), ["d2"]);
    assert!(content(&mount) == data, "the data moved with it");
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

#[test]
fn a_job_is_paused_resumed_slowed_and_let_go() {
    let (pool, _) = with_much_to_move();
    let screen = Terminal::open(&pool.pool_dir(), 100, 40, &[]);
    start_move(&screen, "512K");
    screen.keys_show("5", &["running", "limit: 512K/s", "volume v"]);
    screen.keys_show("p", &["job 1, volume v: running", "stops at the end of a chunk"]);
    screen.keys_show("y", &["paused", "job 1 is paused"]);
    assert_eq!(job(&pool, "1")["state"], "paused");
    screen.keys_show("r", &["job 1, volume v: paused", "goes on"]);
    screen.keys_show("y", &["running"]);
    screen.keys_show("l", &["rate of job 1", "512K_"]);
    screen.keys_show("\x1b[3~none\r", &["rate: 512K/s -> no limit"]);
    screen.keys_show("y", &["limit: no limit", "done", "100%"]);
    assert_eq!(disks_of(&pool, "v"), ["d2"]);
}

#[test]
fn a_job_is_cancelled_or_moves_back() {
    let (pool, mount) = with_much_to_move();
    let data = content(&mount);
    let screen = Terminal::open(&pool.pool_dir(), 100, 40, &[]);
    start_move(&screen, "512K");
    screen.keys_show("5", &["running"]);
    screen.keys_show("c", &["ends; what was moved stays moved"]);
    screen.keys_show("y", &["cancelled; what was moved stays where it is"]);
    assert_eq!(job(&pool, "1")["state"], "cancelled");
    start_move_of_the_rest(&screen);
    screen.keys_show("5", &["> ", "running"]);
    screen.keys_show("b", &["job 2, volume v: running", "moves back what it moved"]);
    // It moves back as slowly as it moved: let it go.
    screen.keys_show("y", &["job 2 is moving back"]);
    pool.run(["job", "set", "2", "--rate", "none"]);
    screen.until("cancelled", |text| text.matches("cancelled").count() >= 2);
    assert_eq!(job(&pool, "2")["state"], "cancelled");
    assert!(content(&mount) == data);
}

fn start_move_of_the_rest(screen: &Terminal) {
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys("\x1b[3~d2\x1b[Z\x1b[3~");
    screen.keys_show("256K\r", &["vctl volume move v --to d2 --rate 256K", "y does it"]);
    screen.keys("y");
}

#[test]
fn a_disk_is_evacuated_while_no_apparatus_runs_and_while_one_does() {
    for serving in [false, true] {
        let pool = Pool::with_volume();
        if serving {
            pool.start("a");
        }
        let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
        screen.keys_show("4", &["> A d1"]);
        screen.keys_show("e", &["evacuate disk d1", "arrows: d2"]);
        screen.keys_show(
            "\r",
            &[
                "vctl disk evacuate d1",
                "moves 8M",
                "takes nothing new from then on",
            ],
        );
        screen.keys_show("y", &["volumes: none", "takes nothing new"]);
        screen.keys_show("5", &["done", "100%", "disk d1"]);
        assert_eq!(disks_of(&pool, "v"), ["d2"]);
        screen.keys("q");
        assert_eq!(screen.ends().0, 0);
        pool.run(["disk", "remove", "d1"]).ok();
    }
}

#[test]
fn an_empty_disk_is_removed_and_one_in_use_is_not() {
    let pool = Pool::with_volume();
    let before = pool.state();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("4", &["> A d1"]);
    screen.keys_show(
        "r",
        &["disk remove d1: not done", "volume v", "hint: empty it first"],
    );
    screen.keys("\x1b");
    screen.hides("any key goes on");
    screen.keys_show("j", &["> B d2"]);
    screen.keys_show("r", &["vctl disk remove d2", "its label is erased", "RemoveDisk"]);
    assert_eq!(pool.state(), before, "a preview changes nothing");
    screen.keys_show("y", &["disk d2 is removed", "> A d1"]);
    screen.hides("B d2");
    pool.run(["disk", "show", "d2"]).ended(3);
}

/// What the destinations keep free is taken only if that is asked for.
#[test]
fn an_evacuation_may_use_the_reserve() {
    let pool = Pool::with_volume();
    pool.run(["disk", "set", "d2", "--reserve", "60M"]).ok();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("4", &["> A d1"]);
    screen.keys_show("e", &["evacuate disk d1"]);
    screen.keys_show("\r", &["not done", "d2"]);
    screen.keys("\x1b");
    screen.hides("any key goes on");
    screen.keys_show("e", &["evacuate disk d1"]);
    screen.keys_show("\t\x1b[B", &["use_"]);
    screen.keys_show("\r", &["vctl disk evacuate d1 --use-reserve", "moves 8M"]);
    screen.keys_show("y", &["volumes: none"]);
    screen.keys_show("5", &["done", "100%"]);
    assert_eq!(disks_of(&pool, "v"), ["d2"]);
}

#[test]
fn an_apparatus_is_fenced() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    pool.start("b");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("2", &["> a", "serving"]);
    screen.keys_show(
        "f",
        &[
            "vctl apparatus fence a",
            "kills process",
            "other apparatuses go on",
        ],
    );
    screen.keys_show("y", &["apparatus a is fenced, its process has ended", "> b"]);
    let listed = pool
        .run(["apparatus", "list", "--no-headings", "-o", "name,state"])
        .ok()
        .out;
    assert_eq!(listed, "b  serving\n");
    // Nobody lists it any more, and nobody else takes its mount away.
    unmount(&mount);
}

#[test]
fn a_fenced_apparatus_is_awaited() {
    let pool = Pool::with_volume();
    pool.start("a");
    let pid = pool.pid_of("a");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("2", &["> a", "serving"]);
    kill_process(pid, Signal::STOP).unwrap();
    // A change goes on without whoever does not answer.
    pool.run(["volume", "create", "w", "1M"]).ended(5);
    screen.shows(&["fenced"]);
    screen.keys_show(
        "1",
        &[
            "is fenced: its hosts wait until it has rejoined",
            "next: vctl apparatus rejoin a",
        ],
    );
    screen.keys_show("2", &["> a"]);
    screen.keys_show("r", &["vctl apparatus rejoin a", "it is fenced"]);
    screen.keys_show("y", &["under way: apparatus rejoin a"]);
    kill_process(pid, Signal::CONT).unwrap();
    screen.shows(&["apparatus a serves", "serving", "healthy"]);
}

#[test]
fn hosts_wait_while_a_volume_is_held_and_go_on_when_it_is_released() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("h", &["hold volume v", "10s_"]);
    screen.keys_show(
        "\x1b[3~50s\r",
        &[
            "holds all requests of volume v for 50.0s at most",
            "x releases it",
        ],
    );
    screen.keys_show("y", &["release the hold", "acting: volume hold v"]);
    // The hold is in place once the store has its change: a second controller is told so.
    let told = pool.run(["volume", "create", "w", "1M"]).ended(4);
    assert!(told.err.contains("volume hold v"), "{told:?}");
    let (tell, told) = mpsc::channel();
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    std::thread::spawn(move || tell.send(file.write_all_at(&[1; 4096], 0)));
    screen.keys("2");
    screen.until("a held request", |text| {
        let line = text.lines().find(|line| line.starts_with("> a"));
        line.and_then(|line| line.split_whitespace().nth(5)) == Some("1")
    });
    assert_eq!(told.try_recv().map(drop), Err(mpsc::TryRecvError::Empty));
    let metrics = pool.run(["metrics"]).ok().out;
    let parked = "apparatus_volume_requests_parked{apparatus=\"a\",volume=\"v\"} 1\n";
    assert!(metrics.contains(parked), "{metrics}");
    screen.keys_show("x", &["released v"]);
    told.recv_timeout(std::time::Duration::from_secs(60))
        .unwrap()
        .unwrap();
    pool.run(["volume", "create", "w", "1M"]).ok();
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let pool = Pool::with_volume();
    let before = pool.state();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show(
        "\x1b[3~nowhere\r",
        &["not done", "no such disk", "hint: disks: d1, d2"],
    );
    screen.keys("\x1b");
    screen.hides("any key goes on");
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show("\t\t9x\r", &["range", "has no '..'"]);
    screen.keys_show("\x1b[3~\tfar\r", &["policy \"far\": is none of order, spread"]);
    screen.keys("\x1b");
    screen.hides("Enter shows");
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
    assert_eq!(pool.state(), before);
}

/// What was previewed is what is sent, or nothing is.
#[test]
fn a_plan_that_is_out_of_date_is_not_sent() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show("\r", &["moves 8M", "y does it"]);
    pool.run(["volume", "resize", "v", "9M", "--on", "d1"]).ok();
    screen.keys_show("y", &["changed since the preview", "not done"]);
    assert_eq!(disks_of(&pool, "v"), ["d1"]);
    assert_eq!(pool.json(["job", "list"])["jobs"].as_array().unwrap().len(), 0);
}

/// Why it waits, and what would free it.
#[test]
fn a_job_that_waits_says_for_what() {
    let (pool, _) = with_much_to_move();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    start_move(&screen, "256K");
    screen.keys_show("5", &["running"]);
    screen.keys_show("p", &["y does it"]);
    screen.keys_show("y", &["why: paused", "vctl job resume 1"]);
    screen.keys_show("3", &["after job 1"]);
    screen.keys_show("5", &["paused"]);
    screen.keys_show("c", &["y does it"]);
    screen.keys_show("y", &["cancelled"]);
}
