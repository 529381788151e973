//! A file system that passes all requests on to a directory, and records what reaches the files there and what is flushed, in one order.
//!
//! It has one thread, so the order of the record is the order in which the requests were served. It runs in a process of its own: a process that waits for its own
//! mount could not be killed.

mod filesystem;

use super::record::{Entry, Kind, Log};
use fuser::{Config, Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, ReplyEntry};
use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, Stat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
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

fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
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
            .and_then(|()| self.named(parent, name));
        match made {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(why) => reply.error(answer_error(&why)),
        }
    }

    /// Records a name that was given, and returns what it stands for.
    fn named(&self, dir: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let found = self.find(dir, name)?;
        self.lock().log.add(&Entry::Name {
            dir: dir.0,
            name: text(name),
            file: found.ino.0,
            kind: match found.kind {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                _ => Kind::Other,
            },
        })?;
        Ok(found)
    }

    fn unname(&self, dir: INodeNo, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        let mut state = self.lock();
        fs::unlinkat(&*state.node(dir)?, name, flags)?;
        state.log.add(&Entry::Unname {
            dir: dir.0,
            name: text(name),
        })
    }

    fn renamed(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: u32) -> io::Result<()> {
        let mut state = self.lock();
        let flags = fs::RenameFlags::from_bits_retain(flags);
        if flags.contains(fs::RenameFlags::EXCHANGE) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        fs::renameat_with(&*state.node(from.0)?, from.1, &*state.node(to.0)?, to.1, flags)?;
        state.log.add(&Entry::Rename {
            from: (from.0.0, text(from.1)),
            to: (to.0.0, text(to.1)),
        })
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
