//! A file system that passes all requests on to a directory, and records what reaches the files there and what is flushed, in one order.
//!
//! It has one thread, so the order of the record is the order in which the requests were served. It runs in a process of its own: a process that waits for its own
//! mount could not be killed.

use super::record::{Entry, Log};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, SeekFrom, Stat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

const TTL: Duration = Duration::from_secs(3600);

/// Serves `backing` at `mount` until it is unmounted, and records into `log`.
pub(crate) fn serve(backing: &Path, mount: &Path, log: &Path) -> io::Result<()> {
    let root = fs::open(backing, OFlags::PATH, Mode::empty())?;
    let recorder = Recorder {
        root: fs::fstat(&root)?.st_ino,
        state: Mutex::new(State {
            nodes: HashMap::from([(1, Arc::new(root))]),
            handles: HashMap::new(),
            next: 1,
            log: Log::create(log)?,
        }),
    };
    fuser::mount(recorder, mount, &Config::default())
}

struct Recorder {
    root: u64,
    state: Mutex<State>,
}

struct State {
    nodes: HashMap<u64, Arc<OwnedFd>>,
    handles: HashMap<u64, Arc<Opened>>,
    next: u64,
    log: Log,
}

struct Opened {
    file: File,
    node: u64,
    /// Each write through it is durable when it returns, and a flush is that of these writes.
    durable: bool,
}

impl State {
    fn node(&self, ino: INodeNo) -> io::Result<Arc<OwnedFd>> {
        let known = self.nodes.get(&ino.0).map(Arc::clone);
        known.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn handle(&self, handle: FileHandle) -> io::Result<Arc<Opened>> {
        let known = self.handles.get(&handle.0).map(Arc::clone);
        known.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn opened(&mut self, file: File, node: u64, flags: i32) -> FileHandle {
        self.next += 1;
        let durable = flags & libc::O_DSYNC != 0;
        self.handles
            .insert(self.next, Arc::new(Opened { file, node, durable }));
        FileHandle(self.next)
    }
}

/// Opens what an `O_PATH` descriptor names.
fn reopen(node: &OwnedFd, write: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    File::options().read(true).write(write).open(path)
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFIFO => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

fn number<T: TryInto<u32>>(value: T) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}

fn time(seconds: i64, nanos: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), number(nanos))
}

