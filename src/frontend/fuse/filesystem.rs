//! Translates requests of the kernel into requests of the data path. A volume's inode is its number plus 2; inode 1 is the directory.

use super::answer::Answer;
use super::incoming::{Call, Incoming, Malformed};
use super::locking::{self, Wanted};
use super::reply::{DoneReply, ReadReply, SeekReply, WriteReply};
use super::wire::{self, Header};
use super::{Options, errno};
use crate::datapath::{
    Apparatus, Data, Failure, IoContext, Opening, Operation, Reply, Request, Role, SMALL_READ, Target,
};
use crate::frontend::scheduler::readers::{ReaderContext, ReaderScheduler};
use crate::model::records::{DiskAccess, VolumeRecord};
use crate::model::units::{VolumeId, VolumeOffset};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the largest request, for reads and writes.
pub(super) const LARGEST: u32 = 1 << 20;

/// File system of one apparatus: a directory with a file for each volume.
pub(super) struct Volumes {
    pub(super) apparatus: Arc<Apparatus>,
    pub(super) options: Options,
    /// User and group that mounted.
    pub(super) owner: (u32, u32),
    /// How long the kernel caches names; zero where it cannot be told at once that one has changed.
    pub(super) names_ttl: Duration,
    readers: ReaderScheduler,
}

/// State of a thread that takes requests.
pub(super) enum Reader {
    /// A thread that reads them from the device. It joins the reader threads with its first request.
    Device(Option<ReaderSlot>),
    /// A thread that gets them by a ring.
    Ring(Option<IoContext>),
}

/// State of one of the reader threads.
pub(super) struct ReaderSlot {
    io: IoContext,
    context: ReaderContext,
}

/// Returns the inode of a volume.
pub(super) fn inode(id: VolumeId) -> u64 {
    id.0 + 2
}

pub(super) fn volume_id(inode: u64) -> Option<VolumeId> {
    inode.checked_sub(2).map(VolumeId)
}

impl Volumes {
    pub(super) fn new(apparatus: Arc<Apparatus>, options: Options, names_ttl: Duration) -> Self {
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let readers = match options.access {
            DiskAccess::Cached => ReaderScheduler::new(options.threads),
            DiskAccess::Direct => ReaderScheduler::waiting(options.threads),
        };
        Self {
            apparatus,
            options,
            owner,
            names_ttl,
            readers,
        }
    }

    /// Serves a request of the kernel. Returns when the scheduler lets the thread take another one.
    pub(super) fn serve(&self, reader: &mut Reader, incoming: &Incoming<'_>, answer: Answer) {
        let header = &incoming.header;
        if self.is_a_strangers(incoming) {
            return answer.error(errno::NOT_THE_OWNER);
        }
        let inode = header.inode;
        match incoming.call() {
            Ok(Call::Read(argument)) => self.read(reader, inode, argument, answer),
            Ok(Call::Write(argument, data)) => self.write(reader, inode, argument, data, answer),
            Ok(Call::Flush) => self.run(reader, inode, Operation::Flush, DoneReply(answer)),
            Ok(Call::Allocate(argument)) => self.allocate(reader, inode, argument, answer),
            Ok(Call::Seek(argument)) => self.seek(reader, inode, argument, answer),
            Ok(Call::Open(argument)) => self.open(reader, incoming, argument, answer),
            Ok(Call::Release(argument)) => self.release(argument, answer),
            Ok(Call::Lock { wanted, wait }) => self.lock(header, wanted, wait, answer),
            Ok(Call::Test(wanted)) => self.test_lock(header, wanted, answer),
            Ok(Call::Ioctl(argument)) => answer.error(match argument.flags & wire::IOCTL_UNRESTRICTED {
                0 => errno::NO_SUCH_IOCTL,
                _ => errno::NEVER_ASK,
            }),
            Ok(Call::Forget) => answer.none(),
            Ok(Call::Rearrange) => answer.error(errno::FOR_VCTL),
            Ok(Call::Unknown) => answer.error(errno::NEVER_ASK),
            Ok(call) => self.look(reader, inode, call, answer),
            Err(why) => refuse(header, why, answer),
        }
    }

    /// Returns whether the request comes from a user who has no access. The kernel checks that too, except for requests of its own threads.
    fn is_a_strangers(&self, incoming: &Incoming<'_>) -> bool {
        !self.options.allow_other && incoming.header.uid != self.owner.0 && !incoming.may_be_the_kernels()
    }

    /// Runs an operation with the context of this thread.
    pub(super) fn run<R: Reply>(&self, reader: &mut Reader, inode: u64, operation: Operation<'_>, reply: R) {
        let Some(volume) = volume_id(inode) else {
            return Request::new(VolumeId(0), operation, reply).refuse(Failure::NoVolume);
        };
        let request = Request::new(volume, operation, reply);
        match reader {
            Reader::Device(slot) => match self.slot(slot) {
                Some(ReaderSlot { io, context }) => {
                    self.readers.begins(context);
                    self.apparatus.serve(io, request);
                    self.readers
                        .served(context, |threads| self.apparatus.set_readers(threads));
                }
                None => request.refuse(Failure::Ending),
            },
            Reader::Ring(io) => match self.ring_context(io) {
                Some(io) => self.apparatus.serve(io, request),
                None => request.refuse(Failure::Ending),
            },
        }
    }

