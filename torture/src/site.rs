//! A pool in a temporary directory with its file systems, apparatuses and commands. All of it is taken away on drop.

use crate::filesystem::KINDS;
use crate::plan::{APPARATUSES, DISKS, How};
use crate::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The longest time for a command, a start or an end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Result of what a user should read.
pub(crate) type Outcome<T> = Result<T, String>;

/// How a command of `vctl` ended.
pub(crate) struct Ended {
    /// `None` if a signal ended it.
    pub(crate) status: Option<i32>,
    /// This program killed it as it meant to.
    pub(crate) killed: bool,
    /// It did not end in time.
    pub(crate) hung: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The place of a run.
pub(crate) struct Site {
    dir: TempDir,
    programs: PathBuf,
    apparatuses: [Mutex<Option<Process>>; APPARATUSES],
    /// Set when the program is to end early.
    pub(crate) stop: std::sync::Arc<AtomicBool>,
    commands: AtomicU64,
    /// Loop devices that commands have made.
    attached: Mutex<BTreeSet<PathBuf>>,
    /// Whether the last disk and the pool's directory have file systems of their own.
    pub(crate) own_filesystems: bool,
    /// Whether the apparatuses have supervisors.
    supervised: bool,
}

fn described<T>(what: &Path, result: io::Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{}: {error}", what.display()))
}

/// Runs a program of the system quietly, and returns whether it succeeded.
fn run(program: &str, words: &[&str], paths: &[&Path]) -> bool {
    let mut command = Command::new(program);
    command.args(words).args(paths).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Waits until a process says that it is ready (sd_notify(3)). Returns false when it ends before, or does not say so in time.
fn becomes_ready(notices: &UnixDatagram, process: &Process) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut notice = [0; 4096];
    loop {
        let mut polled = [
            PollFd::new(notices, PollFlags::IN),
            PollFd::new(process.handle(), PollFlags::IN),
        ];
        let left = end.saturating_duration_since(Instant::now());
        let _ = poll(&mut polled, Timespec::try_from(left).ok().as_ref());
        if !polled[0].revents().contains(PollFlags::IN) {
            return false;
        }
        let len = notices.recv(&mut notice).unwrap_or(0);
        let text = String::from_utf8_lossy(&notice[..len]);
        if text.lines().any(|line| line == "READY=1") {
            return true;
        }
    }
}

/// Sends a signal to the first child of a process. Returns whether it has one.
fn signal_child(parent: u32, signal: Signal) -> bool {
    let child = || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    };
    let Some(pid) = child() else {
        return false;
    };
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // The number may have become another process's since it was read.
    let process = process.filter(|_| child() == Some(pid));
    process.is_some_and(|process| pidfd_send_signal(&process, signal).is_ok())
}

impl Site {
    /// Prepares the directories and file systems.
    pub(crate) fn set(parent: &Path, stop: std::sync::Arc<AtomicBool>, supervised: bool) -> Outcome<Self> {
        let dir = described(
            parent,
            tempfile::Builder::new().prefix("torture-").tempdir_in(parent),
        )?;
        let own = described(Path::new("the program's path"), std::env::current_exe())?;
        // A test's program is one directory deeper.
        let beside = own.ancestors().skip(1).take(2);
        let programs = beside
            .filter(|dir| dir.join("vctl").exists())
            .find(|dir| dir.join("apparatus").exists());
        let programs = programs.ok_or_else(|| {
            format!(
                "{}: vctl and apparatus are not beside it: build them first, as it was built",
                own.display()
            )
        })?;
        let mut site = Self {
            programs: programs.to_owned(),
            dir,
            apparatuses: Default::default(),
            stop,
            commands: AtomicU64::new(0),
            attached: Mutex::default(),
            own_filesystems: false,
            supervised,
        };
        for dir in [site.path("state"), site.path("small"), site.path("mounts")] {
            described(&dir, fs::create_dir(&dir))?;
        }
        site.own_filesystems = rustix::process::geteuid().is_root() && site.mount_filesystems();
        site.break_disk(None)?;
        Ok(site)
    }

