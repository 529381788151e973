//! A pool of its own for each test, and commands that cannot hang.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// No command of these tests takes longer.
const LONG: Duration = Duration::from_secs(60);

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn ended(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended(0)
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:#?}");
        let value: Value = serde_json::from_str(&self.out).unwrap();
        assert_eq!(value["format"], 1, "{value}");
        value
    }

    /// `vctl: WHAT: WHY` and at most a hint, with these words in them.
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

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits for its end, and kills it if that does not come.
#[track_caller]
pub fn finish(child: Child) -> Said {
    let pid = child.id();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    match told.recv_timeout(LONG) {
        Ok(output) => output.unwrap().into(),
        Err(_) => {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("does not end: {:#?}", told.recv().unwrap().map(Said::from));
        }
    }
}

/// The program with nothing of this environment that could change what it says.
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

/// A pool's directory, with room beside it for disks and mounts. Whatever serves it is ended with it.
pub struct Pool {
    dir: TempDir,
}

impl Pool {
    /// A directory, and no pool in it.
    pub fn absent() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A pool without disks.
    pub fn empty() -> Self {
        let pool = Self::absent();
        pool.run(["pool", "create"]).ok();
        pool
    }

    /// A pool with the disks `d1` (tag `fast`) and `d2`, 64 MiB each, and a volume `v` of 8 MiB on `d1`.
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

    /// A path beside the pool.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
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
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Said {
        finish(self.command(words).spawn().unwrap())
    }

    /// With `--json`, successfully.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(words);
        finish(command.arg("--json").spawn().unwrap()).ok().json()
    }

    /// Everything that a changing verb could change: what the database says, and which files there are.
    pub fn state(&self) -> (Value, Value, Value, Vec<PathBuf>) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let mut header = self.json(["pool", "show"]);
        // A dry run takes no arbitration either.
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
        if !self.pool_dir().join("pool.db").exists() {
            return;
        }
        let Ok(output) = self.command(["apparatus", "list", "--json"]).output() else {
            return;
        };
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for apparatus in listed["apparatuses"].as_array().into_iter().flatten() {
            let name = apparatus["name"].as_str().unwrap_or_default();
            let _ = self.command(["apparatus", "fence", name]).output();
            unmount(Path::new(apparatus["mount"].as_str().unwrap_or_default()));
        }
    }
}

/// Takes a mount away, whatever state it is in.
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
