//! The store in SQLite: `pool.db` in the pool's directory, in write-ahead-log mode.
//!
//! A commit is visible as soon as the log has it, and nothing is synced by it. What has to be durable is made so by syncing
//! the log from here, after the transaction and outside SQLite's write lock: an apparatus that hardens for a host's flush never
//! makes a controller inside a hold wait for a disk. Hardening is therefore two transactions around one sync: *hardening* is written,
//! the log is synced, *hardened* is written. Another boot that finds *hardening* knows that the disks had been flushed, and counts it as hardened.

mod audit;
mod change;
mod check;
mod convert;
mod edits;
mod events;
mod files;
mod holder;
mod home;
mod job;
mod log;
mod members;
mod options;
mod recover;
mod schema;
mod space;
mod table;

use super::audit::{Entry, Recorded};
use super::{
    Cancel, ChangeRecord, Commit, Event, JobLimits, JobRecord, JobState, Joined, Member, NewChange, Severity,
    Step, Store, Use,
};
use crate::error::Result;
use crate::held::may_wait;
use crate::member::Origin;
use crate::pool::dir::PoolDir;
use crate::pool::holds::Holds;
use crate::pool::model::{Area, DiskRecord, PoolHeader, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::pool::options::{Fullness, Options};
use crate::sys::boot_id;
use crate::units::{
    BootId, ByteCount, ChangeId, DiskId, ExtentSize, Generation, Incarnation, JobId, MembershipVersion, Slot,
    Term, VolumeExtent, VolumeId,
};
use log::{Log, Mark};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A log shorter than this is not worth a checkpoint.
const CHECKPOINT_FRAMES: i64 = 1000;

/// One connection to a pool's database.
pub struct SqliteStore {
    connection: Connection,
    dir: PoolDir,
    boot: BootId,
    log: Log,
}

impl SqliteStore {
    /// Makes the pool's directory (mode 0700 if it is not there yet), its run directory and its database (0600), and
    /// opens it. Durable when it returns.
    ///
    /// # Errors
    /// When there is a pool already, or a file cannot be made.
    pub fn create(dir: &PoolDir, extent_size: ExtentSize) -> Result<Self> {
        files::create(dir, extent_size)?;
        Self::open(dir)
    }

    /// Opens a pool that is there.
    ///
    /// # Errors
    /// `Kind::NotFound` when there is none; a damaged, foreign or newer database, each named with the way out.
    pub fn open(dir: &PoolDir) -> Result<Self> {
        Self::open_in_boot(dir, boot_id()?)
    }

    /// [`open`](Self::open) as if the machine's boot were this one: for tests.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_in_boot(dir: &PoolDir, boot: BootId) -> Result<Self> {
        let connection = files::open(dir)?;
        let log = Log::of(dir, boot)?;
        Ok(Self {
            connection,
            dir: dir.clone(),
            boot,
            log,
        })
    }

    /// Makes sure that this database may change and serve the pool: it is in the directory that it was last used in, or that
    /// directory has been renamed. Remembers the directory. A database in another directory is a copy.
    ///
    /// # Errors
    /// Names the directory that the database was copied from, and the way out.
    pub fn own(&mut self, dir: &PoolDir) -> Result<()> {
        let here = home::Home::of(dir)?;
        let found = self.read(|db, _| home::find(db, &here))?;
        let (instance, sync) = match found {
            home::Found::Same => return Ok(()),
            home::Found::Copy(of) => return Err(home::refusal(dir, &of)),
            home::Found::Renamed => (None, false),
            home::Found::Replaced => (Some(Uuid::new_v4()), true),
        };
        self.write(|db| home::settle(db, &here, instance))?;
        // Labels that name an instance which no database remembers would be refused by all.
        if sync { self.log.sync() } else { Ok(()) }
    }

    /// The directory that this database was copied from, if it is a copy.
    ///
    /// # Errors
    /// The database's, or when the directory cannot be looked at.
    pub fn copied_from(&mut self, dir: &PoolDir) -> Result<Option<PathBuf>> {
        let here = home::Home::of(dir)?;
        Ok(match self.read(|db, _| home::find(db, &here))? {
            home::Found::Copy(of) => Some(of),
            _ => None,
        })
    }

    /// Refuses a copy, as [`own`](Self::own) does, and changes nothing.
    ///
    /// # Errors
    /// As there.
    pub fn refuse_copy(&mut self, dir: &PoolDir) -> Result<()> {
        match self.copied_from(dir)? {
            Some(of) => Err(home::refusal(dir, &of)),
            None => Ok(()),
        }
    }

    /// Makes this database, wherever it is now, the owner of the pool's disks, under a new instance. Durable when it returns. The caller
    /// has made sure that nobody else uses them, and writes the labels.
    ///
    /// # Errors
    /// The database's, or when the directory cannot be looked at.
    pub fn adopt(&mut self, dir: &PoolDir) -> Result<()> {
        let here = home::Home::of(dir)?;
        self.write(|db| home::settle(db, &here, Some(Uuid::new_v4())))?;
        self.log.sync()
    }

    /// Writes the whole database, as it is now, to one new file. Durable when it returns.
    ///
    /// # Errors
    /// When the file is there already or cannot be written.
    pub fn backup_to(&mut self, file: &Path) -> Result<()> {
        files::backup(&self.connection, file)
    }

    /// Puts a backup in the place of the pool's database, which need not be there or readable; what was there is kept as
    /// `pool.db.old`. The caller holds the arbitration, and no apparatus runs.
    ///
    /// # Errors
    /// When the backup is not one, or damaged; the pool is as it was then.
    pub fn restore(dir: &PoolDir, backup: &Path) -> Result<()> {
        files::restore(dir, backup)?;
        Mark::clear(dir)
    }

    /// Why the log could not be synced once in this boot, whoever tried: nothing is made durable any more then.
    ///
    /// # Errors
    /// When the mark or the boot's identity cannot be read.
    pub fn sync_failed(dir: &PoolDir) -> Result<Option<String>> {
        Mark::of(dir, boot_id()?).why()
    }

    /// After a restore: the layout number becomes at least `layout` (the highest that a label has), so that the
    /// database counts as the newest. Durable when it returns.
    ///
    /// # Errors
    /// The database's.
    pub fn raise_layout_to(&mut self, layout: u64) -> Result<()> {
        self.write(|db| {
            db.execute("UPDATE pool SET layout = max(layout, ?1)", [layout])?;
            Ok(())
        })?;
        self.log.sync()
    }

    /// Looks for contradictions: SQLite's own check, and that the pool's records fit together. Answers a line for each
    /// problem. Reads everything.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub fn check(&mut self) -> Result<Vec<String>> {
        self.read(check::problems)
    }

    /// One transaction that only reads.
    fn read<T>(&mut self, work: impl FnOnce(&Connection, BootId) -> Result<T>) -> Result<T> {
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)?;
        let answer = work(&tx, self.boot)?;
        tx.commit()?;
        Ok(answer)
    }

    /// One transaction that writes: visible when this returns, undone when `work` fails.
    fn write<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let tx = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let answer = work(&tx)?;
        tx.commit()?;
        Ok(answer)
    }
}

