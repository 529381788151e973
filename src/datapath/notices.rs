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
    /// The volume that had this name no longer exists.
    Gone(VolumeId, Name),
    /// Any name or attribute may have changed.
    Everything,
}

/// Channel for notices.
#[derive(Default)]
pub(super) struct Notices {
    channel: OnceLock<Sender<KernelNotice>>,
    missed: AtomicBool,
}

impl Notices {
    /// Sets the channel. Called once; changes before that need no notice.
    pub(super) fn send_to(&self, channel: Sender<KernelNotice>) {
        // There is one mount, so a second channel is ignored.
        let _ = self.channel.set(channel);
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
