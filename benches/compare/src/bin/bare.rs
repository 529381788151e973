//! The upper bound of the library: a fuser program that serves a part of one image as one file and does nothing else. It answers reads from
//! one mapping and writes with `pwrite`, with the same mount flags and limits as the apparatus. With `direct` it reads and writes past the page cache, from
//! and to one aligned buffer for each thread.
#![allow(unsafe_code)]

use apparatus::blockdev::AlignedBytes;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, WriteFlags,
};
use memmap2::{Mmap, MmapOptions};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, UNIX_EPOCH};

const LONG: Duration = Duration::from_secs(3600);
const ROOT: INodeNo = INodeNo(1);
const IMAGE: INodeNo = INodeNo(2);

/// Bytes of the largest request.
const LARGEST: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<AlignedBytes> = RefCell::new(AlignedBytes::zeroed(LARGEST));
}

struct Bare {
    file: File,
    /// None where reads are direct.
    map: Option<Mmap>,
    offset: u64,
    length: usize,
}

impl Bare {
    fn answer(&self, start: usize, end: usize, reply: ReplyData) {
        if let Some(map) = &self.map {
            return reply.data(&map[start..end]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let bytes = &mut buffer[..end - start];
            match self.file.read_exact_at(bytes, self.offset + start as u64) {
                Ok(()) => reply.data(bytes),
                Err(_) => reply.error(Errno::EIO),
            }
        });
    }

    fn put(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        if self.map.is_some() {
            return self.file.write_all_at(data, self.offset + offset);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let bytes = &mut buffer[..data.len()];
            bytes.copy_from_slice(data);
            self.file.write_all_at(bytes, self.offset + offset)
        })
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            ROOT => (FileType::Directory, 0o755, 0),
            _ => (FileType::RegularFile, 0o600, self.length as u64),
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _unsupported =
            config.add_capabilities(InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        let _nearest = config.set_max_write(1 << 20);
        let _nearest = config.set_max_background(4096);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "image" {
            reply.entry(&LONG, &self.attr(IMAGE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.length);
        let end = start.saturating_add(size as usize).min(self.length);
        self.answer(start, end, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match (self.put(data, offset), u32::try_from(data.len())) {
            (Ok(()), Ok(written)) => reply.written(written),
            _ => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.file.sync_data() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, image, mountpoint, threads, offset, length, rest @ ..] = args.as_slice() else {
        return Err("usage: bare IMAGE MOUNTPOINT THREADS OFFSET LENGTH [direct]".into());
    };
    let (offset, length) = (offset.parse()?, length.parse()?);
    let is_direct = rest.iter().any(|word| word == "direct");
    let flags = if is_direct {
        i32::try_from(rustix::fs::OFlags::DIRECT.bits())?
    } else {
        0
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(image)?;
    let map = if is_direct {
        None
    } else {
        // SAFETY: the mapping is only handed to writev(2); this program never reads through it.
        Some(unsafe { MmapOptions::new().offset(offset).len(length).map(&file) }?)
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("bare".into()),
        MountOption::DefaultPermissions,
    ];
    config.n_threads = Some(threads.parse()?);
    config.clone_fd = true;
    let mut session = Session::new(
        Bare {
            file,
            map,
            offset,
            length,
        },
        mountpoint,
        &config,
    )?;
    let mut unmount = session.unmount_callable();
    let mut signals = signal_hook::iterator::Signals::new([15, 2])?;
    std::thread::spawn(move || signals.forever().any(|_| unmount.unmount().is_ok()));
    session.run()?;
    Ok(())
}
