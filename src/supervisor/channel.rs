//! Messages between a supervisor and its server: one packet each, with at most one descriptor.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest text of a message, in bytes.
const LONGEST_TEXT: usize = 512;

/// Kind of a descriptor that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A device of the mount; the first key is its number.
    Device,
    /// The file that tells which volumes are open.
    Opens,
    /// The file that tells through which handle each owner of locks has locked.
    Owners,
    /// An open file that has the locks of one owner; the keys are the volume and the owner.
    Lock,
}

/// A descriptor that is kept.
#[derive(Debug)]
pub(super) struct Item {
    /// What it is.
    pub(super) kind: Kind,
    /// Which one of its kind.
    pub(super) key: [u64; 2],
    /// The descriptor.
    pub(super) descriptor: OwnedFd,
}

/// A message.
#[derive(Debug)]
pub(super) enum Message {
    /// To the supervisor: keep this. To the server: this was kept.
    Keep(Item),
    /// To the supervisor: close it.
    Release(Kind, [u64; 2]),
    /// To the supervisor: everything that a successor needs is kept now.
    Serves,
    /// To the server, after everything that was kept: the number of servers before it, when the last one ended (microseconds of the monotonic
    /// clock), and how.
    Begin { before: u64, ended_us: u64, how: String },
}

/// Fixed part of a message.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Head {
    verb: u32,
    kind: u32,
    key: [u64; 2],
}

const KEEP: u32 = 1;
const RELEASE: u32 = 2;
const SERVES: u32 = 3;
const BEGIN: u32 = 4;

const KINDS: [Kind; 4] = [Kind::Device, Kind::Opens, Kind::Owners, Kind::Lock];

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Device => 0,
            Self::Opens => 1,
            Self::Owners => 2,
            Self::Lock => 3,
        }
    }
}

/// Returns the two ends of a channel.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends that a descriptor is to be kept, or was kept.
pub(super) fn send_kept(
    to: &OwnedFd,
    kind: Kind,
    key: [u64; 2],
    descriptor: BorrowedFd<'_>,
    flags: SendFlags,
) -> io::Result<()> {
    let head = Head {
        verb: KEEP,
        kind: kind.number(),
        key,
    };
    send(to, head, "", Some(descriptor), flags)
}

/// Sends a message without a descriptor.
pub(super) fn send_plain(to: &OwnedFd, message: &Message, flags: SendFlags) -> io::Result<()> {
    let (head, text) = match message {
        Message::Keep(Item {
            kind,
            key,
            descriptor,
        }) => {
            return send_kept(to, *kind, *key, descriptor.as_fd(), flags);
        }
        Message::Release(kind, key) => (head(RELEASE, kind.number(), *key), ""),
        Message::Serves => (head(SERVES, 0, [0; 2]), ""),
        Message::Begin {
            before,
            ended_us,
            how,
        } => {
            let end = how.floor_char_boundary(LONGEST_TEXT);
            (
                head(BEGIN, 0, [*before, *ended_us]),
                how.get(..end).unwrap_or_default(),
            )
        }
    };
    send(to, head, text, None, flags)
}

const fn head(verb: u32, kind: u32, key: [u64; 2]) -> Head {
    Head { verb, kind, key }
}

fn send(
    to: &OwnedFd,
    head: Head,
    text: &str,
    descriptor: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(text.as_bytes())];
    sendmsg(to, &parts, &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message. Returns `None` when the other end is closed, or, with `DONTWAIT`, when there is none now.
///
/// # Errors
/// Fails when the message is not one of ours.
pub(super) fn receive(from: &OwnedFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    let mut bytes = [0; size_of::<Head>() + LONGEST_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(from, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => (),
            Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match bytes.get(..received.bytes) {
        None | Some([]) => Ok(None),
        Some(bytes) => parse(bytes, descriptor)
            .map(Some)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
    }
}

pub(super) fn parse(bytes: &[u8], descriptor: Option<OwnedFd>) -> Option<Message> {
    let (Head { verb, kind, key }, text) = Head::read_from_prefix(bytes).ok()?;
    let kind = *KINDS.get(usize::try_from(kind).ok()?)?;
    Some(match (verb, descriptor) {
        (KEEP, Some(descriptor)) => Message::Keep(Item {
            kind,
            key,
            descriptor,
        }),
        (RELEASE, None) => Message::Release(kind, key),
        (SERVES, None) => Message::Serves,
        (BEGIN, None) => Message::Begin {
            before: key[0],
            ended_us: key[1],
            how: str::from_utf8(text).ok()?.to_owned(),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn messages_arrive_as_they_were_sent_and_the_descriptor_is_the_same_file() {
        let (one, other) = pair().unwrap();
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(b"kept").unwrap();
        send_kept(&one, Kind::Lock, [3, 4], file.as_fd(), SendFlags::empty()).unwrap();
        send_plain(&one, &Message::Release(Kind::Lock, [3, 4]), SendFlags::empty()).unwrap();
        let how = "x".repeat(2 * LONGEST_TEXT);
        let begin = Message::Begin {
            before: 7,
            ended_us: 9,
            how,
        };
        send_plain(&one, &begin, SendFlags::empty()).unwrap();
        let next = || receive(&other, RecvFlags::empty()).unwrap().unwrap();
        let Message::Keep(item) = next() else {
            panic!("not kept");
        };
        assert_eq!((item.kind, item.key), (Kind::Lock, [3, 4]));
        let (mut received, mut text) = (File::from(item.descriptor), String::new());
        received.rewind().unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept");
        assert!(matches!(next(), Message::Release(Kind::Lock, [3, 4])));
        let Message::Begin {
            before: 7,
            ended_us: 9,
            how,
        } = next()
        else {
            panic!("not begun");
        };
        assert_eq!(how.len(), LONGEST_TEXT);
        assert!(
            receive(&other, RecvFlags::DONTWAIT).unwrap().is_none(),
            "none now"
        );
        drop(one);
        assert!(receive(&other, RecvFlags::empty()).unwrap().is_none(), "the end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), verb in 0_u32..6) {
            let _ = parse(&bytes, None);
            let _ = parse(&[&verb.to_ne_bytes()[..], &[0; 4], &bytes].concat(), None);
        }
    }
}
