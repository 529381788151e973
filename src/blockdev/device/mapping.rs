//! A mapping of a disk's bytes that only system calls read.
#![allow(unsafe_code)]

use crate::sys::guarded;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Bytes of a mapping, for system calls and guarded copies only. Reading them in another way may end the process: see [`Mapping`].
#[derive(Clone, Copy, Default)]
pub struct Mapped<'a>(&'a [u8]);

impl<'a> Mapped<'a> {
    /// Returns the bytes for a system call, which fails with EFAULT where a page cannot be read. No other code may read them.
    #[must_use]
    pub fn for_system_call(self) -> &'a [u8] {
        self.0
    }

    /// Copies the bytes. Returns false where a page cannot be read, and on processors without guarded copies.
    #[must_use]
    pub fn copy_to(self, to: &mut [u8]) -> bool {
        guarded::copy(self.0, to)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Shared read-only mapping of the first bytes of a file or device.
///
/// A process that reads a page which an image has lost, or which its medium cannot read, ends with SIGBUS. A system call that gets such a page fails
/// with EFAULT instead, and a guarded copy (`sys/guarded.rs`) says so. So the bytes are for these two, and no other code reads them.
pub struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        // A mapping keeps the locks of its file description: a child that blocks on a hung disk must not keep the locks of another one.
        map.advise(Advice::DontFork)?;
        Ok(Self { map })
    }

    /// Makes the kernel read a missing page alone, without the pages around it.
    pub(super) fn disable_read_around(&self) -> io::Result<()> {
        self.map.advise(Advice::Random)
    }

    /// Returns bytes of the mapping, or `None` where the range exceeds it.
    pub(in crate::blockdev) fn bytes(&self, at: u64, len: usize) -> Option<Mapped<'_>> {
        let at = self.inside(at, len)?;
        // SAFETY: `inside` has checked that `[at, at + len)` lies within the mapping, which lives as long as `self`. The
        // memory is initialised as far as the language is concerned, and is never read through this slice: its users pass
        // address and length to a system call or a guarded copy, so that other processes may change or truncate the file.
        let bytes = unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), len) };
        Some(Mapped(bytes))
    }

    fn inside(&self, at: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        (at.checked_add(len)? <= self.map.len()).then_some(at)
    }

    /// Reads the range into memory and into this process's page tables. Fails with EFAULT or EHWPOISON where a page cannot be read.
    pub(in crate::blockdev) fn populate(&self, at: u64, len: usize) -> io::Result<()> {
        let at = self.inside(at, len).ok_or(Errno::INVAL)?;
        let skipped = at % page();
        self.map
            .advise_range(Advice::PopulateRead, at - skipped, len + skipped)
    }

    /// Frees the page tables of the mapping, where the kernel supports that (Linux 6.14). The pages stay in the page cache, where the next access
    /// finds them.
    pub(in crate::blockdev) fn free_page_tables(&self) -> io::Result<()> {
        // SAFETY: nothing is lost: the mapping is shared and read-only, so later accesses find the file's content, as before.
        unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) }
    }

    /// Returns whether every page of the range is in the page cache.
    pub(in crate::blockdev) fn resident(&self, at: u64, len: usize) -> bool {
        let Some(at) = self.inside(at, len) else {
            return false;
        };
        let (page, end) = (page(), at + len);
        let mut pages = [0_u8; 1024];
        let mut from = at - at % page;
        while from < end {
            let to = end.min(from + pages.len() * page);
            // SAFETY: `from` is page-aligned and `[from, to)` lies within the mapping; `pages` has a byte for each of the at most
            // 1024 pages that the range touches. The call reads no page.
            let status = unsafe {
                let address = self.map.as_ptr().add(from).cast_mut();
                libc::mincore(address.cast(), to - from, pages.as_mut_ptr())
            };
            let touched = (to - from).div_ceil(page);
            if status != 0 || pages[..touched].iter().any(|page| page & 1 == 0) {
                return false;
            }
            from = to;
        }
        true
    }
}

/// Marks the pages of a range of a file or device dirty, with their present content: a concurrent write is neither undone nor delayed. Fails with
/// EFAULT where a page cannot be read.
pub(super) fn redirty(file: &File, at: u64, len: u64) -> io::Result<()> {
    let skipped = at % page() as u64;
    let len = usize::try_from(len + skipped).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // The call uses a mapping of its own: the pages of that are not writable yet, so populating marks each of them.
    let map = MmapOptions::new().offset(at - skipped).len(len).map_raw(file)?;
    map.advise_range(Advice::PopulateWrite, 0, len)
}

fn page() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_has_no_mapping_that_keeps_locks() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mapping = Mapping::new(&file, 1 << 20).unwrap();
        let start = format!("{:x}-", mapping.map.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = maps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = ours.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }

    #[test]
    fn pages_stay_in_memory_when_their_page_tables_are_freed() {
        use std::io::{Read, Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        let mapping = Mapping::new(&file, 1 << 20).unwrap();
        mapping.populate(0, 1 << 20).unwrap();
        mapping.free_page_tables().unwrap();
        let mut copy = tempfile::tempfile().unwrap();
        copy.write_all(mapping.bytes(0, 1 << 20).unwrap().for_system_call())
            .unwrap();
        copy.rewind().unwrap();
        let mut read = Vec::new();
        copy.read_to_end(&mut read).unwrap();
        assert!(read == [7; 1 << 20]);
    }
}
