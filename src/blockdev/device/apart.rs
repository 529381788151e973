//! Durable writes through a descriptor of their own, past the page cache where the file system can: their errors are theirs alone.
//!
//! A write-back error belongs to a whole file, and each descriptor receives it once. So a durable write through the descriptor that hosts' data
//! goes through could take an error of that data, and its own error would be taken for a loss of data. A direct write returns its own error, and
//! leaves none for others; an error of hosts' data that it receives besides, the data's descriptor receives as well.

use crate::blockdev::aligned::AlignedBytes;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};

/// Second descriptor of a file, opened when it is first needed.
#[derive(Default)]
pub(super) struct Apart {
    file: Mutex<Option<Arc<File>>>,
}

impl Apart {
    /// Writes all of `buf` durably. Its offset and length are multiples of 4096.
    ///
    /// # Errors
    /// Fails with the device's error.
    pub(super) fn write(&self, of: &File, buf: &[u8], at: u64) -> io::Result<()> {
        let aligned = AlignedBytes::copy_of(buf);
        match self.opened(of)?.write_all_at(&aligned, at) {
            // Its blocks are larger, or it refuses direct writes only now.
            Err(why) if why.kind() == io::ErrorKind::InvalidInput => {
                self.put(open(of, OFlags::DSYNC)?).write_all_at(&aligned, at)
            }
            written => written,
        }
    }

    fn opened(&self, of: &File) -> io::Result<Arc<File>> {
        let known = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(
            || match open(of, OFlags::DSYNC | OFlags::DIRECT) {
                Err(why) if why.kind() == io::ErrorKind::InvalidInput => {
                    Ok(self.put(open(of, OFlags::DSYNC)?))
                }
                opened => Ok(self.put(opened?)),
            },
            Ok,
        )
    }

    fn put(&self, file: File) -> Arc<File> {
        let file = Arc::new(file);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&file));
        file
    }
}

/// Opens the same file again, whatever is at its path by now.
fn open(of: &File, flags: OFlags) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(format!("/proc/self/fd/{}", of.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_apart_is_read_through_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        let apart = Apart::default();
        let bytes: Vec<u8> = (0..251).cycle().take(8192).collect();
        apart.write(&file, &bytes, 4096).unwrap();
        let mut read = vec![0; 12288];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read[..4096], [1; 4096]);
        assert_eq!(read[4096..], bytes);
        let flags = rustix::fs::fcntl_getfl(apart.opened(&file).unwrap()).unwrap();
        assert!(flags.contains(OFlags::DSYNC), "it waits for the disk: {flags:?}");
    }
}
