//! Agrees with the kernel on the protocol and its capabilities, through fuser. That is the first exchange on a mount; everything after it is ours.

use super::Options;
use super::filesystem::LARGEST;
use fuser::{Config, Filesystem, InitFlags, KernelConfig, Session, SessionACL};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Capabilities of the kernel that the mount uses, each where the kernel has it.
const CAPABILITIES: [InitFlags; 8] = [
    // The kernel finds the files of NFS handles again after eviction or a restart, by a `lookup` of "." in them.
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // A program that looks at the files of a listing gets them with the listing.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// Answers the first request of the kernel. `device` is another descriptor of the mount's device, which is closed at the end. Returns whether the
/// kernel can send requests again that a server has read and not answered (from Linux 6.9 on).
///
/// # Errors
/// Fails when the mount has ended, or the kernel does not support what the mount needs.
pub(super) fn negotiate(device: OwnedFd, options: &Options) -> io::Result<bool> {
    let can_resend = Arc::new(AtomicBool::new(false));
    let negotiator = Negotiator {
        max_background: options.max_background,
        resend: options.is_kept,
        can_resend: can_resend.clone(),
    };
    Session::from_fd(negotiator, device, SessionACL::All, Config::default())?;
    Ok(can_resend.load(Ordering::Relaxed))
}

/// A file system for the first request alone.
struct Negotiator {
    max_background: u16,
    /// Whether requests may have to be sent again.
    resend: bool,
    can_resend: Arc<AtomicBool>,
}

impl Filesystem for Negotiator {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel does not support {capability:?}");
            }
        }
        let can_resend = self.resend && config.add_capabilities(InitFlags::FUSE_HAS_RESEND).is_ok();
        self.can_resend.store(can_resend, Ordering::Relaxed);
        let refused = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        config
            .set_max_write(LARGEST)
            .map_err(|_| refused("1 MiB requests"))?;
        config
            .set_max_background(self.max_background)
            .map_err(|_| refused("max_background"))?;
        config
            .set_congestion_threshold(self.max_background)
            .map_err(|_| refused("the congestion threshold"))?;
        Ok(())
    }
}
