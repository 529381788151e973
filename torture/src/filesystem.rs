//! Hosts that have a file system on a loop device on a volume: they write files durably, read them, and mount again after an error.
//!
//! A file is replaced as programs do it that must not lose it: a new file is written and synced, renamed over the old one, and
//! the directory is synced. After a fault the file system is mounted again, which replays its journal; then each file must
//! have a whole version, and none that is older than the last one whose replacement was acknowledged.

use crate::block::{self, BLOCK, Place, Stamp};
use crate::plan::FILE_SYSTEMS;
use crate::report::{Failure, Report};
use crate::site::{Outcome, PATIENCE, Site};
use crate::weather::{Moment, Weather};
use fastrand::Rng;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Files of a file system.
const FILES: usize = 32;
/// Most blocks of a file.
const LONGEST: u64 = 16;
/// Pause between requests.
const PAUSE: Duration = Duration::from_millis(5);
/// Pause between attempts to mount again.
const AGAIN: Duration = Duration::from_millis(200);
/// The numbers of volumes with a file system, in the words of their blocks.
const NUMBERS: u64 = 50;

/// A kind of file system, and the apparatus whose mount has its loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The name of its volume.
    pub(crate) volume: &'static str,
    pub(crate) size: &'static str,
    name: &'static str,
    make: &'static [&'static str],
    check: &'static [&'static str],
    apparatus: usize,
}

/// The file systems of a run.
pub(crate) const KINDS: [Kind; FILE_SYSTEMS] = [
    Kind {
        volume: "f0",
        size: "24M",
        name: "ext4",
        make: &["mkfs.ext4", "-q", "-F"],
        check: &["e2fsck", "-f", "-n"],
        apparatus: 0,
    },
    Kind {
        volume: "f1",
        size: "304M",
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f"],
        check: &["xfs_repair", "-n"],
        apparatus: 1,
    },
];

/// The versions of a file: the last one whose replacement was acknowledged, and the last one that was begun. Version 0 is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Versions {
    durable: u64,
    begun: u64,
}

/// A file system that is mounted.
struct Mounted {
    device: String,
    /// A fault since then explains an error.
    since: Moment,
}

/// A host with a file system.
pub(crate) struct FileSystemHost<'a> {
    kind: Kind,
    number: u64,
    site: &'a Site,
    weather: &'a Weather,
    report: &'a Report,
    rng: Rng,
    files: [Versions; FILES],
    mounted: Option<Mounted>,
}

/// Returns the first reason why file systems cannot be used here.
pub(crate) fn missing(site: &Site) -> Option<String> {
    if !site.own_filesystems {
        return Some("they take root and loop devices".into());
    }
    let programs = KINDS.iter().flat_map(|kind| [kind.make[0], kind.check[0]]);
    let mut absent = programs.filter(|program| site.tool(&[program, "-V"]).is_err());
    absent.next().map(|program| format!("{program} is missing"))
}

impl<'a> FileSystemHost<'a> {
    pub(crate) fn new(
        index: usize,
        site: &'a Site,
        weather: &'a Weather,
        report: &'a Report,
        seed: u64,
    ) -> Self {
        Self {
            kind: KINDS[index],
            number: NUMBERS + index as u64,
            site,
            weather,
            report,
            rng: Rng::with_seed(seed.wrapping_mul(77).wrapping_add(index as u64)),
            files: [Versions::default(); FILES],
            mounted: None,
        }
    }

    fn dir(&self) -> PathBuf {
        self.site.path(self.kind.volume)
    }

    /// Makes the file system and mounts it.
    pub(crate) fn make(&mut self) -> Outcome<()> {
        fs::create_dir(self.dir()).map_err(|error| error.to_string())?;
        let device = self.attach()?;
        self.site.tool(&[self.kind.make, &[device.as_str()]].concat())?;
        self.mount(device)
    }

    fn attach(&self) -> Outcome<String> {
        let apparatus = format!("a{}", self.kind.apparatus);
        let words = ["volume", "attach", self.kind.volume, "--apparatus", &apparatus];
        let device = self.site.must(&words)?.trim().to_owned();
        self.site.remember_loop(&device);
        Ok(device)
    }

    fn mount(&mut self, device: String) -> Outcome<()> {
        let since = self.weather.now();
        let dir = self.dir();
        if let Err(error) = self.site.tool(&["mount", &device, &dir.to_string_lossy()]) {
            self.detach(&device);
            return Err(error);
        }
        self.mounted = Some(Mounted { device, since });
        Ok(())
    }

