//! The record of what reached files: written by the recorder, read by the test.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// What happened to a file, named by its inode.
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
}

pub(crate) struct Log(File);

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(File::create(path)?))
    }

    pub(crate) fn add(&mut self, entry: &Entry) -> io::Result<()> {
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
        entries.push(match head[0] {
            0 => {
                let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                from.read_exact(&mut bytes)?;
                Entry::Write {
                    file,
                    handle,
                    at,
                    bytes,
                }
            }
            1 => Entry::Clear {
                file,
                handle,
                at,
                len,
            },
            2 => Entry::Resize { file, size: at },
            _ => Entry::Flush {
                file,
                only: (handle > 0).then_some(handle),
            },
        });
    }
}