impl Store for SqliteStore {
    fn header(&mut self) -> Result<PoolHeader> {
        self.read(table::header)
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        self.read(table::snapshot)
    }

    fn disks(&mut self) -> Result<Vec<DiskRecord>> {
        table::disks(&self.connection)
    }

    fn label_written(&mut self, disk: DiskId, sequence: u64) -> Result<()> {
        self.write(|db| table::label_written(db, disk, sequence))
    }

    fn volumes(&mut self) -> Result<Vec<VolumeRecord>> {
        table::volumes(&self.connection)
    }

    fn segments(&mut self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Result<Vec<Segment>> {
        self.read(|db, _| table::segments(db, volume, start, end))
    }

    fn uses(&mut self, disk: DiskId) -> Result<Vec<Use>> {
        self.read(|db, _| space::uses(db, disk))
    }

    fn next_disk_id(&mut self) -> Result<DiskId> {
        let sql = "SELECT disk + 1 FROM pool";
        Ok(DiskId(self.connection.query_row(sql, [], |row| row.get(0))?))
    }

    fn next_volume_id(&mut self) -> Result<VolumeId> {
        let sql = "SELECT volume + 1 FROM pool";
        Ok(VolumeId(self.connection.query_row(sql, [], |row| row.get(0))?))
    }

    fn raise_term(&mut self) -> Result<Term> {
        let sql = "UPDATE pool SET term = term + 1 RETURNING term";
        self.write(|db| Ok(Term(db.query_row(sql, [], |row| row.get(0))?)))
    }

    fn prepare(&mut self, term: Term, change: &NewChange) -> Result<ChangeId> {
        let boot = self.boot;
        self.write(|db| change::prepare(db, term, change, boot))
    }

    fn commit(&mut self, term: Term, id: ChangeId, membership: MembershipVersion) -> Result<Commit> {
        let boot = self.boot;
        self.write(|db| change::commit(db, term, id, membership, boot))
    }

    fn cancel(&mut self, id: ChangeId) -> Result<Cancel> {
        self.write(|db| change::cancel(db, id))
    }

    fn change(&mut self, id: ChangeId) -> Result<Option<ChangeRecord>> {
        self.read(|db, _| change::record(db, id))
    }

    fn unfinished(&mut self) -> Result<Vec<ChangeRecord>> {
        change::unfinished(&self.connection)
    }

    fn harden(&mut self, ids: &[ChangeId]) -> Result<()> {
        let latest = self.write(|db| change::begin_hardening(db, ids))?;
        self.log.sync()?;
        match latest {
            None => Ok(()),
            Some(latest) => self.write(|db| change::end_hardening(db, latest)),
        }
    }

    fn lost(&self) -> Option<String> {
        self.log.lost()
    }

    fn recover_boot(&mut self, boot: BootId) -> Result<Vec<ChangeId>> {
        let recovered = self.write(|db| recover::recover(db, boot))?;
        if recovered.changed {
            self.log.sync()?;
        }
        Ok(recovered.undone)
    }

    fn reserve(&mut self, term: Term, job: JobId, areas: &[Area]) -> Result<()> {
        self.write(|db| {
            change::not_stale(db, term)?;
            job::reserve(db, job, areas)
        })
    }

    fn freeable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        self.read(|db, _| space::freeable(db, oldest))
    }

