//! Tells the kernel what it must not believe any longer. On a thread of its own: the kernel may make a notice wait for requests
//! in flight, which only the reader threads can end.

use super::filesystem::inode;
use crate::data::{Apparatus, Notice, Role};
use crossbeam_channel::{Receiver, bounded};
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::thread;

/// Notices that wait; more are replaced by one that covers everything.
const MOST: usize = 256;

/// Starts the thread. It ends when `ended` is disconnected.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(apparatus: &Arc<Apparatus>, notifier: Notifier, ended: Receiver<()>) -> io::Result<()> {
    let (sender, notices) = bounded(MOST);
    apparatus.send_notices_to(sender);
    let apparatus = Arc::downgrade(apparatus);
    let tell = move || {
        loop {
            let notice = crossbeam_channel::select! {
                recv(notices) -> notice => notice,
                recv(ended) -> _ => return,
            };
            let (Ok(notice), Some(apparatus)) = (notice, apparatus.upgrade()) else {
                return;
            };
            let missed = apparatus.missed_notice();
            let notice = if missed { Notice::Everything } else { notice };
            if let Err(error) = pass_on(&apparatus, &notifier, &notice) {
                log::debug!("the kernel did not take {notice:?}: {error}");
            }
        }
    };
    thread::Builder::new()
        .name("notices".into())
        .spawn(tell)
        .map(drop)
}

fn pass_on(apparatus: &Apparatus, notifier: &Notifier, notice: &Notice) -> io::Result<()> {
    // A negative offset: attributes alone, no cached pages.
    let attributes = |id| notifier.inval_inode(inode(id), -1, 0);
    match notice {
        Notice::Attributes(id) => attributes(*id),
        Notice::Gone(id, name) => {
            notifier.delete(INodeNo::ROOT, inode(*id), OsStr::new(name.as_str()))?;
            attributes(*id)
        }
        Notice::Everything => {
            let volumes = apparatus
                .desk(Role::Reader)
                .map(|mut desk| apparatus.volumes(&mut desk));
            let volumes = volumes.unwrap_or_default();
            volumes.iter().try_for_each(|volume| attributes(volume.id))
        }
    }
}
