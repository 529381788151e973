//! Parses requests of the kernel. A request is checked completely before anything is done with it: lengths agree to the byte, names end
//! with a zero and contain no other, and positions are ones that a file can have.

use super::wire::{self, Header, opcode};
use std::fmt;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Bit in the number of a request that the kernel sends again, because a server that had read it has ended.
const AGAIN: u64 = 1 << 63;

/// A request of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming<'a> {
    pub(super) header: Header,
    /// The argument of a fixed length.
    argument: &'a [u8],
    /// What follows it: the data of a write or an ioctl, or a name.
    payload: &'a [u8],
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    Lookup(&'a [u8]),
    /// The kernel forgets an inode. It expects no answer.
    Forget,
    Attributes,
    SetAttributes(wire::SetAttributes),
    Open(wire::Open),
    Release(wire::Release),
    Read(wire::Read),
    Write(wire::Write, &'a [u8]),
    Flush,
    Test(wire::Lock),
    Lock {
        wanted: wire::Lock,
        wait: bool,
    },
    Allocate(wire::Allocate),
    Seek(wire::Seek),
    OpenDirectory,
    /// The entries are wanted, and with `plus` their attributes too.
    ReadDirectory {
        read: wire::Read,
        plus: bool,
    },
    FlushDirectory,
    ReleaseDirectory,
    Statistics,
    Ioctl(wire::Ioctl),
    /// A file or a directory is to be created, removed, renamed or linked.
    Rearrange,
    /// An operation that is not implemented.
    Unknown,
}

/// Why the bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The header is incomplete, or its length is not the number of bytes.
    Header,
    /// The argument has the wrong length.
    Length,
    /// A name does not end with a zero, or contains another one.
    Name,
    /// A position or a length is larger than a file can be.
    Position,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "its header is incomplete, or gives another length",
            Self::Length => "its argument has the wrong length",
            Self::Name => "its name does not end with a zero, or contains another one",
            Self::Position => "its position is larger than a file can be",
        })
    }
}

impl<'a> Incoming<'a> {
    /// Splits the bytes of one request into its parts.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = Header::read_from_prefix(bytes).map_err(|_| Malformed::Header)?;
        let len = argument_of(header.opcode).map_or(body.len(), |len| len.min(body.len()));
        let (argument, payload) = body.split_at(len);
        Self::of_parts(header, argument, payload)
    }

    /// Makes a request of its parts, as another transport than the device delivers them.
    pub(super) fn of_parts(header: Header, argument: &'a [u8], payload: &'a [u8]) -> Result<Self, Malformed> {
        let len = size_of::<Header>() + argument.len() + payload.len();
        match usize::try_from(header.len) == Ok(len) {
            true => Ok(Self {
                header,
                argument,
                payload,
            }),
            false => Err(Malformed::Header),
        }
    }

    /// Returns the number of the request, which it keeps when it is sent again.
    pub(super) fn number(&self) -> u64 {
        self.header.unique & !AGAIN
    }

    /// Returns whether a server that has ended may have read the request already.
    pub(super) fn is_sent_again(&self) -> bool {
        self.header.unique & AGAIN != 0
    }

    /// Returns whether the kernel says goodbye: the mount has ended.
    pub(super) fn is_goodbye(&self) -> bool {
        self.header.opcode == opcode::DESTROY
    }

    /// Returns whether the operation is one that the kernel itself may send, on behalf of no user.
    pub(super) fn may_be_the_kernels(&self) -> bool {
        matches!(
            self.header.opcode,
            opcode::READ
                | opcode::WRITE
                | opcode::READDIR
                | opcode::READDIRPLUS
                | opcode::FSYNC
                | opcode::FSYNCDIR
                | opcode::RELEASE
                | opcode::RELEASEDIR
                | opcode::FORGET
                | opcode::BATCH_FORGET
                | opcode::DESTROY
        )
    }

    /// Returns what the request asks for.
    pub(super) fn call(&self) -> Result<Call<'a>, Malformed> {
        Ok(match self.header.opcode {
            opcode::LOOKUP => Call::Lookup(name(self.payload)?),
            opcode::FORGET | opcode::BATCH_FORGET => Call::Forget,
            opcode::GETATTR => Call::Attributes,
            opcode::SETATTR => Call::SetAttributes(self.alone()?),
            opcode::OPEN => Call::Open(self.alone()?),
            opcode::RELEASE => Call::Release(self.alone()?),
            opcode::READ => Call::Read(readable(self.alone()?)?),
            opcode::WRITE => write(exactly(self.argument)?, self.payload)?,
            opcode::FSYNC => Call::Flush,
            opcode::GETLK => Call::Test(self.alone()?),
            opcode::SETLK | opcode::SETLKW => Call::Lock {
                wanted: self.alone()?,
                wait: self.header.opcode == opcode::SETLKW,
            },
            opcode::FALLOCATE => allocate(self.alone()?)?,
            opcode::LSEEK => Call::Seek(self.alone()?),
            opcode::OPENDIR => Call::OpenDirectory,
            opcode::READDIR | opcode::READDIRPLUS => Call::ReadDirectory {
                read: self.alone()?,
                plus: self.header.opcode == opcode::READDIRPLUS,
            },
            opcode::FSYNCDIR => Call::FlushDirectory,
            opcode::RELEASEDIR => Call::ReleaseDirectory,
            opcode::STATFS => Call::Statistics,
            opcode::IOCTL => Call::Ioctl(ioctl(exactly(self.argument)?, self.payload)?),
            opcode::CREATE
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::SYMLINK
            | opcode::LINK
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2 => Call::Rearrange,
            _ => Call::Unknown,
        })
    }

    /// Returns the structure that the argument of a request without a payload is.
    fn alone<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, Malformed> {
        match self.payload {
            [] => exactly(self.argument),
            _ => Err(Malformed::Length),
        }
    }
}

