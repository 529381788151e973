//! A pool in a directory of its own and apparatuses as real processes, for tests. Every wait has a bound; what a test leaves
//! behind is ended and unmounted on drop.
//!
//! A test that hangs in a mount cannot be interrupted from inside. So each process has a watchdog that kills it in the end: the
//! kernel then ends all waits for it.
#![allow(dead_code, unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use apparatus::blockdev::{Candidate, create_image};
use apparatus::controller::pool::open_store;
use apparatus::controller::{Controller, Wait};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::names::Name;
use apparatus::model::records::{
    Area, Delta, DiskAccess, DiskRecord, Edit, NewPool, Segment, Span, VolumeRecord,
};
use apparatus::model::units::{ByteCount, DiskExtent, DiskId, ExtentSize, VolumeExtent};
use apparatus::protocol::controller::Outcome;
use apparatus::store::{self, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

/// Longest life of a process of a test.
const WATCHDOG: Duration = Duration::from_secs(240);
/// How long an apparatus may take to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(100);

/// Returns how the disks of the tests' pools are used: directly in `direct.rs`, which runs the tests of other files once more.
pub fn access() -> DiskAccess {
    match env!("CARGO_CRATE_NAME") {
        "direct" => DiskAccess::Direct,
        _ => DiskAccess::Cached,
    }
}

/// A pool of image disks.
pub struct TestPool {
    pub dir: PoolDir,
    pub extent_size: ExtentSize,
    scratch: TempDir,
}

impl TestPool {
    /// Makes a pool without disks or volumes.
    pub fn new(extent_size: u64) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), extent_size)
    }

    /// Makes a pool in this directory.
    pub fn in_dir(scratch: TempDir, extent_size: u64) -> Self {
        let extent_size = ExtentSize::new(extent_size).unwrap();
        let dir = PoolDir::new(scratch.path().join("pool"));
        let access = access();
        store::create(&dir, NewPool { extent_size, access }).unwrap();
        Self {
            dir,
            extent_size,
            scratch,
        }
    }

    /// Returns the directory of all files of this test.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn store(&self) -> Box<dyn Store> {
        open_store(&self.dir).unwrap()
    }

    /// Takes the controller lock.
    pub fn controller(&self) -> Controller {
        Controller::acquire(&self.dir, "test", Wait::For(Some(PATIENCE))).unwrap()
    }

    /// Runs a change of the table through all apparatuses, and persists it; holds all requests in `spans`.
    pub fn change(&self, edits: Vec<Edit>, spans: Vec<Span>) -> Outcome {
        let mut controller = self.controller();
        let from = controller.store().header().unwrap().generation;
        let change = NewChange {
            title: "test".into(),
            job: None,
            delta: Delta { from, edits },
            spans,
            mode: HoldMode::All,
        };
        controller.run(change, true, &mut || Ok(())).unwrap()
    }

    /// Returns the path of a disk's image.
    pub fn image(&self, disk: &str) -> PathBuf {
        self.scratch().join(format!("{disk}.img"))
    }

    /// Makes an image of `extents` extents, its label included, and adds it.
    pub fn add_disk(&self, name: &str, extents: u64) -> DiskRecord {
        let path = self.image(name);
        create_image(
            &path,
            ByteCount(extents * self.extent_size.bytes()),
            self.extent_size,
        )
        .unwrap();
        self.adopt_disk(name, extents)
    }

    /// Adds an existing file or device at the path of this disk's image.
    pub fn adopt_disk(&self, name: &str, extents: u64) -> DiskRecord {
        let path = self.image(name);
        let header = self.store().header().unwrap();
        let known = self.store().disks().unwrap();
        let candidate = Candidate::inspect(&path, &header, &known).unwrap();
        let record = DiskRecord {
            id: self.store().next_disk_id().unwrap(),
            name: name_of(name),
            uuid: Uuid::new_v4(),
            path,
            extents,
            tags: BTreeSet::new(),
            allocate: true,
            reserve: 0,
            label: 0,
        };
        candidate.write_label(&header, record.uuid).unwrap();
        self.change(vec![Edit::AddDisk(record.clone())], vec![]);
        record
    }

    /// Makes a volume of that size in bytes, on these runs of extents: (disk, first extent, number).
    pub fn add_volume(&self, name: &str, size: u64, placements: &[(DiskId, u64, u64)]) -> VolumeRecord {
        let record = self.volume_record(name, size);
        self.add(&record, placements);
        record
    }

    /// Returns the record of a new volume, owned by this user and readable by all.
    pub fn volume_record(&self, name: &str, size: u64) -> VolumeRecord {
        VolumeRecord {
            id: self.store().next_volume_id().unwrap(),
            name: name_of(name),
            size: ByteCount(size),
            mode: 0o644,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            read_only: false,
        }
    }

    /// Adds a volume with these placements.
    pub fn add(&self, record: &VolumeRecord, placements: &[(DiskId, u64, u64)]) {
        let map = Edit::Map {
            volume: record.id,
            segments: segments(0, placements),
        };
        self.change(vec![Edit::AddVolume(record.clone()), map], vec![]);
    }

    /// Starts an apparatus and waits until it serves.
    pub fn start(&self, name: &str) -> Daemon {
        self.start_with(name, &[])
    }

    /// Starts an apparatus with further arguments, and waits until it serves.
    pub fn start_with(&self, name: &str, arguments: &[&str]) -> Daemon {
        let mut command = self.command(name, &self.mount_point(name));
        command.args(arguments);
        // All tests can be run over io_uring: what they start has a supervisor or another transport only where they say so.
        if let Some(transport) = std::env::var_os("TRANSPORT")
            && !arguments.contains(&"--supervisor")
            && !arguments.contains(&"--transport")
        {
            command.arg("--transport").arg(transport);
        }
        Daemon::start(command, self.scratch(), name, self.mount_point(name))
    }

    /// Returns the mount point of an apparatus of this name.
    pub fn mount_point(&self, name: &str) -> PathBuf {
        self.scratch().join("mounts").join(name)
    }

    /// Returns the command that runs an apparatus.
    pub fn command(&self, name: &str, mount: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apparatus"));
        command
            .arg("--pool")
            .arg(self.dir.path())
            .args(["--name", name, "--mount"])
            .arg(mount);
        command
    }

    /// Runs an apparatus that is expected to fail at the start, and returns its output.
    pub fn refused(&self, command: &mut Command) -> String {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (guard, _watchdog) = watch(&child, PATIENCE);
        let output = child.wait_with_output().unwrap();
        drop(guard);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Returns adjacent segments from that extent of the volume.
pub fn segments(first: u64, placements: &[(DiskId, u64, u64)]) -> Vec<Segment> {
    let mut at = first;
    placements
        .iter()
        .map(|&(disk, start, len)| {
            let start = DiskExtent(start);
            let segment = Segment {
                start: VolumeExtent(at),
                placement: Area { disk, start, len },
            };
            at += len;
            segment
        })
        .collect()
}

pub fn name_of(name: &str) -> Name {
    Name::new("test", name).unwrap()
}

/// A running apparatus.
pub struct Daemon {
    child: Child,
    handle: Arc<OwnedFd>,
    mount: PathBuf,
    log: PathBuf,
    _guard: Sender<()>,
}

impl Daemon {
    /// Runs the command and waits until it reports that it serves.
    pub fn start(mut command: Command, scratch: &Path, name: &str, mount: PathBuf) -> Self {
        let log = scratch.join(format!("{name}.log"));
        let log_text = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let notify = scratch.join(format!("{name}.ready"));
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        // The apparatus may belong to another user.
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();
        let child = command
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stderr(log_text)
            .spawn()
            .unwrap();
        let (guard, handle) = watch(&child, WATCHDOG);
        let daemon = Self {
            child,
            handle,
            mount,
            log,
            _guard: guard,
        };
        daemon.await_ready(&ready);
        daemon
    }

    fn await_ready(&self, ready: &UnixDatagram) {
        let mut message = [0; 4096];
        loop {
            let mut fds = [
                PollFd::new(ready, PollFlags::IN),
                PollFd::new(&*self.handle, PollFlags::IN),
            ];
            poll(&mut fds, Some(&timespec(PATIENCE))).unwrap();
            assert!(
                fds[0].revents().contains(PollFlags::IN),
                "not ready:\n{}",
                self.log_text()
            );
            // Warnings come first.
            let len = ready.recv(&mut message).unwrap();
            if message[..len].starts_with(b"READY=1") {
                return;
            }
        }
    }

    /// Returns the path of a volume's file.
    pub fn path(&self, volume: &str) -> PathBuf {
        self.mount.join(volume)
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Opens a volume for reading and writing.
    pub fn open(&self, volume: &str) -> File {
        let path = self.path(volume);
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), self.log_text()))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its output so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&*self.handle, signal).unwrap();
    }

    /// Returns whether it still runs.
    pub fn is_alive(&self) -> bool {
        !ended(&self.handle, Duration::ZERO)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        assert!(
            ended(&self.handle, PATIENCE),
            "does not end:\n{}",
            self.log_text()
        );
        self.child.wait().unwrap()
    }

    /// Asks it to stop and waits until it has ended successfully.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log_text());
        assert!(
            !is_mount_point(&self.mount),
            "still mounted:\n{}",
            self.log_text()
        );
    }

    /// Kills it; the mount stays, dead.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
        // `drop` does not unmount it then.
        self.mount = PathBuf::new();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = pidfd_send_signal(&*self.handle, Signal::TERM);
            if !ended(&self.handle, Duration::from_secs(10)) {
                let _ = pidfd_send_signal(&*self.handle, Signal::KILL);
            }
        }
        // One that waits for a disk which the test has not let go yet ends after this.
        match ended(&self.handle, Duration::from_secs(10)) {
            true => drop(self.child.wait()),
            false => eprintln!("{} is killed and has not ended", self.log.display()),
        }
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log_text());
        }
        if is_mount_point(&self.mount) {
            unmount(&self.mount);
        }
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        // The member table is not used any more; it is in memory.
        if let Ok(table) = fs::read_link(self.dir.run().join("members")) {
            let _ = fs::remove_file(table);
        }
        // This also unmounts the dead mounts of apparatuses that were killed.
        for entry in fs::read_dir(self.scratch().join("mounts"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if is_mount_point(&entry.path()) {
                unmount(&entry.path());
            }
        }
    }
}

