//! Locks that the owners of one apparatus have and wait for.

use super::{Arbiter, HeldLock, LockMode, LockReply, Owner, Range, Refused, Request, TestReply, Through};
use crate::model::units::VolumeId;
use crate::sys;
use std::collections::{BTreeMap, BTreeSet};

/// Largest number of waiting requests; more are refused.
const WAITING: usize = 256;

type OwnerKey = (VolumeId, Owner);

struct WaitingLock {
    request: Request,
    kind: LockMode,
    reply: LockReply,
}

/// The locks of one apparatus. The arbiter knows them too, and decides conflicts.
pub(super) struct Table {
    arbiter: Box<dyn Arbiter>,
    held: BTreeMap<OwnerKey, Vec<HeldLock>>,
    /// The handle that each owner locked through last. Its end ends the owner's locks; a late end of an earlier handle ends
    /// nothing.
    through: BTreeMap<OwnerKey, u64>,
    waiting: Vec<WaitingLock>,
}

impl Table {
    /// Makes the table, with the locks that a process before this one has left.
    pub(super) fn new(mut arbiter: Box<dyn Arbiter>) -> Self {
        let (mut held, mut through) = (BTreeMap::new(), BTreeMap::new());
        for left in arbiter.left() {
            let key = (left.volume, left.owner);
            through.insert(key, left.handle);
            held.insert(key, left.held);
        }
        Self {
            arbiter,
            held,
            through,
            waiting: Vec::new(),
        }
    }

    /// Returns the number of owners that have locks or wait for them.
    pub(super) fn owners(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn set(&mut self, request: Request, reply: LockReply) {
        let Some(kind) = request.kind else {
            let released = self.try_set(&request, None);
            reply(released.map(drop));
            return self.retry_waiting();
        };
        match self.try_set(&request, Some(kind)) {
            Ok(true) => {
                reply(Ok(()));
                // A lock that became shared may admit others.
                self.retry_waiting();
            }
            Ok(false) if request.wait => self.wait(WaitingLock { request, kind, reply }),
            Ok(false) => reply(Err(Refused::Conflict)),
            Err(why) => reply(Err(why)),
        }
    }

    pub(super) fn test(&mut self, request: &Request, kind: LockMode, reply: TestReply) {
        let (volume, owner, range) = (request.volume, request.owner, request.range);
        let found = self.arbiter.conflict(volume, owner, range, kind);
        let known = self
            .conflicts(volume, owner, range, kind)
            .map(|(_, held)| held.pid)
            .next();
        reply(match found {
            Ok(found) => Ok(found.map(|held| HeldLock {
                pid: known.unwrap_or_default(),
                ..held
            })),
            Err(why) => Err(no_locks(&why)),
        });
    }

    /// Releases the locks of a handle that has ended.
    pub(super) fn released(&mut self, handle: u64) {
        let gone = self.through.iter().filter(|(_, through)| **through == handle);
        let gone: Vec<OwnerKey> = gone.map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.forget(*key));
        if !gone.is_empty() {
            self.retry_waiting();
        }
    }

    fn forget(&mut self, key: OwnerKey) {
        self.through.remove(&key);
        self.held.remove(&key);
        self.arbiter.forget(key.0, key.1);
    }

