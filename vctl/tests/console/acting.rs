//! Verbs run from the console: each is previewed and confirmed, and its effect is verified in the pool.

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

/// Creates a pool served by `a`, so large that a slow move does not end before the test looks.
fn with_much_to_move() -> (Pool, PathBuf) {
    let pool = Pool::with_volume();
    pool.run(["volume", "resize", "v", "40M", "--on", "d1"]).ok();
    let mount = pool.start("a");
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    file.write_all_at(&vec![0x5a; 40 << 20], 0).unwrap();
    (pool, mount)
}

/// Returns data that differs from zeroes and from itself at other offsets.
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

/// Requests a move of `v` to `d2` at this rate.
fn start_move(screen: &Terminal, rate: &str) {
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v", "d2_"]);
    screen.keys("\x1b[Z\x15");
    screen.keys_show(
        &format!("{rate}\r"),
        &["vctl volume move v --to d2", "moves 40M", "y confirms"],
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
            "would move 8M of volume v",
        ],
    );
    assert_eq!(disks_of(&pool, "v"), ["d1"], "a preview moves nothing");
    assert_eq!(pool.json(["job", "list"])["jobs"].as_array().unwrap().len(), 0);
    screen.keys_show("y", &["job 1: apparatus a works on it"]);
    screen.keys_show("3", &["B d2 8M", "BBBBBBBBBB"]);
    screen.keys_show("5", &["done", "100%", "all data is in place"]);
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
    screen.keys_show("5", &[">    1 running", "limit: 512K/s", "volume v"]);
    screen.keys_show("p", &["job 1, volume v: running", "stops at the end of a chunk"]);
    screen.keys_show("y", &["paused", "job 1 is paused"]);
    assert_eq!(job(&pool, "1")["state"], "paused");
    screen.keys_show("r", &["job 1, volume v: paused", "goes on"]);
    screen.keys_show("y", &["running"]);
    screen.keys_show("l", &["rate of job 1", "512K_"]);
    screen.keys_show("\x15none\r", &["rate: 512K/s -> no limit"]);
    screen.keys_show("y", &["limit: no limit", "done", "100%"]);
    assert_eq!(disks_of(&pool, "v"), ["d2"]);
}

#[test]
fn a_job_is_cancelled_or_moves_back() {
    let (pool, mount) = with_much_to_move();
    let data = content(&mount);
    let screen = Terminal::open(&pool.pool_dir(), 100, 40, &[]);
    start_move(&screen, "512K");
    screen.keys_show("5", &[">    1 running"]);
    screen.keys_show("c", &["ends; what was moved stays moved"]);
    screen.keys_show("y", &["cancelled; what was moved stays where it is"]);
    assert_eq!(job(&pool, "1")["state"], "cancelled");
    start_move_of_the_rest(&screen);
    screen.keys_show("5", &[">    2 running"]);
    screen.keys_show("b", &["job 2, volume v: running", "moves back what it moved"]);
    // It moves back at the same low rate: lift the limit.
    screen.keys_show("y", &["job 2 is moving back"]);
    pool.run(["job", "set", "2", "--rate", "none"]);
    screen.shows(&[">    2 cancelled"]);
    assert_eq!(job(&pool, "2")["state"], "cancelled");
    assert!(content(&mount) == data);
}

fn start_move_of_the_rest(screen: &Terminal) {
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys("\x15d2\x1b[Z\x15");
    screen.keys_show(
        "256K\r",
        &["vctl volume move v --to d2 --rate 256K", "y confirms"],
    );
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
                "gets no new data from then on",
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
    screen.hides("any key closes");
    screen.keys_show("j", &["> B d2"]);
    screen.keys_show(
        "r",
        &[
            "vctl disk remove d2",
            "its label is erased",
            "would remove disk d2",
        ],
    );
    assert_eq!(pool.state(), before, "a preview changes nothing");
    screen.keys_show("y", &["disk d2 is removed", "> A d1"]);
    screen.hides("B d2");
    pool.run(["disk", "show", "d2"]).ended(3);
}

/// The reserve of the destinations is used only on request.
#[test]
fn an_evacuation_may_use_the_reserve() {
    let pool = Pool::with_volume();
    pool.run(["disk", "set", "d2", "--reserve", "60M"]).ok();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("4", &["> A d1"]);
    screen.keys_show("e", &["evacuate disk d1"]);
    screen.keys_show("\r", &["not done", "d2"]);
    screen.keys("\x1b");
    screen.hides("other keys close");
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
            "other apparatuses continue",
        ],
    );
    screen.keys_show("y", &["apparatus a is fenced, its process has ended", "> b"]);
    let listed = pool
        .run(["apparatus", "list", "--no-headings", "-o", "name,state"])
        .ok()
        .out;
    assert_eq!(listed, "b  serving\n");
    // The pool does not list it any more, and no other process unmounts it.
    unmount(&mount);
}

