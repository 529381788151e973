//! Translates the kernel's requests for the core. A volume's inode is its number plus 2; 1 is the directory.

use super::locking::{self, Wanted};
use super::reply::{ToCut, ToDo, ToEmpty, ToRead, ToSeek, ToWrite};
use super::turns::{Seat, Turns};
use super::{Options, errno};
use crate::data::{Apparatus, Desk, Failure, Opening, Operation, Reply, Request, Role, Target};
use crate::pool::model::{SECTOR, VolumeRecord};
use crate::units::{VolumeId, VolumeOffset};
use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Largest request, either way.
pub(super) const LARGEST: u32 = 1 << 20;
/// Names are asked for again each time: opening a volume is rare, and one that was renamed or removed shows at once.
/// Volumes that one reading of the directory answers with at most.
const ENTRIES: usize = 512;

const NAME_TTL: Duration = Duration::ZERO;
/// What programs are told to read and write at once (`st_blksize`); docs/PERFORMANCE.md has the measurement.
const BLOCK_SIZE: u32 = 256 << 10;
/// What the kernel can do for us, each if it can.
const WISHES: [InitFlags; 8] = [
    // File handles (NFS) find their files again after those have been evicted, and after a restart: `lookup` of "." in them.
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];
/// No page cache of the mount's own, so that two apparatuses agree; writes side by side; closing promises nothing.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO
    .union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES)
    .union(FopenFlags::FOPEN_NOFLUSH);

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// What a reader thread has for itself.
struct Place {
    desk: Desk,
    seat: Seat,
}

/// The mount of one apparatus.
pub(super) struct Volumes {
    apparatus: Arc<Apparatus>,
    options: Options,
    owner: (u32, u32),
    turns: Turns,
}

/// The inode of a volume.
pub(super) fn inode(id: VolumeId) -> INodeNo {
    INodeNo(id.0 + 2)
}

fn volume_id(inode: INodeNo) -> Option<VolumeId> {
    inode.0.checked_sub(2).map(VolumeId)
}

impl Volumes {
    pub(super) fn new(apparatus: Arc<Apparatus>, options: Options) -> Self {
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let turns = Turns::new(options.threads);
        Self {
            apparatus,
            options,
            owner,
            turns,
        }
    }

    /// Has the core serve it with this thread's desk. Returns when it is this thread's turn to take another.
    fn serve<R: Reply>(&self, inode: INodeNo, operation: Operation<'_>, reply: R) {
        let Some(volume) = volume_id(inode) else {
            return Request::new(VolumeId(0), operation, reply).refuse(Failure::NoVolume);
        };
        let request = Request::new(volume, operation, reply);
        PLACE.with_borrow_mut(|place| match self.place(place) {
            Some(Place { desk, seat }) => {
                self.turns.begins(seat);
                self.apparatus.serve(desk, request);
                self.turns
                    .served(seat, |threads| self.apparatus.set_readers(threads));
            }
            None => request.refuse(Failure::Ending),
        });
    }