    /// Tries the waiting requests again, in order of arrival.
    pub(super) fn retry_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = match was_interrupted(waiting.request.process.1) {
                true => Err(Refused::Interrupted),
                false => self.try_set(&waiting.request, Some(waiting.kind)),
            };
            match answer {
                Ok(false) => self.waiting.push(waiting),
                Ok(true) => (waiting.reply)(Ok(())),
                Err(why) => (waiting.reply)(Err(why)),
            }
        }
    }

    fn try_set(&mut self, request: &Request, kind: Option<LockMode>) -> Result<bool, Refused> {
        let key = (request.volume, request.owner);
        let set = self.arbiter.set(key.0, key.1, request.range, kind);
        if !set.map_err(|why| no_locks(&why))? {
            if !self.held.contains_key(&key) {
                self.arbiter.forget(key.0, key.1);
            }
            return Ok(false);
        }
        let mut held = self.held.remove(&key).unwrap_or_default();
        cut(&mut held, request.range);
        held.extend(kind.map(|kind| HeldLock {
            kind,
            range: request.range,
            pid: request.process.0,
        }));
        if held.is_empty() {
            self.forget(key);
        } else {
            self.held.insert(key, held);
            self.come_through(key, request);
        }
        Ok(true)
    }

    /// Notes the handle that an owner has locked through.
    fn come_through(&mut self, key: OwnerKey, request: &Request) {
        if self.through.insert(key, request.handle) == Some(request.handle) {
            return;
        }
        let through = Through {
            handle: request.handle,
            pid: request.process.0,
        };
        if let Err(why) = self.arbiter.record(key.0, key.1, through) {
            log::error!(
                "a lock of process {} on volume {} would be lost in a restart of the server: {why}",
                through.pid,
                key.0
            );
        }
    }

    fn wait(&mut self, waiting: WaitingLock) {
        // For a thread that is not visible here, no signal could be detected, so a waiting host could not be killed.
        if self.waiting.len() >= WAITING || waiting.request.process.1 == 0 {
            return (waiting.reply)(Err(Refused::NoLocks));
        }
        if self.waits_for_itself(&waiting) {
            return (waiting.reply)(Err(Refused::Deadlock));
        }
        self.waiting.push(waiting);
    }

    /// Returns whether the owners of conflicting locks wait, directly or not, for a lock of this owner. What others wait for at
    /// other apparatuses is not known.
    fn waits_for_itself(&self, new: &WaitingLock) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&WaitingLock> = vec![new];
        while let Some(waiting) = next.pop() {
            let (request, kind) = (&waiting.request, waiting.kind);
            for ((_, owner), _) in self.conflicts(request.volume, request.owner, request.range, kind) {
                if *owner == new.request.owner {
                    return true;
                }
                if seen.insert(*owner) {
                    next.extend(self.waiting.iter().filter(|each| each.request.owner == *owner));
                }
            }
        }
        false
    }

    /// Returns the locks of other owners here that exclude this one.
    fn conflicts(
        &self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: LockMode,
    ) -> impl Iterator<Item = (&OwnerKey, &HeldLock)> {
        let others = self
            .held
            .iter()
            .filter(move |(key, _)| key.0 == volume && key.1 != owner);
        others
            .flat_map(|(key, held)| held.iter().map(move |each| (key, each)))
            .filter(move |(_, held)| held.range.overlaps(range) && held.kind.excludes(kind))
    }
}

/// Removes a range from the held locks.
fn cut(held: &mut Vec<HeldLock>, range: Range) {
    let mut left = Vec::with_capacity(held.len() + 1);
    for each in held.drain(..) {
        if !each.range.overlaps(range) {
            left.push(each);
            continue;
        }
        if each.range.start < range.start {
            let end = range.start - 1;
            left.push(HeldLock {
                range: Range { end, ..each.range },
                ..each
            });
        }
        if each.range.end > range.end {
            let start = range.end + 1;
            left.push(HeldLock {
                range: Range { start, ..each.range },
                ..each
            });
        }
    }
    *held = left;
}

fn no_locks(why: &std::io::Error) -> Refused {
    log::warn!("locks: {why}");
    Refused::NoLocks
}

/// Returns whether a thread that waits in a system call has been sent a signal that would end the wait, or no longer exists.
fn was_interrupted(thread: u32) -> bool {
    let Ok(status) = sys::proc::status(thread) else {
        return true;
    };
    let signals = |name: &str| {
        let mask = status.value(name).map(|text| u64::from_str_radix(text, 16));
        mask.and_then(Result::ok).unwrap_or_default()
    };
    (signals("SigPnd") | signals("ShdPnd")) & !signals("SigBlk") != 0
}

#[cfg(test)]
mod tests {
    use super::super::RunFiles;
    use super::*;
    use crate::model::dir::PoolDir;
    use std::sync::mpsc::{Receiver, channel};

    const END: u64 = i64::MAX as u64;
    const V: VolumeId = VolumeId(3);

    fn table(run: &tempfile::TempDir) -> Table {
        let pool = PoolDir::new(run.path());
        std::fs::create_dir_all(pool.run()).unwrap();
        Table::new(Box::new(RunFiles::new(&pool)))
    }

    fn ask(
        table: &mut Table,
        owner: u64,
        (start, end): (u64, u64),
        kind: Option<LockMode>,
        wait: bool,
    ) -> Receiver<Result<(), Refused>> {
        let (reply, answers) = channel();
        let request = Request {
            volume: V,
            handle: owner,
            owner: Owner(owner),
            range: Range { start, end },
            kind,
            process: (std::process::id(), std::process::id()),
            wait,
        };
        table.set(request, Box::new(move |answer| reply.send(answer).unwrap()));
        answers
    }

    fn get(table: &mut Table, owner: u64, range: (u64, u64), kind: LockMode) -> Result<(), Refused> {
        ask(table, owner, range, Some(kind), false).recv().unwrap()
    }

    fn give(table: &mut Table, owner: u64, range: (u64, u64)) {
        ask(table, owner, range, None, false).recv().unwrap().unwrap();
    }

