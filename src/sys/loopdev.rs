//! Loop devices, made and taken away through the kernel's own requests.
#![allow(unsafe_code)]

use super::done;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;

const READ_ONLY: u32 = 1;
const PARTSCAN: u32 = 8;
const DIRECT_IO: u32 = 16;

/// The unit of a volume's size, and what a loop device's requests are aligned to.
const BLOCK: u32 = 512;

/// `struct loop_config` of the kernel, with `struct loop_info64` laid out in it.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: u32,
    key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<Config>() == 304);

/// How a loop device shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Writes are refused.
    pub read_only: bool,
    /// The kernel looks for partitions.
    pub partitions: bool,
}

/// The number of a loop device that lies on nothing now; made if there is none. `control` is `/dev/loop-control`.
///
/// # Errors
/// The kernel's.
pub fn free(control: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument; the descriptor is open.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Has a loop device lie on a file, with direct I/O where the file allows it. `name` is what the kernel shows for the file.
///
/// # Errors
/// EBUSY when it lies on something; the kernel's others.
pub fn configure(device: &File, file: &File, name: &Path, wish: Wish) -> io::Result<()> {
    let mut file_name = [0; 64];
    // The last byte stays zero.
    for (to, from) in file_name[..63].iter_mut().zip(name.as_os_str().as_bytes()) {
        *to = *from;
    }
    let flag = |wished: bool, flag: u32| if wished { flag } else { 0 };
    let config = Config {
        file: u32::try_from(file.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        block_size: BLOCK,
        device: 0,
        inode: 0,
        raw_device: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encryption: 0,
        key_size: 0,
        flags: DIRECT_IO | flag(wish.read_only, READ_ONLY) | flag(wish.partitions, PARTSCAN),
        file_name,
        crypt_name: [0; 64],
        key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `struct loop_config`, which is 304 bytes long like `Config`; both descriptors are open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })
}

/// Has a loop device see the size that its file has now.
///
/// # Errors
/// The kernel's.
pub fn set_capacity(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument that is read; the descriptor is open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY, 0) })
}

/// Has a loop device lie on nothing any more; when something still uses it, as soon as that ends.
///
/// # Errors
/// ENXIO when it does already; the kernel's others.
pub fn clear(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument that is read; the descriptor is open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) })
}
