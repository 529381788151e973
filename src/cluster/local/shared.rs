//! Mapped words of the member table.
#![allow(unsafe_code)]

use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

/// File of 64-bit words, mapped shared and writable.
pub(super) struct Words {
    map: MmapRaw,
    count: usize,
}

impl Words {
    /// Maps the first `count` words of a file. Fails with `UnexpectedEof` if the file is shorter. All its blocks are allocated, because the file was
    /// written whole when it was created, so a store into the mapping needs no space.
    pub(super) fn new(file: &File, count: usize) -> io::Result<Self> {
        let len = count * size_of::<AtomicU64>();
        if file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let map = MmapOptions::new().len(len).map_raw(file)?;
        // A mapping keeps the locks of its file description: a child that checks a disk must not keep this process's number as a flusher.
        map.advise(Advice::DontFork)?;
        Ok(Self { map, count })
    }

    /// Returns the word at this byte offset.
    pub(super) fn at(&self, offset: usize) -> &AtomicU64 {
        let words = self.map.as_mut_ptr().cast::<AtomicU64>();
        let index = offset / size_of::<AtomicU64>();
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: a mapping is page-aligned, so its words are aligned; `index` lies within it; it lives as long as `self`. Other
        // processes write the words too, and like this one only as 64-bit atomics.
        unsafe { &*words.add(index) }
    }
}
