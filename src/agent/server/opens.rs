//! Blocks on opens: no host opens volumes that a command relies on to be unused, until the command ends the block or its connection is lost.

use super::links::refused;
use crate::datapath::Runtime;
use crate::model::units::VolumeId;
use crate::protocol::participant::Link;
use crate::rpc::message::{Answer, Refusal};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Owner of the block that precedes the end of this apparatus; no connection has this number.
const OURS: u64 = u64::MAX;

/// Blocks on opens, each owned by a connection.
pub(super) struct OpenBlocks {
    runtime: Arc<dyn Runtime>,
}

impl OpenBlocks {
    /// Makes it without a block.
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime }
    }

    /// Blocks opens of these volumes for a connection. Fails with the refusal if hosts have some of them open; then nothing is blocked.
    pub(super) fn block(
        &self,
        link: Link,
        volumes: BTreeSet<VolumeId>,
        writers_only: bool,
    ) -> Result<(), Answer> {
        if volumes.is_empty() {
            let why = "the request names no volume to vacate".into();
            return Err(refused(Refusal::Malformed(why)));
        }
        let blocked = self.runtime.block_opens(link.0, volumes, writers_only);
        blocked.map_err(|opens| refused(Refusal::InUse(Box::new(opens))))
    }

    /// Blocks opens of all volumes for good. Fails with the refusal if hosts have some open; then nothing is blocked.
    pub(super) fn block_all(&self) -> Result<(), Answer> {
        let blocked = self.runtime.block_opens(OURS, BTreeSet::new(), false);
        blocked.map_err(|opens| refused(Refusal::InUse(Box::new(opens))))
    }

    /// Ends the block of a connection, if it has one.
    pub(super) fn end(&self, link: Link) {
        self.runtime.allow_opens(link.0);
    }

    /// Returns the answer that lists the open handles of hosts.
    pub(super) fn report(&self) -> Answer {
        Answer::Opens(Box::new(self.runtime.opens()))
    }
}