    /// Mounts a small ext4 for the last disk, and a tmpfs for the pool's directory.
    fn mount_filesystems(&self) -> bool {
        let (image, small) = (self.path("small.fs"), self.path("small"));
        let made = File::create(&image).and_then(|file| file.set_len(64 << 20));
        made.is_ok()
            && run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&image])
            && run("mount", &["-o", "loop"], &[&image, &small])
            && run(
                "mount",
                &["-t", "tmpfs", "-o", "size=96m", "torture"],
                &[&self.path("state")],
            )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns whether the pool's events of the last minutes say that a disk lost writes.
    pub(crate) fn has_reported_losses(&self) -> bool {
        let events = self.vctl(&["events", "--since", "2m", "--lines", "100000"], None);
        events.is_ok_and(|ended| ended.out.contains("has failed to write data"))
    }

    /// Returns the control socket of an apparatus.
    pub(crate) fn socket(&self, apparatus: usize) -> PathBuf {
        self.path("state/pool/run").join(format!("a{apparatus}.sock"))
    }

    pub(crate) fn mount(&self, apparatus: usize) -> PathBuf {
        self.dir.path().join(format!("mounts/a{apparatus}"))
    }

    /// Returns the path of the image of a disk.
    pub(crate) fn image(&self, disk: u64) -> PathBuf {
        if disk + 1 == DISKS {
            self.path(&format!("small/d{disk}.img"))
        } else {
            self.path(&format!("d{disk}.img"))
        }
    }

    /// Makes a disk fail for the apparatuses, or none.
    pub(crate) fn break_disk(&self, broken: Option<(u64, How)>) -> Outcome<()> {
        let rules = (0..DISKS).map(|disk| {
            let rule = broken.filter(|(one, _)| *one == disk).map(|(_, how)| how.rule());
            format!("{:?}: [{}]", self.image(disk), rule.unwrap_or_default())
        });
        let text = format!("{{ {} }}", rules.collect::<Vec<_>>().join(", "));
        let (file, new) = (self.path("faults.ron"), self.path("faults.new"));
        described(&new, fs::write(&new, text))?;
        described(&file, fs::rename(&new, &file))
    }

    /// Fills a file system of this site's own.
    pub(crate) fn fill(&self, dir: &str) {
        if !self.own_filesystems {
            return;
        }
        let filler = self.path(dir).join("filler");
        if let Ok(mut file) = File::create(filler) {
            for size in [1 << 20, 4096, 512] {
                while file.write_all(&vec![1; size]).is_ok() {}
            }
            let _ = file.sync_all();
        }
    }

    pub(crate) fn unfill(&self, dir: &str) {
        let _ = fs::remove_file(self.path(dir).join("filler"));
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .env("VCTL_POOL", self.path("state/pool"))
            .env("APPARATUS_FAULTS", self.path("faults.ron"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of `vctl`, and kills it after a time if that is asked for.
    pub(crate) fn vctl(&self, words: &[&str], kill_after: Option<Duration>) -> Outcome<Ended> {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (
            self.path(&format!("vctl-{number}.out")),
            self.path(&format!("vctl-{number}.err")),
        );
        let mut command = self.program("vctl");
        command.args(words);
        command.stdout(described(&out, File::create(&out))?);
        command.stderr(described(&err, File::create(&err))?);
        let spawned = Process::spawn(&mut command);
        let mut process = described(Path::new("vctl"), spawned)?;
        let status = process.wait(kill_after.unwrap_or(PATIENCE), &self.stop);
        let ran_on = status.is_none();
        let gone = !ran_on || process.kill();
        let read = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let _ = fs::remove_file(path);
            text
        };
        Ok(Ended {
            status: status.and_then(|status| status.code()),
            killed: ran_on && gone && (kill_after.is_some() || self.stop.load(Ordering::Relaxed)),
            hung: ran_on && (!gone || kill_after.is_none() && !self.stop.load(Ordering::Relaxed)),
            out: read(&out),
            err: read(&err),
        })
    }

    /// Runs a program of the system that has to succeed.
    pub(crate) fn tool(&self, words: &[&str]) -> Outcome<()> {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let stderr = self.path(&format!("tool-{number}.err"));
        let err = described(&stderr, File::create(&stderr))?;
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut process = described(Path::new(words[0]), Process::spawn(command.stderr(err)))?;
        let status = process.wait(PATIENCE, &self.stop);
        let text = fs::read_to_string(&stderr).unwrap_or_default();
        let _ = fs::remove_file(&stderr);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("{}: {status}: {}", words.join(" "), text.trim())),
            None => Err(format!("{}: does not end", words.join(" "))),
        }
    }

    /// Runs a command that has to succeed.
    pub(crate) fn must(&self, words: &[&str]) -> Outcome<String> {
        let ended = self.vctl(words, None)?;
        match ended.status {
            Some(0) => Ok(ended.out),
            _ => Err(format!(
                "vctl {}: {:?}{}: {}{}",
                words.join(" "),
                ended.status,
                if ended.hung { " (does not end)" } else { "" },
                ended.err.trim(),
                ended.out.trim()
            )),
        }
    }

    /// Runs a command with `--json` that has to succeed.
    pub(crate) fn json(&self, words: &[&str]) -> Outcome<serde_json::Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let text = self.must(&words)?;
        serde_json::from_str(&text).map_err(|error| format!("vctl {}: {error}", words.join(" ")))
    }

    fn slot(&self, apparatus: usize) -> MutexGuard<'_, Option<Process>> {
        self.apparatuses[apparatus]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an apparatus, unless it runs, and waits until it serves.
    pub(crate) fn start(&self, apparatus: usize) -> Outcome<()> {
        let mut slot = self.slot(apparatus);
        if slot.is_some() {
            return Ok(());
        }
        let name = format!("a{apparatus}");
        let log = self.path(&format!("{name}.log"));
        let opened = OpenOptions::new().create(true).append(true).open(&log);
        let socket = self.path(&format!("{name}.ready"));
        let _ = fs::remove_file(&socket);
        let ready = described(&socket, UnixDatagram::bind(&socket))?;
        let mut command = self.program("apparatus");
        command
            .args(["--name", &name, "--mount"])
            .arg(self.mount(apparatus))
            .args(self.supervised.then_some("--supervisor"));
        command
            .env("NOTIFY_SOCKET", &socket)
            .stderr(described(&log, opened)?);
        let process = described(Path::new("apparatus"), Process::spawn(&mut command))?;
        if !becomes_ready(&ready, &process) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            return Err(format!("apparatus {name} does not serve: {last}"));
        }
        *slot = Some(process);
        Ok(())
    }

    /// Sends a signal to an apparatus; where it has a supervisor, to its server.
    pub(crate) fn signal(&self, apparatus: usize, signal: Signal) {
        match (&*self.slot(apparatus), self.supervised) {
            (Some(supervisor), true) => _ = signal_child(supervisor.pid(), signal),
            (Some(process), false) => process.signal(signal),
            (None, _) => (),
        }
    }

    /// Kills the server of an apparatus that has a supervisor. Returns whether there was one.
    pub(crate) fn crash(&self, apparatus: usize) -> bool {
        let slot = self.slot(apparatus);
        slot.as_ref()
            .is_some_and(|supervisor| signal_child(supervisor.pid(), Signal::KILL))
    }

    /// Kills an apparatus; returns whether it is gone.
    pub(crate) fn kill(&self, apparatus: usize) -> bool {
        let mut slot = self.slot(apparatus);
        let gone = slot.as_mut().is_none_or(Process::kill);
        *slot = None;
        gone
    }

    /// Waits until an apparatus that was asked to end has ended in good order, and kills it otherwise.
    pub(crate) fn ended(&self, apparatus: usize) -> Outcome<()> {
        let mut slot = self.slot(apparatus);
        let Some(mut process) = slot.take() else {
            return Ok(());
        };
        match process.wait(PATIENCE, &self.stop) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("apparatus a{apparatus} ended with {status}")),
            None => Err(format!("apparatus a{apparatus} does not end")),
        }
    }

    /// Forgets an apparatus that has ended by itself, and returns how.
    pub(crate) fn died(&self, apparatus: usize) -> Option<std::process::ExitStatus> {
        let mut slot = self.slot(apparatus);
        let status = slot
            .as_mut()
            .and_then(|process| process.wait(Duration::ZERO, &self.stop));
        if status.is_some() {
            *slot = None;
        }
        status
    }

    /// Returns the process numbers of the apparatuses that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        (0..APPARATUSES)
            .filter_map(|one| self.slot(one).as_ref().map(Process::pid))
            .collect()
    }

    /// Returns the end of an apparatus's log.
    pub(crate) fn log(&self, apparatus: usize) -> String {
        let text = fs::read_to_string(self.path(&format!("a{apparatus}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Keeps the directory for a look at it.
    pub(crate) fn keep_logs(&self, to: &Path) -> Outcome<()> {
        described(to, fs::create_dir_all(to))?;
        for apparatus in 0..APPARATUSES {
            let name = format!("a{apparatus}.log");
            let _ = fs::copy(self.path(&name), to.join(&name));
        }
        for name in ["pool.db", "pool.db-wal"] {
            let _ = fs::copy(self.path("state/pool").join(name), to.join(name));
        }
        Ok(())
    }

    /// Remembers a loop device that a command has printed.
    pub(crate) fn remember_loop(&self, printed: &str) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.insert(printed.trim().into());
    }

    /// Detaches the loop devices that commands have made and nobody else has taken since.
    fn detach_loops(&self) {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        for device in attached.iter() {
            let name = device.file_name().unwrap_or_default();
            let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
            let backing = fs::read_to_string(backing).unwrap_or_default();
            let backing = Path::new(backing.trim());
            // The path of a volume whose mount is gone has no directories.
            if backing.starts_with(self.dir.path()) || backing.parent() == Some(Path::new("/")) {
                run("losetup", &["--detach"], &[device]);
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for apparatus in 0..APPARATUSES {
            self.kill(apparatus);
        }
        let unmount = |place: &Path| {
            let _ = run("umount", &["-l"], &[place]) || run("fusermount3", &["-u", "-q", "-z"], &[place]);
        };
        KINDS.iter().for_each(|kind| unmount(&self.path(kind.volume)));
        (0..APPARATUSES).for_each(|apparatus| unmount(&self.mount(apparatus)));
        self.detach_loops();
        // The member table is in memory; the pool's directory names it.
        let table = fs::read_link(self.path("state/pool/run/members"));
        let _ = table.and_then(fs::remove_file);
        unmount(&self.path("small"));
        unmount(&self.path("state"));
    }
}
