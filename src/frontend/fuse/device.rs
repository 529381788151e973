//! The FUSE device: requests are read from it, and answers and notices are written to it.

use crate::sys;
use memmap2::{MmapMut, MmapOptions};
use rustix::io::Errno;
use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Path of the device.
pub(super) const DEVICE: &str = "/dev/fuse";

/// Bytes of a page of memory on the machines that this runs on; a larger one costs alignment and nothing else.
const PAGE: usize = 4096;
/// Bytes before the data of a write: the header and the argument.
const BEFORE_DATA: usize = size_of::<super::wire::Header>() + size_of::<super::wire::Write>();

/// An open device of one connection. All devices of a connection share its requests; the kernel expects the answer to a request at a device
/// of the thread that has read it.
pub(super) struct Device(OwnedFd);

impl Device {
    /// Wraps a device that a mount is attached to.
    pub(super) fn new(device: OwnedFd) -> Self {
        Self(device)
    }

    /// Opens the device file. It is attached to no mount yet.
    pub(super) fn open() -> io::Result<OwnedFd> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        Ok(device.into())
    }

    /// Opens another device of the same connection, so that threads do not share a queue of requests that are being served.
    pub(super) fn another(&self) -> io::Result<Self> {
        let another = Self::open()?;
        sys::clone_fuse_device(another.as_fd(), self.0.as_fd())?;
        Ok(Self(another))
    }

    /// Returns the descriptor.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reads the next request, and waits for it. Returns `None` when the mount has ended.
    pub(super) fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<&'b [u8]>> {
        let space = buffer.space();
        loop {
            match rustix::io::read(&self.0, &mut *space) {
                Ok(len) => return Ok(space.get(..len)),
                // The request was interrupted before it could be read, or the read was.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => (),
                Err(Errno::NODEV) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes an answer or a notice, which the kernel takes as a whole or not at all.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        rustix::io::writev(&self.0, parts).map(drop)
    }
}

/// Memory for one request. It is present from the beginning and locked where that is allowed, so that no request waits for memory, and a
/// process that is killed while the kernel copies a request does not make it fail for want of a page. The data of a write begins on a page.
pub(super) struct Buffer(MmapMut);

impl Buffer {
    /// Allocates a buffer for requests with up to `largest` bytes of data. Returns also whether its memory is locked.
    pub(super) fn new(largest: usize) -> io::Result<(Self, bool)> {
        let memory = MmapOptions::new().len(PAGE + largest).populate().map_anon()?;
        let is_locked = memory.lock().is_ok();
        Ok((Self(memory), is_locked))
    }

    fn space(&mut self) -> &mut [u8] {
        self.0.get_mut(PAGE - BEFORE_DATA..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_write_begins_on_a_page_and_fits() {
        let (mut buffer, _) = Buffer::new(1 << 20).unwrap();
        let space = buffer.space();
        assert_eq!(space.len(), BEFORE_DATA + (1 << 20));
        assert_eq!(space[BEFORE_DATA..].as_ptr().addr() % PAGE, 0);
    }
}