    fn place<'p>(&self, place: &'p mut Option<Place>) -> Option<&'p mut Place> {
        if place.is_none() {
            let seat = self.turns.seat()?;
            let role = if seat.is_spare() {
                Role::Spare
            } else {
                Role::Reader
            };
            *place = self.apparatus.desk(role).map(|desk| Place { desk, seat });
        }
        place.as_mut()
    }

    fn look<T>(&self, look: impl FnOnce(&Apparatus, &mut Desk) -> T) -> Option<T> {
        PLACE.with_borrow_mut(|place| {
            self.place(place)
                .map(|place| look(&self.apparatus, &mut place.desk))
        })
    }

    fn volume(&self, inode: INodeNo) -> Option<VolumeRecord> {
        let id = volume_id(inode)?;
        self.look(|apparatus, desk| apparatus.volume(desk, id))?
    }

    fn volumes(&self) -> Vec<VolumeRecord> {
        self.look(|apparatus, desk| apparatus.volumes(desk))
            .unwrap_or_default()
    }

    fn attributes(&self, volume: &VolumeRecord) -> FileAttr {
        let modified = self.apparatus.modified(volume.id);
        FileAttr {
            ino: inode(volume.id),
            size: volume.size.0,
            blocks: self.apparatus.occupied(volume).div_ceil(SECTOR),
            blksize: BLOCK_SIZE,
            kind: FileType::RegularFile,
            perm: volume.mode,
            nlink: 1,
            uid: volume.uid,
            gid: volume.gid,
            ..self.attributes_at(modified)
        }
    }

    fn directory(&self) -> FileAttr {
        self.attributes_at(self.apparatus.began())
    }

    fn attributes_at(&self, time: SystemTime) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Part of file handles. Volumes' numbers are never given again, so all of a pool can have the same; another pool's is another, so that
    /// a handle of one never finds a volume of the other.
    fn generation(&self, inode: INodeNo) -> Generation {
        match inode {
            INodeNo::ROOT => Generation(0),
            _ => Generation(self.options.generation.into()),
        }
    }

    fn attributes_of(&self, inode: INodeNo) -> Option<FileAttr> {
        if inode == INodeNo::ROOT {
            return Some(self.directory());
        }
        self.volume(inode).map(|volume| self.attributes(&volume))
    }

    /// A volume keeps its size. Programs that replace a file's content truncate it to nothing first (`O_TRUNC`) and then leave out
    /// what is zero, so after that the volume reads as zeroes: to ignore it would let old data show through the holes of a new image.
    /// Some truncate to the size of the new content in the end, which is granted where nothing but a hole lies beyond.
    ///
    /// `FUSE_ATOMIC_O_TRUNC` is not asked for: with it the kernel takes the size for 0 until it asks again, and fails the I/O of all
    /// others who have the volume open meanwhile.
    fn truncate(&self, inode: INodeNo, size: u64, now: FileAttr, reply: ReplyAttr) {
        if inode == INodeNo::ROOT {
            return reply.error(errno::FOR_VCTL);
        }
        if self.volume(inode).is_none_or(|volume| volume.read_only) {
            return reply.error(errno::READ_ONLY);
        }
        let whole = Operation::Zero {
            at: VolumeOffset(0),
            len: now.size,
            punch: true,
            clip: true,
        };
        let beyond = Operation::Seek {
            at: VolumeOffset(size),
            to: Target::Data,
        };
        match size {
            0 => self.serve(inode, whole, ToEmpty(reply, now)),
            _ if size > now.size => reply.error(errno::NO_LARGER),
            _ => self.serve(inode, beyond, ToCut(reply, now)),
        }
    }

    /// The next of the directory's entries after the one that `offset` stands for: (offset, name, attributes). Not more than the
    /// kernel takes at once: it asks until there are none.
    fn entries(&self, offset: u64) -> impl Iterator<Item = (u64, String, FileAttr)> {
        let dots = [(1, "."), (2, "..")].map(|(offset, name)| (offset, name.to_owned(), self.directory()));
        let next = VolumeId(offset.saturating_sub(2));
        let volumes = self.look(|apparatus, desk| apparatus.volumes_from(desk, next, ENTRIES));
        let volumes = volumes.unwrap_or_default().into_iter();
        let volumes =
            volumes.map(|volume| (volume.id.0 + 3, volume.name.to_string(), self.attributes(&volume)));
        dots.into_iter()
            .chain(volumes)
            .filter(move |entry| entry.0 > offset)
    }
}

