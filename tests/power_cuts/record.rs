//! The record of what reached files: written by the recorder, read by the test.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// What happened to a file or to a name, each file named by its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Write {
        file: u64,
        handle: u64,
        at: u64,
        bytes: Vec<u8>,
    },
    /// A hole was punched, or zeroes were written without data.
    Clear {
        file: u64,
        handle: u64,
        at: u64,
        len: u64,
    },
    Resize {
        file: u64,
        size: u64,
    },
    /// All of the file before it is durable; or only what was written through one handle.
    Flush {
        file: u64,
        only: Option<u64>,
    },
    /// A name was given to a file: a new one, or one more of one that has a name.
    Name {
        dir: u64,
        name: String,
        file: u64,
        kind: Kind,
    },
    /// A name was removed.
    Unname {
        dir: u64,
        name: String,
    },
    /// A name was replaced by another, of which the earlier file is gone.
    Rename {
        from: (u64, String),
        to: (u64, String),
    },
    /// All names in a directory that were given or removed before it are durable.
    FlushNames {
        dir: u64,
    },
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// A symbolic link or a socket, which no power cut has to leave.
    Other,
}

impl Kind {
    const EACH: [Self; 3] = [Self::File, Self::Directory, Self::Other];
}

pub(crate) struct Log(File);

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(File::create(path)?))
    }

    pub(crate) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let joined;
        let (kind, numbers, bytes): (u8, [u64; 4], &[u8]) = match entry {
            Entry::Write {
                file,
                handle,
                at,
                bytes,
            } => (0, [*file, *handle, *at, bytes.len() as u64], bytes),
            Entry::Clear {
                file,
                handle,
                at,
                len,
            } => (1, [*file, *handle, *at, *len], &[]),
            Entry::Resize { file, size } => (2, [*file, 0, *size, 0], &[]),
            Entry::Flush { file, only } => (3, [*file, only.unwrap_or(0), 0, 0], &[]),
            Entry::Name {
                dir,
                name,
                file,
                kind,
            } => (4, [*dir, *kind as u64, *file, name.len() as u64], name.as_bytes()),
            Entry::Unname { dir, name } => (5, [*dir, 0, 0, name.len() as u64], name.as_bytes()),
            Entry::Rename { from, to } => {
                // No name has a slash.
                joined = format!("{}/{}", from.1, to.1);
                (6, [from.0, to.0, 0, joined.len() as u64], joined.as_bytes())
            }
            Entry::FlushNames { dir } => (7, [*dir, 0, 0, 0], &[]),
        };
        let mut out = vec![kind];
        numbers
            .iter()
            .for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(bytes);
        self.0.write_all(&out)
    }
}

/// Reads the whole record.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let mut from = BufReader::new(File::open(path)?);
    let mut entries = Vec::new();
    let mut head = [0; 33];
    loop {
        match from.read_exact(&mut head) {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(entries),
            read => read?,
        }
        let number = |index: usize| {
            let field = head[1 + index * 8..].first_chunk().copied();
            u64::from_le_bytes(field.unwrap_or_default())
        };
        let (file, handle, at, len) = (number(0), number(1), number(2), number(3));
        // Only entries with bytes have a length in the last field.
        let mut bytes = Vec::new();
        if matches!(head[0], 0 | 4..=6) {
            bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
            from.read_exact(&mut bytes)?;
        }
        let name = || String::from_utf8(bytes.clone()).map_err(io::Error::other);
        entries.push(match head[0] {
            0 => Entry::Write {
                file,
                handle,
                at,
                bytes,
            },
            1 => Entry::Clear {
                file,
                handle,
                at,
                len,
            },
            2 => Entry::Resize { file, size: at },
            3 => Entry::Flush {
                file,
                only: (handle > 0).then_some(handle),
            },
            4 => Entry::Name {
                dir: file,
                name: name()?,
                file: at,
                kind: Kind::EACH[usize::try_from(handle).map_err(io::Error::other)?],
            },
            5 => Entry::Unname {
                dir: file,
                name: name()?,
            },
            6 => {
                let both = name()?;
                let (old, new) = both.split_once('/').unwrap_or_default();
                Entry::Rename {
                    from: (file, old.to_owned()),
                    to: (handle, new.to_owned()),
                }
            }
            _ => Entry::FlushNames { dir: file },
        });
    }
}
