//! A pool at work on the recording file system, and a recovery on it.

use super::after::{DATABASE, LOG, Machine, recover};
use super::hosts::{BLOCK, Host, Note, Notes, Reported, Volume};
use super::record::{Entry, read};
use super::recorder;
use super::support::{Daemon, TestPool, is_mount_point};
use apparatus::admin::plan::NewVolume;
use apparatus::admin::send::send;
use apparatus::admin::volume::{Placing, plan_create, plan_remove};
use apparatus::controller::Controller;
use apparatus::jobs::{self, Observer, Request};
use apparatus::model::alloc::Faults;
use apparatus::model::error::Result;
use apparatus::model::job::{JobLimits, JobRecord, JobState};
use apparatus::model::names::Name;
use apparatus::model::records::Edit;
use apparatus::model::units::{ByteCount, DiskId, VolumeId};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const EXTENT: u64 = 64 << 10;
const DISKS: [&str; 3] = ["a", "b", "c"];
const DISK_EXTENTS: u64 = 20;
/// The volumes that are there all the time, and their sizes in extents.
const VOLUMES: [(&str, u64); 2] = [("v", 6), ("w", 4)];
const NOTES: &str = "notes";
/// Where the recorder is mounted. Without it, cut files lie there, so that everything has the paths that it was recorded with.
pub(crate) const MOUNT: &str = "mount";
const PATIENCE: Duration = Duration::from_secs(100);
/// How long the recorder lives at most.
const LIFE: Duration = Duration::from_secs(500);
const ASKED: [&str; 3] = ["RECORDER_OF", "RECORDER_AT", "RECORDER_LOG"];
const ROUNDS: usize = 16;
/// How many bursts of writes each host makes beside a command, at least.
const BURSTS: usize = 4;

/// Makes a directory in memory, where the machine has one.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Serves as the recorder if this process is one.
pub(crate) fn serve_if_asked() {
    let asked: Vec<PathBuf> = ASKED
        .iter()
        .filter_map(|name| Some(std::env::var_os(name)?.into()))
        .collect();
    let [backing, mount, log] = asked.as_slice() else {
        return;
    };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    thread::spawn(|| {
        thread::park_timeout(LIFE);
        std::process::abort();
    });
    recorder::serve(backing, mount, log).unwrap();
}

/// The recorder, as a process of its own: this test program.
pub(crate) struct Recorder {
    child: Child,
    mount: PathBuf,
    backing: PathBuf,
    log: PathBuf,
}

impl Recorder {
    pub(crate) fn start(base: &Path, backing: PathBuf) -> Self {
        let (mount, log) = (base.join(MOUNT), backing.with_extension("log"));
        for dir in [&mount, &backing] {
            fs::create_dir_all(dir).unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "the_recorder_in_a_process_of_its_own", "--nocapture"])
            .stdout(Stdio::null());
        for (name, value) in ASKED.into_iter().zip([&backing, &mount, &log]) {
            command.env(name, value);
        }
        let recorder = Self {
            child: command.spawn().unwrap(),
            mount,
            backing,
            log,
        };
        let until = Instant::now() + PATIENCE;
        while !is_mount_point(&recorder.mount) {
            assert!(Instant::now() < until, "the recorder does not mount");
            thread::sleep(Duration::from_millis(2));
        }
        recorder
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        read(&self.log).unwrap()
    }

    /// Returns the files that are recorded, by inode.
    fn names(&self, below: &str, images: &[String]) -> BTreeMap<u64, String> {
        let all = [DATABASE.to_owned(), LOG.to_owned()].into_iter();
        all.chain(images.iter().cloned())
            .map(|name| {
                let found = fs::metadata(self.backing.join(below).join(&name)).unwrap();
                (found.ino(), name)
            })
            .collect()
    }

    fn contents(&self, below: &str, names: &BTreeMap<u64, String>) -> BTreeMap<u64, Vec<u8>> {
        let content = |name: &String| fs::read(self.backing.join(below).join(name)).unwrap();
        names.iter().map(|(file, name)| (*file, content(name))).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Its end ends all waits for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
        if is_mount_point(&self.mount) {
            let _ = Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(&self.mount)
                .status();
        }
    }
}

/// What was recorded of a pool at work.
pub(crate) struct Recorded {
    pub(crate) entries: Vec<Entry>,
    /// The recorded files, by inode.
    pub(crate) names: BTreeMap<u64, String>,
    /// What they were at the beginning, durably.
    pub(crate) initial: BTreeMap<u64, Vec<u8>>,
    pub(crate) images: Vec<String>,
    /// The file with the notes.
    pub(crate) notes: u64,
    /// What had been reported before.
    pub(crate) reported: Reported,
    log: PathBuf,
    /// The directory of the pool's directory and the disks.
    pub(crate) root: PathBuf,
    base: Arc<TempDir>,
}

