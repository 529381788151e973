//! The content of the screen, at every size, with colour and without.

use crate::support::{Pool, finish, vctl};
use crate::terminal::Terminal;
use rustix::process::{Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

#[test]
fn all_of_a_pool_is_there() {
    let pool = Pool::with_volume();
    pool.start("a");
    pool.start("b");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.shows(&[
        "healthy",
        "generation",
        "a ",
        "b ",
        "serving",
        "v ",
        "8M",
        "d1",
        "d2",
        "events",
        "1-6 look at",
    ]);
    screen.keys_show(
        "2",
        &["[2 Apparatuses]", "> a", "mount-a", "IOPS", "p99", "f fence"],
    );
    screen.keys_show("j", &["> b", "mount-b"]);
    screen.keys_show("3", &["[3 Volumes]", "> v", "A d1 8M", "AAAAAAAA", "m move"]);
    screen.keys_show(
        "4",
        &["[4 Disks]", "> A d1", "d1.img", "@fast", "free", "volumes: v 8M"],
    );
    screen.keys_show("5", &["[5 Jobs]", "there are no jobs"]);
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    screen.keys_show("6", &["[6 Events]", "info    job 1: volume move v --to d2: done"]);
    screen.keys_show("?", &["help", "evacuate"]);
    screen.keys_show("\x1b[6~", &["quarantined"]);
    screen.keys("\x1b");
    screen.hides("any key closes");
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

#[test]
fn rates_and_latency_follow_the_requests_of_hosts() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("2", &["> a", "serving", "most 0"]);
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    let busy = |text: &str| {
        text.lines()
            .any(|line| line.contains("IOPS") && !line.contains("APPARATUS") && !line.contains("IOPS  0"))
            && text.contains("<")
    };
    // The load runs until it shows, and no longer: its speed does not matter.
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                file.write_all_at(&[7; 4096], 0).unwrap();
            }
        });
        screen.until("requests", busy);
        drop(stop);
    });
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

#[test]
fn it_fits_every_window() {
    let pool = Pool::with_volume();
    pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 140, 45, &[]);
    screen.shows(&["healthy", "all apparatuses", "IOPS", "APPARATUS"]);
    for (columns, rows) in [(80, 24), (60, 16), (40, 12)] {
        screen.resize(columns, rows);
        screen.keys("\x0c");
        screen.shows(&["vctl console", "a ", "q leave"]);
    }
    screen.resize(20, 5);
    screen.shows(&["needs 40 x 12"]);
    screen.resize(80, 24);
    screen.keys("\x0c");
    // A key that is read before the new size would have no effect.
    screen.shows(&["vctl console", "q leave"]);
    screen.keys_show("3", &["[3 Volumes]", "> v", "m move", "q leave"]);
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

fn colours(screen: &Terminal) -> usize {
    screen.with(|screen| {
        let (rows, columns) = screen.size();
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let coloured = |(row, column)| {
            screen.cell(row, column).is_some_and(|cell| {
                (cell.fgcolor(), cell.bgcolor()) != (vt100::Color::Default, vt100::Color::Default)
            })
        };
        cells.filter(|at| coloured(*at)).count()
    })
}

#[test]
fn no_color_means_no_colour() {
    let pool = Pool::with_volume();
    pool.start("a");
    for (environment, coloured) in [(&[("NO_COLOR", "1")][..], false), (&[], true)] {
        let screen = Terminal::open(&pool.pool_dir(), 80, 24, environment);
        screen.shows(&["healthy"]);
        for (tab, words) in [("2", "> a"), ("3", "A d1 8M"), ("4", "> A d1"), ("1", "healthy")] {
            screen.keys_show(tab, &[words]);
            assert_eq!(colours(&screen) > 0, coloured, "{tab}\n{}", screen.text());
        }
        screen.keys("q");
        assert_eq!(screen.ends().0, 0);
    }
}

#[test]
fn a_plain_locale_gets_plain_signs() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[("LANG", "C")]);
    screen.shows(&["[1 Overview]", "-- events ---"]);
    assert!(screen.text().is_ascii(), "{}", screen.text());
    screen.keys_show("3", &["AAAA"]);
    assert!(screen.text().is_ascii(), "{}", screen.text());
}

/// An apparatus that does not answer delays only its own line.
#[test]
fn a_silent_apparatus_is_shown_as_silent_and_delays_no_other() {
    let pool = Pool::with_volume();
    pool.start("a");
    let pid = pool.pid_of("a");
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.shows(&["healthy", "serving"]);
    kill_process(pid, Signal::STOP).unwrap();
    screen.shows(&["silent", "warnings: 1"]);
    screen.keys_show("4", &["> A d1"]);
    kill_process(pid, Signal::CONT).unwrap();
    screen.keys_show("2", &["serving", "healthy"]);
}

#[test]
fn where_there_is_no_terminal_it_says_so() {
    let pool = Pool::with_volume();
    pool.run(["console"])
        .ended(2)
        .complains(&["console", "standard input is no terminal", "vctl status"]);
    let refused = pool.run(["console", "--json"]).ended(2);
    assert!(refused.err.contains("JSON"), "{refused:?}");
    let absent = Pool::absent();
    let input = File::open("/dev/null").unwrap();
    let mut command = vctl();
    command
        .env("VCTL_POOL", absent.pool_dir())
        .arg("console")
        .stdin(input);
    finish(command.spawn().unwrap()).ended(2);
}
