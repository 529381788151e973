//! A device with injected faults for tests: errors, short and torn writes, slowness, hanging, lost writes.
//!
//! It offers no mapping and no kernel file, so every byte goes through its calls: replies come from a buffer, and copies go through memory.

use super::{BlockDevice, Zeroing, read_exact_at, write_all_at};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Operations that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum On {
    /// Reads.
    Read,
    /// Writes, including those of zeroes.
    Write,
    /// Flushes, waiting for write-back, and the flush that a durable write ends with.
    Flush,
    /// Durable writes of the pool's metadata, which nothing else strikes but `Any`.
    Metadata,
    /// All of these.
    Any,
}

/// Fault of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The operation does nothing and fails with this errno: 5 for EIO, 28 for ENOSPC.
    Error(i32),
    /// One call reads or writes at most this many bytes (at least one), without an error.
    Short(u64),
    /// A write of more than this many bytes writes only these, and fails with EIO.
    Torn(u64),
    /// The operation takes this many milliseconds longer.
    Slow(u64),
    /// The operation hangs until the rules are replaced.
    Hang,
    /// A flush fails with EIO, and all writes since the last successful flush are lost.
    Lose,
}

/// Rule that injects a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The operations that it strikes.
    pub on: On,
    /// If set, the rule strikes only operations that touch the bytes `[start, end)`; a flush touches all bytes.
    #[serde(default)]
    pub range: Option<(u64, u64)>,
    /// Number of operations that pass first.
    #[serde(default)]
    pub after: u64,
    /// Number of times that it strikes; unlimited if not set.
    #[serde(default)]
    pub times: Option<u64>,
    /// The fault.
    pub fault: Fault,
}

impl Rule {
    /// Makes a rule that strikes each operation of this kind.
    #[must_use]
    pub fn always(on: On, fault: Fault) -> Self {
        Self {
            on,
            range: None,
            after: 0,
            times: None,
            fault,
        }
    }

    /// Returns whether the rule strikes this operation, and counts it.
    fn strikes(&mut self, on: On, touched: Option<&Range<u64>>) -> bool {
        let concerned = self.on == On::Any || self.on == on;
        let apart = match (self.range, touched) {
            (Some((start, end)), Some(touched)) => touched.end <= start || end <= touched.start,
            _ => false,
        };
        if !concerned || apart || self.times == Some(0) {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

/// Faults of a device, shared with the test that injects them.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Rules>,
    changed: Condvar,
}

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    /// Incremented with each new set of rules.
    edition: u64,
    struck: u64,
    hanging: usize,
}

impl Faults {
    /// Replaces the rules; operations that hang continue.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut now = self.lock();
        now.rules = rules.into_iter().collect();
        now.edition += 1;
        drop(now);
        self.changed.notify_all();
    }

