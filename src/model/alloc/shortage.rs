//! Why a request for extents could not be granted, disk by disk, and the error that an operator sees.

use super::{AllocRequest, Fault, Policy, Space, is_asked_for};
use crate::model::error::Error;
use crate::model::names::Name;
use crate::model::size::HumanSize;
use crate::model::units::{ByteCount, ExtentSize};
use crate::model::words::count;
use std::fmt;

/// Largest number of disks that an error names.
const NAMED: usize = 8;

/// Why a request could not be granted, disk by disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Number of extents requested.
    pub wanted: u64,
    /// The reason for each disk that the request allowed, in the order given.
    pub disks: Vec<(Name, Reason)>,
}

/// Why a disk was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing new is placed on it.
    NoAllocate,
    /// It has a fault, and others were to be used.
    Faulty(Fault),
    /// It has too little room, and so have all such disks together.
    Short {
        /// Free extents.
        free: u64,
        /// Number of these that have to stay free.
        reserve: u64,
        /// Number of extents, not counted as free, that become free once no apparatus can use them.
        quarantined: u64,
        /// Number of extents, not counted as free, that are reserved for jobs that have not ended.
        reserved: u64,
    },
    /// It has enough room, but not in one piece.
    InPieces {
        /// Longest free run.
        longest: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllocate => f.write_str("no-allocate is set"),
            Self::Faulty(fault) => fault.fmt(f),
            Self::Short {
                free,
                reserve,
                quarantined,
                reserved,
            } => {
                write!(f, "{} free", count(*free, "extent"))?;
                if *reserve > 0 {
                    write!(f, ", {reserve} of them kept free")?;
                }
                if *quarantined > 0 {
                    write!(f, ", {quarantined} more once no apparatus can use them")?;
                }
                if *reserved > 0 {
                    write!(f, ", {reserved} reserved by jobs (vctl job list)")?;
                }
                Ok(())
            }
            Self::InPieces { longest } => write!(f, "at most {} in one piece", count(*longest, "extent")),
        }
    }
}

impl Shortage {
    pub(super) fn new(spaces: &[Space], request: &AllocRequest) -> Self {
        let asked = spaces.iter().filter(|space| is_asked_for(space, request));
        Self {
            wanted: request.extents,
            disks: asked
                .map(|space| (space.name.clone(), reason(space, request)))
                .collect(),
        }
    }

    /// Returns the error that an operator sees; `what` names the thing that should have been placed.
    #[must_use]
    pub fn error(&self, what: impl Into<String>, extent_size: ExtentSize) -> Error {
        let size = HumanSize(ByteCount(self.wanted.saturating_mul(extent_size.bytes())));
        let describe = |(name, reason): &(Name, Reason)| format!("{name}: {reason}");
        let mut each: Vec<String> = self.disks.iter().take(NAMED).map(describe).collect();
        if self.disks.len() > NAMED {
            each.push(format!("and {} more", count(self.disks.len() - NAMED, "disk")));
        }
        let disks = if each.is_empty() {
            "there is no disk".to_owned()
        } else {
            each.join("; ")
        };
        Error::failed(
            what,
            format!(
                "needs {} ({size}), but there is not enough room: {disks}",
                count(self.wanted, "extent")
            ),
        )
        .hint(self.way_out())
    }

    fn way_out(&self) -> &str {
        let of_a_disk = self.disks.iter().find_map(|(_, reason)| match reason {
            Reason::Faulty(Fault::Unusable { way_out, .. }) => way_out.as_deref(),
            _ => None,
        });
        if let Some(way_out) = of_a_disk {
            return way_out;
        }
        let is_faulty = |(_, reason): &(Name, Reason)| matches!(reason, Reason::Faulty(_));
        if self.disks.iter().any(is_faulty) {
            "add a disk (vctl disk add); vctl status has the way out for a disk with a fault, and vctl disk clear DISK forgets failures that are over"
        } else {
            "add a disk (vctl disk add), name other disks, or allow allocation on one again (vctl disk set DISK --allocate)"
        }
    }
}

/// Returns why a disk could not satisfy the request.
fn reason(space: &Space, request: &AllocRequest) -> Reason {
    if !space.allocate {
        return Reason::NoAllocate;
    }
    if let Some(fault) = &space.fault {
        return Reason::Faulty(fault.clone());
    }
    if request.policy == Policy::Contiguous && space.room() >= request.extents {
        let longest = space.free.iter().map(|run| run.len).max().unwrap_or(0);
        return Reason::InPieces { longest };
    }
    Reason::Short {
        free: space.free(),
        reserve: space.reserve.min(space.free()),
        quarantined: space.quarantined,
        reserved: space.reserved,
    }
}