impl Recorded {
    /// Counts the entries of the recorded files.
    pub(crate) fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            let (kind, file) = match entry {
                Entry::Write { file, .. } => ("writes", file),
                Entry::Clear { file, .. } => ("discards", file),
                Entry::Resize { file, .. } => ("sizes", file),
                Entry::Flush { file, .. } => ("flushes", file),
                _ => continue,
            };
            if self.names.contains_key(file) {
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts
    }

    /// Says where the record is, for who looks at a failure.
    pub(crate) fn keep(&self) {
        eprintln!(
            "the record: {} in {}",
            self.log.display(),
            self.base.path().display()
        );
    }
}

/// Watches nothing and stops nothing.
struct Quiet;

impl Observer for Quiet {
    fn progress(&mut self, _: &JobRecord, _: u64, _: u64) -> bool {
        true
    }
}

struct Scene {
    pool: TestPool,
    disks: Vec<DiskId>,
    volumes: Vec<VolumeId>,
    notes: Notes,
    daemons: Vec<Daemon>,
}

impl Scene {
    fn new(mount: &Path) -> Self {
        let pool = TestPool::in_dir(
            tempfile::Builder::new().prefix("pool").tempdir_in(mount).unwrap(),
            EXTENT,
        );
        let disks: Vec<DiskId> = DISKS.map(|name| pool.add_disk(name, DISK_EXTENTS).id).into();
        let volumes = (0..).zip(VOLUMES).map(|(index, (name, extents))| {
            let half = extents / 2;
            let placements = [(disks[index], 8, half), (disks[index], 4, extents - half)];
            pool.add_volume(name, extents * EXTENT, &placements).id
        });
        let volumes = volumes.collect();
        let notes = Notes::new(File::create(mount.join(NOTES)).unwrap());
        Self {
            pool,
            disks,
            volumes,
            notes,
            daemons: Vec::new(),
        }
    }

    fn serve(&mut self, base: &Path) {
        for name in ["a1", "a2"] {
            let mount = base.join(name);
            let command = self.pool.command(name, &mount);
            self.daemons.push(Daemon::start(command, base, name, mount));
        }
    }

    fn host(&self, name: &str, id: VolumeId, extents: u64, seed: u64) -> Host {
        let open = |flags: i32| {
            let open = |daemon: &Daemon| {
                let mut options = OpenOptions::new();
                options.read(true).write(true).custom_flags(flags);
                options.open(daemon.path(name)).unwrap()
            };
            self.daemons.iter().map(open).collect()
        };
        Host {
            volume: u32::try_from(id.0).unwrap(),
            blocks: u32::try_from(extents * EXTENT / BLOCK).unwrap(),
            files: open(0),
            durable: open(libc::O_DSYNC),
            notes: self.notes.clone(),
            seed,
        }
    }

    fn run(&self, request: &Request) {
        let mut controller = self.pool.controller();
        // Chunks are as small as they can be, so that there are many.
        let limits = JobLimits {
            hold_target_us: Some(1),
            ..JobLimits::default()
        };
        let job = jobs::create(&mut controller, request, &Faults::new(), "move", limits).unwrap();
        if let Some(job) = job {
            assert_eq!(
                jobs::run(&mut controller, job, &mut Quiet).unwrap(),
                JobState::Done
            );
        }
    }

    fn moves(&self, volume: usize, disk: usize) {
        self.run(&Request::Move {
            volume: self.volumes[volume],
            range: None,
            from: None,
            to: vec![self.disks[disk]],
            policy: None,
        });
    }

    /// Empties a disk, and lets it be used again.
    fn evacuates(&self, disk: usize) {
        self.run(&Request::Evacuate {
            disk: self.disks[disk],
            to: Vec::new(),
            use_reserve: false,
        });
        let disks = self.pool.store().disks().unwrap();
        let mut record = disks
            .into_iter()
            .find(|record| record.id == self.disks[disk])
            .unwrap();
        record.allocate = true;
        self.pool.change(vec![Edit::SetDisk(record)], Vec::new());
    }

    /// Creates a volume, writes to it, and removes it.
    fn creates_and_removes(&self, seed: u64) {
        let (name, extents) = ("temporary", 2);
        let mut controller = self.pool.controller();
        let id = controller.store().next_volume_id().unwrap();
        create_volume(&mut controller, name, extents * EXTENT).unwrap();
        drop(controller);
        let volume = u32::try_from(id.0).unwrap();
        self.notes.add(Note::Created { volume });
        self.host(name, id, extents, seed).work([(); 3]);
        self.notes.add(Note::Removes { volume });
        let mut controller = self.pool.controller();
        let planned = plan_remove(controller.store(), name).unwrap();
        send(&mut controller, "volume remove", &planned).unwrap();
        self.notes.add(Note::Removed { volume });
    }

