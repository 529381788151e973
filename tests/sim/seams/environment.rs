//! The machine of a driver: virtual time, connections and disks of the simulation.

use super::device::SimDevice;
use super::transport::SimTransport;
use crate::sim::World;
use crate::sim::thread::world;
use apparatus::blockdev::label::{COPY, Label, choose};
use apparatus::blockdev::{Disk, Opening, Pending};
use apparatus::cluster::FlushLedger;
use apparatus::controller::environment::{Environment, Timing};
use apparatus::model::error::{Error, Result};
use apparatus::model::records::{DiskRecord, PoolHeader};
use apparatus::model::units::ByteCount;
use apparatus::rpc::transport::Transport;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for requests by older tables, in microseconds.
const QUIESCE_US: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
pub struct SimEnvironment {
    begun: Instant,
}

impl SimEnvironment {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
        }
    }
}

impl Environment for SimEnvironment {
    fn now(&self) -> Instant {
        self.begun + Duration::from_micros(world(|world| world.now).unwrap_or(0))
    }

    fn timing(&self) -> Timing {
        let timing = |world: &mut World| Timing {
            patience: world.options.patience,
            poll_us: world.options.poll_us,
            polls: 5,
            quiesce: Duration::from_micros(QUIESCE_US),
        };
        world(timing).unwrap_or(Timing::STANDARD)
    }

    fn transport(&self) -> Box<dyn Transport> {
        Box::new(SimTransport::new(*self))
    }

    fn prepare_thread(&self) {}

    fn begin_opening(&self, record: &DiskRecord, header: &PoolHeader) -> Opening {
        Pending::ended(record.name.to_string(), &record.path, open(record, header))
    }

    fn begin_label(&self, disk: &Arc<Disk>, layout: u64, ledger: Arc<dyn FlushLedger>) -> Pending<Label> {
        let written = disk.set_layout(layout, &*ledger);
        Pending::ended(disk.name().to_owned(), disk.path(), written)
    }
}

fn open(record: &DiskRecord, header: &PoolHeader) -> Result<Disk> {
    let refused = |why: String| Error::failed(format!("disk {}", record.name), why);
    let index = record.id.0 as usize - 1;
    let copies = super::ask(|world| world.labels[index])?;
    let (label, _) = choose(&copies).map_err(|fault| refused(fault.to_string()))?;
    if label.sequence < record.label {
        return Err(refused("is an older copy".into()));
    }
    Ok(open_device(record, header, label))
}

/// The disk with this label, open.
pub fn open_device(record: &DiskRecord, header: &PoolHeader, label: Label) -> Disk {
    let device = SimDevice::new(record.id.0 as usize - 1, record);
    Disk::of_device(record, header, label, Box::new(device))
}

/// Both copies of the first label of a disk.
pub fn labelled(record: &DiskRecord, header: &PoolHeader) -> [[u8; COPY]; 2] {
    let label = Label {
        pool: header.uuid,
        disk: record.uuid,
        size: ByteCount(record.extents * header.extent_size.bytes()),
        extent_size: header.extent_size,
        layout: 0,
        sequence: 1,
        instance: header.instance.id,
        copy: None,
    };
    [label.encode(); 2]
}
