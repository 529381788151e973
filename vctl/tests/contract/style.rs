//! Output depends on neither locale nor terminal, except for colour; and the reader may go away.

use crate::locale::Comma;
use crate::support::{Pool, finish, vctl};
use std::process::{Command, Stdio};

#[test]
fn a_comma_locale_changes_nothing() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "w", "1536K"]).ok();
    let comma = Comma::new();
    for words in [
        &["volume", "list"][..],
        &["disk", "list", "--json"],
        &["pool", "show"],
        &["metrics"],
        &["status"],
    ] {
        let plain = pool.run(words).ok().out;
        let mut german = pool.command(words);
        comma.set(&mut german);
        assert_eq!(finish(german.spawn().unwrap()).ok().out, plain);
    }
    assert!(pool.run(["volume", "list"]).out.contains("1.5M"));
}

/// Returns the output of a command on a terminal.
fn on_terminal(pool: &Pool, words: &str, no_color: &str) -> String {
    let command = format!("{} {words}", env!("CARGO_BIN_EXE_vctl"));
    let mut script = Command::new("script");
    script
        .args(["-qec", &command, "/dev/null"])
        .env("VCTL_POOL", pool.pool_dir())
        .env("TERM", "xterm");
    script
        .env("NO_COLOR", no_color)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(script.spawn().unwrap()).out
}

#[test]
fn colour_only_on_a_terminal_and_never_with_no_color() {
    let pool = Pool::with_volume();
    assert!(!pool.run(["disk", "list"]).ok().out.contains('\x1b'));
    assert!(on_terminal(&pool, "disk list", "").contains("\x1b[32mok\x1b[0m"));
    assert!(!on_terminal(&pool, "disk list", "1").contains('\x1b'));
    assert!(!on_terminal(&pool, "disk list --json", "").contains('\x1b'));
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let pool = Pool::with_volume();
    for words in [
        &["volume", "list"][..],
        &["volume", "list", "--json"],
        &["metrics"],
        &["events", "--follow"],
        &["--help"],
    ] {
        let mut child = pool.command(words).spawn().unwrap();
        drop(child.stdout.take());
        if words.contains(&"--follow") {
            // It notices with the next event.
            pool.run(["volume", "move", "v", "--to", "d2"]).ok();
            pool.run(["volume", "move", "v", "--to", "nowhere"]).ended(3);
            assert!(log_something(&pool));
        }
        let output = finish(child);
        assert_eq!((output.status, output.err.as_str()), (0, ""), "{words:?}");
    }
}

fn log_something(pool: &Pool) -> bool {
    use apparatus::model::event::Severity;
    let pool = apparatus::model::dir::PoolDir::new(pool.pool_dir());
    let mut store = apparatus::controller::pool::open_store(&pool).unwrap();
    store.log(Severity::Info, "test", "something").is_ok()
}

#[test]
fn a_full_standard_output_is_a_failure() {
    let pool = Pool::with_volume();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = pool.command(["volume", "list"]);
    finish(command.stdout(full).spawn().unwrap())
        .ended(1)
        .complains(&["standard output"]);
}

#[test]
fn the_pool_is_the_option_then_the_variable_then_the_users_own() {
    let (one, two) = (Pool::with_volume(), Pool::empty());
    let listed = two
        .run([
            "--pool",
            one.pool_dir().to_str().unwrap(),
            "volume",
            "list",
            "--no-headings",
        ])
        .ok()
        .out;
    assert!(listed.starts_with("v "), "{listed}");
    assert_eq!(two.run(["volume", "list", "--no-headings"]).ok().out, "");
    let directory = tempfile::tempdir().unwrap();
    let mut command = vctl();
    command
        .args(["volume", "list"])
        .env("HOME", directory.path())
        .env_remove("XDG_STATE_HOME");
    let output = finish(command.spawn().unwrap()).ended(3);
    let own = if rustix::process::geteuid().is_root() {
        "/var/lib/apparatus/pool"
    } else {
        ".local/state/apparatus/pool"
    };
    output.complains(&[own]);
}

#[test]
fn events_can_be_followed() {
    use std::io::{BufRead, BufReader};
    let pool = Pool::empty();
    let mut child = pool.command(["events", "--follow", "--json"]).spawn().unwrap();
    assert!(log_something(&pool) && log_something(&pool));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for seq in 1..=2 {
        let event: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (&event["format"], &event["event"]["seq"]),
            (&1.into(), &seq.into())
        );
        assert_eq!(event["event"]["text"], "something");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pool.json(["events", "-n", "1"])["events"][0]["seq"], 2);
    assert_eq!(pool.json(["events", "--after", "1"])["events"][0]["seq"], 2);
    let since = |time: &str| {
        pool.json(["events", "--since", time])["events"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((since("12h"), since("2999-01-01T00:00:00Z")), (2, 0));
}