    fn slot<'r>(&self, slot: &'r mut Option<ReaderSlot>) -> Option<&'r mut ReaderSlot> {
        if slot.is_none() {
            let context = self.readers.context()?;
            let role = if context.is_spare() {
                Role::Spare
            } else {
                Role::Reader
            };
            *slot = self
                .apparatus
                .io_context(role)
                .map(|io| ReaderSlot { io, context });
        }
        slot.as_mut()
    }

    fn ring_context<'r>(&self, context: &'r mut Option<IoContext>) -> Option<&'r mut IoContext> {
        if context.is_none() {
            *context = self.apparatus.io_context(Role::Ring);
        }
        context.as_mut()
    }

    pub(super) fn with_context<T>(
        &self,
        reader: &mut Reader,
        run: impl FnOnce(&Apparatus, &mut IoContext) -> T,
    ) -> Option<T> {
        let io = match reader {
            Reader::Device(slot) => self.slot(slot).map(|slot| &mut slot.io),
            Reader::Ring(context) => self.ring_context(context),
        };
        io.map(|io| run(&self.apparatus, io))
    }

    pub(super) fn volume(&self, reader: &mut Reader, inode: u64) -> Option<VolumeRecord> {
        let id = volume_id(inode)?;
        self.with_context(reader, |apparatus, io| apparatus.volume(io, id))?
    }

    fn read(&self, reader: &mut Reader, inode: u64, read: wire::Read, answer: Answer) {
        let operation = Operation::Read {
            at: VolumeOffset(read.offset),
            len: read.size.into(),
        };
        let reply = ReadReply {
            answer,
            // The data path copies smaller ones.
            is_to_be_present: self.options.is_kept && read.size as usize > SMALL_READ,
        };
        self.run(reader, inode, operation, reply);
    }

    fn write(&self, reader: &mut Reader, inode: u64, write: wire::Write, data: &[u8], answer: Answer) {
        let operation = Operation::Write {
            at: VolumeOffset(write.offset),
            data: Data::Borrowed(data),
            durable: write.flags & libc::O_DSYNC != 0,
        };
        self.run(reader, inode, operation, WriteReply(answer));
    }

    fn allocate(&self, reader: &mut Reader, inode: u64, allocate: wire::Allocate, answer: Answer) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, len) = (VolumeOffset(allocate.offset), allocate.len);
        let clip = allocate.mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zero = |punch| Operation::Zero { at, len, punch, clip };
        let operation = match allocate.mode {
            0 | libc::FALLOC_FL_KEEP_SIZE => Operation::Allocate { at, len, clip },
            PUNCH => zero(true),
            libc::FALLOC_FL_ZERO_RANGE | ZERO_KEEP => zero(false),
            _ => return answer.error(errno::NO_SUCH_ALLOCATION),
        };
        self.run(reader, inode, operation, DoneReply(answer));
    }

    fn seek(&self, reader: &mut Reader, inode: u64, seek: wire::Seek, answer: Answer) {
        let to = match seek.whence {
            libc::SEEK_DATA => Target::Data,
            libc::SEEK_HOLE => Target::Hole,
            _ => return answer.error(errno::NO_SUCH_SEEK),
        };
        let Ok(at) = u64::try_from(seek.offset) else {
            return answer.error(errno::of(Failure::NothingThere));
        };
        let at = VolumeOffset(at);
        self.run(reader, inode, Operation::Seek { at, to }, SeekReply(answer));
    }

    fn open(&self, reader: &mut Reader, incoming: &Incoming<'_>, open: wire::Open, answer: Answer) {
        let header = &incoming.header;
        let Some(volume) = self.volume(reader, header.inode) else {
            return answer.error(errno::NO_SUCH_FILE);
        };
        // On a read-only mount the kernel refuses writers. It can be remounted for writing without a notice to this process.
        let writes = open.flags & libc::O_ACCMODE != libc::O_RDONLY;
        if volume.read_only && writes {
            return answer.error(errno::READ_ONLY);
        }
        let opening = Opening {
            volume: volume.id,
            pid: header.pid,
            writes,
            request: incoming.number(),
            is_repeated: incoming.is_sent_again(),
        };
        let reply = move |opened| match opened {
            Ok(handle) => answer.structure(&wire::Opened {
                handle,
                flags: wire::OPENED,
                backing: 0,
            }),
            Err(why) => answer.error(errno::of_open(why)),
        };
        self.apparatus.open_volume(opening, Box::new(reply));
    }

    fn release(&self, release: wire::Release, answer: Answer) {
        self.options.locks.released(release.handle);
        self.apparatus.closed(release.handle);
        answer.done();
    }

    fn lock(&self, header: &Header, lock: wire::Lock, wait: bool, answer: Answer) {
        if wait && !answer.may_wait() {
            return answer.error(errno::NO_LOCKS);
        }
        match wanted(header, lock, wait).and_then(|wanted| wanted.request()) {
            Some(request) => self.options.locks.set(request, locking::to_set(answer)),
            None => answer.error(errno::NO_SUCH_LOCK),
        }
    }

    fn test_lock(&self, header: &Header, lock: wire::Lock, answer: Answer) {
        let request = wanted(header, lock, false).and_then(|wanted| wanted.request());
        match request.and_then(|request| Some((request.kind?, request))) {
            Some((kind, request)) => self.options.locks.test(request, kind, locking::to_test(answer)),
            None => answer.error(errno::NO_SUCH_LOCK),
        }
    }
}

fn wanted(header: &Header, lock: wire::Lock, wait: bool) -> Option<Wanted> {
    Some(Wanted {
        volume: volume_id(header.inode)?,
        lock,
        thread: header.pid,
        wait,
    })
}

#[cold]
fn refuse(header: &Header, why: Malformed, answer: Answer) {
    log::debug!("a request of the kernel (operation {}): {why}", header.opcode);
    answer.error(match why {
        Malformed::Position => errno::NO_POSITION,
        Malformed::Header | Malformed::Length | Malformed::Name => errno::MALFORMED,
    });
}
