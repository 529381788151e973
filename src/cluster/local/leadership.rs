//! The controller lock: one controller of a pool acts at a time, and a job yields the lock in its gaps.
//!
//! The lock is taken on a file of the run directory and on a byte of the pool's directory ([`super::anchor`]). The locked bytes of the file show the
//! role of the holder:
//!
//! ```text
//! from byte 0 on    a command, which holds it until it is done
//! from byte 1 on    a job, which yields it as soon as another process waits
//! ```
//!
//! A waiter has a *ticket*: a lock on the byte of the pool's directory that stands for its time of arrival. The earliest ticket is next. The kernel
//! releases the tickets of processes that end. The others overtake a process that is stopped while it waits, after the lock has been free for
//! [`OVERTAKE`]. The holder finds by one system call whether any process waits.

use super::anchor::{Anchor, COMMANDS_WAIT, JOBS_WAIT, LEADERSHIP, one};
use super::lock::{Attempt, FileLock, failed, locked, make_run_dir, wait_for};
use super::notice::{self, LockNotice};
use crate::cluster::{Leadership, Role, WaitLimit};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, Result};
use crate::sys;
use crate::sys::hold;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time after which a free lock may be taken by any waiter, even if others have earlier tickets.
const OVERTAKE: Duration = Duration::from_millis(100);
/// Time for which overtaken waiters do not count for a holder.
const OVERTAKEN: Duration = Duration::from_secs(2);
/// Longest wait for jobs to yield, and for earlier waiters, where no wait was requested.
const JOBS_YIELD: Duration = Duration::from_secs(10);

/// Returns the first byte that a role locks.
fn start_of(role: Role) -> u64 {
    match role {
        Role::Command => 0,
        Role::Job => 1,
    }
}

fn tickets_of(role: Role) -> Range<u64> {
    match role {
        Role::Command => COMMANDS_WAIT,
        Role::Job => JOBS_WAIT,
    }
}

/// Place in the queue of waiters.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    role: Role,
    /// Time of arrival, in microseconds of the monotonic clock.
    arrived: u64,
}

impl Ticket {
    fn byte(self) -> u64 {
        let tickets = tickets_of(self.role);
        tickets.start + self.arrived % (tickets.end - tickets.start)
    }
}

/// The controller lock, or a request for it. The text of its file names the process that holds it, the purpose, and since when.
pub(super) struct ControllerLock {
    pool: PoolDir,
    anchor: Anchor,
    path: PathBuf,
    role: Role,
    notice: LockNotice,
    held: Option<FileLock>,
    ticket: Option<Ticket>,
    /// Arrival time up to which tickets were overtaken, and when that was.
    overtaken: Option<(u64, Instant)>,
}

impl ControllerLock {
    /// Makes a request for a purpose (`job 7`, `volume create`).
    ///
    /// # Errors
    /// Fails when the pool's directory cannot be opened, or the run directory cannot be created.
    pub(super) fn request(pool: &PoolDir, role: Role, purpose: &str) -> Result<Self> {
        let pool = hold(pool)?;
        make_run_dir(&pool)?;
        Ok(Self {
            anchor: Anchor::of(&pool)?,
            path: leadership(&pool.run()),
            role,
            notice: LockNotice::new(purpose),
            held: None,
            ticket: None,
            overtaken: None,
            pool,
        })
    }

    fn try_and_wait(&mut self, path: &Path, waiting: WaitLimit) -> io::Result<bool> {
        let mut attempt = Attempt::from(path, start_of(self.role));
        let alone =
            self.ticket.is_none() && !self.anchor.shared_elsewhere(COMMANDS_WAIT.start..JOBS_WAIT.end)?;
        if (alone || waiting == WaitLimit::No) && self.attempt(&mut attempt)? {
            return Ok(true);
        }
        let within = match waiting {
            WaitLimit::No => return Ok(false),
            WaitLimit::ForJobs if holder_at(path)? == Some(Role::Command) => return Ok(false),
            WaitLimit::ForJobs => Some(JOBS_YIELD),
            WaitLimit::For(within) => within,
        };
        self.take_ticket()?;
        let mut free_since = None;
        let taken = wait_for(path, within, || {
            Ok(self
                .attempt_in_order(&mut attempt, &mut free_since)?
                .then_some(()))
        });
        Ok(taken?.is_some())
    }