    fn free_quarantine_except(&mut self, oldest: Generation, disks: &BTreeSet<DiskId>) -> Result<Vec<Area>> {
        let mut all = Vec::new();
        loop {
            let freed = self.write(|db| space::free_quarantine(db, oldest, disks))?;
            let is_last = freed.len() < space::FREED;
            all.extend(freed);
            if is_last {
                return Ok(all);
            }
        }
    }

    fn join(
        &mut self,
        name: &Name,
        pid: u32,
        mount: &Path,
        alive: &dyn Fn(&Member) -> bool,
        known: Option<Generation>,
    ) -> Result<Joined> {
        let boot = self.boot;
        let origin = Origin::here(&self.dir)
            .inspect_err(|why| ::log::warn!("not known where this process runs: {why}"));
        let origin = origin.ok();
        self.write(|db| {
            recover::recover(db, boot)?;
            members::join(db, name, pid, (mount, origin), (boot, known), alive)
        })
    }

    fn rejoin(&mut self, slot: Slot, incarnation: Incarnation, known: Option<Generation>) -> Result<Joined> {
        let boot = self.boot;
        self.write(|db| members::rejoin(db, slot, incarnation, (boot, known)))
    }

    fn fence(
        &mut self,
        term: Term,
        slot: Slot,
        incarnation: Incarnation,
    ) -> Result<Option<MembershipVersion>> {
        self.write(|db| members::fence(db, term, slot, incarnation))
    }

