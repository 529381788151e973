//! A new sequence number in every label, once an apparatus serves: copies of a disk that were made before are told from it.

use crate::control::Runtime;
use crate::control::server::{OpenStore, renew_label};
use crate::member::MemberTable;
use std::sync::Arc;
use std::thread;

/// Writes the labels of the disks that are open by now in a thread of its own: nobody waits for a disk that does not answer.
pub(super) fn renew(runtime: Arc<dyn Runtime>, members: Arc<MemberTable>, open_store: OpenStore) {
    let work = move || {
        let renewed = open_store().map(|mut store| {
            for disk in &runtime.disks().all() {
                if let Err(why) = renew_label(disk, &members, &mut *store) {
                    log::warn!("disk {}: its label: {why}", disk.name());
                }
            }
        });
        if let Err(why) = renewed {
            log::warn!("labels: {why}");
        }
    };
    if let Err(why) = thread::Builder::new().name("labels".into()).spawn(work) {
        log::warn!("labels: {why}");
    }
}
