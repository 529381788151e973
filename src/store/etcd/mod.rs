//! The log of a pool in etcd. All keys lie below `/apparatus/UUID/`:
//!
//! | key | value |
//! |---|---|
//! | `head` | number and chain of the last entry, and number of the base, as text |
//! | `log/NUMBER` | an entry, or where its parts are |
//! | `part/NUMBER/NONCE/K` | a part of an entry that is too large for one request |
//! | `base/NUMBER/head` | number and chain of an entry, and the number of parts |
//! | `base/NUMBER/K` | a part of all rows as of that entry |
//! | `member/SLOT`, `nodes` | derived from the rows: `joined`, `fenced` or `left`, incarnation and node of a member; the nodes by name |
//! | `live/SLOT` | incarnation of a member, and its lease in microseconds; written by its apparatus |
//!
//! Numbers have twenty digits, so that keys are in their order. An entry is appended by one transaction that compares `head`.

mod client;
mod leases;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use super::journal::{Appended, DerivedKey, Entry, Journal, Missing, Position};
use crate::model::error::{Error, Result};
use crate::place::Place;
pub(super) use leases::EtcdLeases;

use client::{Bytes, Client, Compare, Operation, Range, Transaction};

/// Most bytes of a value: etcd accepts requests of 1.5 MiB.
const PART: usize = 512 << 10;
/// Entries that are read with one request.
const ENTRIES: u32 = 32;
/// The log is trimmed when it has more entries than this.
const LONG: u64 = 4096;
/// How often a read begins again because the log was trimmed meanwhile, and an append because its base has changed.
const ATTEMPTS: u32 = 4;
/// First bytes of the value of an entry whose rows are in parts.
const IN_PARTS: &[u8] = b"VAPPPART";

/// The log of one pool.
pub(super) struct EtcdJournal {
    client: Client,
    prefix: String,
    /// The last head that was seen.
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    last: Position,
    base: u64,
}

impl Head {
    fn encode(self) -> String {
        format!("{} {} {}", self.last.number, self.last.chain, self.base)
    }

    fn decode(value: &[u8]) -> Result<Self> {
        let [number, chain, base] = numbers(value)?;
        let last = position(number, chain)?;
        Ok(Self { last, base })
    }
}

/// Parses numbers that are separated by spaces.
fn numbers<const N: usize>(value: &[u8]) -> Result<[u64; N]> {
    let text = std::str::from_utf8(value).map_err(|_| damaged())?;
    let all: Option<Vec<u64>> = text.split(' ').map(|field| field.parse().ok()).collect();
    all.and_then(|all| all.try_into().ok()).ok_or_else(damaged)
}

fn position(number: u64, chain: u64) -> Result<Position> {
    let chain = chain.try_into().map_err(|_| damaged())?;
    Ok(Position { number, chain })
}

fn damaged() -> Error {
    Error::failed("etcd", "has a damaged key of this pool")
        .hint("make the pool one of this machine alone: vctl pool rescue")
}

impl EtcdJournal {
    /// Returns the log of a pool. It connects with the first request.
    ///
    /// # Errors
    /// Fails if a certificate cannot be read.
    pub(super) fn new(place: &Place) -> Result<Self> {
        Ok(Self {
            client: Client::new(place.etcd.endpoints.clone(), place.etcd.tls.as_deref())?,
            prefix: format!("/apparatus/{}", place.pool),
            head: None,
        })
    }

    fn key(&self, name: &str) -> Bytes {
        format!("{}/{name}", self.prefix).into()
    }

    /// Returns the keys from the one for `from` up to, and without, the one for `until`.
    fn span(&self, kind: &str, from: u64, until: u64) -> (Bytes, Bytes) {
        (
            self.key(&format!("{kind}/{from:020}")),
            self.key(&format!("{kind}/{until:020}")),
        )
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let range = Range {
            key: self.key(name),
            range_end: None,
            limit: 1,
        };
        Ok(self.client.range(&range)?.pop().map(|found| found.value.0))
    }

