//! Keeps the times of modification: tells the others when volumes were written through this apparatus, hears it from them, and from its own
//! earlier life. A thread of its own does it, once a second, so that neither requests nor looks wait for the pool's directory.

use crate::data::Apparatus;
use crate::member::times::{self, Times, Told};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use crate::units::Timestamp;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// From one telling to the next.
const TURN: Duration = Duration::from_secs(1);
/// How long the beginning waits for what is known, and the end for the last telling.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread.
pub(super) struct TimeKeeper {
    end: Sender<()>,
    ended: Receiver<()>,
}

impl TimeKeeper {
    /// Learns what is known so far, and begins. What cannot be learnt is told in the log: times then begin now.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(apparatus: &Arc<Apparatus>, pool: &PoolDir, uuid: Uuid) -> io::Result<Self> {
        let (end, asked) = bounded(0);
        let (tell, ended) = bounded(1);
        let (tell_begun, begun) = bounded::<()>(1);
        let mut book = Book::new(apparatus.name().clone(), pool.times(), uuid);
        let keep = {
            let apparatus = Arc::downgrade(apparatus);
            move || {
                let _told_when_dropped = tell;
                if let Some(apparatus) = apparatus.upgrade() {
                    book.begin(&apparatus);
                }
                drop(tell_begun);
                while asked.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout) {
                    let Some(apparatus) = apparatus.upgrade() else {
                        return;
                    };
                    book.turn(&apparatus, true);
                }
                if let Some(apparatus) = apparatus.upgrade() {
                    book.turn(&apparatus, false);
                }
            }
        };
        thread::Builder::new().name("times".into()).spawn(keep)?;
        if begun.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the pool's directory does not answer: the times of earlier writes are not known yet");
        }
        Ok(Self { end, ended })
    }

    /// Nothing is written any more: tells the last times, if the pool's directory answers.
    pub(super) fn end(self) {
        drop(self.end);
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the times of the last writes could not be recorded in time");
        }
    }
}

/// What the thread knows.
struct Book {
    name: Name,
    dir: PathBuf,
    pool: Uuid,
    /// What this apparatus has told last.
    told: Option<Told>,
    /// The files of others that were read: when they were written, and their inode.
    seen: BTreeMap<OsString, (i64, i64, u64)>,
    /// Whether the last turn has failed: told once.
    fails: bool,
}

impl Book {
    fn new(name: Name, dir: PathBuf, pool: Uuid) -> Self {
        Self {
            name,
            dir,
            pool,
            told: None,
            seen: BTreeMap::new(),
            fails: false,
        }
    }

    /// An earlier life that was cut off may have written after it told: so all that it served counts as written now.
    fn begin(&mut self, apparatus: &Apparatus) {
        let own = times::read(&times::file_of(&self.dir, &self.name), self.pool);
        let own = own.unwrap_or_else(|error| {
            log::warn!("times of modification: {error}");
            None
        });
        if let Some(mut own) = own {
            if own.serves {
                let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
                own.times.values_mut().for_each(|at| *at = now);
            }
            apparatus.learn_modified(&own.times);
        }
        self.turn(apparatus, true);
    }

    fn turn(&mut self, apparatus: &Apparatus, serves: bool) {
        let result = self.hear().and_then(|heard| {
            apparatus.learn_modified(&heard);
            self.tell(apparatus.modified_here(), serves)
        });
        match result {
            Err(ref error) if !self.fails => log::warn!("times of modification: {error}"),
            _ => (),
        }
        self.fails = result.is_err();
        apparatus.recount();
    }

    fn tell(&mut self, times: Times, serves: bool) -> io::Result<()> {
        let new = Told { serves, times };
        if self.told.as_ref() == Some(&new) {
            return Ok(());
        }
        times::tell(&self.dir, &self.name, self.pool, &new)?;
        self.told = Some(new);
        Ok(())
    }

    /// What others have told since the last turn.
    fn hear(&mut self) -> io::Result<Times> {
        let mut heard = Times::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(heard),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_another = |name: &str| name != self.name.as_str() && !name.starts_with('.');
            if !name.to_str().is_some_and(is_another) {
                continue;
            }
            let meta = entry.metadata()?;
            let mark = (meta.mtime(), meta.mtime_nsec(), meta.ino());
            if self.seen.insert(name, mark) == Some(mark) {
                continue;
            }
            let told = times::read(&entry.path(), self.pool)?;
            for (volume, at) in told.into_iter().flat_map(|told| told.times) {
                let known = heard.entry(volume).or_default();
                *known = at.max(*known);
            }
        }
        Ok(heard)
    }
}
