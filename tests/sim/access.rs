//! Disk accesses of production threads of apparatuses. An access that has begun takes place in its own time, also while its process is stopped,
//! and it may be the last thing of a process that is killed.

use super::copy::At;
use super::history::Tag;
use super::thread::ThreadId;
use super::{Delay, ProcId, Task, World};

/// An access, from its begin until its thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessId(pub u64);

#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub proc: ProcId,
    thread: ThreadId,
    pub at: At,
    pub writes: bool,
    /// What is written, or was read.
    pub tag: Tag,
    pub done: bool,
}

impl World {
    /// A thread begins an access of one block, and will wait for it.
    pub fn begin_access(&mut self, (proc, thread): (ProcId, ThreadId), at: At, written: Option<Tag>) {
        self.last_access += 1;
        let id = AccessId(self.last_access);
        let access = Access {
            proc,
            thread,
            at,
            writes: written.is_some(),
            tag: written.unwrap_or(Tag::GARBAGE),
            done: false,
        };
        self.accesses.insert(id, access);
        self.after(None, Delay::Disk, Task::Access(id));
    }

    /// An access takes place. When that was the last one of its thread, the thread goes on.
    pub fn access(&mut self, id: AccessId) {
        let Some(access) = self.accesses.get_mut(&id).filter(|access| !access.done) else {
            return;
        };
        access.done = true;
        let (disk, block) = access.at;
        if access.writes {
            self.disks[disk].write(block, access.tag);
        } else {
            access.tag = self.disks[disk].read(block);
        }
        let access = *access;
        self.trace(|| format!("{access:?}"));
        if access.writes && self.app_of(access.proc).is_some_and(|index| self.fenced(index)) {
            self.count("late writes");
        }
        let mut theirs = self.accesses.values();
        if !theirs.any(|other| other.thread == access.thread && !other.done) {
            self.wake_thread(access.thread, Delay::Step);
        }
    }

    /// Takes the accesses that a thread has waited for.
    pub fn end_accesses(&mut self, thread: ThreadId) -> Vec<Access> {
        let theirs = self.accesses.extract_if(.., |_, access| access.thread == thread);
        theirs.map(|(_, access)| access).collect()
    }

    /// The process is killed: writes that are under way take place, or do not.
    pub fn last_accesses_of(&mut self, proc: ProcId) {
        let under_way = |access: &Access| access.proc == proc && access.writes && !access.done;
        let theirs = self.accesses.iter().filter(|(_, access)| under_way(access));
        for id in theirs.map(|(&id, _)| id).collect::<Vec<_>>() {
            if self.rng.permille(500) {
                self.access(id);
            }
        }
        self.accesses.retain(|_, access| access.proc != proc);
    }

    pub fn app_of(&self, proc: ProcId) -> Option<usize> {
        let is = |app: &super::app::App| app.proc == proc;
        self.apps
            .iter()
            .position(|app| app.as_ref().is_some_and(|app| is(app)))
    }
}