    fn detach(&self, device: &str) {
        // After its apparatus has died there may be nothing left to detach.
        let _ = self.site.tool(&["losetup", "--detach", device]);
    }

    /// Works until `over`, and ends with the file system unmounted and checked.
    pub(crate) fn work(&mut self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            let begun = self.weather.now();
            match self.request() {
                Ok(()) => {
                    let took = self.weather.now() - begun;
                    self.report.answered(self.weather.blame(begun), took);
                    thread::park_timeout(PAUSE);
                }
                Err(error) => self.failed(&error, over),
            }
        }
        self.finish();
    }

    /// Replaces a file or reads one.
    fn request(&mut self) -> io::Result<()> {
        let file = self.rng.usize(..FILES);
        if self.rng.bool() {
            self.replace(file)
        } else {
            self.verify(file)
        }
    }

    fn replace(&mut self, file: usize) -> io::Result<()> {
        let version = self.files[file].begun + 1;
        self.files[file].begun = version;
        let mut bytes = vec![0; BLOCK * usize::try_from(self.rng.u64(1..=LONGEST)).unwrap_or(1)];
        for (block, words) in (0..).zip(bytes.chunks_exact_mut(BLOCK)) {
            let place = place(self.number, file, block);
            block::fill(
                words,
                Stamp {
                    place,
                    writer: 0,
                    sequence: version,
                },
            );
        }
        let (draft, name) = (
            self.dir().join(format!("{file}.new")),
            self.dir().join(file.to_string()),
        );
        let mut draft_file = File::create(&draft)?;
        draft_file.write_all(&bytes)?;
        draft_file.sync_all()?;
        fs::rename(&draft, &name)?;
        File::open(self.dir())?.sync_all()?;
        self.files[file].durable = version;
        Ok(())
    }

    /// Reads a file from the device, and reports what is wrong with it.
    fn verify(&mut self, file: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        match File::open(self.dir().join(file.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => {
                let mut opened = opened?;
                fadvise(&opened, 0, None, Advice::DontNeed)?;
                opened.read_to_end(&mut bytes)?;
            }
        }
        let versions = self.files[file];
        if let Err(what) = judge(self.number, file, versions, &bytes) {
            let kind = self.kind.name;
            let what = format!("{kind}, file {file}: {what}, {versions:?}");
            self.report.fail(Failure::Lost, &what);
        }
        Ok(())
    }

    /// Reports an error that no fault explains, and mounts the file system again.
    fn failed(&mut self, error: &io::Error, over: &AtomicBool) {
        let since = self.mounted.as_ref().map_or(0, |mounted| mounted.since);
        let excused = self.weather.excuses_file_system(self.kind.apparatus, since);
        if excused || self.weather.explains_failing_flushes() {
            self.report.excused();
        } else {
            let what = format!(
                "{} on a loop device at a{}: {error}",
                self.kind.name, self.kind.apparatus
            );
            self.report.fail(Failure::WrongErrno, &what);
        }
        self.unmount();
        self.mount_again(over);
    }

    fn unmount(&mut self) {
        let Some(mounted) = self.mounted.take() else {
            return;
        };
        let end = Instant::now() + PATIENCE;
        // Other programs of the machine may look at the mount for a moment.
        while let Err(error) = self.site.tool(&["umount", &self.dir().to_string_lossy()]) {
            if Instant::now() > end {
                self.report.fail(Failure::Broken, &error);
                break;
            }
            thread::park_timeout(AGAIN);
        }
        self.detach(&mounted.device);
    }

    /// Attaches and mounts until that succeeds, then checks all files. It waits for the end of a fault of a disk, and much longer than other
    /// faults last.
    fn mount_again(&mut self, over: &AtomicBool) {
        let mut end = Instant::now() + PATIENCE;
        while !self.site.stop.load(Ordering::Relaxed) {
            let failing = self.weather.failing.is_open();
            if failing || Instant::now() > end && self.weather.explains_failing_flushes() {
                end = Instant::now() + PATIENCE;
            }
            let checked = self
                .attach()
                .and_then(|device| self.mount(device))
                .and_then(|()| {
                    (0..FILES)
                        .try_for_each(|file| self.verify(file))
                        .map_err(|error| error.to_string())
                });
            match checked {
                Ok(()) => return,
                Err(error) if Instant::now() > end => {
                    let what = format!("{} cannot be mounted again: {error}", self.kind.name);
                    self.report.fail(Failure::Broken, &what);
                    over.store(true, Ordering::SeqCst);
                    return;
                }
                Err(_) => self.unmount(),
            }
            thread::park_timeout(AGAIN);
        }
    }

    /// Checks all files, unmounts the file system and checks it, once no fault is active any more.
    fn finish(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.site.stop.load(Ordering::Relaxed) {
            match self.check_all() {
                Ok(()) => break,
                Err(error) if Instant::now() > end => {
                    self.report
                        .fail(Failure::Broken, &format!("{}: {error}", self.kind.name));
                    break;
                }
                // It may have been struck by the last fault.
                Err(_) => {
                    self.unmount();
                    thread::park_timeout(AGAIN);
                }
            }
        }
        self.unmount();
    }

    fn check_all(&mut self) -> Outcome<()> {
        if self.mounted.is_none() {
            let device = self.attach()?;
            self.mount(device)?;
        }
        let dir = self.dir().to_string_lossy().into_owned();
        (0..FILES)
            .try_for_each(|file| self.verify(file))
            .map_err(|error| error.to_string())?;
        self.site.tool(&["umount", &dir])?;
        let Some(mounted) = self.mounted.take() else {
            return Ok(());
        };
        let checked = self
            .site
            .tool(&[self.kind.check, &[mounted.device.as_str()]].concat());
        self.detach(&mounted.device);
        checked
    }
}

