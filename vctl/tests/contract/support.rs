//! A pool for each test, and commands with a time limit.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// The longest run of a command in these tests.
const LONG: Duration = Duration::from_secs(150);

/// The output and the exit status of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    #[track_caller]
    pub fn ended(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended(0)
    }

    /// Returns the one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:#?}");
        let value: Value = serde_json::from_str(&self.out).unwrap();
        assert_eq!(value["format"], 1, "{value}");
        value
    }

    /// Asserts that standard error is `vctl: WHAT: WHY` and at most a hint, with these words in them.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        let lines: Vec<&str> = self.err.lines().collect();
        assert!(matches!(lines.len(), 1 | 2), "{self:#?}");
        assert!(
            lines[0].starts_with("vctl: ") && lines[0].matches(": ").count() >= 2,
            "{self:#?}"
        );
        assert!(
            lines.get(1).is_none_or(|hint| hint.starts_with("hint: ")),
            "{self:#?}"
        );
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {self:#?}");
        }
        self
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits for the end of a process, and kills it after the time limit.
#[track_caller]
pub fn finish(child: Child) -> CommandOutput {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LONG) {
        Ok(output) => output.unwrap().into(),
        Err(_) => {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!(
                "does not end: {:#?}",
                receiver
                    .recv_timeout(LONG)
                    .map(|output| output.map(CommandOutput::from))
            );
        }
    }
}

/// Returns the program without any environment variable that could change its output.
pub fn vctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vctl"));
    for name in ["VCTL_POOL", "NO_COLOR", "LC_ALL", "LANG", "TERM", "COLUMNS"] {
        command.env_remove(name);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A pool's directory, with room beside it for disks and mounts. Its processes end with it.
pub struct Pool {
    dir: TempDir,
}

impl Pool {
    /// Creates a directory without a pool.
    pub fn absent() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Creates a pool without disks.
    pub fn empty() -> Self {
        let pool = Self::absent();
        pool.run(["pool", "create"]).ok();
        pool
    }

    /// Creates a pool with the disks `d1` (tag `fast`) and `d2`, 64 MiB each, and a volume `v` of 8 MiB on `d1`.
    pub fn with_volume() -> Self {
        let pool = Self::empty();
        pool.run([
            "disk",
            "add",
            &pool.file("d1.img"),
            "--create",
            "64M",
            "--tag",
            "fast",
        ])
        .ok();
        pool.run(["disk", "add", &pool.file("d2.img"), "--create", "64M"])
            .ok();
        pool.run(["volume", "create", "v", "8M", "--on", "d1"]).ok();
        pool
    }

    /// Returns a path beside the pool.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a path beside the pool as text.
    pub fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn pool_dir(&self) -> PathBuf {
        self.path("pool")
    }

    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = vctl();
        command.env("VCTL_POOL", self.pool_dir()).args(words);
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> CommandOutput {
        finish(self.command(words).spawn().unwrap())
    }

    /// Runs a command with `--json`, which must succeed.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(words);
        finish(command.arg("--json").spawn().unwrap()).ok().json()
    }

    /// Returns everything that a changing verb could change: the content of the database, and the list of files.
    pub fn state(&self) -> (Value, Value, Value, Vec<PathBuf>) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let mut header = self.json(["pool", "show"]);
        // A dry run takes no controller lock either.
        header["pool"]["path"] = Value::Null;
        (
            header,
            self.json(["disk", "list"]),
            self.json(["volume", "list"]),
            files,
        )
    }

    /// Starts an apparatus on the mount point of its name.
    #[track_caller]
    pub fn start(&self, name: &str) -> PathBuf {
        let mount = self.path(&format!("mount-{name}"));
        self.run(["apparatus", "start", name, mount.to_str().unwrap()])
            .ok();
        mount
    }

    pub fn pid_of(&self, apparatus: &str) -> rustix::process::Pid {
        let shown = self.json(["apparatus", "show", apparatus]);
        let pid = shown["apparatus"]["pid"].as_i64().unwrap();
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.pool_dir().join("pool.db").exists()
            && let Ok(output) = self.command(["apparatus", "list", "--json"]).output()
        {
            let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            for apparatus in listed["apparatuses"].as_array().into_iter().flatten() {
                let name = apparatus["name"].as_str().unwrap_or_default();
                let mut fence = self.command(["apparatus", "fence", name, "--cut-off-users"]);
                // Disks whose images a test has deleted.
                for disk in ["d1", "d2"] {
                    fence.args(["--lose-disk", disk]);
                }
                let _ = fence.output();
            }
        }
        // An apparatus that no database knows ends with its mount, and a mount whose apparatus was killed stays until it is unmounted.
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = table.lines().rev().filter_map(|line| line.split(' ').nth(1));
        points
            .map(Path::new)
            .filter(|point| point.starts_with(self.dir.path()))
            .for_each(unmount);
    }
}

/// Polls until the condition is true.
#[track_caller]
pub fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !is() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// Unmounts, whatever the state of the mount.
pub fn unmount(mount: &Path) {
    for program in ["fusermount3", "umount"] {
        let flags: &[&str] = if program == "umount" {
            &["-l"]
        } else {
            &["-u", "-q", "-z"]
        };
        let run = Command::new(program)
            .args(flags)
            .arg(mount)
            .stderr(Stdio::null())
            .status();
        if run.is_ok_and(|status| status.success()) {
            return;
        }
    }
}

/// Writes a file.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Starts a command that holds a volume until its standard input ends.
pub fn hold_volume(pool: &Pool, volume: &str) -> (Child, ChildStdin) {
    let mut command = pool.command([
        "volume",
        "hold",
        volume,
        "--for",
        "50s",
        "--",
        "sh",
        "-c",
        "echo held; cat",
    ]);
    let mut holder = command.stdin(Stdio::piped()).spawn().unwrap();
    let input = holder.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    (holder, input)
}
