//! A terminal in which the console runs: tests send keys to it and wait for its screen.

use pty_process::Size;
use pty_process::blocking::{Command, Pts, Pty};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, OutputModes, tcgetattr};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait.
const LONG: Duration = Duration::from_secs(150);

struct Shown {
    parser: Mutex<vt100::Parser>,
    changed: Condvar,
}

/// A running console.
pub struct Terminal {
    child: Child,
    pty: Arc<Pty>,
    /// Stays open, so that the screen can be read after the console has ended.
    pts: Pts,
    shown: Arc<Shown>,
    modes_before: (LocalModes, OutputModes),
}

impl Terminal {
    /// Starts the console of the pool in this directory, `columns` by `rows`.
    pub fn open(pool: &Path, columns: u16, rows: u16, environment: &[(&str, &str)]) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let modes_before = modes(&pts);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vctl"))
            .args(["console", "--every", "200ms"])
            .env_remove("NO_COLOR")
            .env_remove("LC_ALL")
            .env("RUST_BACKTRACE", "0")
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env("VCTL_POOL", pool)
            .envs(environment.iter().copied());
        let child = command.spawn_borrowed(&pts).unwrap();
        let (pty, shown) = (
            Arc::new(pty),
            Arc::new(Shown {
                parser: Mutex::new(vt100::Parser::new(rows, columns, 0)),
                changed: Condvar::new(),
            }),
        );
        let (from, to) = (Arc::clone(&pty), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = (&*from).read(&mut bytes) {
                to.parser.lock().unwrap().process(&bytes[..read]);
                to.changed.notify_all();
            }
        });
        Self {
            child,
            pty,
            pts,
            shown,
            modes_before,
        }
    }

    /// Returns the text of the screen.
    pub fn text(&self) -> String {
        self.shown.parser.lock().unwrap().screen().contents()
    }

    /// Applies a function to the screen.
    pub fn with<T>(&self, look: impl FnOnce(&vt100::Screen) -> T) -> T {
        look(self.shown.parser.lock().unwrap().screen())
    }

    /// Waits until the screen satisfies a condition.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + LONG;
        let mut parser = self.shown.parser.lock().unwrap();
        while !is(&parser.screen().contents()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never {what}:\n{}", parser.screen().contents());
            parser = self.shown.changed.wait_timeout(parser, left).unwrap().0;
        }
    }

    /// Waits until all of these texts are on the screen.
    #[track_caller]
    pub fn shows(&self, words: &[&str]) {
        self.until(&format!("{words:?}"), |text| {
            words.iter().all(|word| text.contains(word))
        });
    }

    /// Waits until all of these texts are on the screen, in windows where lines may be broken.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        self.until(&format!("{words:?}"), |text| {
            let inside = text.replace(['│', '|'], " ");
            let text: Vec<&str> = inside.split_whitespace().collect();
            let text = text.join(" ");
            words.iter().all(|word| text.contains(word))
        });
    }

    /// Waits until a text is not on the screen any more.
    #[track_caller]
    pub fn hides(&self, word: &str) {
        self.until(&format!("without {word:?}"), |text| !text.contains(word));
    }

    /// Presses keys.
    pub fn keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    /// Presses keys, then waits for their effect.
    #[track_caller]
    pub fn keys_show(&self, keys: &str, words: &[&str]) {
        self.keys(keys);
        self.shows(words);
    }

    /// Changes the size of the window.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.shown
            .parser
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(rows, columns);
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Waits for the end of the console; the terminal must be restored. Returns the exit status and the final screen.
    #[track_caller]
    pub fn ends(mut self) -> (i32, String) {
        let pid = self.pid();
        let descriptor = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let mut end = [rustix::event::PollFd::new(
            &descriptor,
            rustix::event::PollFlags::IN,
        )];
        let timeout = rustix::time::Timespec::try_from(LONG).unwrap();
        let ended = rustix::event::poll(&mut end, Some(&timeout)).unwrap();
        assert_eq!(ended, 1, "does not end:\n{}", self.text());
        let status = self.child.wait().unwrap();
        self.restored();
        assert_eq!(modes(&self.pts), self.modes_before);
        (status.code().unwrap_or(-1), self.text())
    }

    /// The last output of the console arrives a moment after its end.
    fn restored(&self) {
        let deadline = Instant::now() + LONG;
        let mut parser = self.shown.parser.lock().unwrap();
        while parser.screen().alternate_screen() || parser.screen().hide_cursor() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the terminal is not given back");
            parser = self.shown.changed.wait_timeout(parser, left).unwrap().0;
        }
    }
}

fn modes(pts: &Pts) -> (LocalModes, OutputModes) {
    let all = tcgetattr(pts).unwrap();
    (all.local_modes, all.output_modes)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
