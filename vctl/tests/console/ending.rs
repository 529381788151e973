//! Whatever ends the console, the terminal is restored, and no hold stays in place.

use crate::support::Pool;
use crate::terminal::Terminal;
use rustix::process::Signal;

#[test]
fn signals_end_it_with_the_terminal_given_back() {
    let pool = Pool::with_volume();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
        screen.shows(&["generation"]);
        screen.signal(signal);
        assert_eq!(screen.ends().0, 8, "{signal:?}");
    }
}

#[test]
fn a_panic_restores_the_terminal_before_it_is_reported() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[("VCTL_CONSOLE_PANIC", "console")]);
    let (status, output) = screen.ends();
    assert_eq!(status, 101, "{output}");
    assert!(output.contains("provoked in console"), "{output}");
    let screen = Terminal::open(
        &pool.pool_dir(),
        80,
        24,
        &[("VCTL_CONSOLE_PANIC", "console-hand")],
    );
    let (status, output) = screen.ends();
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("its thread console-hand has died"), "{output}");
}

#[test]
fn control_c_leaves_as_q_does() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.shows(&["generation"]);
    screen.keys("\x03");
    assert_eq!(screen.ends().0, 0);
}

/// After a stop and a continue, output of other programs is drawn over.
#[test]
fn it_draws_anew_after_a_stop() {
    let pool = Pool::with_volume();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.shows(&["generation", "q leave"]);
    screen.signal(Signal::STOP);
    screen.signal(Signal::CONT);
    screen.keys_show("3", &["[3 Volumes]", "> v"]);
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

#[test]
fn leaving_during_a_hold_asks_first_and_ends_the_hold() {
    let pool = Pool::with_volume();
    pool.start("a");
    for end in ["q", "signal"] {
        let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
        screen.keys_show("3", &["> v"]);
        screen.keys_show("h", &["hold volume v"]);
        screen.keys_show("\r", &["holds all requests of volume v", "y confirms"]);
        screen.keys_show("y", &["release the hold", "acting: volume hold v"]);
        pool.run(["volume", "set", "v", "--mode", "0600"]).ended(4);
        if end == "q" {
            screen.keys_show("q", &["leave while this is running?", "volume hold v"]);
            screen.keys("y");
            assert_eq!(screen.ends().0, 0);
        } else {
            screen.signal(Signal::TERM);
            assert_eq!(screen.ends().0, 8);
        }
        pool.run(["volume", "set", "v", "--mode", "0600"]).ok();
    }
}
