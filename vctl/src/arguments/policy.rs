//! The placement policy of new volumes.

use apparatus::model::alloc;
use clap::ValueEnum;
use serde::Serialize;

/// The order in which disks are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// In the order in which disks are named; most free space first if none is
    Order,
    /// Most free space first
    Spread,
    /// Least free space first, so that other disks stay empty
    Pack,
    /// In one piece or not at all, otherwise like order
    Contiguous,
}

impl From<Policy> for alloc::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Order => Self::Order,
            Policy::Spread => Self::Spread,
            Policy::Pack => Self::Pack,
            Policy::Contiguous => Self::Contiguous,
        }
    }
}