impl Filesystem for Volumes {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in WISHES {
            if config.add_capabilities(wish).is_err() {
                log::debug!("the kernel cannot do {wish:?}");
            }
        }
        let refused = |what: &str| io::Error::other(format!("the kernel does not take {what}"));
        config
            .set_max_write(LARGEST)
            .map_err(|_| refused("1 MiB requests"))?;
        config
            .set_max_background(self.options.max_background)
            .map_err(|_| refused("max_background"))?;
        config
            .set_congestion_threshold(self.options.max_background)
            .map_err(|_| refused("the congestion threshold"))?;
        Ok(())
    }

    fn destroy(&mut self) {
        log::debug!("the mount has ended");
    }

    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match name.as_encoded_bytes() {
            b"." => self.attributes_of(parent),
            b".." => Some(self.directory()),
            _ if parent != INodeNo::ROOT => return reply.error(errno::NOT_A_DIRECTORY),
            _ => name
                .to_str()
                .and_then(|name| self.look(|apparatus, desk| apparatus.lookup(desk, name))?)
                .map(|volume| self.attributes(&volume)),
        };
        match found {
            Some(attributes) => {
                let (ttl, generation) = (self.options.attributes_ttl, self.generation(attributes.ino));
                reply.entry_with_ttls(&ttl, &NAME_TTL, &attributes, generation);
            }
            None => reply.error(errno::NO_SUCH_FILE),
        }
    }

    fn getattr(&self, _: &fuser::Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes_of(inode) {
            Some(attributes) => reply.attr(&self.options.attributes_ttl, &attributes),
            None => reply.error(errno::NO_SUCH_FILE),
        }
    }

    /// Times are taken and forgotten, what stays the same is granted, and all else but truncation is `vctl`'s.
    fn setattr(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(now) = self.attributes_of(inode) else {
            return reply.error(errno::NO_SUCH_FILE);
        };
        let same = mode.is_none_or(|mode| mode & 0o7777 == u32::from(now.perm))
            && uid.is_none_or(|uid| uid == now.uid)
            && gid.is_none_or(|gid| gid == now.gid);
        if !same {
            return reply.error(errno::FOR_VCTL);
        }
        match size {
            Some(size) if size != now.size => self.truncate(inode, size, now, reply),
            _ => reply.attr(&self.options.attributes_ttl, &now),
        }
    }

    fn open(&self, request: &fuser::Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(volume) = self.volume(inode) else {
            return reply.error(errno::NO_SUCH_FILE);
        };
        // Where the mount is read-only, the kernel refuses: it can be mounted anew for writing without a word to us.
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if volume.read_only && writes {
            return reply.error(errno::READ_ONLY);
        }
        let opening = Opening {
            volume: volume.id,
            pid: request.pid(),
            writes,
        };
        let answer = move |opened| match opened {
            Ok(handle) => reply.opened(FileHandle(handle), OPENED),
            Err(why) => reply.error(errno::of_open(why)),
        };
        self.apparatus.open_volume(opening, Box::new(answer));
    }

    fn release(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.options.locks.released(handle.0);
        self.apparatus.closed(handle.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let operation = Operation::Read {
            at: VolumeOffset(offset),
            len: size.into(),
        };
        self.serve(inode, operation, ToRead(reply));
    }

    fn write(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let operation = Operation::Write {
            at: VolumeOffset(offset),
            data: Cow::Borrowed(data),
            durable: flags.0 & libc::O_DSYNC != 0,
        };
        self.serve(inode, operation, ToWrite(reply));
    }

    fn flush(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(errno::NEVER_ASK);
    }

    fn setlk(
        &self,
        request: &fuser::Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let Some(volume) = volume_id(inode) else {
            return reply.error(errno::NO_SUCH_LOCK);
        };
        let process = (pid, request.pid());
        let wanted = Wanted {
            volume,
            handle,
            owner,
            start,
            end,
            kind,
            process,
            wait,
        };
        match wanted.request() {
            Some(request) => self.options.locks.set(request, locking::to_set(reply)),
            None => reply.error(errno::NO_SUCH_LOCK),
        }
    }

    fn getlk(
        &self,
        request: &fuser::Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(volume) = volume_id(inode) else {
            return reply.error(errno::NO_SUCH_LOCK);
        };
        let process = (pid, request.pid());
        let wanted = Wanted {
            volume,
            handle,
            owner,
            start,
            end,
            kind,
            process,
            wait: false,
        };
        match wanted
            .request()
            .and_then(|request| Some((request.kind?, request)))
        {
            Some((kind, request)) => self.options.locks.test(request, kind, locking::to_test(reply)),
            None => reply.error(errno::NO_SUCH_LOCK),
        }
    }

    fn fsync(&self, _: &fuser::Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(inode, Operation::Flush, ToDo(reply));
    }

    fn fsyncdir(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, len) = (VolumeOffset(offset), length);
        let clip = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zero = |punch| Operation::Zero { at, len, punch, clip };
        let operation = match mode {
            0 | libc::FALLOC_FL_KEEP_SIZE => Operation::Allocate { at, len, clip },
            PUNCH => zero(true),
            libc::FALLOC_FL_ZERO_RANGE | ZERO_KEEP => zero(false),
            _ => return reply.error(errno::NO_SUCH_ALLOCATION),
        };
        self.serve(inode, operation, ToDo(reply));
    }

    fn lseek(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match whence {
            libc::SEEK_DATA => Target::Data,
            libc::SEEK_HOLE => Target::Hole,
            _ => return reply.error(errno::NO_SUCH_SEEK),
        };
        let Ok(at) = u64::try_from(offset) else {
            return reply.error(errno::of(Failure::NothingThere));
        };
        let at = VolumeOffset(at);
        self.serve(inode, Operation::Seek { at, to }, ToSeek(reply));
    }

    fn readdir(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if inode != INodeNo::ROOT {
            return reply.error(errno::NOT_A_DIRECTORY);
        }
        for (offset, name, attributes) in self.entries(offset) {
            if reply.add(attributes.ino, offset, attributes.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        if inode != INodeNo::ROOT {
            return reply.error(errno::NOT_A_DIRECTORY);
        }
        for (offset, name, attributes) in self.entries(offset) {
            if reply.add(
                attributes.ino,
                offset,
                name,
                &NAME_TTL,
                &attributes,
                self.generation(attributes.ino),
            ) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        let volumes = self.volumes();
        let space = self.apparatus.space(&volumes);
        let (all, free) = (space.all.0 / u64::from(BLOCK), space.free.0 / u64::from(BLOCK));
        reply.statfs(
            all,
            free,
            free,
            volumes.len() as u64,
            0,
            BLOCK,
            super::LONGEST_NAME,
            BLOCK,
        );
    }

    fn getxattr(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(errno::NEVER_ASK);
    }

    fn listxattr(&self, _: &fuser::Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(errno::NEVER_ASK);
    }

    fn setxattr(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno::NEVER_ASK);
    }

    fn removexattr(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno::NEVER_ASK);
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno::NO_SUCH_IOCTL);
    }

    fn create(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(errno::FOR_VCTL);
    }

    fn mknod(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno::FOR_VCTL);
    }

    fn mkdir(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno::FOR_VCTL);
    }

    fn symlink(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(errno::FOR_VCTL);
    }

    fn link(&self, _: &fuser::Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(errno::FOR_VCTL);
    }

    fn unlink(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno::FOR_VCTL);
    }

    fn rmdir(&self, _: &fuser::Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno::FOR_VCTL);
    }

    fn rename(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno::FOR_VCTL);
    }
}
