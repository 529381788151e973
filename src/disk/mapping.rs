//! A disk's bytes as memory that is only ever handed to the kernel.
#![allow(unsafe_code)]

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// The first bytes of a file or device, mapped shared and read-only.
///
/// Touching a page that an image has lost, or that its medium cannot give, ends a process with SIGBUS. A system call that is
/// given such a page answers EFAULT instead. So the bytes are for system calls, and no code here or elsewhere looks at them.
pub(super) struct Mapping {
    map: MmapRaw,
}

impl Mapping {
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        // A mapping keeps the locks of its file description: a child that asks a disk which hangs must not keep those of another.
        map.advise(Advice::DontFork)?;
        Ok(Self { map })
    }

    /// A page that is missing is read alone, without what lies around it.
    pub(super) fn read_no_more_than_is_touched(&self) -> io::Result<()> {
        self.map.advise(Advice::Random)
    }

    /// `None` where it would leave the mapping.
    pub(super) fn bytes(&self, at: u64, len: usize) -> Option<&[u8]> {
        let at = self.inside(at, len)?;
        // SAFETY: `inside` has checked that `[at, at + len)` lies within the mapping, which lives as long as `self`. The
        // memory is initialised as far as the language is concerned, and is never read through this slice: whoever gets it
        // passes address and length on to a system call, so that other processes may change or truncate the file.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), len) })
    }

    fn inside(&self, at: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        (at.checked_add(len)? <= self.map.len()).then_some(at)
    }

    /// Brings the range into memory and into this process's page tables. EFAULT and EHWPOISON where a page cannot be had.
    pub(super) fn populate(&self, at: u64, len: usize) -> io::Result<()> {
        let at = self.inside(at, len).ok_or(Errno::INVAL)?;
        let skipped = at % page();
        self.map
            .advise_range(Advice::PopulateRead, at - skipped, len + skipped)
    }

    /// Whether every page of the range is in the page cache.
    pub(super) fn resident(&self, at: u64, len: usize) -> bool {
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
            let told = unsafe {
                let address = self.map.as_ptr().add(from).cast_mut();
                libc::mincore(address.cast(), to - from, pages.as_mut_ptr())
            };
            let touched = (to - from).div_ceil(page);
            if told != 0 || pages[..touched].iter().any(|page| page & 1 == 0) {
                return false;
            }
            from = to;
        }
        true
    }
}

/// Marks the pages of a range of a file or device as written, with the content that they have: a write at the same time is neither
/// undone nor waited for. EFAULT where a page cannot be had.
pub(super) fn redirty(file: &File, at: u64, len: u64) -> io::Result<()> {
    let skipped = at % page() as u64;
    let len = usize::try_from(len + skipped).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // A mapping of its own: its pages are not writable yet, so that populating marks each of them.
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
}
