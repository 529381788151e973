//! Locks of running jobs. The controller lock does not show which jobs run, because a job yields it in its gaps.

use super::anchor::{Anchor, JOBS, byte_of_job, one};
use super::lock::{Attempt, FileLock, failed, locked, make_run_dir, wait_for};
use super::notice::{self, LockNotice};
use crate::model::dir::PoolDir;
use crate::model::error::Result;
use crate::model::units::JobId;
use crate::sys::hold;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lock that a process holds while it runs a job.
pub(super) struct JobLock {
    /// Keeps the path valid.
    _pool: PoolDir,
    path: PathBuf,
    /// Released before the lock on the file, whose release wakes waiters.
    _anchor: Anchor,
    _lock: FileLock,
}

impl JobLock {
    /// Takes the lock, and waits for at most `within`. Returns `None` when another process runs the job all that time.
    ///
    /// # Errors
    /// Fails when the file cannot be created or locked.
    pub(super) fn take(pool: &PoolDir, job: JobId, within: Duration) -> Result<Option<Self>> {
        let pool = &hold(pool)?;
        make_run_dir(pool)?;
        let path = file_of(&pool.run(), job);
        let anchor = Anchor::of(pool)?;
        let (mut attempt, mut lock) = (Attempt::at(&path), None);
        let taken = wait_for(&path, Some(within), || {
            if lock.is_none() {
                lock = attempt.take()?;
            }
            Ok((lock.is_some() && anchor.claim(byte_of_job(job))?).then_some(()))
        });
        let taken = taken.map_err(failed(pool, &path))?;
        let Some(lock) = taken.and(lock) else {
            return Ok(None);
        };
        let notice = LockNotice::new(&format!("job {job}"));
        notice.write(&lock.file).map_err(failed(pool, &path))?;
        Ok(Some(Self {
            _pool: pool.clone(),
            path,
            _anchor: anchor,
            _lock: lock,
        }))
    }

    /// Describes the process that runs a job, for messages: `job 7 by pid 123 since 2026-01-31T10:02:00Z`. Returns `None` when none does.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub(super) fn holder(pool: &PoolDir, job: JobId) -> Result<Option<String>> {
        let path = file_of(&pool.run(), job);
        let failed = failed(pool, &path);
        let nameless = || format!("job {job} by another process");
        if locked(&path).map_err(&failed)? {
            return match notice::read(&path) {
                Ok(text) => Ok(Some(text.unwrap_or_else(nameless))),
                // The job has just ended.
                Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(why) => Err(failed(why)),
            };
        }
        let anchored = match Anchor::of_existing(pool).map_err(&failed)? {
            Some(anchor) => anchor.shared_elsewhere(one(byte_of_job(job))).map_err(failed)?,
            None => false,
        };
        Ok(anchored.then(nameless))
    }

    /// Returns whether any job of the pool is running.
    ///
    /// # Errors
    /// Fails when the directory cannot be read.
    pub(super) fn any(pool: &PoolDir) -> Result<bool> {
        let failed = failed(pool, pool.path());
        match Anchor::of_existing(pool).map_err(&failed)? {
            Some(anchor) => anchor.shared_elsewhere(JOBS).map_err(failed),
            None => Ok(false),
        }
    }
}

impl Drop for JobLock {
    fn drop(&mut self) {
        // A process that has opened the file meanwhile notices that it was removed, and creates it again.
        let _ = fs::remove_file(&self.path);
    }
}

fn file_of(run: &Path, job: JobId) -> PathBuf {
    run.join(format!("job-{job}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_runs_a_job_and_is_named_and_the_file_is_removed_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolDir::new(dir.path());
        let take = |job| JobLock::take(&pool, JobId(job), Duration::ZERO).unwrap();
        let holder = |job| JobLock::holder(&pool, JobId(job)).unwrap();
        assert!(!JobLock::any(&pool).unwrap());
        let lock = take(7).unwrap();
        assert!(take(7).is_none() && holder(8).is_none() && JobLock::any(&pool).unwrap());
        let expected = format!("job 7 by pid {} since 2", std::process::id());
        assert!(holder(7).unwrap().starts_with(&expected));
        let other = take(8).unwrap();
        drop(lock);
        assert!(holder(7).is_none() && holder(8).is_some());
        assert!(!file_of(&pool.run(), JobId(7)).exists());
        drop((take(7).unwrap(), other));
        fs::create_dir_all(pool.run()).unwrap();
        let lock = take(9).unwrap();
        fs::remove_dir_all(pool.run()).unwrap();
        assert!(holder(9).is_some() && take(9).is_none());
        drop(lock);
        assert!(!JobLock::any(&pool).unwrap());
    }
}
