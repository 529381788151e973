//! Which disk is taken first.

use apparatus::pool::alloc;
use clap::ValueEnum;
use serde::Serialize;

/// Which disk is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// In the order in which disks are named; where most is free, if none is
    Order,
    /// Where most is free
    Spread,
    /// Where least is free, so that other disks stay empty
    Pack,
    /// In one piece or not at all, else as order
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
