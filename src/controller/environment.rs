//! Environment of a controller: the time, the connections and the disks of the machine that it runs on.
//!
//! The simulation (`tests/sim/`) has an environment of its own, in which time is virtual and messages and disks belong to the simulation.

use super::node;
use crate::blockdev::label::Label;
use crate::blockdev::{Disk, Opening, Pending};
use crate::cluster::FlushLedger;
use crate::model::records::{DiskRecord, PoolHeader};
use crate::protocol::controller::Patience;
use crate::rpc::transport::Transport;
use crate::store::OwnNode;
use crate::sys::{prefer_latency, reclaim_without_io};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Waits of a controller.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Bounds of the waits for apparatuses during a change.
    pub patience: Patience,
    /// How often a new controller reads the member table for members that are behind, in microseconds.
    pub poll_us: u64,
    /// How many times it does so before it fences them.
    pub polls: u32,
    /// How long apparatuses may take to finish requests by older tables before old extents are freed; what is still in use is freed another
    /// time.
    pub quiesce: Duration,
}

impl Timing {
    /// Waits that fit most pools: a hold ends by itself well after everything that it may wait for, and members that are behind have one
    /// second.
    pub const STANDARD: Self = Self {
        patience: super::PATIENCE,
        poll_us: 2_000,
        polls: 500,
        quiesce: Duration::from_millis(200),
    };
}

/// What a controller uses of the machine that it runs on.
pub trait Environment: Send + Sync {
    /// Returns the present time. It is the time of [`Transport::now`] too.
    fn now(&self) -> Instant;

    /// Returns the waits of controllers.
    fn timing(&self) -> Timing;

    /// Returns a transport without connections, for the links of one controller.
    fn transport(&self) -> Box<dyn Transport>;

    /// Prepares the calling thread for work that hosts wait for.
    fn prepare_thread(&self);

    /// Starts opening a disk, without waiting for it.
    fn begin_opening(&self, record: &DiskRecord, header: &PoolHeader) -> Opening;

    /// Starts writing the layout number to the label of a disk, without waiting for it.
    fn begin_label(&self, disk: &Arc<Disk>, layout: u64, ledger: Arc<dyn FlushLedger>) -> Pending<Label>;
}

/// Environment of a process of the operating system: sockets, its clock, and disks that are opened on helper threads.
#[derive(Clone, Debug, Default)]
pub struct ProcessEnvironment {
    /// This machine as a node of the pool, if the pool knows its machines by name.
    pub node: Option<OwnNode>,
}

impl Environment for ProcessEnvironment {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn timing(&self) -> Timing {
        Timing::STANDARD
    }

    fn transport(&self) -> Box<dyn Transport> {
        Box::new(node::transport(self.node.as_ref()))
    }

    fn prepare_thread(&self) {
        if let Err(why) = prefer_latency() {
            log::debug!("the controller runs with ordinary scheduling: {why}");
        }
        if let Err(why) = reclaim_without_io() {
            log::debug!("memory reclaim for the controller may wait for its own disks: {why}");
        }
    }

    fn begin_opening(&self, record: &DiskRecord, header: &PoolHeader) -> Opening {
        Disk::begin_opening(record, header)
    }

    fn begin_label(&self, disk: &Arc<Disk>, layout: u64, ledger: Arc<dyn FlushLedger>) -> Pending<Label> {
        let writes = Arc::clone(disk);
        Pending::begin(format!("disk {}", disk.name()), disk.path(), move || {
            writes.set_layout(layout, &*ledger)
        })
    }
}
