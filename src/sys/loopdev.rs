//! Loop devices, created and removed through the kernel's own requests.
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

/// The unit of a volume's size, and the alignment of a loop device's requests.
const BLOCK: u32 = 512;

/// The kernel's `struct loop_config`, with `struct loop_info64` laid out in it.
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

/// Options of a loop device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopOptions {
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the kernel scans for partitions.
    pub partitions: bool,
}

/// Returns the number of a loop device without a backing file; the kernel creates one if there is none. `control` is
/// `/dev/loop-control`.
///
/// # Errors
/// Fails with the kernel's error.
pub fn free(control: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument; the descriptor is open.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Attaches a file to a loop device, with direct I/O if the file allows it. The kernel shows `name` for the file.
///
/// # Errors
/// Fails with EBUSY if the device has a backing file, or with another error of the kernel.
pub fn configure(device: &File, file: &File, name: &Path, options: LoopOptions) -> io::Result<()> {
    let mut file_name = [0; 64];
    // The last byte stays zero.
    for (to, from) in file_name[..63].iter_mut().zip(name.as_os_str().as_bytes()) {
        *to = *from;
    }
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
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
        flags: DIRECT_IO | flag(options.read_only, READ_ONLY) | flag(options.partitions, PARTSCAN),
        file_name,
        crypt_name: [0; 64],
        key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `struct loop_config`, which is 304 bytes long like `Config`; both descriptors are open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })
}

/// Updates the capacity of a loop device to the current size of its file.
///
/// # Errors
/// Fails with the kernel's error.
pub fn set_capacity(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument that is read; the descriptor is open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY, 0) })
}

/// Detaches the file of a loop device; if the device is still in use, the kernel detaches it when the use ends.
///
/// # Errors
/// Fails with ENXIO if the device has no file, or with another error of the kernel.
pub fn clear(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument that is read; the descriptor is open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) })
}

/// The kernel's `struct loop_info64`, of which only the first fields are used.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    raw_device: u64,
    rest: [u64; 26],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);

const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;

/// Backing file of a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopBacking {
    /// The device number of the file system that contains the backing file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The backing block device, if there is one; else 0.
    pub raw_device: u64,
}

/// Returns the backing file of a loop device.
///
/// # Errors
/// Fails with ENXIO if the loop device has none, ENOTTY if it is not a loop device.
pub fn loop_backing(device: &File) -> io::Result<LoopBacking> {
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        raw_device: 0,
        rest: [0; 26],
    };
    // SAFETY: the request writes one `struct loop_info64`, which is 232 bytes long like `LoopInfo`.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
    Ok(LoopBacking {
        device: info.device,
        inode: info.inode,
        raw_device: info.raw_device,
    })
}
