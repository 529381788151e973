//! Fuzz targets: each takes bytes as they may come from outside, and fails by panicking. `fuzz/` runs them under libFuzzer, and the tests
//! below with damaged copies of valid input.

use crate::admin::describe;
use crate::blockdev::label::{self, Label};
use crate::frontend;
use crate::metadata::contents::Contents;
use crate::metadata::header::Header;
use crate::metadata::{self, BLOCK};
use crate::model::records::DiskAccess;
use crate::model::size;
use crate::rpc::frame::{Decoder, encode};
use crate::rpc::message::{AnswerFrame, RequestFrame};
use crate::serve::config::Config;
use crate::supervisor;
use crate::sys::proc;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Greatest length of a frame in these runs, in bytes.
const FRAME: usize = 1 << 20;
/// Where the checksum of a block stands: in its last four bytes.
const CHECKSUM: usize = BLOCK - 4;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is the name of the binary in `fuzz/`.
    pub name: &'static str,
    /// The code under test.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("requests", requests),
    target("answers", answers),
    target("label", label),
    target("metadata", metadata),
    target("metadata_body", metadata_body),
    target("description", description),
    target("configuration", configuration),
    target("size", size),
    target("proc", proc),
    target("fuse", fuse),
    target("supervisor", supervisor),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Runs the target of this name.
///
/// # Panics
/// When there is none with this name, or when it finds a fault.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.is_some(), "there is no target {name}");
    target.into_iter().for_each(|target| (target.run)(bytes));
}

/// Frames that a client sends to the control socket of an apparatus.
fn requests(bytes: &[u8]) {
    frames::<RequestFrame>(bytes);
}

/// Frames that an apparatus sends to a controller.
fn answers(bytes: &[u8]) {
    frames::<AnswerFrame>(bytes);
}

/// Feeds the bytes in two pieces, at a place that the first byte gives. What is decoded can be encoded, and that decodes to the same.
fn frames<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let (head, tail) = rest.split_at(usize::from(first).min(rest.len()));
    let mut decoder = Decoder::new(FRAME);
    for piece in [head, tail] {
        if decoder.feed(piece).is_err() {
            return;
        }
        while let Ok(Some(message)) = decoder.take::<T>() {
            let mut again = Vec::new();
            if encode(&message, &mut again).is_ok() {
                let mut decoder = Decoder::new(2 * FRAME);
                let fed = decoder.feed(&again).and_then(|()| decoder.take::<T>());
                assert!(fed.is_ok_and(|found| found.as_ref() == Some(&message)));
            }
        }
    }
}

/// Gives a block the checksum that fits, so that what stands in it is looked at.
fn seal(block: &mut [u8; BLOCK]) {
    let checksum = crc32c::crc32c(&block[..CHECKSUM]);
    block[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
}

/// Returns the block at this index, filled up with zeroes.
fn block(bytes: &[u8], index: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let rest = bytes.get(index * BLOCK..).unwrap_or_default();
    let len = rest.len().min(BLOCK);
    block[..len].copy_from_slice(&rest[..len]);
    block
}

/// The two copies of a disk's label, as they stand and with checksums that fit. A label that is accepted is encoded to the same bytes.
fn label(bytes: &[u8]) {
    let mut copies = [block(bytes, 0), block(bytes, 1)];
    let _ = label::choose(&copies);
    copies.iter_mut().for_each(seal);
    if let Ok((label, index)) = label::choose(&copies) {
        assert_eq!(Label::decode(&label.encode()), Ok(label));
        assert_eq!(Label::decode(&copies[index]), Ok(label));
    }
}

/// A copy of the pool's metadata: one slot, as it stands and with a sealed header.
fn metadata(bytes: &[u8]) {
    let _ = metadata::copy::read([bytes, &[]]);
    let mut slot = bytes.to_vec();
    if slot.len() < BLOCK {
        return;
    }
    let mut head = block(bytes, 0);
    if let Some(body) = Header::decode(&sealed(head))
        .ok()
        .and_then(|header| body_of(&slot, &header))
    {
        let checksum = crc32c::crc32c(body);
        head[BODY_CHECKSUM..BODY_CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    slot[..BLOCK].copy_from_slice(&sealed(head));
    let _ = metadata::copy::read([&slot, &[]]);
}

/// Where the checksum of the body stands in the header of a checkpoint (FORMATS.md).
const BODY_CHECKSUM: usize = 96;

fn sealed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    seal(&mut block);
    block
}

fn body_of<'a>(slot: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let len = usize::try_from(header.body).ok()?;
    slot.get(BLOCK..)?.get(..len)
}

/// The body of a checkpoint. One that is accepted is encoded and decoded to the same table.
fn metadata_body(bytes: &[u8]) {
    if let Ok(contents) = Contents::decode(bytes)
        && let Ok(body) = contents.body()
    {
        assert_eq!(Contents::decode(&body), Ok(contents));
    }
}

/// The description of a pool, as `vctl pool apply` reads it.
fn description(bytes: &[u8]) {
    if let Ok(description) = describe::parse(&String::from_utf8_lossy(bytes), "description") {
        let _ = description.extent_size();
        if let Ok(text) = description.as_ron() {
            assert!(describe::parse(&text, "description").is_ok(), "{text}");
        }
    }
}

/// The configuration of an apparatus.
fn configuration(bytes: &[u8]) {
    if let Ok(config) = Config::parse(&String::from_utf8_lossy(bytes), "configuration") {
        let _ = config.limits(1 << 30, DiskAccess::Direct);
        let _ = config.memory_needed(1 << 30);
    }
}

/// A size as a user types it. One that is accepted is printed as a size that is accepted too.
fn size(bytes: &[u8]) {
    if let Ok(parsed) = size::parse(&String::from_utf8_lossy(bytes)) {
        assert!(size::parse(&parsed.to_string()).is_ok(), "{parsed}");
    }
}

/// Files of `/proc` that contain names which users choose.
fn proc(bytes: &[u8]) {
    let _ = proc::mounts_in(bytes);
    let _ = proc::stat_in(&String::from_utf8_lossy(bytes));
}

/// A request of the kernel.
fn fuse(bytes: &[u8]) {
    frontend::fuse::parse_request(bytes);
}

/// A message between a server and its supervisor.
fn supervisor(bytes: &[u8]) {
    supervisor::parse_message(bytes);
}

#[cfg(test)]
mod tests;