    /// Takes the lock if this ticket is the first, or may overtake.
    fn attempt_in_order(
        &mut self,
        attempt: &mut Attempt<'_>,
        free_since: &mut Option<Instant>,
    ) -> io::Result<bool> {
        let Some(ticket) = self
            .ticket
            .filter(|ticket| !self.is_first(*ticket).unwrap_or(true))
        else {
            return self.attempt(attempt);
        };
        if locked(&self.path)? {
            *free_since = None;
            return Ok(false);
        }
        let free = free_since.get_or_insert_with(Instant::now).elapsed();
        if free < OVERTAKE || !self.attempt(attempt)? {
            return Ok(false);
        }
        self.overtaken = Some((ticket.arrived, Instant::now()));
        Ok(true)
    }

    fn attempt(&mut self, attempt: &mut Attempt<'_>) -> io::Result<bool> {
        if self.held.is_none() {
            self.held = attempt.take()?;
        }
        // Another process may hold the lock through a file that was deleted.
        if self.held.is_some() && self.anchor.claim(LEADERSHIP)? {
            return Ok(true);
        }
        self.held = None;
        Ok(false)
    }

    fn take_ticket(&mut self) -> io::Result<()> {
        if self.ticket.is_none() {
            let ticket = Ticket {
                role: self.role,
                arrived: sys::monotonic_us(),
            };
            self.anchor.share(ticket.byte())?;
            self.ticket = Some(ticket);
        }
        Ok(())
    }

    fn drop_ticket(&mut self) -> io::Result<()> {
        match self.ticket.take() {
            Some(ticket) => self.anchor.unshare(ticket.byte()),
            None => Ok(()),
        }
    }

