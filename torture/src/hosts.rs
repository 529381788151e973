//! Hosts that write and verify volumes through the mounts.

use crate::block::{self, BLOCK, Place, Stamp, Wrong};
use crate::ledger::{Event, Ledger};
use crate::plan::{APPARATUSES, VOLUMES};
use crate::report::{Failure, Report};
use crate::weather::{Moment, Weather};
use fastrand::Rng;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Blocks of a volume that are used at most.
const MOST: usize = 4096;
/// Consecutive blocks of one writer.
const STRIPE: u64 = 16;
/// Pause of a host between requests: the machine has other work too.
const PAUSE: Duration = Duration::from_millis(1);
/// Pause of a host whose mount is gone.
const GONE: Duration = Duration::from_millis(50);
/// A request that takes longer hangs. No fault lasts nearly so long.
const HANGING: Moment = 60_000_000;
/// The number of the volumes in which nothing may be found but what a host of such a volume wrote.
const SCRATCH: u64 = 60;

/// How a host opens its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Buffered,
    Direct,
    Durable,
}

impl Mode {
    fn of(number: u64) -> Self {
        [Self::Buffered, Self::Direct, Self::Durable][usize::try_from(number % 3).unwrap_or(0)]
    }

    fn flags(self) -> OFlags {
        match self {
            Self::Buffered => OFlags::empty(),
            Self::Direct => OFlags::DIRECT,
            Self::Durable => OFlags::DSYNC,
        }
    }
}

/// What all hosts share.
pub(crate) struct Shared {
    /// The mounts of the apparatuses.
    pub(crate) mounts: Vec<PathBuf>,
    pub(crate) weather: Arc<Weather>,
    pub(crate) report: Arc<Report>,
    ledgers: Vec<Ledger>,
    over: AtomicBool,
}

/// Hosts at work.
pub(crate) struct Hosts {
    shared: Arc<Shared>,
    ended: Receiver<usize>,
    running: Vec<(usize, String, Arc<AtomicU64>)>,
}

/// An open file, when it was opened, and its blocks.
struct Opened {
    file: File,
    at: Moment,
    blocks: u64,
}

struct Host {
    shared: Arc<Shared>,
    volume: u64,
    apparatus: usize,
    mode: Mode,
    rng: Rng,
    buffer: Vec<u8>,
    /// When the present request began; 0 for none.
    since: Arc<AtomicU64>,
    /// Acknowledged writes that no flush covers yet.
    unflushed: Vec<(u64, u64)>,
    /// The present request is a flush.
    flushing: bool,
}