    fn read_head(&mut self) -> Result<Head> {
        let head = self
            .read("head")?
            .map_or(Ok(Head::default()), |value| Head::decode(&value))?;
        self.head = Some(head);
        Ok(head)
    }

    /// Writes a key without a condition: nothing refers to it yet.
    fn put(&mut self, name: &str, value: Vec<u8>) -> Result<()> {
        let put = Operation::Put {
            key: self.key(name),
            value: Bytes(value),
        };
        let transaction = Transaction {
            success: vec![put],
            ..Transaction::default()
        };
        self.client.transact(&transaction).map(drop)
    }

    fn put_parts(&mut self, below: &str, bytes: &[u8]) -> Result<usize> {
        let parts = bytes.chunks(PART);
        let count = parts.len();
        for (at, part) in parts.enumerate() {
            self.put(&format!("{below}/{at:06}"), part.to_vec())?;
        }
        Ok(count)
    }

    fn read_parts(&mut self, below: &str, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for at in 0..count {
            bytes.extend(self.read(&format!("{below}/{at:06}"))?.ok_or_else(damaged)?);
        }
        Ok(bytes)
    }

    /// Returns the condition that the head is this one.
    fn unchanged(&self, head: Head) -> Compare {
        let key = self.key("head");
        match head == Head::default() {
            true => Compare::Version { key, version: 0 },
            false => Compare::Value {
                key,
                value: head.encode().into(),
            },
        }
    }

    /// Runs a transaction that replaces this head by the next one. Returns the head that is there instead, if it is another.
    fn replace_head(&mut self, old: Head, new: Head, with: Vec<Operation>) -> Result<Option<Head>> {
        let put = Operation::Put {
            key: self.key("head"),
            value: new.encode().into(),
        };
        let look = Operation::Range(Range {
            key: self.key("head"),
            range_end: None,
            limit: 1,
        });
        let transaction = Transaction {
            compare: vec![self.unchanged(old)],
            success: std::iter::once(put).chain(with).collect(),
            failure: vec![look],
        };
        let done = self
            .client
            .transact(&transaction)
            .inspect_err(|_| self.head = None)?;
        if done.succeeded {
            self.head = Some(new);
            return Ok(None);
        }
        let found = done
            .responses
            .into_iter()
            .find_map(|response| response.response_range);
        let value = found.and_then(|mut found| found.kvs.pop());
        let other = value.map_or(Ok(Head::default()), |found| Head::decode(&found.value.0))?;
        self.head = Some(other);
        Ok(Some(other))
    }

    /// Returns the value of an entry's key. A large entry is written in parts before.
    fn value_of(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        let encoded = entry.encode();
        if encoded.len() <= PART {
            return Ok(encoded);
        }
        let below = format!("part/{:020}/{:032x}", entry.after.number + 1, entry.nonce);
        let count = self.put_parts(&below, &encoded)?;
        Ok([IN_PARTS, format!("{:032x} {count}", entry.nonce).as_bytes()].concat())
    }

    fn entry_of(&mut self, number: u64, value: Vec<u8>) -> Result<Entry> {
        let Some(place) = value.strip_prefix(IN_PARTS) else {
            return Entry::decode(&value);
        };
        let text = std::str::from_utf8(place).map_err(|_| damaged())?;
        let (nonce, count) = text.split_once(' ').ok_or_else(damaged)?;
        let count = count.parse().map_err(|_| damaged())?;
        Entry::decode(&self.read_parts(&format!("part/{number:020}/{nonce}"), count)?)
    }

    /// Returns the entries behind a position, up to the last one; `None` if some of them are gone meanwhile.
    fn entries(&mut self, mut from: Position, last: Position) -> Result<Option<Vec<Entry>>> {
        let mut entries = Vec::new();
        while from.number < last.number {
            let (key, end) = self.span("log", from.number + 1, last.number + 1);
            let range = Range {
                key,
                range_end: Some(end),
                limit: ENTRIES,
            };
            let found = self.client.range(&range)?;
            if found.is_empty() {
                return Ok(None);
            }
            for found in found {
                let entry = self.entry_of(from.number + 1, found.value.0)?;
                if entry.after.number != from.number {
                    return Ok(None);
                }
                from = entry.position();
                entries.push(entry);
            }
        }
        Ok(Some(entries))
    }

