//! The threads that read requests from the device and serve them.

use super::answer::Answer;
use super::device::{Buffer, Device};
use super::filesystem::{LARGEST, Reader, Volumes};
use super::incoming::Incoming;
use super::notices;
use super::pause::Pause;
use super::uring::Rings;
use crossbeam_channel::{Receiver, bounded};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Starts the threads that read from the device, the first ones with a device of their own each, and those of `rings` if requests come over io_uring. Where
/// another server has served the mount before, the kernel sends the requests again that it has left. Returns a channel that receives one message when
/// the mount has ended and all threads that read from the device have.
///
/// # Errors
/// Fails when there is no memory or no further thread, when the kernel does not send the requests again, or refuses an entry of a ring.
pub(super) fn start(
    volumes: Volumes,
    devices: &[Arc<Device>],
    threads: usize,
    rings: Option<Rings>,
    was_served: bool,
    pause: &Arc<Pause>,
) -> io::Result<Receiver<io::Result<()>>> {
    let buffers = buffers(threads)?;
    if was_served && let Some(first) = devices.first() {
        // No thread may have read a request yet: it would be served twice.
        notices::resend(first)?;
    }
    let volumes = Arc::new(volumes);
    let mut readers = Vec::with_capacity(threads);
    for (number, buffer) in buffers.into_iter().enumerate() {
        let device = devices.get(number).or(devices.first()).cloned();
        let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let (volumes, pause) = (volumes.clone(), pause.clone());
        let read = move || read_requests(&volumes, &device, buffer, &pause);
        readers.push(
            thread::Builder::new()
                .name(format!("fuse-{number}"))
                .spawn(read)?,
        );
    }
    let (sender, ended) = bounded(1);
    let lates = rings.as_ref().map(Rings::lates);
    if let Some(rings) = rings {
        rings.start(&volumes, pause, &sender)?;
    }
    let wait = move || {
        let end = wait_for(readers);
        if let Some(lates) = lates {
            lates.end();
        }
        // If the channel is full, a ring has failed before.
        drop(sender.try_send(end));
    };
    thread::Builder::new().name("fuse".into()).spawn(wait)?;
    Ok(ended)
}

/// Returns a device for each thread. Where the user may not open the device, all threads share the first.
pub(super) fn devices(first: Arc<Device>, threads: usize) -> io::Result<Vec<Arc<Device>>> {
    let mut devices = vec![first];
    if Device::open().is_ok() {
        for _ in 1..threads {
            let another = devices[0].another()?;
            devices.push(Arc::new(another));
        }
    }
    Ok(devices)
}

/// Returns a buffer for each thread.
fn buffers(threads: usize) -> io::Result<Vec<Buffer>> {
    let buffers: io::Result<Vec<(Buffer, bool)>> =
        (0..threads).map(|_| Buffer::new(LARGEST as usize)).collect();
    let buffers = buffers?;
    if !buffers.iter().all(|(_, is_locked)| *is_locked) {
        log::warn!(
            "the memory for requests, {threads} MiB, could not be locked: under memory pressure requests may wait for it; allow it (ulimit -l, LimitMEMLOCK=)"
        );
    }
    Ok(buffers.into_iter().map(|(buffer, _)| buffer).collect())
}

/// Waits for the end of all threads. Returns the first error.
fn wait_for(readers: Vec<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let ends: Vec<io::Result<()>> = readers
        .into_iter()
        .map(|reader| {
            reader
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread that serves requests panicked")))
        })
        .collect();
    ends.into_iter().collect()
}

/// Serves requests until the mount ends.
fn read_requests(
    volumes: &Volumes,
    device: &Arc<Device>,
    mut buffer: Buffer,
    pause: &Pause,
) -> io::Result<()> {
    let mut reader = Reader::Device(None);
    while let Some(bytes) = device.receive(&mut buffer)? {
        let incoming = Incoming::parse(bytes).map_err(|why| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a request of the kernel: {why}"),
            )
        })?;
        pause.pass();
        let answer = Answer::new(device, incoming.header.unique);
        if incoming.is_goodbye() {
            answer.done();
            break;
        }
        volumes.serve(&mut reader, &incoming, answer);
    }
    Ok(())
}