impl Hosts {
    /// Starts a writer and a reader for each volume on each apparatus, and a host of scratch volumes on each.
    pub(crate) fn start(
        mounts: Vec<PathBuf>,
        weather: Arc<Weather>,
        report: Arc<Report>,
        seed: u64,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            mounts,
            weather,
            report,
            ledgers: (0..VOLUMES).map(|_| Ledger::new(MOST)).collect(),
            over: AtomicBool::new(false),
        });
        let (sender, ended) = channel();
        let running = Vec::new();
        let mut hosts = Self {
            shared,
            ended,
            running,
        };
        for apparatus in 0..APPARATUSES {
            for volume in 0..VOLUMES {
                hosts.spawn("writer", volume, apparatus, seed, &sender, Host::write)?;
                hosts.spawn("reader", volume, apparatus, seed, &sender, Host::read)?;
            }
            hosts.spawn("scratch", SCRATCH, apparatus, seed, &sender, Host::use_scratch)?;
        }
        Ok(hosts)
    }

    fn spawn(
        &mut self,
        role: &str,
        volume: u64,
        apparatus: usize,
        seed: u64,
        ended: &Sender<usize>,
        request: fn(&mut Host, &Opened) -> io::Result<()>,
    ) -> io::Result<()> {
        let number = self.running.len();
        let since = Arc::new(AtomicU64::new(0));
        let mut host = Host {
            shared: Arc::clone(&self.shared),
            volume,
            apparatus,
            mode: Mode::of(volume + apparatus as u64 + u64::from(role == "reader")),
            rng: Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number as u64)),
            buffer: Vec::new(),
            since: Arc::clone(&since),
            unflushed: Vec::new(),
            flushing: false,
        };
        let ended = ended.clone();
        let name = format!("{role} of volume {volume} at a{apparatus} ({:?})", host.mode);
        thread::Builder::new().name(role.into()).spawn(move || {
            host.work(request);
            let _ = ended.send(number);
        })?;
        self.running.push((number, name, since));
        Ok(())
    }

    /// Ends the hosts; returns whether all of them have ended.
    pub(crate) fn end(&mut self, bound: Duration) -> bool {
        self.shared.over.store(true, Ordering::SeqCst);
        let end = Instant::now() + bound;
        while !self.running.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(number) = self.ended.recv_timeout(left) else {
                break;
            };
            self.running.retain(|(one, ..)| *one != number);
        }
        for (_, name, since) in &self.running {
            let since = since.load(Ordering::SeqCst);
            let what = format!(
                "{name}: waits since {since} µs, now {}",
                self.shared.weather.now()
            );
            self.shared.report.fail(Failure::Hung, &what);
        }
        self.running.is_empty()
    }

    /// Reads every block through every mount: each acknowledged write must be there. It runs in a thread with a bound.
    pub(crate) fn verify(&self, bound: Duration) {
        let (sender, done) = channel();
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new().name("verify".into()).spawn(move || {
            for apparatus in 0..APPARATUSES {
                for volume in 0..VOLUMES {
                    verify(&shared, volume, apparatus);
                }
            }
            let _ = sender.send(());
        });
        if spawned.is_err() || done.recv_timeout(bound).is_err() {
            let what = "reading all blocks at the end does not end";
            self.shared.report.fail(Failure::Hung, what);
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

fn verify(shared: &Arc<Shared>, volume: u64, apparatus: usize) {
    let mut host = Host {
        shared: Arc::clone(shared),
        volume,
        apparatus,
        mode: Mode::Buffered,
        rng: Rng::with_seed(0),
        buffer: Vec::new(),
        since: Arc::default(),
        unflushed: Vec::new(),
        flushing: false,
    };
    let read = host.open().and_then(|opened| {
        let Some(opened) = opened else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        (0..opened.blocks)
            .step_by(64)
            .try_for_each(|first| host.read_run(&opened, first, 64.min(opened.blocks - first), Failure::Lost))
    });
    if let Err(error) = read {
        let what = format!("volume {volume} at a{apparatus} cannot be read at the end: {error}");
        shared.report.fail(Failure::Lost, &what);
    }
}

impl Host {
    fn work(&mut self, request: fn(&mut Self, &Opened) -> io::Result<()>) {
        let mut present: Option<Opened> = None;
        while !self.shared.over.load(Ordering::Relaxed) {
            let begun = self.shared.weather.now();
            self.since.store(begun, Ordering::SeqCst);
            let opened_at = present.as_ref().map_or(begun, |opened| opened.at);
            let done = match present.take() {
                Some(opened) if self.rng.u16(..200) > 0 => request(self, &opened).map(|()| Some(opened)),
                _ => self.open(),
            };
            self.since.store(0, Ordering::SeqCst);
            match done {
                Ok(opened) => {
                    self.answered(begun);
                    thread::park_timeout(if opened.is_some() { PAUSE } else { GONE });
                    present = opened;
                }
                Err(error) => self.failed(&error, opened_at, begun),
            }
        }
    }

    fn answered(&self, begun: Moment) {
        let took = self.shared.weather.now() - begun;
        self.shared
            .report
            .answered(self.shared.weather.blame(begun), took);
        if took > HANGING {
            let what = format!("a request of volume {} took {took} µs", self.volume);
            self.shared.report.fail(Failure::Hung, &what);
        }
    }

    fn failed(&mut self, error: &io::Error, opened: Moment, begun: Moment) {
        self.unflushed.clear();
        let errno = error.raw_os_error().unwrap_or(0);
        // A scratch volume may be removed, and its users cut off, at any time.
        let flushes = std::mem::take(&mut self.flushing) || self.mode == Mode::Durable;
        let excused = self.volume == SCRATCH
            || flushes
                && self
                    .shared
                    .weather
                    .excuses_flush(errno, self.volume, self.apparatus, begun)
            || self.shared.weather.excuses(errno, self.apparatus, opened, begun)
            || flushes
                && errno == rustix::io::Errno::IO.raw_os_error()
                && self.shared.weather.explains_failing_flushes();
        if excused {
            self.shared.report.excused();
        } else {
            let (volume, apparatus, now) = (self.volume, self.apparatus, self.shared.weather.now());
            let what = format!(
                "volume {volume} at a{apparatus} ({:?}): {error}, opened at {opened}, begun at {begun}, failed at {now} µs, during {}",
                self.mode,
                crate::plan::Kind::LABELS[self.shared.weather.blame(begun)]
            );
            self.shared.report.fail(Failure::WrongErrno, &what);
        }
        thread::park_timeout(GONE);
    }

    /// Opens the volume, whatever it is called now; `None` if it is not there, as between a look and a rename.
    fn open(&mut self) -> io::Result<Option<Opened>> {
        self.unflushed.clear();
        let Some(path) = self.find()? else {
            return Ok(None);
        };
        let flags = i32::try_from(self.mode.flags().bits()).unwrap_or(0);
        let at = self.shared.weather.now();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let blocks = file.metadata()?.len() / BLOCK as u64;
        let blocks = blocks.min(MOST as u64);
        Ok((blocks > 0).then_some(Opened { file, at, blocks }))
    }

    fn find(&mut self) -> io::Result<Option<PathBuf>> {
        let prefix = if self.volume == SCRATCH {
            "t".to_owned()
        } else {
            format!("v{}-", self.volume)
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.shared.mounts[self.apparatus])? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
        Ok((!found.is_empty()).then(|| found.swap_remove(self.rng.usize(..found.len()))))
    }

    fn ledger(&self) -> &Ledger {
        let index = usize::try_from(self.volume).unwrap_or(0);
        &self.shared.ledgers[index.min(self.shared.ledgers.len() - 1)]
    }

    fn read(&mut self, opened: &Opened) -> io::Result<()> {
        let count = self.rng.u64(1..=16).min(opened.blocks);
        let first = self.rng.u64(..=opened.blocks - count);
        self.read_run(opened, first, count, Failure::Stale)
    }

    /// Reads blocks and checks them; an older write than expected is a failure of the given kind.
    fn read_run(&mut self, opened: &Opened, first: u64, count: u64, old: Failure) -> io::Result<()> {
        let start = self.shared.weather.now();
        let oldest: Vec<u64> = (first..first + count)
            .map(|block| self.ledger().oldest(block))
            .collect();
        self.buffer.resize(usize::try_from(count).unwrap_or(1) * BLOCK, 0);
        opened
            .file
            .read_exact_at(&mut self.buffer, first * BLOCK as u64)?;
        let end = self.shared.weather.now();
        for ((block, oldest), bytes) in (first..).zip(oldest).zip(self.buffer.chunks_exact(BLOCK)) {
            let expected = self.ledger().expected(block, oldest);
            let place = Place {
                volume: self.volume,
                block,
            };
            match block::examine(bytes, place, &expected) {
                Ok(sequence) => {
                    self.ledger().see(block, sequence);
                    self.remember(block, start, end, "read", sequence);
                }
                Err(wrong) => self.wrong(
                    place,
                    wrong,
                    &format!("{expected:?} from {start} to {end} µs"),
                    old,
                ),
            }
        }
        Ok(())
    }

    fn wrong(&self, place: Place, wrong: Wrong, expected: &str, old: Failure) {
        let failure = match wrong {
            Wrong::Old { .. } => old,
            Wrong::Future { .. } => Failure::Stale,
            Wrong::Foreign(_) | Wrong::Damaged { .. } => Failure::Foreign,
        };
        let what = format!(
            "volume {} block {} at a{} ({:?}): {wrong:?} instead of {expected}\n{}",
            place.volume,
            place.block,
            self.apparatus,
            self.mode,
            self.ledger().describe(place.block)
        );
        self.shared.report.fail(failure, &what);
    }

    fn remember(&self, block: u64, start: Moment, end: Moment, what: &'static str, sequence: u64) {
        let apparatus = self.apparatus;
        self.ledger().remember(
            block,
            Event {
                start,
                end,
                apparatus,
                what,
                sequence,
            },
        );
    }

    /// Writes some blocks of this writer, or flushes.
    fn write(&mut self, opened: &Opened) -> io::Result<()> {
        if !self.unflushed.is_empty() && self.rng.u8(..20) == 0 {
            return self.flush(opened);
        }
        let mine = |stripe: u64| stripe % APPARATUSES as u64 == self.apparatus as u64;
        let mut stripe = self.rng.u64(..opened.blocks.div_ceil(STRIPE));
        if !mine(stripe) {
            stripe = (stripe + 1) % opened.blocks.div_ceil(STRIPE);
        }
        if !mine(stripe) {
            return Ok(());
        }
        let first = stripe * STRIPE + self.rng.u64(..STRIPE);
        let end = (stripe * STRIPE + STRIPE)
            .min(opened.blocks)
            .min(first + self.rng.u64(1..=8));
        if first >= end {
            return Ok(());
        }
        self.write_run(opened, first, end)
    }

    fn write_run(&mut self, opened: &Opened, first: u64, end: u64) -> io::Result<()> {
        let sequences: Vec<u64> = (first..end).map(|block| self.ledger().begin(block)).collect();
        self.buffer.resize(sequences.len() * BLOCK, 0);
        for ((block, &sequence), bytes) in (first..).zip(&sequences).zip(self.buffer.chunks_exact_mut(BLOCK))
        {
            let place = Place {
                volume: self.volume,
                block,
            };
            let writer = self.apparatus as u64;
            block::fill(
                bytes,
                Stamp {
                    place,
                    writer,
                    sequence,
                },
            );
        }
        let start = self.shared.weather.now();
        let done = opened.file.write_all_at(&self.buffer, first * BLOCK as u64);
        let now = self.shared.weather.now();
        for (block, sequence) in (first..).zip(sequences) {
            let what = if done.is_ok() { "write" } else { "failed write" };
            self.remember(block, start, now, what, sequence);
            if done.is_ok() {
                self.ledger().acknowledge(block, sequence);
                self.wrote(block, sequence);
            }
        }
        done
    }

    fn wrote(&mut self, block: u64, sequence: u64) {
        if self.mode == Mode::Durable {
            self.ledger().make_durable(block, sequence);
        } else {
            self.unflushed.push((block, sequence));
        }
    }

    fn flush(&mut self, opened: &Opened) -> io::Result<()> {
        self.flushing = true;
        opened.file.sync_data()?;
        self.flushing = false;
        for (block, sequence) in std::mem::take(&mut self.unflushed) {
            self.ledger().make_durable(block, sequence);
        }
        Ok(())
    }

    /// Reads a scratch volume, which must have nothing in it that was not written to such a volume's same block, and writes it.
    fn use_scratch(&mut self, opened: &Opened) -> io::Result<()> {
        let block = self.rng.u64(..opened.blocks);
        let (place, offset) = (
            Place {
                volume: self.volume,
                block,
            },
            block * BLOCK as u64,
        );
        self.buffer.resize(BLOCK, 0);
        opened.file.read_exact_at(&mut self.buffer, offset)?;
        if let Err(wrong) = block::examine(&self.buffer, place, &(0..=u64::MAX)) {
            let what = format!("scratch volume, block {block} at a{}: {wrong:?}", self.apparatus);
            self.shared.report.fail(Failure::Foreign, &what);
        }
        let writer = self.apparatus as u64;
        block::fill(
            &mut self.buffer,
            Stamp {
                place,
                writer,
                sequence: 1,
            },
        );
        opened.file.write_all_at(&self.buffer, offset)
    }
}