    /// Returns how many operations a fault has struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.lock().struck
    }

    /// Returns how many operations hang now.
    #[must_use]
    pub fn hanging(&self) -> usize {
        self.lock().hanging
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the fault that strikes this operation. A fault that only delays the operation does so here.
    fn strike(&self, on: On, touched: Option<&Range<u64>>) -> Option<Fault> {
        let mut now = self.lock();
        let fault = now
            .rules
            .iter_mut()
            .find_map(|rule| rule.strikes(on, touched).then_some(rule.fault))?;
        now.struck += 1;
        match fault {
            Fault::Slow(ms) => {
                self.delay(now, Duration::from_millis(ms));
                None
            }
            Fault::Hang => {
                self.wait_for_new_rules(now);
                None
            }
            fault => Some(fault),
        }
    }

    /// Waits for `time`, even if the rules are replaced.
    fn delay(&self, mut now: MutexGuard<'_, Rules>, time: Duration) {
        let until = Instant::now() + time;
        while let Some(rest) = until
            .checked_duration_since(Instant::now())
            .filter(|rest| !rest.is_zero())
        {
            now = self
                .changed
                .wait_timeout(now, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn wait_for_new_rules(&self, mut now: MutexGuard<'_, Rules>) {
        let edition = now.edition;
        now.hanging += 1;
        while now.edition == edition {
            now = self.changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        now.hanging -= 1;
    }
}

/// Device with injected faults.
pub struct Faulty {
    inner: Box<dyn BlockDevice>,
    faults: Arc<Faults>,
    /// Former content of each write since the last successful flush: offset and bytes, in order.
    unflushed: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Faulty {
    /// Wraps a device.
    #[must_use]
    pub fn new(inner: Box<dyn BlockDevice>, faults: Arc<Faults>) -> Self {
        Self {
            inner,
            faults,
            unflushed: Mutex::default(),
        }
    }

    /// Reverts all writes since the last successful flush.
    ///
    /// # Errors
    /// Fails with the error of the inner device.
    fn lose_unflushed(&self) -> io::Result<()> {
        let lost = std::mem::take(&mut *self.unflushed());
        lost.iter()
            .rev()
            .try_for_each(|(at, bytes)| write_all_at(&*self.inner, bytes, *at))
    }

    fn unflushed(&self) -> MutexGuard<'_, Vec<(u64, Vec<u8>)>> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the content of the range before it is written.
    fn save(&self, range: &Range<u64>) -> io::Result<()> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut before = vec![0; length];
        read_exact_at(&*self.inner, &mut before, range.start)?;
        self.unflushed().push((range.start, before));
        Ok(())
    }

    /// Runs a flush, or applies the fault that strikes it.
    fn flushed(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self.faults.strike(On::Flush, None) {
            None | Some(Fault::Short(_)) => {}
            Some(Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(_) => {
                self.lose_unflushed()?;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
        }
        // A flush need not cover writes that run meanwhile; this device takes them for durable, as a kernel may.
        flush()?;
        self.unflushed().clear();
        Ok(())
    }
}

fn range_of(at: u64, len: usize) -> Range<u64> {
    at..at.saturating_add(len as u64)
}

/// Returns how many bytes of a length a fault lets through.
fn most(len: usize, bytes: u64) -> usize {
    usize::try_from(bytes).map_or(len, |bytes| len.min(bytes))
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl BlockDevice for Faulty {
    fn handle(&self) -> &File {
        self.inner.handle()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = match self.faults.strike(On::Read, Some(&range_of(at, buf.len()))) {
            None => buf.len(),
            Some(Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(bytes)) => most(buf.len(), bytes.max(1)),
            Some(_) => return Err(eio()),
        };
        self.inner.read_at(buf.get_mut(..len).unwrap_or_default(), at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let (len, torn) = match self.faults.strike(On::Write, Some(&range_of(at, buf.len()))) {
            None => (buf.len(), false),
            Some(Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(bytes)) => (most(buf.len(), bytes.max(1)), false),
            Some(Fault::Torn(bytes)) => (most(buf.len(), bytes), (buf.len() as u64) > bytes),
            Some(_) => return Err(eio()),
        };
        let part = buf.get(..len).unwrap_or_default();
        self.save(&range_of(at, len))?;
        if torn {
            write_all_at(&*self.inner, part, at)?;
            return Err(eio());
        }
        self.inner.write_at(part, at)
    }

    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()> {
        write_all_at(self, buf, at)?;
        self.flush()
    }

    fn write_apart(&self, buf: &[u8], at: u64) -> io::Result<()> {
        match self.faults.strike(On::Metadata, Some(&range_of(at, buf.len()))) {
            None | Some(Fault::Short(_)) => self.inner.write_apart(buf, at),
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Torn(bytes)) => {
                let part = buf.get(..most(buf.len(), bytes)).unwrap_or_default();
                write_all_at(&*self.inner, part, at)?;
                Err(eio())
            }
            Some(_) => Err(eio()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.flushed(|| self.inner.flush())
    }

    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        self.inner.data_from(range)
    }

    fn data_until(&self, range: Range<u64>) -> io::Result<u64> {
        self.inner.data_until(range)
    }

    fn zero(&self, _range: Range<u64>, _how: Zeroing) -> io::Result<bool> {
        // Zeroes are written, so that the faults of writes apply to them.
        Ok(false)
    }

    fn wait_for_writeback(&self, range: Range<u64>) -> io::Result<()> {
        // Write-back alone makes nothing durable, so the former content is kept.
        match self.faults.strike(On::Flush, Some(&range)) {
            None | Some(Fault::Short(_)) => self.inner.wait_for_writeback(range),
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(_) => {
                self.lose_unflushed()?;
                Err(eio())
            }
        }
    }

    fn write_piece(&self) -> usize {
        self.inner.write_piece()
    }
}

#[cfg(debug_assertions)]
pub(super) use from_file::wrap;

/// Faults that a test injects into another process: an environment variable names a file in RON, a map from the path of a disk to its rules, which
/// is read again whenever it has been replaced. Debug builds only.
#[cfg(debug_assertions)]
mod from_file {
    use super::{BlockDevice, Faults, Faulty, Rule};
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Weak};
    use std::thread;
    use std::time::Duration;

    /// Environment variable that names the file.
    const VARIABLE: &str = "APPARATUS_FAULTS";
    /// Interval at which the file is checked.
    const CHECK_INTERVAL: Duration = Duration::from_millis(10);

    /// Wraps a device that the file has rules for; a device at another path is returned as it is.
    pub(in crate::blockdev::device) fn wrap(
        device: Box<dyn BlockDevice>,
        path: &Path,
    ) -> Box<dyn BlockDevice> {
        let Some(file) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            return device;
        };
        if rules(&file, path).is_none() {
            return device;
        }
        let faults = Arc::new(Faults::default());
        follow(file, path.to_owned(), Arc::downgrade(&faults));
        Box::new(Faulty::new(device, faults))
    }

    fn rules(file: &Path, disk: &Path) -> Option<Vec<Rule>> {
        let text = fs::read_to_string(file).ok()?;
        let mut all: BTreeMap<PathBuf, Vec<Rule>> = ron::from_str(&text).ok()?;
        all.remove(disk)
    }

    /// Applies each new edition of the file, as long as the device is open.
    fn follow(file: PathBuf, disk: PathBuf, faults: Weak<Faults>) {
        let check = move || {
            let mut seen = None;
            while let Some(faults) = faults.upgrade() {
                let edition = fs::metadata(&file)
                    .map(|found| (found.ino(), found.mtime(), found.mtime_nsec()))
                    .ok();
                if edition != seen {
                    faults.set(rules(&file, &disk).unwrap_or_default());
                    seen = edition;
                }
                drop(faults);
                thread::park_timeout(CHECK_INTERVAL);
            }
        };
        // Without the thread the device has no faults, and the test that injects them fails.
        let _ = thread::Builder::new().name("faults".into()).spawn(check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blockdev::device::FileDevice;
    use crate::blockdev::open::DiskKind;

    const SIZE: u64 = 1 << 20;

    fn faulty() -> (Faulty, Arc<Faults>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let kind = DiskKind::of(&file.metadata().unwrap()).unwrap();
        let faults = Arc::new(Faults::default());
        let device = Box::new(FileDevice::new(file, kind, SIZE).unwrap());
        (Faulty::new(device, Arc::clone(&faults)), faults)
    }

    fn read(device: &Faulty, at: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        read_exact_at(device, &mut buf, at).unwrap();
        buf
    }

    #[test]
    fn errors_strike_their_range_after_a_number_of_operations_and_a_number_of_times() {
        let (device, faults) = faulty();
        faults.set([Rule {
            range: Some((4096, 8192)),
            after: 1,
            times: Some(2),
            ..Rule::always(On::Write, Fault::Error(libc::ENOSPC))
        }]);
        assert_eq!(device.write_at(&[1; 4096], 0).unwrap(), 4096, "another range");
        assert_eq!(
            device.write_at(&[1; 4096], 4096).unwrap(),
            4096,
            "the first passes"
        );
        for _ in 0..2 {
            let refused = device.write_at(&[2; 4096], 4096).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        }
        assert_eq!(device.write_at(&[3; 4096], 4096).unwrap(), 4096);
        assert_eq!((read(&device, 4096, 1), faults.struck()), (vec![3], 2));
    }

    #[test]
    fn short_calls_are_continued_and_torn_ones_fail() {
        let (device, faults) = faulty();
        faults.set([Rule::always(On::Any, Fault::Short(100))]);
        write_all_at(&device, &[7; 1000], 10).unwrap();
        assert_eq!(read(&device, 10, 1000), vec![7; 1000]);
        assert_eq!(faults.struck(), 20);
        faults.set([Rule::always(On::Write, Fault::Torn(512))]);
        assert!(write_all_at(&device, &[8; 1000], 10).is_err());
        assert_eq!(read(&device, 10, 1000), [[8; 512].as_slice(), &[7; 488]].concat());
    }

    #[test]
    fn a_lost_flush_reverts_the_writes_since_the_last_one() {
        let (device, faults) = faulty();
        write_all_at(&device, &[1; 4096], 0).unwrap();
        device.flush().unwrap();
        write_all_at(&device, &[2; 4096], 0).unwrap();
        write_all_at(&device, &[3; 100], 50).unwrap();
        faults.set([Rule {
            times: Some(1),
            ..Rule::always(On::Flush, Fault::Lose)
        }]);
        assert_eq!(device.flush().unwrap_err().raw_os_error(), Some(libc::EIO));
        device.flush().unwrap();
        assert_eq!(read(&device, 0, 4096), vec![1; 4096]);
    }

    #[test]
    fn an_operation_that_hangs_continues_when_the_rules_are_replaced() {
        let (device, faults) = faulty();
        faults.set([Rule::always(On::Read, Fault::Hang)]);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| read(&device, 0, 10));
            while faults.hanging() == 0 {
                std::thread::yield_now();
            }
            assert!(!reading.is_finished());
            faults.set([]);
            assert_eq!(reading.join().unwrap(), vec![0; 10]);
        });
    }
}