fn unmount(mount: &Path) {
    let by = if rustix::process::geteuid().is_root() {
        Command::new("umount").arg("-l").arg(mount).status()
    } else {
        Command::new("fusermount3").args(["-u", "-z"]).arg(mount).status()
    };
    let _ = by;
}

/// Returns whether something is mounted there, without accessing the mount, which may be dead.
pub fn is_mount_point(place: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = place.to_string_lossy().into_owned();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&place))
}

/// Kills the process when the time is over, unless the sender is dropped first.
fn watch(child: &Child, limit: Duration) -> (Sender<()>, Arc<OwnedFd>) {
    let pid = Pid::from_child(child);
    let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty()).unwrap());
    let (guard, guarded) = channel();
    let target = handle.clone();
    thread::spawn(move || {
        if guarded.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = pidfd_send_signal(&*target, Signal::KILL);
        }
    });
    (guard, handle)
}

fn ended(handle: &impl AsFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    poll(&mut fds, Some(&timespec(within))).unwrap() == 1
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap()
}

/// Numbers that look random and are the same each time (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a number less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_ne_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Reads until the buffer is full or the file ends.
pub fn read_up_to(file: &File, len: usize, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], at + done as u64).unwrap() {
            0 => break,
            read => done += read,
        }
    }
    bytes.truncate(done);
    bytes
}