/// Returns the length of the argument before the payload of a request of this kind. `None` where a request has no payload,
/// or one that is not looked at.
fn argument_of(opcode: u32) -> Option<usize> {
    match opcode {
        opcode::LOOKUP => Some(0),
        opcode::WRITE => Some(size_of::<wire::Write>()),
        opcode::IOCTL => Some(size_of::<wire::Ioctl>()),
        _ => None,
    }
}

/// Returns the structure that the argument is.
fn exactly<T: FromBytes + KnownLayout + Immutable>(argument: &[u8]) -> Result<T, Malformed> {
    T::read_from_bytes(argument).map_err(|_| Malformed::Length)
}

fn name(payload: &[u8]) -> Result<&[u8], Malformed> {
    match payload.split_last() {
        Some((0, name)) if !name.contains(&0) => Ok(name),
        _ => Err(Malformed::Name),
    }
}

/// Returns whether a file can have this position.
fn is_position(at: u64) -> bool {
    i64::try_from(at).is_ok()
}

fn readable(read: wire::Read) -> Result<wire::Read, Malformed> {
    is_position(read.offset)
        .then_some(read)
        .ok_or(Malformed::Position)
}

fn write(write: wire::Write, data: &[u8]) -> Result<Call<'_>, Malformed> {
    if usize::try_from(write.size) != Ok(data.len()) {
        return Err(Malformed::Length);
    }
    match is_position(write.offset) {
        true => Ok(Call::Write(write, data)),
        false => Err(Malformed::Position),
    }
}

fn allocate(allocate: wire::Allocate) -> Result<Call<'static>, Malformed> {
    match is_position(allocate.offset) && is_position(allocate.len) {
        true => Ok(Call::Allocate(allocate)),
        false => Err(Malformed::Position),
    }
}