    #[test]
    fn locks_exclude_each_other_through_every_apparatus_and_ranges_are_split() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (0, END), LockMode::Exclusive).unwrap();
        assert_eq!(get(&mut b, 1, (0, END), LockMode::Shared), Err(Refused::Conflict));
        assert_eq!(get(&mut a, 2, (9, 9), LockMode::Shared), Err(Refused::Conflict));
        give(&mut a, 1, (10, 19));
        get(&mut b, 1, (10, 19), LockMode::Exclusive).unwrap();
        assert_eq!(
            get(&mut b, 1, (10, 20), LockMode::Exclusive),
            Err(Refused::Conflict)
        );
        get(&mut a, 1, (0, 9), LockMode::Shared).unwrap();
        get(&mut b, 2, (0, 9), LockMode::Shared).unwrap();
        assert_eq!(
            get(&mut a, 1, (0, 9), LockMode::Exclusive),
            Err(Refused::Conflict)
        );
        assert_eq!(a.owners(), 1);
        a.released(1);
        assert_eq!(a.owners(), 0);
        get(&mut b, 1, (20, END), LockMode::Exclusive).unwrap();
        b.released(1);
        get(&mut a, 1, (10, END), LockMode::Exclusive).unwrap();
        drop(a);
        get(&mut b, 1, (10, END), LockMode::Exclusive).unwrap();
    }

    #[test]
    fn a_waiting_owner_gets_a_lock_that_is_released_here_or_elsewhere() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (0, 9), LockMode::Exclusive).unwrap();
        let here = ask(&mut a, 2, (5, 5), Some(LockMode::Exclusive), true);
        let there = ask(&mut b, 1, (5, 5), Some(LockMode::Exclusive), true);
        b.retry_waiting();
        assert!(here.try_recv().is_err() && there.try_recv().is_err());
        give(&mut a, 1, (0, 9));
        assert_eq!(here.try_recv(), Ok(Ok(())));
        b.retry_waiting();
        assert!(there.try_recv().is_err());
        a.released(2);
        b.retry_waiting();
        assert_eq!(there.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_deadlock_is_reported_and_invisible_threads_do_not_wait() {
        let run = tempfile::tempdir().unwrap();
        let mut a = table(&run);
        get(&mut a, 1, (1, 1), LockMode::Exclusive).unwrap();
        get(&mut a, 2, (2, 2), LockMode::Exclusive).unwrap();
        let first = ask(&mut a, 1, (2, 2), Some(LockMode::Exclusive), true);
        let second = ask(&mut a, 2, (1, 1), Some(LockMode::Shared), true);
        assert_eq!(second.try_recv(), Ok(Err(Refused::Deadlock)));
        a.released(2);
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(was_interrupted(u32::MAX));
        assert!(!was_interrupted(std::process::id()));
    }

    #[test]
    fn a_handle_that_ends_late_keeps_locks_that_its_owner_took_since() {
        let run = tempfile::tempdir().unwrap();
        let mut a = table(&run);
        get(&mut a, 1, (0, 9), LockMode::Exclusive).unwrap();
        let (reply, answers) = channel();
        let request = Request {
            volume: V,
            handle: 77,
            owner: Owner(1),
            range: Range { start: 0, end: 9 },
            kind: Some(LockMode::Exclusive),
            process: (1, 1),
            wait: false,
        };
        a.set(request, Box::new(move |answer| reply.send(answer).unwrap()));
        answers.recv().unwrap().unwrap();
        a.released(1);
        assert_eq!(a.owners(), 1);
        a.released(77);
        assert_eq!(a.owners(), 0);
    }

    #[test]
    fn reports_the_conflicting_lock_and_its_process() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (4, 8), LockMode::Shared).unwrap();
        let test = |table: &mut Table, kind: LockMode| {
            let (reply, answers) = channel();
            let request = Request {
                volume: V,
                handle: 5,
                owner: Owner(5),
                range: Range { start: 0, end: END },
                kind: None,
                process: (1, 1),
                wait: false,
            };
            table.test(
                &request,
                kind,
                Box::new(move |answer| reply.send(answer).unwrap()),
            );
            answers.recv().unwrap().unwrap()
        };
        assert_eq!(test(&mut a, LockMode::Shared), None);
        let found = test(&mut a, LockMode::Exclusive).unwrap();
        assert_eq!(
            (found.kind, found.range),
            (LockMode::Shared, Range { start: 4, end: 8 })
        );
        assert_eq!(found.pid, std::process::id());
        assert_eq!(test(&mut b, LockMode::Exclusive).unwrap().pid, 0);
    }
}
