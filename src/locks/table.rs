//! What the owners of one apparatus have and wait for.

use super::{Arbiter, Held, Kind, LockReply, Owner, Range, Refused, Request, TestReply};
use crate::units::VolumeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Requests that wait at once; more are refused.
const WAITING: usize = 256;

type Key = (VolumeId, Owner);

struct Waiting {
    request: Request,
    kind: Kind,
    reply: LockReply,
}

/// The locks of one apparatus. The arbiter knows them too, and decides.
pub(super) struct Table {
    arbiter: Box<dyn Arbiter>,
    held: BTreeMap<Key, Vec<Held>>,
    /// The handle that each owner has locked through last. Its end ends the owner's locks; a late end of an earlier handle ends nothing.
    through: BTreeMap<Key, u64>,
    waiting: Vec<Waiting>,
}

impl Table {
    pub(super) fn new(arbiter: Box<dyn Arbiter>) -> Self {
        Self {
            arbiter,
            held: BTreeMap::new(),
            through: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Owners that have locks or wait for them.
    pub(super) fn owners(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    pub(super) fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn set(&mut self, request: Request, reply: LockReply) {
        let Some(kind) = request.kind else {
            let given_back = self.try_set(&request, None);
            reply(given_back.map(drop));
            return self.look();
        };
        match self.try_set(&request, Some(kind)) {
            Ok(true) => {
                reply(Ok(()));
                // A lock that became shared lets others in.
                self.look();
            }
            Ok(false) if request.wait => self.wait(Waiting { request, kind, reply }),
            Ok(false) => reply(Err(Refused::InTheWay)),
            Err(why) => reply(Err(why)),
        }
    }

    pub(super) fn test(&mut self, request: &Request, kind: Kind, reply: TestReply) {
        let (volume, owner, range) = (request.volume, request.owner, request.range);
        let found = self.arbiter.in_the_way(volume, owner, range, kind);
        let known = self
            .in_the_way(volume, owner, range, kind)
            .map(|(_, held)| held.pid)
            .next();
        reply(match found {
            Ok(found) => Ok(found.map(|held| Held {
                pid: known.unwrap_or_default(),
                ..held
            })),
            Err(why) => Err(no_locks(&why)),
        });
    }

    /// A handle has ended.
    pub(super) fn released(&mut self, handle: u64) {
        let gone = self.through.iter().filter(|(_, through)| **through == handle);
        let gone: Vec<Key> = gone.map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.forget(*key));
        if !gone.is_empty() {
            self.look();
        }
    }

    fn forget(&mut self, key: Key) {
        self.through.remove(&key);
        self.held.remove(&key);
        self.arbiter.forget(key.0, key.1);
    }

    /// Tries what waits, in the order in which it came.
    pub(super) fn look(&mut self) {
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

    fn try_set(&mut self, request: &Request, kind: Option<Kind>) -> Result<bool, Refused> {
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
        held.extend(kind.map(|kind| Held {
            kind,
            range: request.range,
            pid: request.process.0,
        }));
        if held.is_empty() {
            self.forget(key);
        } else {
            self.held.insert(key, held);
            self.through.insert(key, request.handle);
        }
        Ok(true)
    }

    fn wait(&mut self, waiting: Waiting) {
        // Whoever cannot be seen could not be told of a signal either, and not be killed while it waits.
        if self.waiting.len() >= WAITING || waiting.request.process.1 == 0 {
            return (waiting.reply)(Err(Refused::NoLocks));
        }
        if self.waits_for_itself(&waiting) {
            return (waiting.reply)(Err(Refused::Deadlock));
        }
        self.waiting.push(waiting);
    }

    /// Whether those whose locks are in the way wait, directly or not, for one of this owner's. What others wait for at other apparatuses is not known.
    fn waits_for_itself(&self, new: &Waiting) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Waiting> = vec![new];
        while let Some(waiting) = next.pop() {
            let (request, kind) = (&waiting.request, waiting.kind);
            for ((_, owner), _) in self.in_the_way(request.volume, request.owner, request.range, kind) {
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

    /// Locks of other owners here that exclude this one.
    fn in_the_way(
        &self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Kind,
    ) -> impl Iterator<Item = (&Key, &Held)> {
        let others = self
            .held
            .iter()
            .filter(move |(key, _)| key.0 == volume && key.1 != owner);
        others
            .flat_map(|(key, held)| held.iter().map(move |each| (key, each)))
            .filter(move |(_, held)| held.range.overlaps(range) && held.kind.excludes(kind))
    }
}

/// Takes a range out of what is held.
fn cut(held: &mut Vec<Held>, range: Range) {
    let mut left = Vec::with_capacity(held.len() + 1);
    for each in held.drain(..) {
        if !each.range.overlaps(range) {
            left.push(each);
            continue;
        }
        if each.range.start < range.start {
            let end = range.start - 1;
            left.push(Held {
                range: Range { end, ..each.range },
                ..each
            });
        }
        if each.range.end > range.end {
            let start = range.end + 1;
            left.push(Held {
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

/// Whether a thread that waits in a system call has been sent a signal that would end the wait, or is gone.
fn was_interrupted(thread: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else {
        return true;
    };
    let signals = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .unwrap_or_default()
    };
    (signals("SigPnd:") | signals("ShdPnd:")) & !signals("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::super::RunFiles;
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    const END: u64 = i64::MAX as u64;
    const V: VolumeId = VolumeId(3);

    fn table(run: &tempfile::TempDir) -> Table {
        Table::new(Box::new(RunFiles::new(run.path())))
    }

    fn ask(
        table: &mut Table,
        owner: u64,
        (start, end): (u64, u64),
        kind: Option<Kind>,
        wait: bool,
    ) -> Receiver<Result<(), Refused>> {
        let (tell, told) = channel();
        let request = Request {
            volume: V,
            handle: owner,
            owner: Owner(owner),
            range: Range { start, end },
            kind,
            process: (std::process::id(), std::process::id()),
            wait,
        };
        table.set(request, Box::new(move |answer| tell.send(answer).unwrap()));
        told
    }

    fn get(table: &mut Table, owner: u64, range: (u64, u64), kind: Kind) -> Result<(), Refused> {
        ask(table, owner, range, Some(kind), false).recv().unwrap()
    }

    fn give(table: &mut Table, owner: u64, range: (u64, u64)) {
        ask(table, owner, range, None, false).recv().unwrap().unwrap();
    }

    #[test]
    fn locks_exclude_each_other_through_every_apparatus_and_ranges_are_split() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (0, END), Kind::Exclusive).unwrap();
        assert_eq!(get(&mut b, 1, (0, END), Kind::Shared), Err(Refused::InTheWay));
        assert_eq!(get(&mut a, 2, (9, 9), Kind::Shared), Err(Refused::InTheWay));
        give(&mut a, 1, (10, 19));
        get(&mut b, 1, (10, 19), Kind::Exclusive).unwrap();
        assert_eq!(get(&mut b, 1, (10, 20), Kind::Exclusive), Err(Refused::InTheWay));
        get(&mut a, 1, (0, 9), Kind::Shared).unwrap();
        get(&mut b, 2, (0, 9), Kind::Shared).unwrap();
        assert_eq!(get(&mut a, 1, (0, 9), Kind::Exclusive), Err(Refused::InTheWay));
        assert_eq!(a.owners(), 1);
        a.released(1);
        assert_eq!(a.owners(), 0);
        get(&mut b, 1, (20, END), Kind::Exclusive).unwrap();
        b.released(1);
        get(&mut a, 1, (10, END), Kind::Exclusive).unwrap();
        drop(a);
        get(&mut b, 1, (10, END), Kind::Exclusive).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_it_is_given_back_here_or_elsewhere() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (0, 9), Kind::Exclusive).unwrap();
        let here = ask(&mut a, 2, (5, 5), Some(Kind::Exclusive), true);
        let there = ask(&mut b, 1, (5, 5), Some(Kind::Exclusive), true);
        b.look();
        assert!(here.try_recv().is_err() && there.try_recv().is_err());
        give(&mut a, 1, (0, 9));
        assert_eq!(here.try_recv(), Ok(Ok(())));
        b.look();
        assert!(there.try_recv().is_err());
        a.released(2);
        b.look();
        assert_eq!(there.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn those_who_would_wait_for_each_other_are_told_and_the_unseen_do_not_wait() {
        let run = tempfile::tempdir().unwrap();
        let mut a = table(&run);
        get(&mut a, 1, (1, 1), Kind::Exclusive).unwrap();
        get(&mut a, 2, (2, 2), Kind::Exclusive).unwrap();
        let first = ask(&mut a, 1, (2, 2), Some(Kind::Exclusive), true);
        let second = ask(&mut a, 2, (1, 1), Some(Kind::Shared), true);
        assert_eq!(second.try_recv(), Ok(Err(Refused::Deadlock)));
        a.released(2);
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(was_interrupted(u32::MAX));
        assert!(!was_interrupted(std::process::id()));
    }

    #[test]
    fn a_handle_that_ends_late_takes_nothing_that_its_owner_has_got_since() {
        let run = tempfile::tempdir().unwrap();
        let mut a = table(&run);
        get(&mut a, 1, (0, 9), Kind::Exclusive).unwrap();
        let (tell, told) = channel();
        let request = Request {
            volume: V,
            handle: 77,
            owner: Owner(1),
            range: Range { start: 0, end: 9 },
            kind: Some(Kind::Exclusive),
            process: (1, 1),
            wait: false,
        };
        a.set(request, Box::new(move |answer| tell.send(answer).unwrap()));
        told.recv().unwrap().unwrap();
        a.released(1);
        assert_eq!(a.owners(), 1);
        a.released(77);
        assert_eq!(a.owners(), 0);
    }

    #[test]
    fn tells_what_is_in_the_way_and_whose_it_is() {
        let run = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (table(&run), table(&run));
        get(&mut a, 1, (4, 8), Kind::Shared).unwrap();
        let test = |table: &mut Table, kind: Kind| {
            let (tell, told) = channel();
            let request = Request {
                volume: V,
                handle: 5,
                owner: Owner(5),
                range: Range { start: 0, end: END },
                kind: None,
                process: (1, 1),
                wait: false,
            };
            table.test(&request, kind, Box::new(move |answer| tell.send(answer).unwrap()));
            told.recv().unwrap().unwrap()
        };
        assert_eq!(test(&mut a, Kind::Shared), None);
        let found = test(&mut a, Kind::Exclusive).unwrap();
        assert_eq!(
            (found.kind, found.range),
            (Kind::Shared, Range { start: 4, end: 8 })
        );
        assert_eq!(found.pid, std::process::id());
        assert_eq!(test(&mut b, Kind::Exclusive).unwrap().pid, 0);
    }
}