/// A command that a job cannot obey is refused before the operator confirms it.
#[test]
fn an_impossible_job_command_is_refused_before_it_is_confirmed() {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("5", &["done"]);
    screen.keys_show("p", &["job pause 1: not done", "is done, and cannot be paused"]);
}

/// One that answers is refused for the sake of who has its volumes open, as on the command line, and the override has to be typed.
#[test]
fn an_apparatus_in_use_is_fenced_only_by_a_typed_yes() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let user = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("2", &["> a", "serving"]);
    screen.keys_show(
        "f",
        &[
            "apparatus fence a: not done",
            "is in use by process",
            "o: vctl apparatus fence a --cut-off-users",
        ],
    );
    screen.keys_show(
        "o",
        &[
            "vctl apparatus fence a --cut-off-users",
            "are cut off",
            "type yes",
        ],
    );
    screen.keys_show("y\r", &["type yes", "y_"]);
    let listed = pool
        .run(["apparatus", "list", "--no-headings", "-o", "name,state"])
        .ok()
        .out;
    assert_eq!(listed, "a  serving\n");
    screen.keys_show("es\r", &["apparatus a is fenced, its process has ended"]);
    drop(user);
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
    // A change goes on without an apparatus that does not answer.
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
    screen.keys_show("y", &["running: apparatus rejoin a"]);
    kill_process(pid, Signal::CONT).unwrap();
    screen.shows(&["apparatus a serves", "serving", "healthy"]);
}

#[test]
fn hosts_wait_while_a_volume_is_held_and_continue_when_it_is_released() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("h", &["hold volume v", "10s_"]);
    screen.keys_show(
        "\x1550s\r",
        &[
            "holds all requests of volume v for 50.0s at most",
            "x releases it",
        ],
    );
    screen.keys_show("y", &["release the hold", "acting: volume hold v"]);
    // The hold is in place once the store has its change: a second controller is refused.
    let output = pool.run(["volume", "create", "w", "1M"]).ended(4);
    assert!(output.err.contains("volume hold v"), "{output:?}");
    let (sender, output) = mpsc::channel();
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    std::thread::spawn(move || sender.send(file.write_all_at(&[1; 4096], 0)));
    screen.keys("2");
    screen.until("a held request", |text| {
        let line = text.lines().find(|line| line.starts_with("> a"));
        line.and_then(|line| line.split_whitespace().nth(5)) == Some("1")
    });
    assert_eq!(output.try_recv().map(drop), Err(mpsc::TryRecvError::Empty));
    let metrics = pool.run(["metrics"]).ok().out;
    let parked = "apparatus_volume_requests_parked{apparatus=\"a\",volume=\"v\"} 1\n";
    assert!(metrics.contains(parked), "{metrics}");
    screen.keys_show("x", &["released v"]);
    output
        .recv_timeout(std::time::Duration::from_secs(60))
        .unwrap()
        .unwrap();
    pool.run(["volume", "create", "w", "1M"]).ok();
}

#[test]
fn a_refused_verb_shows_the_reason_and_changes_nothing() {
    let pool = Pool::with_volume();
    let before = pool.state();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show(
        "\x15nowhere\r",
        &["not done", "no such disk", "hint: disks: d1, d2"],
    );
    screen.keys("\x1b");
    screen.hides("other keys close");
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show("\t\t9x\r", &["range", "has no '..'"]);
    screen.keys_show("\x15\tfar\r", &["policy \"far\": is none of order, spread"]);
    screen.keys("\x1b");
    screen.hides("Enter previews");
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
    assert_eq!(pool.state(), before);
}

/// The plan that is sent equals the previewed one; otherwise nothing is sent.
#[test]
fn a_plan_that_is_out_of_date_is_not_sent() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("m", &["move volume v"]);
    screen.keys_show("\r", &["moves 8M", "y confirms"]);
    pool.run(["volume", "resize", "v", "9M", "--on", "d1"]).ok();
    screen.keys_show("y", &["changed since the preview", "not done"]);
    assert_eq!(disks_of(&pool, "v"), ["d1"]);
    assert_eq!(pool.json(["job", "list"])["jobs"].as_array().unwrap().len(), 0);
}

/// A waiting job shows the reason and the way out.
#[test]
fn a_waiting_job_names_its_reason() {
    let (pool, _) = with_much_to_move();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    start_move(&screen, "256K");
    screen.keys_show("5", &[">    1 running"]);
    screen.keys_show("p", &["y confirms"]);
    screen.keys_show("y", &["why: paused", "vctl job resume 1"]);
    screen.keys_show("3", &["after job 1"]);
    screen.keys_show("5", &["paused"]);
    screen.keys_show("c", &["y confirms"]);
    screen.keys_show("y", &["cancelled"]);
}