fn place(volume: u64, file: usize, block: u64) -> Place {
    Place {
        volume,
        block: file as u64 * LONGEST + block,
    }
}

/// Checks that these bytes are a whole version of the file that it may have; no bytes are no file.
fn judge(volume: u64, file: usize, versions: Versions, bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return if versions.durable == 0 {
            Ok(())
        } else {
            Err("is gone".into())
        };
    }
    if !bytes.len().is_multiple_of(BLOCK) {
        return Err(format!("has {} bytes", bytes.len()));
    }
    let mut expected = versions.durable.max(1)..=versions.begun;
    for (block, words) in (0..).zip(bytes.chunks_exact(BLOCK)) {
        let found = block::examine(words, place(volume, file, block), &expected);
        let version = found.map_err(|wrong| format!("block {block}: {wrong:?}"))?;
        // All of a file is of one version.
        expected = version..=version;
    }
    Ok(())
}

impl Drop for FileSystemHost<'_> {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a file of three blocks with these versions.
    fn file(versions: [u64; 3]) -> Vec<u8> {
        let mut bytes = vec![0; 3 * BLOCK];
        for ((block, words), sequence) in (0..).zip(bytes.chunks_exact_mut(BLOCK)).zip(versions) {
            let place = place(50, 7, block);
            block::fill(
                words,
                Stamp {
                    place,
                    writer: 0,
                    sequence,
                },
            );
        }
        bytes
    }

    #[test]
    fn a_file_has_one_whole_version_that_is_not_older_than_the_durable_one() {
        let versions = Versions { durable: 4, begun: 6 };
        let judge = |bytes: &[u8]| judge(50, 7, versions, bytes);
        for version in [4, 5, 6] {
            assert_eq!(judge(&file([version; 3])), Ok(()));
        }
        for wrong in [[3; 3], [7; 3], [4, 5, 5], [5, 5, 4]] {
            assert!(judge(&file(wrong)).is_err(), "{wrong:?}");
        }
        assert!(judge(&[]).is_err(), "it is gone");
        assert!(judge(&file([5; 3])[..BLOCK + 1]).is_err(), "it is cut");
        assert!(
            judge(&[file([5; 3]), vec![0; BLOCK]].concat()).is_err(),
            "it ends with zeroes"
        );
        assert!(
            super::judge(50, 8, versions, &file([5; 3])).is_err(),
            "it is another file"
        );
    }

    #[test]
    fn a_file_that_was_never_acknowledged_may_be_missing() {
        let versions = Versions { durable: 0, begun: 1 };
        assert_eq!(judge(50, 7, versions, &[]), Ok(()));
        assert_eq!(judge(50, 7, versions, &file([1; 3])), Ok(()));
        assert!(judge(50, 7, versions, &file([2; 3])).is_err());
    }
}
