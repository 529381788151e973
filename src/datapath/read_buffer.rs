//! Memory of one thread for reads that are not answered from a mapping.

use crate::blockdev::AlignedBytes;
use memmap2::{MmapMut, MmapOptions};

/// Bytes of reads. A small read has memory that is present from the beginning and locked where that is allowed, so that the kernel finds all of
/// its answer; a larger one has ordinary memory, which grows with its length. All of it is aligned for direct reads.
pub(super) struct ReadBuffer {
    small: Option<MmapMut>,
    large: AlignedBytes,
}

impl ReadBuffer {
    /// Makes a buffer whose first `small` bytes are present. Where there is no memory for that, all of it is ordinary memory.
    pub(super) fn new(small: usize) -> Self {
        let allocate = || {
            let memory = MmapOptions::new().len(small).populate().map_anon().ok()?;
            // Without the right to lock it, it stays present until memory is scarce.
            let _ = memory.lock();
            Some(memory)
        };
        Self {
            small: (small > 0).then(allocate).flatten(),
            large: AlignedBytes::zeroed(0),
        }
    }

    /// Returns the place for a read of this length.
    pub(super) fn space(&mut self, len: usize) -> &mut [u8] {
        if let Some(small) = self.small.as_mut().and_then(|small| small.get_mut(..len)) {
            return small;
        }
        if self.large.len() < len {
            self.large = AlignedBytes::zeroed(len);
        }
        &mut self.large[..len]
    }

    /// Returns the bytes of the last read, which had this length.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        let small = self.small.as_ref().and_then(|small| small.get(..len));
        small.unwrap_or_else(|| &self.large[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_there_whatever_its_length() {
        for small in [0, 4096] {
            let mut buffer = ReadBuffer::new(small);
            for len in [1, 4095, 4096, 4097, 100_000, 5000, 1] {
                let byte = u8::try_from(len % 251).unwrap();
                buffer.space(len).fill(byte);
                assert_eq!(buffer.bytes(len).len(), len);
                assert!(buffer.bytes(len).iter().all(|each| *each == byte));
            }
        }
    }
}
