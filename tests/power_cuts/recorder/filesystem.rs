//! The requests that the recorder serves, each passed on to its directory.

use super::super::record::Entry;
use super::{Recorder, TTL, answer_error, number, reopen};
use fuser::{
    FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self, AtFlags, Mode, OFlags, SeekFrom};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

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
        done(self.unname(parent, name, AtFlags::empty()), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.unname(parent, name, AtFlags::REMOVEDIR), reply);
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
        done(self.renamed((parent, name), (to, new), flags.bits()), reply);
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
        // The kernel asks for this only where there is no such name.
        let how = OFlags::CREATE | OFlags::RDWR | OFlags::EXCL;
        let made = dir.and_then(|dir| Ok(File::from(fs::openat(&*dir, name, how, rights)?)));
        match made.and_then(|file| Ok((self.named(parent, name)?, file))) {
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

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.lock().log.add(&Entry::FlushNames { dir: ino.0 }), reply);
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
