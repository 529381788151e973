//! Agrees with the kernel on the protocol and its capabilities, through fuser. That is the first exchange on a mount; everything after it is ours.

use super::Options;
use super::filesystem::LARGEST;
use fuser::{Config, Filesystem, InitFlags, KernelConfig, Session, SessionACL};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Requests and answers may go over io_uring (`FUSE_OVER_IO_URING`). The library has no name for it.
const OVER_URING: InitFlags = InitFlags::from_bits_retain(1 << 41);

/// What the kernel and this process have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The kernel can send requests again that a server has read and not answered (from Linux 6.9 on).
    pub(super) can_resend: bool,
    /// Requests come over io_uring. They wait until all entries are registered.
    pub(super) over_uring: bool,
}

/// Answers the first request of the kernel. `device` is another descriptor of the mount's device, which is closed at the end. `over_uring` says whether
/// requests are wanted over io_uring.
///
/// # Errors
/// Fails when the mount has ended, or the kernel does not support what the mount needs.
pub(super) fn negotiate(device: OwnedFd, options: &Options, over_uring: bool) -> io::Result<Agreed> {
    let agreed = Arc::<Mutex<Agreed>>::default();
    let negotiator = Negotiator {
        max_background: options.max_background,
        wanted: Agreed {
            can_resend: options.is_kept,
            over_uring,
        },
        agreed: agreed.clone(),
    };
    Session::from_fd(negotiator, device, SessionACL::All, Config::default())?;
    let agreed = agreed.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(*agreed)
}

/// A file system for the first request alone.
struct Negotiator {
    max_background: u16,
    wanted: Agreed,
    agreed: Arc<Mutex<Agreed>>,
}

impl Filesystem for Negotiator {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel does not support {capability:?}");
            }
        }
        let mut add = |wanted, capability| wanted && config.add_capabilities(capability).is_ok();
        let agreed = Agreed {
            can_resend: add(self.wanted.can_resend, InitFlags::FUSE_HAS_RESEND),
            over_uring: add(self.wanted.over_uring, OVER_URING),
        };
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = agreed;
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
