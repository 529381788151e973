//! Invalidates names and attributes in the kernel's cache. A thread of its own does it: the kernel may delay a notice until requests in flight
//! have ended, which only the reader threads can end.
//!
//! One notice waits for nothing: the kernel looks every name up again that it has cached (from Linux 6.16 on). The thread that changes the table
//! sends it, before the change is reported as applied. Without that notice the kernel caches no names. The kernel takes the entries of a listing as
//! they are when the listing arrives, so one that a change has overtaken may bring an old name back; the notice of that name, which waits for
//! listings, removes it.

use super::device::Device;
use super::filesystem::inode;
use super::wire::{self, AnswerHeader, Deleted, InvalidEntry, InvalidInode, notice};
use crate::datapath::{Apparatus, KernelNotice, Role};
use crate::model::units::VolumeId;
use crossbeam_channel::{Receiver, bounded};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Maximum number of queued notices; more are replaced by one that covers everything.
const MOST: usize = 256;
/// How long the kernel caches names, and so the longest time for which an overtaken listing can show an old one.
const NAMES_TTL: Duration = Duration::from_secs(1);

/// Has the kernel forget the names that it has cached, then and at each change of names. Returns how long it may cache names.
pub(super) fn keep_names(apparatus: &Apparatus, device: &Arc<Device>) -> Duration {
    if let Err(error) = forget_names(device) {
        log::debug!("the kernel cannot be told to forget names ({error}), so it caches none");
        return Duration::ZERO;
    }
    // The mount ends with its last descriptor, which is not to be this one.
    let device = Arc::downgrade(device);
    apparatus.forget_names_by(Box::new(move || {
        if let Some(device) = device.upgrade()
            && let Err(error) = forget_names(&device)
        {
            log::debug!("the kernel was not told to forget names: {error}");
        }
    }));
    NAMES_TTL
}

/// Starts the thread. It ends when `ended` is disconnected. Where another server has served the mount before, anything may have changed
/// since.
///
/// # Errors
/// Fails when the thread cannot be started.
pub(super) fn start(
    apparatus: &Arc<Apparatus>,
    device: Arc<Device>,
    was_served: bool,
    ended: Receiver<()>,
) -> io::Result<()> {
    let (sender, notices) = bounded(MOST);
    if was_served {
        // There is room for the first.
        let _ = sender.try_send(KernelNotice::Everything);
    }
    apparatus.send_notices_to(sender);
    let apparatus = Arc::downgrade(apparatus);
    let send_notices = move || {
        loop {
            let notice = crossbeam_channel::select! {
                recv(notices) -> notice => notice,
                recv(ended) -> _ => return,
            };
            let (Ok(notice), Some(apparatus)) = (notice, apparatus.upgrade()) else {
                return;
            };
            let missed = apparatus.missed_notice();
            let notice = if missed { KernelNotice::Everything } else { notice };
            if let Err(error) = send(&apparatus, &device, &notice) {
                log::debug!("the kernel refused the notice {notice:?}: {error}");
            }
        }
    };
    thread::Builder::new()
        .name("notices".into())
        .spawn(send_notices)
        .map(drop)
}

fn send(apparatus: &Apparatus, device: &Device, notice: &KernelNotice) -> io::Result<()> {
    match notice {
        KernelNotice::Attributes(id) => invalidate(device, *id),
        KernelNotice::Gone(id, name) => {
            delete(device, *id, name.as_str())?;
            invalidate(device, *id)
        }
        KernelNotice::Renamed(id, name) => {
            invalidate_name(device, name.as_str())?;
            invalidate(device, *id)
        }
        KernelNotice::Everything => {
            let _ = forget_names(device);
            let volumes = apparatus
                .io_context(Role::Reader)
                .map(|mut io| apparatus.volumes(&mut io));
            let volumes = volumes.unwrap_or_default();
            volumes
                .iter()
                .try_for_each(|volume| invalidate(device, volume.id))
        }
    }
}

/// Invalidates the attributes of a volume's file.
fn invalidate(device: &Device, id: VolumeId) -> io::Result<()> {
    let invalid = InvalidInode {
        inode: inode(id),
        // A negative offset invalidates the attributes alone, and no cached pages.
        offset: -1,
        len: 0,
    };
    write(device, notice::INVALIDATE_INODE, &[invalid.as_bytes()])
}

/// Has the kernel look all names up again. Waits for nothing.
fn forget_names(device: &Device) -> io::Result<()> {
    write(device, notice::INCREASE_EPOCH, &[])
}

/// Invalidates a name.
fn invalidate_name(device: &Device, name: &str) -> io::Result<()> {
    let invalid = InvalidEntry {
        parent: wire::ROOT,
        name_len: u32::try_from(name.len()).map_err(io::Error::other)?,
        flags: 0,
    };
    write(
        device,
        notice::INVALIDATE_ENTRY,
        &[invalid.as_bytes(), name.as_bytes(), &[0]],
    )
}

/// Removes the name of a volume's file.
fn delete(device: &Device, id: VolumeId, name: &str) -> io::Result<()> {
    let deleted = Deleted {
        parent: wire::ROOT,
        inode: inode(id),
        name_len: u32::try_from(name.len()).map_err(io::Error::other)?,
        padding: 0,
    };
    write(
        device,
        notice::DELETE,
        &[deleted.as_bytes(), name.as_bytes(), &[0]],
    )
}

/// Has the kernel send a request with this number, on the processor of the calling thread, which asks for nothing and expects an empty answer. `inode` is a file
/// that the kernel knows. Waits for nothing.
pub(super) fn request(device: &Device, inode: u64, unique: u64) -> io::Result<()> {
    let nothing = wire::Retrieve {
        unique,
        inode,
        offset: 0,
        size: 0,
        padding: 0,
    };
    write(device, notice::RETRIEVE, &[nothing.as_bytes()])
}

/// Has the kernel send all requests again that were read from any device of the connection and not answered.
pub(super) fn resend(device: &Device) -> io::Result<()> {
    write(device, notice::RESEND, &[])
}

fn write(device: &Device, number: i32, parts: &[&[u8]]) -> io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let header = AnswerHeader {
        len: u32::try_from(size_of::<AnswerHeader>() + len).map_err(io::Error::other)?,
        error: number,
        unique: 0,
    };
    let mut slices = vec![IoSlice::new(header.as_bytes())];
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    match device.send(&slices) {
        // The kernel has nothing cached for it.
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}