    fn work(&self, seed: u64) {
        thread::scope(|scope| {
            let mut hosts = Vec::new();
            for (index, (name, extents)) in (0_usize..).zip(VOLUMES) {
                let host = self.host(name, self.volumes[index], extents, seed * 10 + index as u64);
                let (bursts, reported) = channel();
                hosts.push(bursts);
                scope.spawn(move || host.work(reported));
            }
            // The hosts work beside each command, and end with the last one.
            let work = |volume: usize| {
                for (index, host) in hosts.iter().enumerate() {
                    let bursts = if index == volume { 2 * BURSTS } else { BURSTS };
                    (0..bursts).for_each(|_| host.send(()).unwrap());
                }
            };
            for round in 0..ROUNDS {
                work(0);
                self.moves(0, (round + 1) % 3);
                if round % 3 == 0 {
                    work(1);
                    self.creates_and_removes(seed * 100 + round as u64);
                }
                work(1);
                self.moves(1, (round + 2) % 3);
                if round % 4 == 3 {
                    work(0);
                    self.evacuates(round % 3);
                }
            }
        });
    }
}

/// Creates a volume of this many bytes on any disk.
pub(crate) fn create_volume(controller: &mut Controller, name: &str, bytes: u64) -> Result<()> {
    let new = NewVolume {
        name: Name::new("volume", name)?,
        size: ByteCount(bytes),
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        read_only: false,
    };
    let placing = Placing {
        on: &[],
        policy: None,
        faults: &Faults::new(),
    };
    let planned = plan_create(controller.store(), &new, placing)?;
    send(controller, "volume create", &planned).map(drop)
}

/// Returns the paths of all images of a pool.
fn images() -> Vec<String> {
    DISKS.iter().map(|disk| format!("{disk}.img")).collect()
}

/// Records a pool at work.
pub(crate) fn record(seed: u64) -> Recorded {
    let base = Arc::new(scratch());
    let recorder = Recorder::start(base.path(), base.path().join("backing"));
    let mut scene = Scene::new(&recorder.mount);
    let below = scene
        .pool
        .scratch()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let names = recorder.names(&below, &images());
    let initial = recorder.contents(&below, &names);
    let before = recorder.entries().len();
    scene.serve(base.path());
    scene.work(seed);
    scene.daemons.drain(..).for_each(Daemon::stop);
    let notes = fs::metadata(recorder.backing.join(NOTES)).unwrap().ino();
    let entries = recorder.entries().split_off(before);
    assert_eq!(
        names,
        recorder.names(&below, &images()),
        "a file has been replaced"
    );
    unseen(&entries, &initial, &recorder.contents(&below, &names));
    let root = scene.pool.scratch().to_owned();
    // The directory is gone with the recorder.
    std::mem::forget(scene);
    let log = recorder.log.clone();
    drop(recorder);
    let created = |id| {
        let volume = Volume {
            created: true,
            ..Volume::default()
        };
        (id, volume)
    };
    let reported = Reported {
        volumes: (1..).take(VOLUMES.len()).map(created).collect(),
    };
    Recorded {
        entries,
        names,
        initial,
        images: images(),
        notes,
        reported,
        log,
        root,
        base,
    }
}

/// Asserts that the record explains the files as they are.
fn unseen(entries: &[Entry], initial: &BTreeMap<u64, Vec<u8>>, now: &BTreeMap<u64, Vec<u8>>) {
    let mut machine = super::cut::Machine::new(entries, initial);
    while machine.step().is_some() {}
    let all = machine.cut(super::Leaves::All, &mut super::support::Random::new(1));
    for (file, bytes) in now {
        assert!(all[file] == *bytes, "a write to file {file} went unseen");
    }
}

/// Records how a pool recovers from what a power cut has left.
pub(crate) fn record_recovery(of: &Recorded, files: &BTreeMap<u64, Vec<u8>>, reported: Reported) -> Recorded {
    let base = Arc::clone(&of.base);
    let backing = base.path().join("recovery");
    let below = of.root.file_name().unwrap().to_str().unwrap();
    let machine = Machine {
        root: backing.join(below),
        images: of.images.clone(),
    };
    machine.put(&of.names, files);
    let recorder = Recorder::start(base.path(), backing);
    machine.relocate(&of.root);
    let names = recorder.names(below, &of.images);
    let initial = recorder.contents(below, &names);
    let pool = apparatus::model::dir::PoolDir::new(of.root.join("pool"));
    recover(&pool).unwrap_or_else(|why| panic!("{why}"));
    let entries = recorder.entries();
    unseen(&entries, &initial, &recorder.contents(below, &names));
    let log = recorder.log.clone();
    drop(recorder);
    Recorded {
        entries,
        names,
        initial,
        images: of.images.clone(),
        notes: 0,
        reported,
        log,
        root: of.root.clone(),
        base,
    }
}
