//! A shell in a terminal: tests type into it and read its screen.

use crate::support::Pool;
use pty_process::Size;
use pty_process::blocking::{Command, Pty};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait.
const LONG: Duration = Duration::from_secs(150);
const PROMPT: &str = "prompt>";

struct Shown {
    parser: Mutex<vt100::Parser>,
    changed: Condvar,
}

/// A running shell.
pub struct Shell {
    child: Child,
    pty: Arc<Pty>,
    shown: Arc<Shown>,
}

/// Returns the command that starts a shell without the user's configuration, and with the completion of vctl.
fn command(shell: &str, directory: &Path) -> Command {
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).unwrap();
    let words: Vec<String> = match shell {
        "bash" => {
            write("rc", format!("PS1='{PROMPT}'\nsource <(vctl completions bash)\n"));
            vec![
                "--noprofile".into(),
                "--rcfile".into(),
                directory.join("rc").display().to_string(),
                "-i".into(),
            ]
        }
        "zsh" => {
            let compinit = "autoload -Uz compinit; compinit -u -D";
            write(
                ".zshrc",
                format!("PS1='{PROMPT}'\nunsetopt beep\n{compinit}\nsource <(vctl completions zsh)\n"),
            );
            vec!["-d".into(), "-i".into()]
        }
        _ => {
            let prompt = format!("function fish_prompt; printf '{PROMPT}'; end; function fish_greeting; end");
            let rest = "set -g fish_autosuggestion_enabled 0; vctl completions fish | source";
            vec![
                "--no-config".into(),
                "-i".into(),
                "-C".into(),
                format!("{prompt}; {rest}"),
            ]
        }
    };
    let program = Path::new(env!("CARGO_BIN_EXE_vctl")).parent().unwrap();
    let path = format!(
        "{}:{}",
        program.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Command::new(shell)
        .args(words)
        .env("PATH", path)
        .env("HOME", directory)
        .env("ZDOTDIR", directory)
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .env("INPUTRC", "/dev/null")
}

impl Shell {
    /// Starts the shell of this name beside the pool; `None` where it is not installed.
    pub fn open(shell: &str, pool: &Pool) -> Option<Self> {
        let found = std::process::Command::new(shell).arg("--version").output();
        found.ok()?;
        let directory = pool.path("user");
        std::fs::create_dir(&directory).unwrap();
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(40, 120)).unwrap();
        let command = command(shell, &directory)
            .env("VCTL_POOL", pool.pool_dir())
            .current_dir(pool.path(""));
        let child = command.spawn(pts).unwrap();
        let (pty, shown) = (
            Arc::new(pty),
            Arc::new(Shown {
                parser: Mutex::new(vt100::Parser::new(40, 120, 0)),
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
        let shell = Self { child, pty, shown };
        shell.until("a prompt", |_, line| line == Some(""));
        Some(shell)
    }

    /// Waits until the screen and the line of the prompt satisfy a condition.
    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&str, Option<&str>) -> bool) {
        let deadline = Instant::now() + LONG;
        let mut parser = self.shown.parser.lock().unwrap();
        loop {
            let text = parser.screen().contents();
            let line = text
                .lines()
                .filter_map(|line| line.strip_prefix(PROMPT))
                .next_back();
            if is(&text, line.map(str::trim_end)) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never {what}:\n{text}");
            parser = self.shown.changed.wait_timeout(parser, left).unwrap().0;
        }
    }

    fn keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    /// Types a text, waits for the resulting line, and empties it.
    #[track_caller]
    pub fn line_becomes(&self, keys: &str, expected: &str) {
        self.keys(keys);
        self.until(&format!("{keys:?} to {expected:?}"), |_, line| {
            line == Some(expected)
        });
        self.keys("\x15");
        self.until("an empty line", |_, line| line == Some(""));
    }

    /// Types a text, and waits for these words on the screen.
    #[track_caller]
    pub fn shows(&self, keys: &str, words: &[&str]) {
        self.keys(keys);
        self.until(&format!("{words:?}"), |text, _| {
            words.iter().all(|word| text.contains(word))
        });
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
