//! Length-prefixed RON frames: encoding, and a decoder that takes bytes as they come.
//!
//! ```text
//! byte 0  length of the body in bytes, u32, little endian; 1 to the cap
//!      4  body: one `RequestFrame` or `AnswerFrame` in RON, UTF-8, nothing after it
//! ```
//!
//! The length is checked against the cap as soon as it is there, and memory grows with the bytes that have arrived, not
//! with the length that a peer claims. `docs/FORMATS.md` draws the dialogue.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Bytes of the length that precedes each body.
pub const PREFIX: usize = 4;

/// Longest body on a connection that has not said `Hello`.
pub const GREETING_CAP: usize = 64 << 10;

/// Longest body after `Hello`: a difference of a million segments.
pub const CAP: usize = 64 << 20;

/// Bytes to read from a socket at a time: [`Decoder::feed`] is meant to be given no more.
pub const READ: usize = 64 << 10;

/// Memory that an idle decoder keeps.
const KEEP: usize = 256 << 10;

/// Deepest nesting of a body; the messages need 12.
const DEPTH: usize = 32;

/// Why a frame cannot be read or made. The connection that it came on is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its body is of that many bytes, more than the second figure.
    TooLong(usize, usize),
    /// Its body is empty.
    Empty,
    /// Its body is not what is expected here; says where and why.
    Malformed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len, cap) => write!(f, "a frame of {len} bytes, more than {cap}"),
            Self::Empty => write!(f, "an empty frame"),
            Self::Malformed(why) => write!(f, "a frame that cannot be read: {why}"),
        }
    }
}

impl std::error::Error for Fault {}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// [`Fault::TooLong`], and `out` is as it was.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), Fault> {
    let body = ron::Options::default()
        .to_string(message)
        .map_err(|why| Fault::Malformed(why.to_string()))?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= CAP);
    let length = length.ok_or(Fault::TooLong(body.len(), CAP))?;
    out.reserve(PREFIX + body.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body.as_bytes());
    Ok(())
}

/// Takes bytes as they arrive and gives whole messages.
///
/// Holds at most one unfinished frame, of at most the cap, and what was fed at once with its end; so all whole messages are
/// to be taken out by [`Decoder::take`] before more is fed.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
    cap: usize,
}

