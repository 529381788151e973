//! Memory limits in the figures of an apparatus.

use crate::model::size::HumanSize;
use crate::model::units::ByteCount;
use serde::{Deserialize, Serialize};

/// Memory limits of an apparatus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Memory that it needs at most by its own limits, in bytes.
    pub needs: u64,
    /// Memory that it may have at most, in bytes: its cgroup's limit, or else the memory of the machine.
    pub most: u64,
    /// Whether its memory cgroup has a limit.
    pub is_limited: bool,
    /// Whether the kernel may make it wait for its own volumes while it reclaims memory in its cgroup.
    pub may_wait_for_itself: bool,
    /// Whether that cgroup was created for it.
    pub own_cgroup: bool,
    /// Whether no other process is in that cgroup now.
    pub is_alone: bool,
}

impl Memory {
    /// Returns whether hosts can be in its cgroup, now or later.
    #[must_use]
    pub const fn may_be_shared(&self) -> bool {
        self.is_limited && !self.own_cgroup
    }

    /// Returns whether hosts may fill its cgroup with dirty pages of its own volumes, which only it can write back.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.is_limited && !self.is_alone
    }

    /// Describes the consequence, and the way out.
    #[must_use]
    pub fn danger(&self) -> String {
        let most = HumanSize(ByteCount(self.most));
        let what = match self.may_wait_for_itself {
            true => "may hang for good",
            false => "may be very slow",
        };
        format!(
            "{what} when other processes fill its memory cgroup, of {most}, with writes to its volumes: start it in a cgroup without them"
        )
    }
}