    fn base(&mut self, number: u64) -> Result<Option<(Position, Vec<u8>)>> {
        let below = format!("base/{number:020}");
        let Some(value) = self.read(&format!("{below}/head"))? else {
            return Ok(None);
        };
        let [number, chain, count] = numbers(&value)?;
        Ok(Some((position(number, chain)?, self.read_parts(&below, count)?)))
    }

    /// Reads what follows a position; `None` if the log was trimmed meanwhile.
    fn try_after(&mut self, at: Position) -> Result<Option<Missing>> {
        let head = self.read_head()?;
        if head.last.number < at.number || (head.last.number == at.number && head.last.chain != at.chain) {
            return Err(Error::failed("etcd", "has an older or another state than this machine's copy of the pool's metadata")
                .hint("if etcd was restored from a backup, make the pool one of this machine alone: vctl pool rescue"));
        }
        let mut missing = Missing::default();
        let mut from = at;
        if head.base > at.number {
            let Some(base) = self.base(head.base)? else {
                return Ok(None);
            };
            from = base.0;
            missing.base = Some(base);
        }
        let Some(entries) = self.entries(from, head.last)? else {
            return Ok(None);
        };
        missing.entries = entries;
        Ok(Some(missing))
    }
}

impl Journal for EtcdJournal {
    fn head(&mut self) -> Result<Position> {
        Ok(self.read_head()?.last)
    }

    fn after(&mut self, position: Position) -> Result<Missing> {
        for _ in 0..ATTEMPTS {
            if let Some(missing) = self.try_after(position)? {
                return Ok(missing);
            }
        }
        Err(damaged())
    }

    fn append(&mut self, entry: &Entry, derived: &[DerivedKey]) -> Result<Appended> {
        let mut old = match self.head {
            Some(head) if head.last == entry.after => head,
            _ => self.read_head()?,
        };
        let value = self.value_of(entry)?;
        for _ in 0..ATTEMPTS {
            if old.last != entry.after {
                return Ok(Appended::Outdated);
            }
            let new = Head {
                last: entry.position(),
                base: old.base,
            };
            let put = Operation::Put {
                key: self.key(&format!("log/{:020}", new.last.number)),
                value: Bytes(value.clone()),
            };
            let derived = derived.iter().map(|derived| Operation::Put {
                key: self.key(&derived.key),
                value: derived.value.clone().into(),
            });
            let puts = std::iter::once(put).chain(derived).collect();
            match self.replace_head(old, new, puts)? {
                None => return Ok(Appended::Accepted),
                Some(other) => old = other,
            }
        }
        Ok(Appended::Outdated)
    }

    fn trim(&mut self, position: Position, rows: &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()> {
        let mut old = self.read_head()?;
        if position.number <= old.base || position.number - old.base < LONG {
            return Ok(());
        }
        let below = format!("base/{:020}", position.number);
        let count = self.put_parts(&below, &rows()?)?;
        let place = format!("{} {} {count}", position.number, position.chain);
        self.put(&format!("{below}/head"), place.into_bytes())?;
        for _ in 0..ATTEMPTS {
            if old.base >= position.number {
                return Ok(());
            }
            let new = Head {
                base: position.number,
                ..old
            };
            let delete = [
                ("log", position.number + 1),
                ("part", position.number + 1),
                ("base", position.number),
            ]
            .map(|(kind, until)| {
                let (key, range_end) = self.span(kind, 0, until);
                Operation::Delete { key, range_end }
            });
            match self.replace_head(old, new, delete.into())? {
                None => return Ok(()),
                Some(other) => old = other,
            }
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        let all = Operation::Delete {
            key: self.key(""),
            // The character behind the slash ends the keys of this pool.
            range_end: format!("{}0", self.prefix).into(),
        };
        let transaction = Transaction {
            success: vec![all],
            ..Transaction::default()
        };
        self.head = None;
        self.client.transact(&transaction).map(drop)
    }
}