fn ioctl(ioctl: wire::Ioctl, data: &[u8]) -> Result<wire::Ioctl, Malformed> {
    match usize::try_from(ioctl.in_size) == Ok(data.len()) {
        true => Ok(ioctl),
        false => Err(Malformed::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    /// Returns the bytes of a request with this body.
    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<Header>() + body.len()).unwrap();
        let header = Header {
            len,
            opcode,
            unique: 2 | AGAIN,
            inode: 7,
            uid: 1,
            gid: 2,
            pid: 3,
            padding: 0,
        };
        [header.as_bytes(), body].concat()
    }

    fn write_of(size: u32, offset: u64) -> wire::Write {
        wire::Write {
            handle: 9,
            offset,
            size,
            write_flags: 0,
            lock_owner: 0,
            flags: libc::O_DSYNC,
            padding: 0,
        }
    }

    fn call_of(opcode: u32, body: &[u8]) -> Result<String, Malformed> {
        let bytes = request(opcode, body);
        Incoming::parse(&bytes)?.call().map(|call| format!("{call:?}"))
    }

    #[test]
    fn a_write_is_its_argument_and_exactly_its_bytes() {
        let body = [write_of(3, 4096).as_bytes(), b"abc"].concat();
        let bytes = request(opcode::WRITE, &body);
        let incoming = Incoming::parse(&bytes).unwrap();
        assert_eq!((incoming.header.unique, incoming.header.inode), (2 | AGAIN, 7));
        assert!(incoming.number() == 2 && incoming.is_sent_again());
        let Ok(Call::Write(argument, data)) = incoming.call() else {
            panic!("no write");
        };
        assert_eq!((argument.offset, argument.handle, data), (4096, 9, &b"abc"[..]));
        for size in [2, 4, u32::MAX] {
            let body = [write_of(size, 0).as_bytes(), b"abc"].concat();
            assert_eq!(call_of(opcode::WRITE, &body).unwrap_err(), Malformed::Length);
        }
        let body = [write_of(3, 1 << 63).as_bytes(), b"abc"].concat();
        assert_eq!(call_of(opcode::WRITE, &body).unwrap_err(), Malformed::Position);
    }

    #[test]
    fn a_name_ends_with_its_only_zero() {
        assert!(call_of(opcode::LOOKUP, b"volume\0").is_ok());
        for body in [&b""[..], b"volume", b"vol\0ume\0", b"volume\0\0"] {
            assert_eq!(call_of(opcode::LOOKUP, body).unwrap_err(), Malformed::Name);
        }
    }

    #[test]
    fn a_request_has_the_length_that_it_says() {
        let bytes = request(opcode::STATFS, b"");
        assert!(Incoming::parse(&bytes).is_ok());
        let longer = [&bytes[..], b"x"].concat();
        for wrong in [&bytes[..bytes.len() - 1], &longer, b""] {
            assert_eq!(Incoming::parse(wrong).unwrap_err(), Malformed::Header);
        }
    }

    #[test]
    fn arguments_of_a_fixed_length_have_it() {
        let fixed = [
            (opcode::SETATTR, size_of::<wire::SetAttributes>()),
            (opcode::OPEN, size_of::<wire::Open>()),
            (opcode::RELEASE, size_of::<wire::Release>()),
            (opcode::READ, size_of::<wire::Read>()),
            (opcode::READDIR, size_of::<wire::Read>()),
            (opcode::READDIRPLUS, size_of::<wire::Read>()),
            (opcode::GETLK, size_of::<wire::Lock>()),
            (opcode::SETLK, size_of::<wire::Lock>()),
            (opcode::SETLKW, size_of::<wire::Lock>()),
            (opcode::FALLOCATE, size_of::<wire::Allocate>()),
            (opcode::LSEEK, size_of::<wire::Seek>()),
        ];
        for (opcode, len) in fixed {
            let body = vec![0; len + 8];
            assert!(call_of(opcode, &body[..len]).is_ok(), "operation {opcode}");
            for wrong in [0, len - 1, len + 1, len + 8] {
                let refused = call_of(opcode, &body[..wrong]).unwrap_err();
                assert_eq!(refused, Malformed::Length, "operation {opcode}");
            }
        }
    }

    /// The parts are where another transport delivers them, and are checked as the bytes of the device are.
    #[test]
    fn parts_are_a_request_where_each_has_its_length() {
        let of = |opcode, argument: &[u8], payload: &[u8]| {
            let bytes = request(opcode, &[argument, payload].concat());
            let (header, _) = Header::read_from_prefix(&bytes).unwrap();
            let incoming = Incoming::of_parts(header, argument, payload)?;
            incoming.call().map(|call| format!("{call:?}"))
        };
        assert_eq!(of(opcode::LOOKUP, b"", b"v\0").unwrap(), "Lookup([118])");
        assert!(of(opcode::WRITE, write_of(3, 0).as_bytes(), b"abc").is_ok());
        assert!(of(opcode::READ, &[0; 40], b"").is_ok());
        for (opcode, argument, payload) in [
            (opcode::WRITE, &[0; 39][..], &b"abc"[..]),
            (opcode::WRITE, write_of(4, 0).as_bytes(), b"abc"),
            (opcode::READ, &[0; 39], b"x"),
            (opcode::READ, &[0; 40], b"x"),
        ] {
            assert_eq!(of(opcode, argument, payload).unwrap_err(), Malformed::Length);
        }
        let (header, _) = Header::read_from_prefix(&request(opcode::READ, b"")).unwrap();
        assert_eq!(
            Incoming::of_parts(header, b"x", b"").unwrap_err(),
            Malformed::Header
        );
    }

    #[test]
    fn an_operation_of_the_future_is_unknown() {
        for opcode in [0, 48, 4096, u32::MAX] {
            assert_eq!(call_of(opcode, b"anything").unwrap(), "Unknown");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(incoming) = Incoming::parse(&bytes) {
                let _ = incoming.call();
            }
        }

        /// The header is right, so that each operation sees a body of any content and length, at any alignment.
        #[test]
        fn any_body_is_parsed_or_refused(
            opcode in 0_u32..64,
            body in prop::collection::vec(any::<u8>(), 0..200),
            shift in 0_usize..8,
        ) {
            let bytes = [&vec![0; shift][..], &request(opcode, &body)].concat();
            let incoming = Incoming::parse(&bytes[shift..]).unwrap();
            if let Ok(Call::Write(argument, data)) = incoming.call() {
                prop_assert_eq!(argument.size as usize, data.len());
                prop_assert_eq!(data.len() + size_of::<wire::Write>(), body.len());
            }
        }
    }
}
