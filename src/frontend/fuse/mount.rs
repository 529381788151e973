//! Mounts a FUSE device: directly where that is allowed, and otherwise by the setuid helper.

use super::device::{DEVICE, Device};
use super::{HELPER, Options, filesystem, mount_point};
use crate::model::error::{Error, Result};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Mounts on `point` and returns the device. Requests of hosts wait until the session has started.
///
/// # Errors
/// Fails when the device, the helper or a permission is missing; the error names which.
pub(super) fn attach(point: &Path, options: &Options) -> Result<OwnedFd> {
    let what = || format!("mount on {}", point.display());
    let device = match Device::open() {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::because(what(), error).hint("load the kernel module: modprobe fuse"));
        }
        Err(_) => return by_helper(point, options),
    };
    match directly(&device, point, options) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => by_helper(point, options),
        Err(error) => Err(Error::because(what(), error)),
    }
}

fn directly(device: &OwnedFd, point: &Path, options: &Options) -> Result<(), Errno> {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let mut data = format!(
        "fd={},rootmode=40000,user_id={user},group_id={group},default_permissions,max_read={}",
        device.as_raw_fd(),
        filesystem::LARGEST
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, options.read_only);
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    mount(
        options.source.as_str(),
        point,
        mount_point::TYPE,
        flags,
        data.as_c_str(),
    )
}

/// Mounts by fusermount3, which returns the device through a socket.
fn by_helper(point: &Path, options: &Options) -> Result<OwnedFd> {
    let what = || format!("mount on {}", point.display());
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::because(what(), error))?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|error| Error::because(what(), error))?;
    let mut list = format!(
        "fsname={},subtype=apparatus,default_permissions,nosuid,nodev,noexec,noatime,max_read={}",
        options.source,
        filesystem::LARGEST
    );
    list.push_str(if options.allow_other { ",allow_other" } else { "" });
    list.push_str(if options.read_only { ",ro" } else { "" });
    let helper = Command::new(HELPER)
        .args(["-o", &list, "--"])
        .arg(point)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    drop(theirs);
    let helper = helper.map_err(|error| {
        Error::failed(what(), format!("{HELPER}: {error}")).hint("install fuse3, or run as root")
    })?;
    let device = receive(&ours);
    let output = helper.wait_with_output();
    if let Ok(Some(device)) = device {
        return Ok(device);
    }
    let message = output.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Err(refusal(what(), &message.unwrap_or_default()))
}

fn refusal(what: String, message: &str) -> Error {
    let why = if message.is_empty() {
        "the helper returned no device"
    } else {
        message
    };
    let error = Error::failed(what, why);
    if message.contains("user_allow_other") {
        error.hint("write user_allow_other into /etc/fuse.conf, or omit --allow-other")
    } else if message.contains(DEVICE) {
        error.hint(format!(
            "let users open {DEVICE} (mode 0666 is usual), or run as root"
        ))
    } else {
        error
    }
}

fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut messages = control.drain();
    Ok(messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut devices) => devices.next(),
        _ => None,
    }))
}
