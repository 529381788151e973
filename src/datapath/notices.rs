//! Notices to the kernel about names and attributes that it may have cached. Another thread sends them, because that may wait for requests.

use crate::model::names::Name;
use crate::model::units::VolumeId;
use crossbeam_channel::Sender;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Change that invalidates names or attributes in the kernel's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelNotice {
    /// Size, mode, owner or time of the volume has changed.
    Attributes(VolumeId),
    /// The volume does not have this name any more.
    Renamed(VolumeId, Name),
    /// The volume that had this name no longer exists.
    Gone(VolumeId, Name),
    /// Any name or attribute may have changed.
    Everything,
}

/// Has the kernel look up again every name that it has cached. Waits for nothing.
pub(super) type ForgetNames = Box<dyn Fn() + Send + Sync>;

/// Channel for notices.
#[derive(Default)]
pub(super) struct Notices {
    channel: OnceLock<Sender<KernelNotice>>,
    missed: AtomicBool,
    forget_names: OnceLock<ForgetNames>,
}

impl Notices {
    /// Sets the channel. Called once; changes before that need no notice.
    pub(super) fn send_to(&self, channel: Sender<KernelNotice>) {
        // There is one mount, so a second channel is ignored.
        let _ = self.channel.set(channel);
    }

    /// Sets how the kernel is told to forget names. Called once, where the kernel can be told.
    pub(super) fn forget_names_by(&self, forget: ForgetNames) {
        // There is one mount, so a second way is ignored.
        let _ = self.forget_names.set(forget);
    }

    /// Sends the notices of a new version of the table. When this returns and a volume has lost its name, the kernel trusts no name that it had cached
    /// before. Other changes leave the names alone: the path of an open file whose name is looked up anew shows as deleted.
    pub(super) fn send_all(&self, notices: Vec<KernelNotice>) {
        let concerns_names = |notice: &KernelNotice| !matches!(notice, KernelNotice::Attributes(_));
        if let (true, Some(forget)) = (notices.iter().any(concerns_names), self.forget_names.get()) {
            forget();
        }
        notices.into_iter().for_each(|notice| self.send(notice));
    }

    /// Sends a notice, or notes that it was dropped because the channel is full.
    pub(super) fn send(&self, notice: KernelNotice) {
        if let Some(channel) = self.channel.get()
            && channel.try_send(notice).is_err()
        {
            self.missed.store(true, Ordering::Release);
        }
    }

    /// Returns whether a notice was dropped since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}