fn answer_error(why: &io::Error) -> Errno {
    Errno::from_i32(why.raw_os_error().unwrap_or(libc::EIO))
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn attributes(&self, stat: &Stat) -> FileAttr {
        FileAttr {
            ino: INodeNo(if stat.st_ino == self.root { 1 } else { stat.st_ino }),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            crtime: UNIX_EPOCH,
            kind: kind(stat.st_mode),
            perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            nlink: number(stat.st_nlink),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: number(stat.st_rdev),
            flags: 0,
            blksize: 4096,
        }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let mut state = self.lock();
        let parent = state.node(parent)?;
        let node = fs::openat(&*parent, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let attributes = self.attributes(&fs::fstat(&node)?);
        state
            .nodes
            .entry(attributes.ino.0)
            .or_insert_with(|| Arc::new(node));
        Ok(attributes)
    }

    /// Makes something, and answers with what is there then.
    fn make(
        &self,
        (parent, name): (INodeNo, &OsStr),
        reply: ReplyEntry,
        make: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) {
        let dir = self.lock().node(parent);
        let made = dir
            .and_then(|dir| Ok(make(&dir)?))
            .and_then(|()| self.find(parent, name));
        match made {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn resize(&self, ino: INodeNo, size: u64) -> io::Result<()> {
        let mut state = self.lock();
        reopen(&*state.node(ino)?, true)?.set_len(size)?;
        state.log.add(&Entry::Resize { file: ino.0, size })
    }

    fn attributes_of(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let node = self.lock().node(ino)?;
        Ok(self.attributes(&fs::fstat(&*node)?))
    }

    fn put(&self, handle: FileHandle, at: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let to = state.handle(handle)?;
        to.file.write_all_at(data, at)?;
        state.log.add(&Entry::Write {
            file: to.node,
            handle: handle.0,
            at,
            bytes: data.to_vec(),
        })
    }

    fn clear(&self, handle: FileHandle, at: u64, len: u64, mode: u32) -> io::Result<()> {
        let mut state = self.lock();
        let of = state.handle(handle)?;
        let flags = FallocateFlags::from_bits_retain(mode);
        fs::fallocate(&of.file, flags, at, len)?;
        if !flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            return Ok(());
        }
        state.log.add(&Entry::Clear {
            file: of.node,
            handle: handle.0,
            at,
            len,
        })
    }

    fn flushed(&self, handle: FileHandle) -> io::Result<()> {
        let mut state = self.lock();
        let of = state.handle(handle)?;
        state.log.add(&Entry::Flush {
            file: of.node,
            only: of.durable.then_some(handle.0),
        })
    }
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(why) => reply.error(answer_error(&why)),
    }
}

impl Filesystem for Recorder {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes_of(ino) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let node = self.lock().node(ino);
        let set = node.and_then(|node| {
            if let Some(mode) = mode {
                let path = format!("/proc/self/fd/{}", node.as_raw_fd());
                fs::chmod(path, Mode::from_bits_retain(mode & 0o7777))?;
            }
            size.map_or(Ok(()), |size| self.resize(ino, size))
        });
        match set.and_then(|()| self.attributes_of(ino)) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let node = self.lock().node(ino);
        match node.and_then(|node| Ok(fs::readlinkat(&*node, "", Vec::new())?)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let rights = Mode::from_bits_retain(mode & 0o7777 & !umask);
        self.make((parent, name), reply, |dir| {
            fs::mknodat(dir, name, fs::FileType::from_raw_mode(mode), rights, 0)
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let rights = Mode::from_bits_retain(mode & 0o7777 & !umask);
        self.make((parent, name), reply, |dir| fs::mkdirat(dir, name, rights));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.lock().node(parent);
        done(
            dir.and_then(|dir| Ok(fs::unlinkat(&*dir, name, AtFlags::empty())?)),
            reply,
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = self.lock().node(parent);
        done(
            dir.and_then(|dir| Ok(fs::unlinkat(&*dir, name, AtFlags::REMOVEDIR)?)),
            reply,
        );
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.make((parent, name), reply, |dir| fs::symlinkat(target, dir, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let state = self.lock();
        let flags = fs::RenameFlags::from_bits_retain(flags.bits());
        let renamed = state.node(parent).and_then(|from| {
            let to = state.node(to)?;
            Ok(fs::renameat_with(&*from, name, &*to, new, flags)?)
        });
        drop(state);
        done(renamed, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let node = self.lock().node(ino);
        match node {
            Ok(node) => self.make((parent, name), reply, |dir| {
                let from = format!("/proc/self/fd/{}", node.as_raw_fd());
                fs::linkat(fs::CWD, from, dir, name, AtFlags::SYMLINK_FOLLOW)
            }),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut state = self.lock();
        let write = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let opened = state.node(ino).and_then(|node| reopen(&node, write));
        match opened {
            Ok(file) => reply.opened(state.opened(file, ino.0, flags.0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let dir = self.lock().node(parent);
        let rights = Mode::from_bits_retain(mode & 0o7777 & !umask);
        let only_new = OFlags::from_bits_retain(number(flags)) & OFlags::EXCL;
        let made = dir.and_then(|dir| {
            let how = OFlags::CREATE | OFlags::RDWR | only_new;
            Ok(File::from(fs::openat(&*dir, name, how, rights)?))
        });
        match made.and_then(|file| Ok((self.find(parent, name)?, file))) {
            Ok((found, file)) => {
                let handle = self.lock().opened(file, found.ino.0, flags);
                reply.created(&TTL, &found, Generation(0), handle, FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let opened = self.lock().handle(handle);
        let read = opened.and_then(|from| {
            let mut bytes = vec![0; size as usize];
            let len = rustix::io::retry_on_intr(|| rustix::io::pread(&from.file, &mut bytes, at))?;
            bytes.truncate(len);
            Ok(bytes)
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.put(handle, at, data) {
            Ok(()) => reply.written(number(data.len())),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.lock().handles.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.flushed(handle), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let listed = self.lock().node(ino).and_then(|node| {
            let path = format!("/proc/self/fd/{}", node.as_raw_fd());
            std::fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()
        });
        let mut reply = reply;
        match listed {
            Ok(entries) => {
                let skip = usize::try_from(offset).unwrap_or(usize::MAX);
                for (next, entry) in (1_u64..).zip(&entries).skip(skip) {
                    use std::os::unix::fs::DirEntryExt;
                    let kind = entry.file_type().ok().and_then(FileType::from_std);
                    let kind = kind.unwrap_or(FileType::RegularFile);
                    if reply.add(INodeNo(entry.ino()), next, kind, entry.file_name()) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let root = self.lock().node(INodeNo(1));
        match root.and_then(|root| Ok(fs::fstatvfs(root.as_fd())?)) {
            Ok(found) => reply.statfs(
                found.f_blocks,
                found.f_bfree,
                found.f_bavail,
                found.f_files,
                found.f_ffree,
                number(found.f_bsize),
                255,
                number(found.f_frsize),
            ),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        at: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        done(self.clear(handle, at, len, number(mode)), reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let at = u64::try_from(offset).unwrap_or(0);
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(at),
            libc::SEEK_HOLE => SeekFrom::Hole(at),
            _ => SeekFrom::Start(at),
        };
        let opened = self.lock().handle(handle);
        match opened.and_then(|of| Ok(fs::seek(&of.file, from)?)) {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(why) => reply.error(answer_error(&why)),
        }
    }
}