    fn leave(&mut self, slot: Slot, incarnation: Incarnation) -> Result<()> {
        self.write(|db| members::leave(db, slot, incarnation))
    }

    fn members(&mut self) -> Result<(MembershipVersion, Vec<Member>)> {
        self.read(|db, _| members::members(db))
    }

    fn create_job(&mut self, term: Term, job: &JobRecord, steps: &[Step]) -> Result<JobId> {
        let id = self.write(|db| job::create(db, term, job, steps))?;
        self.log.sync()?;
        Ok(id)
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>> {
        job::all(&self.connection)
    }

    fn job(&mut self, id: JobId) -> Result<Option<JobRecord>> {
        job::one(&self.connection, id)
    }

    fn steps(&mut self, id: JobId) -> Result<Vec<Step>> {
        job::steps(&self.connection, id)
    }

    fn replace_steps(&mut self, term: Term, id: JobId, steps: &[Step], back: bool) -> Result<()> {
        self.write(|db| job::replace_steps(db, term, id, steps, back))
    }

    fn set_job_state(&mut self, id: JobId, from: JobState, to: JobState, why: &str) -> Result<bool> {
        self.write(|db| job::set_state(db, id, from, to, why))
    }

    fn set_job_limits(&mut self, id: JobId, limits: JobLimits) -> Result<()> {
        self.write(|db| job::set_limits(db, id, limits))
    }

    fn set_job_figures(
        &mut self,
        id: JobId,
        copied: ByteCount,
        longest_hold_us: u64,
        held: u64,
        holds: &Holds,
    ) -> Result<()> {
        self.write(|db| job::set_figures(db, id, copied, longest_hold_us, held, holds))
    }

    fn options(&mut self) -> Result<Options> {
        options::read(&self.connection)
    }

    fn set_options(&mut self, options: &Options) -> Result<()> {
        self.write(|db| options::write(db, options))?;
        self.log.sync()
    }

    fn fullness(&mut self) -> Result<Fullness> {
        options::fullness(&self.connection)
    }

    fn set_fullness(&mut self, fullness: Fullness) -> Result<()> {
        self.write(|db| options::set_fullness(db, fullness))
    }

    fn log(&mut self, severity: Severity, subject: &str, text: &str) -> Result<()> {
        self.write(|db| events::log(db, severity, subject, text))
    }

    fn events(&mut self, after: u64, most: usize) -> Result<Vec<Event>> {
        events::events(&self.connection, after, most)
    }

    fn record(&mut self, entry: &Entry) -> Result<()> {
        self.write(|db| audit::record(db, entry))
    }

    fn recorded(&mut self, after: u64, most: usize) -> Result<Vec<Recorded>> {
        audit::recorded(&self.connection, after, most)
    }

    fn back_up(&mut self, file: &Path) -> Result<()> {
        self.backup_to(file)
    }

    fn checkpoint(&mut self) -> Result<()> {
        may_wait("a checkpoint");
        let (frames, copied) = self.log_frames("noop")?;
        if frames - copied < CHECKPOINT_FRAMES {
            return Ok(());
        }
        self.log_frames("passive").inspect_err(|error| {
            // SQLite syncs the log with a descriptor of its own, and may have been told of a lost page by that.
            if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
                self.log.remember(&io::Error::other(error.to_string()));
            }
        })?;
        // The first commit after a full checkpoint begins the log anew and syncs its header: better this one than one
        // that hosts wait for.
        self.write(|db| {
            db.execute("UPDATE pool SET checkpoints = checkpoints + 1", [])?;
            Ok(())
        })
    }
}

impl SqliteStore {
    /// Frames in the log, and how many of them are in the database.
    fn log_frames(&self, mode: &str) -> rusqlite::Result<(i64, i64)> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        self.connection
            .query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