    /// Returns whether no other waiter has arrived earlier.
    fn is_first(&self, ticket: Ticket) -> io::Result<bool> {
        for role in [Role::Command, Role::Job] {
            let until = Ticket { role, ..ticket }.byte();
            if self.anchor.shared_elsewhere(tickets_of(role).start..until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write_notice(&self) -> io::Result<()> {
        self.held
            .as_ref()
            .map_or(Ok(()), |held| self.notice.write(&held.file))
    }

    /// Describes the holder for messages: `job 7 by pid 123 since 2026-01-31T10:02:00Z`. Returns `None` when the lock is free.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn holder(pool: &PoolDir) -> Result<Option<String>> {
        let path = leadership(&pool.run());
        let failed = failed(pool, &path);
        if locked(&path).map_err(&failed)? {
            let text = notice::read(&path).map_err(failed)?;
            return Ok(Some(text.unwrap_or_else(|| ANOTHER.into())));
        }
        let anchored = match Anchor::of_existing(pool).map_err(&failed)? {
            Some(anchor) => anchor.shared_elsewhere(one(LEADERSHIP)).map_err(failed)?,
            None => false,
        };
        Ok(anchored.then(|| format!("{ANOTHER} (its file in the run directory was deleted)")))
    }
}

const ANOTHER: &str = "another controller";

impl Leadership for ControllerLock {
    fn acquire(&mut self, wait: WaitLimit) -> Result<bool> {
        if self.is_held() {
            return Ok(true);
        }
        make_run_dir(&self.pool)?;
        let (pool, path) = (self.pool.clone(), self.path.clone());
        let failed = failed(&pool, &path);
        let acquired = self.try_and_wait(&path, wait).map_err(&failed)?;
        if acquired {
            self.drop_ticket().map_err(&failed)?;
            self.write_notice().map_err(&failed)?;
        }
        Ok(acquired)
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    fn is_wanted_by(&self, role: Role) -> Result<bool> {
        let all = tickets_of(role);
        let overtaken = self.overtaken.filter(|(_, at)| at.elapsed() < OVERTAKEN);
        let first = overtaken.map_or(all.start, |(arrived, _)| Ticket { role, arrived }.byte() + 1);
        let wanted = self.anchor.shared_elsewhere(first..all.end);
        wanted.map_err(failed(&self.pool, &self.path))
    }

    fn yield_in_gaps(&mut self) -> Result<()> {
        if self.role == Role::Command
            && let Some(held) = &self.held
        {
            sys::unlock_byte(held.file.as_fd(), 0).map_err(failed(&self.pool, &self.path))?;
        }
        self.role = Role::Job;
        Ok(())
    }

    fn release(&mut self) {
        if self.held.is_none() {
            return;
        }
        // This lock is released before that on the file, whose release wakes waiters. If it fails, the end of this process releases it.
        let _ = self.anchor.unshare(LEADERSHIP);
        self.held = None;
    }

    fn set_purpose(&mut self, purpose: &str) -> Result<()> {
        self.notice = LockNotice::new(purpose);
        self.write_notice()
            .map_err(|why| Error::because("controller lock", why))
    }
}

impl Drop for ControllerLock {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            // The text is not read while the lock is free, so a failure is ignored.
            let _ = held.file.set_len(0);
        }
        self.release();
    }
}

fn leadership(run: &Path) -> PathBuf {
    run.join("arbitration")
}

/// Returns the role of the holder.
fn holder_at(path: &Path) -> io::Result<Option<Role>> {
    let start = match File::open(path) {
        Ok(file) => sys::locked_from(file.as_fd())?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => None,
        Err(why) => return Err(why),
    };
    let role = |start| match start {
        0 => Role::Command,
        _ => Role::Job,
    };
    Ok(start.map(role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::local::LocalCluster;
    use crate::model::error::ErrorKind;
    use std::fs;
    use std::sync::mpsc;
    use std::thread;

    const LONG: Duration = Duration::from_secs(10);

    fn pool() -> (tempfile::TempDir, PoolDir) {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        (dir, pool)
    }

    fn take(pool: &PoolDir, purpose: &str, wait: WaitLimit) -> Result<Box<dyn Leadership>> {
        LocalCluster::new(pool).lead(Role::Command, purpose, wait)
    }

    fn a_job(pool: &PoolDir) -> ControllerLock {
        let mut job = ControllerLock::request(pool, Role::Job, "job 7").unwrap();
        assert!(job.acquire(WaitLimit::No).unwrap());
        job
    }

    fn again(job: &mut ControllerLock, within: Duration) -> bool {
        job.acquire(WaitLimit::For(Some(within))).unwrap()
    }

    fn wait_until(mut done: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !done() {
            assert!(Instant::now() < end, "waited in vain");
            thread::yield_now();
        }
    }

    #[test]
    fn there_is_one_holder_at_a_time_and_refusals_name_it() {
        let run = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(run.path());
        assert_eq!(ControllerLock::holder(&pool).unwrap(), None);
        let lock = take(&pool, "job 7\n\u{1b}[31m", WaitLimit::No).unwrap();
        let refusal = take(&pool, "x", WaitLimit::No).err().unwrap();
        assert_eq!(refusal.kind(), ErrorKind::Busy);
        let expected = format!("busy: job 7[31m by pid {} since 2", std::process::id());
        assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        assert_eq!(
            ControllerLock::holder(&pool).unwrap().as_deref(),
            Some(refusal.why())
        );
        drop(lock);
        assert_eq!(ControllerLock::holder(&pool).unwrap(), None);
        take(&pool, "x", WaitLimit::No).unwrap();
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_released_and_gives_up_in_time() {
        let run = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(run.path());
        let lock = take(&pool, "first", WaitLimit::For(None)).unwrap();
        let start = Instant::now();
        assert!(take(&pool, "x", WaitLimit::For(Some(Duration::from_millis(120)))).is_err());
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(120), "{waited:?}");
        thread::scope(|scope| {
            let (sender, received) = mpsc::channel();
            let path = &pool;
            scope.spawn(move || {
                sender.send("waiting").unwrap();
                let lock = take(path, "second", WaitLimit::For(None));
                sender.send("has it").unwrap();
                drop(lock.unwrap());
            });
            assert_eq!(received.recv().unwrap(), "waiting");
            assert!(received.recv_timeout(Duration::from_millis(100)).is_err());
            drop(lock);
            assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), "has it");
        });
    }

    #[test]
    fn a_controller_lock_whose_file_is_deleted_is_still_held() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        let lock = take(&pool, "first", WaitLimit::For(None)).unwrap();
        fs::remove_dir_all(pool.run()).unwrap();
        let refusal = take(&pool, "second", WaitLimit::No).err();
        assert_eq!(refusal.map(|why| why.kind()), Some(ErrorKind::Busy));
        let holder = ControllerLock::holder(&pool).unwrap();
        assert!(holder.is_some_and(|holder| holder.starts_with(ANOTHER)));
        drop(lock);
        assert_eq!(ControllerLock::holder(&pool).unwrap(), None);
        drop(take(&pool, "second", WaitLimit::No).unwrap());
    }

