//! A server under a supervisor: what it has from the server before it, and what it hands over for the next one.

use crate::agent::server::{JobRecords, LeftJobs};
use crate::datapath::{Apparatus, OpenRecords, Opening};
use crate::frontend::fuse::Mount;
use crate::locks::{KeptLock, LockStore, Owner, RunFiles, Through};
use crate::model::error::{Error, Result};
use crate::model::units::{JobId, VolumeId};
use crate::supervisor::{Content, Inherited, Kind, Link, Previous, Slots};
use crate::sys;
use crossbeam_channel::{Receiver, bounded};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

/// Number of crashes in a row after which a job that ran at all of them is not begun again.
const CRASHES: u64 = 3;
/// Numbers of handles that each server may give out: more than a million a second for days.
const HANDLES: u32 = 40;

/// The part of a server that its supervisor knows of.
pub(super) struct Kept {
    link: Link,
    inherited: Inherited,
}

impl Kept {
    /// Takes over what the supervisor has. A panic of any thread ends this process from now on: the next server answers the requests.
    ///
    /// # Errors
    /// Fails when this process has no supervisor.
    pub(super) fn take_over() -> Result<Self> {
        let (link, inherited) = Link::take_over().map_err(|error| Error::because("the supervisor", error))?;
        let describe = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            describe(panic);
            log::logger().flush();
            std::process::abort();
        }));
        Ok(Self { link, inherited })
    }

    /// Returns whether the server before this one serves on until this one is prepared.
    pub(super) const fn is_successor(&self) -> bool {
        self.inherited.is_successor
    }

    /// Returns whether this server stands by: the one before it serves on until it ends for another reason.
    pub(super) const fn stands_by(&self) -> bool {
        self.inherited.stands_by
    }

    /// Waits for the turn of this server, which stands by, no longer than `within`. Returns whether it has come.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub(super) fn await_turn(&mut self, within: Duration) -> Result<bool> {
        let turn = self.link.await_turn(&mut self.inherited, within);
        turn.map_err(|error| Error::because("the supervisor", error))
    }

    /// Tells the supervisor that everything is prepared, and waits until the server before this one has ended.
    ///
    /// # Errors
    /// Fails when that server serves on.
    pub(super) fn succeed(&mut self) -> Result<()> {
        let succeeded = self.link.succeed(&mut self.inherited);
        succeeded.map_err(|_| Error::failed("the server before this one", "serves on"))
    }

    /// Tells the supervisor why this server cannot replace the one before it.
    pub(super) fn failed(&self, error: &Error) {
        let hint = error.way_out().map_or(String::new(), |hint| format!("; {hint}"));
        self.link.failed(&format!("{error}{hint}"));
    }

    /// Returns a channel that receives one message each time this server is to retire because another one is prepared.
    ///
    /// # Errors
    /// Fails when the thread that waits for it cannot be started.
    pub(super) fn retirements(&self) -> Result<Receiver<()>> {
        let (sender, asked) = bounded(1);
        let link = self.link.clone();
        let wait = move || {
            while link.await_retirement() {
                // If the channel is full, a request is waiting already.
                let _ = sender.try_send(());
            }
        };
        let thread = thread::Builder::new().name("supervisor".into()).spawn(wait);
        let thread = thread.map_err(|error| Error::because("the supervisor", error));
        thread.map(|_| asked)
    }

    /// Tells the supervisor that this server serves on though it was asked to retire.
    pub(super) fn stays(&self, why: &str) {
        log::warn!("this server was to be replaced, and goes on: {why}");
        if let Err(error) = self.link.stays(why) {
            log::error!("the supervisor: {error}");
        }
    }

    /// Tells the supervisor that this server ends, and since when (microseconds of the monotonic clock) it has taken no request.
    pub(super) fn retired(&self, since_us: u64) {
        if let Err(error) = self.link.retired(since_us) {
            log::error!("the supervisor: {error}");
        }
    }

    /// Tells the supervisor that this server was asked to stop: if it crashes meanwhile, no other one is to go on with what hosts still have open.
    pub(super) fn stops(&self) {
        if let Err(error) = self.link.stops() {
            log::error!("the supervisor: {error}");
        }
    }

    /// Returns the server before this one.
    pub(super) const fn previous(&self) -> Option<&Previous> {
        self.inherited.previous.as_ref()
    }

    /// Returns how long hosts have had no server, as of now.
    pub(super) fn pause(&self) -> Duration {
        let since = self.previous().map(|previous| previous.ended_us);
        since.map_or(Duration::ZERO, |since| {
            Duration::from_micros(sys::monotonic_us().saturating_sub(since))
        })
    }

    /// Goes on with the handles of volumes that hosts have open, and has them recorded from now on.
    ///
    /// # Errors
    /// Fails when the records cannot be read or made.
    pub(super) fn keep_opens(&mut self, apparatus: &Apparatus) -> Result<()> {
        let servers = self.previous().map_or(0, |previous| previous.servers);
        let (slots, left) = self.slots(Kind::Opens, |content| content[0])?;
        let left = left.iter().map(opening_of).collect();
        apparatus.keep_opens(Box::new(slots), left, servers << HANDLES);
        Ok(())
    }

    /// Goes on with the locks of hosts, and has them kept from now on.
    ///
    /// # Errors
    /// Fails when the records cannot be read or made.
    pub(super) fn keep_locks(&mut self, files: RunFiles) -> Result<RunFiles> {
        let (owners, left) = self.slots(Kind::Owners, |content| (content[0], content[1]))?;
        let through: HashMap<(u64, u64), Through> = left.iter().map(through_of).collect();
        let kept = self.inherited.take(Kind::Lock).into_iter();
        let kept = kept.map(|([volume, owner], file)| KeptLock {
            volume: VolumeId(volume),
            owner: Owner(owner),
            through: through.get(&(volume, owner)).copied(),
            file: file.into(),
        });
        let supervisor = Locks {
            link: self.link.clone(),
            owners,
        };
        files
            .keep(Box::new(supervisor), kept.collect())
            .map_err(|error| Error::because("file locks", error))
    }

    /// Returns the records of background jobs, for which this server has to go on with those that are in it. A job that ran at each of the last crashes is left
    /// out: it may be their reason.
    ///
    /// # Errors
    /// Fails when the records cannot be read or made.
    pub(super) fn keep_jobs(&mut self) -> Result<LeftJobs> {
        let has_crashed = self.previous().is_some_and(|previous| !previous.was_replaced());
        let (slots, left) = self.slots(Kind::Jobs, |content| content[0])?;
        let mut records = Jobs(slots);
        let mut jobs = Vec::new();
        for [job, crashes, ..] in left {
            let (job, crashes) = (JobId(job), crashes + u64::from(has_crashed));
            if crashes > CRASHES {
                log::error!(
                    "job {job} ran at each of the last {CRASHES} crashes and is not begun again: vctl job resume {job}"
                );
                records.ended(job);
            } else {
                records.put(job, crashes);
                jobs.push(job);
            }
        }
        let records: Box<dyn JobRecords> = Box::new(records);
        Ok(LeftJobs { records, jobs })
    }

    /// Returns the devices of the mount that the server before this one has left.
    pub(super) fn devices(&mut self) -> Vec<OwnedFd> {
        let devices = self.inherited.take(Kind::Device);
        devices.into_iter().map(|(_, device)| device).collect()
    }

    /// Hands the mount over to the supervisor: from now on another server can go on with it.
    ///
    /// # Errors
    /// Fails when the supervisor has ended.
    pub(super) fn hand_over(&self, mount: &Mount) -> Result<()> {
        let failed = |error| Error::because("the supervisor", error);
        if self.previous().is_none() {
            for (number, device) in (0..).zip(mount.devices()) {
                self.link
                    .keep(Kind::Device, [number, 0], device)
                    .map_err(failed)?;
            }
        }
        self.link.serves().map_err(failed)
    }

    fn slots<K: std::hash::Hash + Eq>(
        &mut self,
        kind: Kind,
        key: impl Fn(&Content) -> K,
    ) -> Result<(Slots<K>, Vec<Content>)> {
        let failed = |error| Error::because("the records of open volumes and locks", error);
        match self.inherited.take(kind).pop() {
            Some((_, file)) => Slots::open(file, key).map_err(failed),
            None => {
                let slots = Slots::create("apparatus").map_err(failed)?;
                self.link.keep(kind, [0; 2], slots.descriptor()).map_err(failed)?;
                Ok((slots, Vec::new()))
            }
        }
    }
}

