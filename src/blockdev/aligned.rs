//! Memory that begins on a page, as direct reads and writes need it.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Alignment of the memory, which is enough for every disk that is used directly.
pub(super) const ALIGNMENT: usize = 4096;

/// Bytes whose first one lies at a multiple of [`ALIGNMENT`].
pub struct AlignedBytes {
    /// It is never grown after it was filled, so the bytes stay where they are.
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBytes {
    /// Allocates this number of zeroes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        memory.truncate(start + len);
        Self { memory, start }
    }

    /// Allocates a copy of these bytes.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        memory.resize(start, 0);
        memory.extend_from_slice(bytes);
        Self { memory, start }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..).unwrap_or_default()
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).unwrap_or_default()
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} aligned bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_begin_on_a_page_and_are_what_was_asked_for() {
        for len in [0, 1, 511, 4096, 100_000, 1 << 20] {
            let zeroes = AlignedBytes::zeroed(len);
            assert_eq!(zeroes.as_ptr().addr() % ALIGNMENT, 0);
            assert!(zeroes.len() == len && zeroes.iter().all(|byte| *byte == 0));
            let bytes: Vec<u8> = (0..251).cycle().take(len).collect();
            let copy = AlignedBytes::copy_of(&bytes);
            assert_eq!(copy.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(copy[..], bytes);
        }
    }
}