    #[test]
    fn a_command_waits_for_the_gap_of_a_job_and_is_refused_during_another_command() {
        let (_dir, pool) = pool();
        let mut job = a_job(&pool);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| take(&pool, "create", WaitLimit::ForJobs).unwrap());
            wait_until(|| job.is_wanted_by(Role::Command).unwrap());
            assert!(!job.is_wanted_by(Role::Job).unwrap());
            job.release();
            let command = waiter.join().unwrap();
            let refused = take(&pool, "set", WaitLimit::ForJobs).err().unwrap();
            assert!(refused.why().starts_with("create by pid"), "{refused}");
            assert!(!again(&mut job, Duration::ZERO));
            assert!(command.is_wanted_by(Role::Job).unwrap());
            drop(command);
            assert!(again(&mut job, LONG));
        });
        assert!(!job.is_wanted_by(Role::Command).unwrap());
    }

    #[test]
    fn waiters_get_the_lock_in_the_order_of_their_arrival() {
        let (_dir, pool) = pool();
        let mut job = a_job(&pool);
        let (sender, received) = mpsc::channel();
        thread::scope(|scope| {
            for name in ["first", "second", "third"] {
                let (sender, pool) = (sender.clone(), &pool);
                let before = Ticket {
                    role: Role::Command,
                    arrived: sys::monotonic_us(),
                }
                .byte();
                scope.spawn(move || {
                    let lock = take(pool, name, WaitLimit::For(Some(LONG))).unwrap();
                    sender.send(name).unwrap();
                    drop(lock);
                });
                wait_until(|| job.anchor.shared_elsewhere(before..COMMANDS_WAIT.end).unwrap());
            }
            job.release();
            assert!(again(&mut job, LONG));
        });
        let order: Vec<&str> = received.try_iter().collect();
        assert_eq!(order, ["first", "second", "third"]);
    }

    #[test]
    fn a_stopped_waiter_is_overtaken_and_does_not_count_for_a_while() {
        let (_dir, pool) = pool();
        let mut job = a_job(&pool);
        // This waiter has a ticket, but never takes the lock.
        let stopped = Anchor::of(&pool).unwrap();
        stopped
            .share(
                Ticket {
                    role: Role::Command,
                    arrived: sys::monotonic_us(),
                }
                .byte(),
            )
            .unwrap();
        assert!(job.is_wanted_by(Role::Command).unwrap());
        job.release();
        assert!(again(&mut job, LONG));
        assert!(!job.is_wanted_by(Role::Command).unwrap());
        let late = Anchor::of(&pool).unwrap();
        late.share(
            Ticket {
                role: Role::Command,
                arrived: sys::monotonic_us() + 1,
            }
            .byte(),
        )
        .unwrap();
        assert!(job.is_wanted_by(Role::Command).unwrap());
    }
}
