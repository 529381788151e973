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
    body: &'a [u8],
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
    /// Splits the bytes of one request into header and body.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = Header::read_from_prefix(bytes).map_err(|_| Malformed::Header)?;
        match usize::try_from(header.len) == Ok(bytes.len()) {
            true => Ok(Self { header, body }),
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
        let body = self.body;
        Ok(match self.header.opcode {
            opcode::LOOKUP => Call::Lookup(name(body)?),
            opcode::FORGET | opcode::BATCH_FORGET => Call::Forget,
            opcode::GETATTR => Call::Attributes,
            opcode::SETATTR => Call::SetAttributes(exactly(body)?),
            opcode::OPEN => Call::Open(exactly(body)?),
            opcode::RELEASE => Call::Release(exactly(body)?),
            opcode::READ => Call::Read(readable(exactly(body)?)?),
            opcode::WRITE => write(body)?,
            opcode::FSYNC => Call::Flush,
            opcode::GETLK => Call::Test(exactly(body)?),
            opcode::SETLK | opcode::SETLKW => Call::Lock {
                wanted: exactly(body)?,
                wait: self.header.opcode == opcode::SETLKW,
            },
            opcode::FALLOCATE => allocate(exactly(body)?)?,
            opcode::LSEEK => Call::Seek(exactly(body)?),
            opcode::OPENDIR => Call::OpenDirectory,
            opcode::READDIR | opcode::READDIRPLUS => Call::ReadDirectory {
                read: exactly(body)?,
                plus: self.header.opcode == opcode::READDIRPLUS,
            },
            opcode::FSYNCDIR => Call::FlushDirectory,
            opcode::RELEASEDIR => Call::ReleaseDirectory,
            opcode::STATFS => Call::Statistics,
            opcode::IOCTL => Call::Ioctl(ioctl(body)?),
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
}

/// Returns the argument that the body consists of.
fn exactly<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<T, Malformed> {
    T::read_from_bytes(body).map_err(|_| Malformed::Length)
}

fn name(body: &[u8]) -> Result<&[u8], Malformed> {
    match body.split_last() {
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

fn write(body: &[u8]) -> Result<Call<'_>, Malformed> {
    let (write, data) = wire::Write::read_from_prefix(body).map_err(|_| Malformed::Length)?;
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

fn ioctl(body: &[u8]) -> Result<wire::Ioctl, Malformed> {
    let (ioctl, data) = wire::Ioctl::read_from_prefix(body).map_err(|_| Malformed::Length)?;
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
