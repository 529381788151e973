//! Opens and closes volumes for hosts, and blocks opens for the control thread.

use super::handles::{Handles, NotOpened, OpenBlock, OpenRecords, OpenReply, Opening};
use super::lookup::Lookup;
use crate::model::units::VolumeId;
use crate::rpc::message::Opens;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Open files of one apparatus.
pub(super) struct OpenFiles {
    handles: Handles,
    lookup: Arc<Lookup>,
}

impl OpenFiles {
    /// Makes it without an open file.
    pub(super) fn new(lookup: Arc<Lookup>) -> Self {
        Self {
            handles: Handles::default(),
            lookup,
        }
    }

    /// Opens a volume for a host. The reply is sent now, or when a block on the volume ends.
    pub(super) fn open(&self, opening: Opening, reply: OpenReply) {
        if let Some((handle, reply)) = self.handles.begin(opening, reply) {
            self.opened(opening, handle, reply);
        }
    }

    /// Replies to an open after its handle was counted, so that a change that removes the volume either finds it open or has been applied.
    fn opened(&self, opening: Opening, handle: u64, reply: OpenReply) {
        let refused = match self.lookup.volume(opening.volume) {
            Some(volume) if volume.read_only && opening.writes => NotOpened::ReadOnly,
            Some(_) => return reply(Ok(handle)),
            None => NotOpened::Gone,
        };
        self.handles.end(handle);
        reply(Err(refused));
    }

    /// Removes the handle that a host has closed.
    pub(super) fn closed(&self, handle: u64) {
        self.handles.end(handle);
    }

    /// Goes on with the handles that a process before this one has left, and has `records` record all from now on. The numbers of new handles
    /// begin after `last`.
    pub(super) fn go_on(&self, records: Box<dyn OpenRecords>, left: Vec<(u64, Opening)>, last: u64) {
        self.handles.go_on(records, left, last);
    }

    /// Sets the mount's device number.
    pub(super) fn set_device(&self, device: (u32, u32)) {
        self.handles.set_device(device);
    }

    /// Returns the open handles.
    pub(super) fn opens(&self) -> Opens {
        self.handles.opens()
    }

    /// Blocks opens of these volumes on behalf of `owner`. Fails with the handles of these volumes that are open.
    pub(super) fn block(
        &self,
        owner: u64,
        volumes: BTreeSet<VolumeId>,
        writers_only: bool,
    ) -> Result<(), Opens> {
        let block = OpenBlock {
            volumes,
            writers_only,
        };
        self.handles.block_opens(owner, block)
    }

    /// Ends a block, and replies to the opens that waited for it.
    pub(super) fn end_block(&self, owner: u64) {
        for (opening, handle, reply) in self.handles.allow_opens(owner) {
            self.opened(opening, handle, reply);
        }
    }
}
