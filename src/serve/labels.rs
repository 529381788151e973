//! Writes a new sequence number into every label, once an apparatus serves, from time to time while hosts write, and when it has
//! stopped: copies of a disk that were made before can be told apart from it, and those that were made meanwhile.

use crate::blockdev::{Disk, Pending, ask_disks_in_children, within};
use crate::cluster::FlushLedgers;
use crate::datapath::Runtime;
use crate::model::error::Result;
use crate::store::{OpenStore, Store};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the end of the process waits for all disks together.
const END: Duration = Duration::from_secs(2);

/// How often labels are renewed of disks that hosts have written since.
const EVERY: Duration = Duration::from_secs(10);

/// How long one label may take; one that takes longer is renewed the next time.
const LABEL: Duration = Duration::from_secs(5);

/// A thread that renews labels until this is dropped: those of all open disks at once, and from then on those of the disks that hosts have written. So
/// a copy that was made while a disk was served can be told apart from it also where the apparatus is killed.
pub(super) struct Renewals {
    _end: Sender<()>,
}

impl Renewals {
    /// Starts the thread. A disk that does not answer delays nothing else.
    pub(super) fn start(
        runtime: Arc<dyn Runtime>,
        ledgers: Arc<dyn FlushLedgers>,
        open_store: OpenStore,
    ) -> Self {
        let (end, ended) = bounded(0);
        let work = move || {
            let mut written = BTreeMap::new();
            let mut disks = runtime.disks().all();
            loop {
                renew_all(&disks, &ledgers, &open_store);
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let before = std::mem::replace(&mut written, runtime.writes());
                disks = runtime.disks().all();
                disks.retain(|disk| written.get(&disk.id()) > before.get(&disk.id()));
            }
        };
        if let Err(why) = thread::Builder::new().name("labels".into()).spawn(work) {
            log::warn!("labels: {why}");
        }
        Self { _end: end }
    }
}

fn renew_all(disks: &[Arc<Disk>], ledgers: &Arc<dyn FlushLedgers>, open_store: &OpenStore) {
    if disks.is_empty() {
        return;
    }
    let renewed = open_store().map(|mut store| {
        for disk in disks {
            if let Err(why) = renew(disk, ledgers, &mut *store) {
                log::warn!("disk {}: its label: {why}", disk.name());
            }
        }
        store.checkpoint()
    });
    if let Err(why) = renewed.flatten() {
        log::warn!("labels: {why}");
    }
}

fn renew(disk: &Arc<Disk>, ledgers: &Arc<dyn FlushLedgers>, store: &mut dyn Store) -> Result<()> {
    if disk.is_read_only() {
        return Ok(());
    }
    let (writes, ledger) = (Arc::clone(disk), ledgers.ledger(disk.id()));
    let what = format!("disk {}", disk.name());
    let label = within(LABEL, &what, disk.path(), move || writes.take_over(0, &*ledger))?;
    store.label_written(disk.id(), label.sequence)
}

/// Writes the labels once nothing is in flight any more. Each disk is opened in a child process first, so
/// that one that hangs delays neither the others nor the end of this process; its label stays as it is.
pub(super) fn renew_at_end(runtime: &dyn Runtime, ledgers: &dyn FlushLedgers, open_store: &OpenStore) {
    ask_disks_in_children();
    let disks = runtime.disks().all();
    let begin = |disk: &Arc<Disk>| {
        let (writes, ledger) = (Arc::clone(disk), ledgers.ledger(disk.id()));
        let writing = Pending::begin_asking(format!("disk {}", disk.name()), disk.path(), move || {
            writes.take_over(0, &*ledger)
        });
        (disk.id(), writing)
    };
    let writable = disks.iter().filter(|disk| !disk.is_read_only());
    let begun: Vec<_> = writable.map(begin).collect();
    let until = Instant::now() + END;
    let mut written = Vec::new();
    for (disk, mut writing) in begun {
        match writing.wait(until, END) {
            Ok(label) => written.push((disk, label.sequence)),
            Err(why) => log::warn!(
                "{why}: its label is not renewed, so a copy made while it was served cannot be told apart from it"
            ),
        }
    }
    let recorded = open_store().and_then(|mut store| {
        let mut each = written.into_iter();
        each.try_for_each(|(disk, sequence)| store.label_written(disk, sequence))
    });
    if let Err(why) = recorded {
        log::warn!("labels: {why}");
    }
}