fn opening_of(content: &Content) -> (u64, Opening) {
    let [handle, volume, request, pid, writes, ..] = *content;
    let opening = Opening {
        volume: VolumeId(volume),
        pid: u32::try_from(pid).unwrap_or(0),
        writes: writes != 0,
        request,
        is_repeated: false,
    };
    (handle, opening)
}

fn through_of(content: &Content) -> ((u64, u64), Through) {
    let [volume, owner, handle, pid, ..] = *content;
    let pid = u32::try_from(pid).unwrap_or(0);
    ((volume, owner), Through { handle, pid })
}

impl OpenRecords for Slots<u64> {
    fn opened(&mut self, handle: u64, opening: &Opening) -> io::Result<()> {
        let content = [
            handle,
            opening.volume.0,
            opening.request,
            opening.pid.into(),
            opening.writes.into(),
            0,
            0,
        ];
        self.put(handle, content)
    }

    fn closed(&mut self, handle: u64) {
        if let Err(why) = self.remove(&handle) {
            log::error!("the end of an open handle cannot be recorded: {why}");
        }
    }
}

/// Background jobs that are recorded.
struct Jobs(Slots<u64>);

impl Jobs {
    fn put(&mut self, job: JobId, crashes: u64) {
        if let Err(why) = self.0.put(job.0, [job.0, crashes, 0, 0, 0, 0, 0]) {
            log::error!("job {job} cannot be recorded, and does not go on after a crash: {why}");
        }
    }
}

impl JobRecords for Jobs {
    fn began(&mut self, job: JobId) {
        self.put(job, 0);
    }

    fn ended(&mut self, job: JobId) {
        if let Err(why) = self.0.remove(&job.0) {
            log::error!("the end of job {job} cannot be recorded: {why}");
        }
    }
}

/// Locks of hosts that are kept.
struct Locks {
    link: Link,
    owners: Slots<(u64, u64)>,
}

impl LockStore for Locks {
    fn keep(&mut self, volume: VolumeId, owner: Owner, file: BorrowedFd<'_>) -> io::Result<()> {
        self.link.keep(Kind::Lock, [volume.0, owner.0], file)
    }

    fn record(&mut self, volume: VolumeId, owner: Owner, through: Through) -> io::Result<()> {
        let content = [volume.0, owner.0, through.handle, through.pid.into(), 0, 0, 0];
        self.owners.put((volume.0, owner.0), content)
    }

    fn release(&mut self, volume: VolumeId, owner: Owner) {
        let forgotten = self
            .owners
            .remove(&(volume.0, owner.0))
            .and_then(|()| self.link.release(Kind::Lock, [volume.0, owner.0]));
        if let Err(why) = forgotten {
            log::error!("the end of locks on volume {volume} cannot be recorded: {why}");
        }
    }
}
