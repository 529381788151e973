//! Messages between a supervisor and its servers, and between it and a command that asks for an upgrade: one packet each, with at most one
//! descriptor.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest text of a message, in bytes: a path.
pub(super) const LONGEST_TEXT: usize = 4096;
/// Version of the messages. A server of another version is refused where a living one is to be replaced.
pub(super) const VERSION: u64 = 1;

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
    /// The file that tells which background jobs run.
    Jobs,
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
    /// To a new server, before everything else: prepare while the server before it serves on.
    Prepare { version: u64 },
    /// To a new server, before everything else: prepare what does not concern the server before it, and wait for its turn.
    StandBy,
    /// From a new server: it is prepared.
    Prepared,
    /// From a new server: it cannot take over, and why.
    Failed(String),
    /// To a server: stop taking requests and end, because another one is prepared.
    Retire,
    /// From a server that was asked to retire: it does not, and why.
    Stays(String),
    /// From a server that retires: since when hosts wait, in microseconds of the monotonic clock.
    Retired { since_us: u64 },
    /// From a server: it was asked to stop, and no other one is to follow.
    Stops,
    /// From a command: replace the server, by this program unless the text is empty, if it is prepared within this time.
    Upgrade { program: String, within_us: u64 },
    /// To that command: the server was replaced, and how long hosts waited.
    Upgraded { waited_us: u64 },
    /// To that command: the server was not replaced, and why.
    Refused(String),
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
const PREPARE: u32 = 5;
const PREPARED: u32 = 6;
const FAILED: u32 = 7;
const RETIRE: u32 = 8;
const STAYS: u32 = 9;
const RETIRED: u32 = 10;
const UPGRADE: u32 = 11;
const UPGRADED: u32 = 12;
const REFUSED: u32 = 13;
const STAND_BY: u32 = 14;
const STOPS: u32 = 15;

const KINDS: [Kind; 5] = [Kind::Device, Kind::Opens, Kind::Owners, Kind::Lock, Kind::Jobs];

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Device => 0,
            Self::Opens => 1,
            Self::Owners => 2,
            Self::Lock => 3,
            Self::Jobs => 4,
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
        } => (head(BEGIN, 0, [*before, *ended_us]), how.as_str()),
        Message::Prepare { version } => (head(PREPARE, 0, [*version, 0]), ""),
        Message::Stops => (head(STOPS, 0, [0; 2]), ""),
        Message::StandBy => (head(STAND_BY, 0, [0; 2]), ""),
        Message::Prepared => (head(PREPARED, 0, [0; 2]), ""),
        Message::Failed(why) => (head(FAILED, 0, [0; 2]), why.as_str()),
        Message::Retire => (head(RETIRE, 0, [0; 2]), ""),
        Message::Stays(why) => (head(STAYS, 0, [0; 2]), why.as_str()),
        Message::Retired { since_us } => (head(RETIRED, 0, [*since_us, 0]), ""),
        Message::Upgrade { program, within_us } => (head(UPGRADE, 0, [*within_us, 0]), program.as_str()),
        Message::Upgraded { waited_us } => (head(UPGRADED, 0, [*waited_us, 0]), ""),
        Message::Refused(why) => (head(REFUSED, 0, [0; 2]), why.as_str()),
    };
    let text = text.get(..text.floor_char_boundary(LONGEST_TEXT));
    send(to, head, text.unwrap_or_default(), None, flags)
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
    let text = || str::from_utf8(text).ok().map(str::to_owned);
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
            how: text()?,
        },
        (PREPARE, None) => Message::Prepare { version: key[0] },
        (STOPS, None) => Message::Stops,
        (STAND_BY, None) => Message::StandBy,
        (PREPARED, None) => Message::Prepared,
        (FAILED, None) => Message::Failed(text()?),
        (RETIRE, None) => Message::Retire,
        (STAYS, None) => Message::Stays(text()?),
        (RETIRED, None) => Message::Retired { since_us: key[0] },
        (UPGRADE, None) => Message::Upgrade {
            program: text()?,
            within_us: key[0],
        },
        (UPGRADED, None) => Message::Upgraded { waited_us: key[0] },
        (REFUSED, None) => Message::Refused(text()?),
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
        for (message, shown) in [
            (Message::Prepare { version: 3 }, "Prepare { version: 3 }"),
            (Message::StandBy, "StandBy"),
            (Message::Stops, "Stops"),
            (Message::Prepared, "Prepared"),
            (Message::Failed("why".into()), "Failed(\"why\")"),
            (Message::Retire, "Retire"),
            (Message::Stays("why".into()), "Stays(\"why\")"),
            (Message::Retired { since_us: 5 }, "Retired { since_us: 5 }"),
            (
                Message::Upgrade {
                    program: "/a b".into(),
                    within_us: 8,
                },
                "Upgrade { program: \"/a b\", within_us: 8 }",
            ),
            (Message::Upgraded { waited_us: 6 }, "Upgraded { waited_us: 6 }"),
            (Message::Refused("why".into()), "Refused(\"why\")"),
        ] {
            send_plain(&one, &message, SendFlags::empty()).unwrap();
            assert_eq!(format!("{:?}", next()), shown);
        }
        drop(one);
        assert!(receive(&other, RecvFlags::empty()).unwrap().is_none(), "the end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), verb in 0_u32..17) {
            let _ = parse(&bytes, None);
            let _ = parse(&[&verb.to_ne_bytes()[..], &[0; 4], &bytes].concat(), None);
        }
    }
}