impl Decoder {
    /// Refuses bodies longer than `cap`.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            cap,
        }
    }

    /// From now on.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Takes in what arrived.
    ///
    /// # Errors
    /// [`Fault::TooLong`] and [`Fault::Empty`] as soon as the length of the frame at hand is known.
    pub fn feed(&mut self, arrived: &[u8]) -> Result<(), Fault> {
        self.drop_taken();
        let needed = self.bytes.len() + arrived.len();
        if needed > self.bytes.capacity() {
            let frame = self.announced()?.map_or(needed, |body| PREFIX + body);
            let doubled = (2 * self.bytes.len()).min(frame);
            self.bytes.reserve_exact(needed.max(doubled) - self.bytes.len());
        }
        self.bytes.extend_from_slice(arrived);
        self.announced().map(|_| ())
    }

    /// The next whole message, or `None` when its end has not arrived.
    ///
    /// # Errors
    /// Any [`Fault`]; the decoder gives nothing more then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Fault> {
        let Some(body) = self.announced()? else {
            return Ok(None);
        };
        let start = self.taken + PREFIX;
        let Some(bytes) = self.bytes.get(start..start + body) else {
            return Ok(None);
        };
        let message = parse(bytes)?;
        self.taken = start + body;
        Ok(Some(message))
    }

    /// Whether a frame has begun whose end has not arrived (once [`Decoder::take`] has answered `None`).
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// Length of the body at hand, once its prefix is there.
    fn announced(&self) -> Result<Option<usize>, Fault> {
        let Some(prefix) = self.bytes[self.taken..].first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        match length {
            0 => Err(Fault::Empty),
            length if length > self.cap => Err(Fault::TooLong(length, self.cap)),
            length => Ok(Some(length)),
        }
    }

    fn drop_taken(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.len() < KEEP && self.bytes.capacity() > KEEP {
            self.bytes.shrink_to(KEEP);
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let options = ron::Options::default().with_recursion_limit(DEPTH);
    options
        .from_bytes(body)
        .map_err(|why| Fault::Malformed(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::model::{Area, Difference, Edit, Segment};
    use crate::units::{ChangeId, DiskExtent, DiskId, Generation, Term, VolumeExtent, VolumeId};
    use crate::wire::message::{Request, RequestFrame, VERSION};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn frame(requests: Vec<Request>) -> RequestFrame {
        RequestFrame {
            term: Term(7),
            requests,
        }
    }

    fn encoded(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        bytes
    }

    fn raw(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_le_bytes()[..], body].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Option<RequestFrame>, Fault> {
        let mut decoder = Decoder::new(CAP);
        decoder.feed(bytes)?;
        decoder.take()
    }

    fn map(count: u64) -> Request {
        let home = |n| Area {
            disk: DiskId(3),
            start: DiskExtent(2 * n + 1),
            len: 1,
        };
        let segments = (0..count)
            .map(|n| Segment {
                start: VolumeExtent(n),
                home: home(n),
            })
            .collect();
        let edits = vec![Edit::Map {
            volume: VolumeId(1),
            segments,
        }];
        let difference = Difference {
            from: Generation(8),
            edits,
        };
        Request::Apply {
            change: ChangeId(1),
            generation: Generation(9),
            difference,
        }
    }

    #[test]
    fn gives_back_what_was_encoded_whatever_the_pieces() {
        let sent = [
            frame(vec![
                Request::Hello {
                    version: VERSION,
                    pool: Uuid::from_u128(5),
                },
                Request::Status,
            ]),
            frame(vec![map(3)]),
            frame(vec![]),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(encoded).collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new(CAP);
            let mut got = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.feed(piece).unwrap();
                while let Some(message) = decoder.take::<RequestFrame>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent, "in pieces of {size}");
            assert!(!decoder.is_partial());
        }
    }

    #[test]
    fn the_document_says_what_the_code_does() {
        let document = include_str!("../../docs/FORMATS.md");
        for said in [
            format!("1 to {GREETING_CAP} until `Hello` has been said, then 1 to {CAP}"),
            format!(
                "more than {} messages in a frame and nesting deeper than {DEPTH}",
                crate::wire::message::MOST
            ),
            format!("The number of the version is {VERSION}."),
        ] {
            assert!(document.contains(&said), "docs/FORMATS.md does not say: {said}");
        }
    }

    #[test]
    fn a_difference_of_a_hundred_thousand_segments_fits() {
        let sent = frame(vec![map(100_000)]);
        assert_eq!(decode(&encoded(&sent)).unwrap().unwrap(), sent);
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused_before_anything_is_stored() {
        let mut decoder = Decoder::new(GREETING_CAP);
        let long = u32::try_from(GREETING_CAP + 1).unwrap().to_le_bytes();
        assert_eq!(
            decoder.feed(&long),
            Err(Fault::TooLong(GREETING_CAP + 1, GREETING_CAP))
        );
        let mut decoder = Decoder::new(CAP);
        decoder.feed(&u32::try_from(CAP).unwrap().to_le_bytes()).unwrap();
        assert!(decoder.bytes.capacity() < 1024, "memory follows what arrived");
        assert!(decoder.is_partial());
    }

    #[test]
    fn memory_follows_what_arrived_and_never_passes_the_frame() {
        let body = vec![b' '; 3 << 20];
        let bytes = raw(&body);
        let mut decoder = Decoder::new(CAP);
        for (index, piece) in bytes.chunks(READ).enumerate() {
            decoder.feed(piece).unwrap();
            let arrived = (index + 1) * READ;
            assert!(decoder.bytes.capacity() <= (2 * arrived).min(bytes.len() + READ));
        }
        assert!(matches!(decoder.take::<RequestFrame>(), Err(Fault::Malformed(_))));
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let bad: [&[u8]; 11] = [
            b"garbage",
            b"()",
            b"(term:1)",
            b"(term:1,requests:[],more:1)",
            b"(term:1,requests:[Status(1)])",
            b"(term:1,requests:[Nothing])",
            b"(term:1,requests:[Release(change:1,why:2)])",
            b"(term:-1,requests:[])",
            b"(term:1,requests:[]) (term:1,requests:[])",
            b"(term:1,requests:[\xff])",
            &[b'('; 5000],
        ];
        for body in bad {
            assert!(
                matches!(decode(&raw(body)), Err(Fault::Malformed(_))),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(decode(&raw(b"")), Err(Fault::Empty));
        let many = format!("(term:1,requests:[{}])", "Status,".repeat(5000));
        assert!(
            matches!(decode(&raw(many.as_bytes())), Err(Fault::Malformed(_))),
            "too many requests in one frame"
        );
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_nothing_else_happens(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut decoder = Decoder::new(4096);
            for piece in pieces {
                if decoder.feed(&piece).is_err() {
                    break;
                }
                prop_assert!(decoder.bytes.capacity() <= 4096 + PREFIX + 300 + KEEP);
                match decoder.take::<RequestFrame>() {
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }

        #[test]
        fn a_damaged_frame_is_refused_or_is_another_message(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = encoded(&frame(vec![map(3), Request::Stop]));
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = decode(&bytes);
        }

        #[test]
        fn ron_like_text_never_panics(text in "[(){}\\[\\],:\"a-zA-Z0-9_#!\\\\'. -]{0,200}") {
            let _ = decode(&raw(format!("(term:1,requests:[{text}])").as_bytes()));
            if !text.is_empty() {
                let _ = decode(&raw(text.as_bytes()));
            }
        }
    }
}
