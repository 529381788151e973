//! Commands that make files, give them names and replace them: a pool is created, gets disks and volumes, is backed up and restored, loses its directory and is made again from its disks.
//! The record of that is cut. Whoever goes on with the command that was cut off gets what it makes, and has lost nothing that a command before it had made.

use super::after::{DATABASE, Machine, forget_shared_state, problem_of, recover};
use super::cut::{self, Leaves};
use super::record::{Entry, Kind};
use super::scene::{self, MOUNT, Recorder};
use super::support::Random;
use super::tree::{self, ROOT, Tree};
use super::{Cut, choose_from};
use apparatus::admin::disk::NewDisk;
use apparatus::admin::import::Accepted;
use apparatus::admin::{backup, disk, import, pool};
use apparatus::controller::pool::open_store;
use apparatus::controller::{Controller, Wait};
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::records::{DiskAccess, NewPool};
use apparatus::model::units::{ByteCount, ExtentSize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const EXTENT: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(100);
const DISKS: [&str; 2] = ["a.img", "b.img"];
const BACKUP: &str = "backup";
const DONE: &str = "done";

/// What is done one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    CreatePool,
    AddDisk(&'static str),
    CreateVolume(&'static str),
    Backup,
    Restore,
    RemoveDirectory,
    Import,
}

const VERBS: [Verb; 11] = [
    Verb::CreatePool,
    Verb::AddDisk(DISKS[0]),
    Verb::AddDisk(DISKS[1]),
    Verb::CreateVolume("v"),
    Verb::Backup,
    Verb::CreateVolume("w"),
    Verb::Restore,
    Verb::CreateVolume("x"),
    Verb::RemoveDirectory,
    Verb::Import,
    Verb::CreateVolume("y"),
];

/// The names of a pool's disks and volumes; `None` where there is no pool.
type View = Option<(BTreeSet<String>, BTreeSet<String>)>;

/// Returns what is there after so many of the verbs.
fn after(done: usize) -> View {
    let mut view: View = None;
    let (mut saved, mut on_disks) = (None, None);
    for verb in &VERBS[..done] {
        let (disks, volumes) = view.get_or_insert_default();
        match verb {
            Verb::CreatePool => {}
            Verb::AddDisk(image) => drop(disks.insert(image.trim_end_matches(".img").to_owned())),
            Verb::CreateVolume(name) => drop(volumes.insert((*name).to_owned())),
            Verb::Backup => saved = Some(volumes.clone()),
            Verb::Restore => *volumes = saved.clone().unwrap(),
            Verb::RemoveDirectory => on_disks = view.take(),
            Verb::Import => view = on_disks.take(),
        }
    }
    view
}

/// The place of a pool's directory, its disks and a backup.
struct Site {
    root: PathBuf,
}

impl Site {
    fn pool(&self) -> PoolDir {
        PoolDir::new(self.root.join("pool"))
    }

    /// Returns what is there. A restore that was cut off leaves no database for a moment, and says so.
    fn view(&self) -> Result<View> {
        let mut store = match open_store(&self.pool()) {
            Ok(store) => store,
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        let snapshot = store.snapshot()?;
        let disks = snapshot.disks.iter().map(|disk| disk.name.to_string());
        let volumes = snapshot.volumes.iter().map(|volume| volume.name.to_string());
        Ok(Some((disks.collect(), volumes.collect())))
    }

    fn controller(&self) -> Result<Controller> {
        Controller::acquire(&self.pool(), "test", Wait::For(Some(PATIENCE)))
    }

    fn run(&self, verb: Verb) -> Result<()> {
        match verb {
            Verb::CreatePool => {
                let new = NewPool {
                    extent_size: ExtentSize::new(EXTENT).unwrap(),
                    access: DiskAccess::Cached,
                };
                pool::create(&self.pool(), new, None)
            }
            Verb::AddDisk(image) => self.add_disk(image),
            Verb::CreateVolume(name) => self.create_volume(name),
            Verb::Backup => backup::backup(&self.pool(), &self.root.join(BACKUP)).map(drop),
            Verb::Restore => {
                let file = self.root.join(BACKUP);
                let found = backup::inspect(&self.pool(), &file, true)?;
                backup::restore(&self.pool(), &file, &found, Some(PATIENCE))?.map_or(Ok(()), Err)
            }
            Verb::RemoveDirectory => {
                forget_shared_state(&self.pool());
                let removed = fs::remove_dir_all(self.pool().path());
                let synced = removed.and_then(|()| File::open(&self.root)?.sync_all());
                synced.map_err(|why| Error::because("the directory", why))
            }
            Verb::Import => {
                let disks: Vec<PathBuf> = DISKS.iter().map(|image| self.root.join(image)).collect();
                import::import(&self.pool(), &disks, Accepted::default(), Some(PATIENCE)).map(drop)
            }
        }
    }

    /// Adds a disk; where the command was cut off, its image is there and is added as it is, or made anew.
    fn add_disk(&self, image: &str) -> Result<()> {
        let path = self.root.join(image);
        let new = |create| NewDisk {
            path: path.clone(),
            name: None,
            create,
            preallocate: false,
            tags: BTreeSet::new(),
            allocate: true,
            reserve: ByteCount(0),
        };
        let mut controller = self.controller()?;
        if path.exists() {
            let added = disk::add(&mut controller, "disk add", &new(None));
            if added.is_ok() {
                return Ok(());
            }
            fs::remove_file(&path).map_err(|why| Error::because("the image", why))?;
        }
        let size = Some(ByteCount(10 * EXTENT));
        disk::add(&mut controller, "disk add", &new(size)).map(drop)
    }

    fn create_volume(&self, name: &str) -> Result<()> {
        let mut controller = self.controller()?;
        scene::create_volume(&mut controller, name, EXTENT)?;
        controller.persist()
    }

    /// Goes on after a cut that came when so many verbs were done, and checks what is there before and after the next one.
    fn goes_on(&self, done: usize) -> std::result::Result<(), String> {
        let Some(&verb) = VERBS.get(done) else {
            return self.is(done, None);
        };
        let failed = |why: Error| format!("{verb:?}: {why}");
        if verb == Verb::RemoveDirectory {
            // Whoever removes a directory may have removed a part of it.
            if self.pool().path().exists() {
                self.run(verb).map_err(failed)?;
            }
        } else {
            if self.view().map_err(failed)?.is_some() {
                // What was not persisted is taken back.
                recover(&self.pool())?;
            }
            self.is(done, Some(verb))?;
            let before = self.view().map_err(failed)?;
            let made = before == after(done + 1) && after(done) != after(done + 1);
            let made = made || (verb == Verb::Backup && self.root.join(BACKUP).exists());
            if !made {
                self.run(verb).map_err(failed)?;
            }
        }
        self.is(done + 1, None)?;
        if verb == Verb::Backup {
            let found = backup::inspect(&self.pool(), &self.root.join(BACKUP), true);
            found.map_err(|why| format!("the backup: {why}"))?;
        }
        match after(done + 1).and_then(|_| problem_of(&self.pool()).transpose()) {
            None => Ok(()),
            Some(Ok(problem)) => Err(format!(
                "after {verb:?} the check finds {}: {}",
                problem.subject, problem.why
            )),
            Some(Err(why)) => Err(why),
        }
    }

    /// Compares what is there with what so many verbs make, or the next one too.
    fn is(&self, done: usize, next: Option<Verb>) -> std::result::Result<(), String> {
        let view = self.view().map_err(|why| format!("after {done} verbs: {why}"))?;
        let is_next = next.is_some() && view == after(done + 1);
        // A restore takes the database away before it puts another in its place.
        let is_between = next == Some(Verb::Restore) && view.is_none();
        if view == after(done) || is_next || is_between {
            return Ok(());
        }
        Err(format!(
            "after {done} verbs there is {view:?} and not {:?}",
            after(done)
        ))
    }
}

/// A record of all verbs.
struct Recorded {
    entries: Vec<Entry>,
    base: TempDir,
}

impl Recorded {
    fn new() -> Self {
        let base = scene::scratch();
        let recorder = Recorder::start(base.path(), base.path().join("backing"));
        let mount = base.path().join(MOUNT);
        let site = Site { root: mount.clone() };
        let done = File::create(mount.join(DONE)).unwrap();
        for (index, verb) in (1_u64..).zip(VERBS) {
            site.run(verb).unwrap_or_else(|why| panic!("{verb:?}: {why}"));
            done.write_all_at(&index.to_le_bytes(), 0).unwrap();
        }
        drop(done);
        forget_shared_state(&site.pool());
        Self {
            entries: recorder.entries(),
            base,
        }
    }

    /// Returns all files that ever had a name, empty.
    fn files(&self) -> BTreeMap<u64, Vec<u8>> {
        let file = |entry: &Entry| match entry {
            Entry::Name {
                file,
                kind: Kind::File,
                ..
            } => Some((*file, Vec::new())),
            _ => None,
        };
        self.entries.iter().filter_map(file).collect()
    }

    /// Returns the file that says how many verbs are done.
    fn done(&self) -> u64 {
        let file = |entry: &Entry| match entry {
            Entry::Name {
                dir: ROOT,
                name,
                file,
                ..
            } if name == DONE => Some(*file),
            _ => None,
        };
        self.entries.iter().find_map(file).unwrap()
    }

    fn check(&self, cuts: &[Cut], seed: u64) {
        let root = self.base.path().join(MOUNT);
        let site = Site { root: root.clone() };
        let mut random = Random::new(seed);
        let files = self.files();
        let (mut now, mut tree) = (cut::Machine::new(&self.entries, &files), Tree::default());
        let (noted, mut done) = (self.done(), 0);
        for &(at, leaves) in cuts {
            while now.at < at {
                let Some(entry) = now.step() else { break };
                tree.step(entry);
                if let Entry::Write { file, bytes, .. } = entry
                    && *file == noted
                {
                    done = usize::from(bytes[0]);
                }
            }
            forget_shared_state(&site.pool());
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
            let names = tree.cut(leaves, &mut random);
            tree::put(&names, &now.cut(leaves, &mut random), ROOT, &root);
            relocate(&root);
            site.goes_on(done).unwrap_or_else(|why| {
                panic!(
                    "cut {at} of {}, {leaves:?}, seed {seed}, {done} verbs done: {why}",
                    self.entries.len()
                )
            });
        }
        forget_shared_state(&site.pool());
    }
}

/// Tells a database what a power cut does not change, and this one does.
fn relocate(root: &Path) {
    let machine = Machine {
        root: root.to_owned(),
        images: Vec::new(),
    };
    if root.join(DATABASE).exists() {
        machine.relocate(root);
    }
}

/// Records the verbs, and cuts the record.
pub(crate) fn record_and_cut(count: u64, seed: u64) {
    let recorded = Recorded::new();
    let mut random = Random::new(seed);
    let cuts = choose_from(&recorded.entries, count, &mut random);
    let kinds = Leaves::EACH.map(|kind| cuts.iter().filter(|(_, leaves)| *leaves == kind).count());
    println!(
        "verbs: {} entries, {} cuts, {kinds:?} of each kind",
        recorded.entries.len(),
        cuts.len()
    );
    recorded.check(&cuts, seed);
}
