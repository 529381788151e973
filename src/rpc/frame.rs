//! Length-prefixed RON frames: encoding, and a decoder for bytes in pieces of any size.
//!
//! ```text
//! byte 0  length of the body in bytes, u32, little endian; 1 to the cap
//!      4  body: one `RequestFrame` or `AnswerFrame` in RON, UTF-8, nothing after it
//! ```
//!
//! The decoder checks the length against the cap as soon as it has arrived, and its memory grows with the bytes that have arrived, not with
//! the length that a peer claims. `docs/FORMATS.md` draws the dialogue.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Size of the length prefix in bytes.
pub const PREFIX: usize = 4;

/// Longest body in bytes before `Hello`.
pub const GREETING_CAP: usize = 64 << 10;

/// Longest body in bytes after `Hello`: a delta of a million segments.
pub const CAP: usize = 64 << 20;

/// Bytes that one read from a socket returns at most. [`Decoder::feed`] is not to get more at once.
pub const READ: usize = 64 << 10;

/// Bytes of memory that an idle decoder keeps.
const KEEP: usize = 256 << 10;

/// Maximum nesting of a body; the messages need 12.
const DEPTH: usize = 32;

/// Reason why a frame cannot be decoded or encoded. Its connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The body has the first number of bytes, more than the second, which is the cap.
    TooLong(usize, usize),
    /// The body is empty.
    Empty,
    /// The body is not a valid message, with the place and the reason.
    Malformed(String),
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len, cap) => write!(f, "a frame of {len} bytes, more than {cap}"),
            Self::Empty => write!(f, "an empty frame"),
            Self::Malformed(why) => write!(f, "a frame that cannot be read: {why}"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// Fails with [`FrameFault::TooLong`]; `out` is unchanged then.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameFault> {
    let body = ron::Options::default()
        .to_string(message)
        .map_err(|why| FrameFault::Malformed(why.to_string()))?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= CAP);
    let length = length.ok_or(FrameFault::TooLong(body.len(), CAP))?;
    out.reserve(PREFIX + body.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body.as_bytes());
    Ok(())
}

/// Decoder that takes bytes as they arrive and returns whole messages.
///
/// It is to hold at most one unfinished frame, of at most the cap, and the bytes that were fed together with its end, so the caller takes all whole
/// messages by [`Decoder::take`] before it feeds more.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
    cap: usize,
}

impl Decoder {
    /// Makes a decoder that refuses bodies longer than `cap` bytes.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            cap,
        }
    }

    /// Sets the cap for later frames.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Adds bytes that have arrived.
    ///
    /// # Errors
    /// Fails with [`FrameFault::TooLong`] or [`FrameFault::Empty`] as soon as the length of the current frame is known.
    pub fn feed(&mut self, arrived: &[u8]) -> Result<(), FrameFault> {
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

    /// Returns the next whole message, or `None` when its end has not arrived.
    ///
    /// # Errors
    /// Fails with any [`FrameFault`]; the decoder returns no more messages then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameFault> {
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

    /// Returns whether part of a frame has arrived, once [`Decoder::take`] has returned `None`.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// Returns the length of the current body, once its prefix has arrived.
    fn announced(&self) -> Result<Option<usize>, FrameFault> {
        let Some(prefix) = self.bytes[self.taken..].first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        match length {
            0 => Err(FrameFault::Empty),
            length if length > self.cap => Err(FrameFault::TooLong(length, self.cap)),
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

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameFault> {
    let options = ron::Options::default().with_recursion_limit(DEPTH);
    options
        .from_bytes(body)
        .map_err(|why| FrameFault::Malformed(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::records::{Area, Delta, Edit, Segment};
    use crate::model::units::{ChangeId, DiskExtent, DiskId, Generation, Term, VolumeExtent, VolumeId};
    use crate::rpc::message::{Request, RequestFrame, VERSION};
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

    fn decode(bytes: &[u8]) -> Result<Option<RequestFrame>, FrameFault> {
        let mut decoder = Decoder::new(CAP);
        decoder.feed(bytes)?;
        decoder.take()
    }

    fn map(count: u64) -> Request {
        let placement = |n| Area {
            disk: DiskId(3),
            start: DiskExtent(2 * n + 1),
            len: 1,
        };
        let segments = (0..count)
            .map(|n| Segment {
                start: VolumeExtent(n),
                placement: placement(n),
            })
            .collect();
        let edits = vec![Edit::Map {
            volume: VolumeId(1),
            segments,
        }];
        let delta = Delta {
            from: Generation(8),
            edits,
        };
        Request::Apply {
            change: ChangeId(1),
            generation: Generation(9),
            delta,
        }
    }

    #[test]
    fn decodes_what_was_encoded_in_pieces_of_any_size() {
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
    fn the_document_has_the_limits_of_the_code() {
        let document = include_str!("../../docs/FORMATS.md");
        for sentence in [
            format!("1 to {GREETING_CAP} until `Hello` was received, then 1 to {CAP}"),
            format!(
                "more than {} messages in a frame and nesting deeper than {DEPTH}",
                crate::rpc::message::MOST
            ),
            format!("The protocol version is {VERSION}."),
        ] {
            assert!(document.contains(&sentence), "docs/FORMATS.md lacks: {sentence}");
        }
    }

    #[test]
    fn a_delta_of_a_hundred_thousand_segments_fits() {
        let sent = frame(vec![map(100_000)]);
        assert_eq!(decode(&encoded(&sent)).unwrap().unwrap(), sent);
    }

    #[test]
    fn a_length_beyond_the_cap_is_refused_before_the_body_arrives() {
        let mut decoder = Decoder::new(GREETING_CAP);
        let long = u32::try_from(GREETING_CAP + 1).unwrap().to_le_bytes();
        assert_eq!(
            decoder.feed(&long),
            Err(FrameFault::TooLong(GREETING_CAP + 1, GREETING_CAP))
        );
        let mut decoder = Decoder::new(CAP);
        decoder.feed(&u32::try_from(CAP).unwrap().to_le_bytes()).unwrap();
        assert!(
            decoder.bytes.capacity() < 1024,
            "memory grows with the bytes that arrived"
        );
        assert!(decoder.is_partial());
    }

    #[test]
    fn memory_grows_with_the_bytes_that_arrived_and_never_exceeds_the_frame() {
        let body = vec![b' '; 3 << 20];
        let bytes = raw(&body);
        let mut decoder = Decoder::new(CAP);
        for (index, piece) in bytes.chunks(READ).enumerate() {
            decoder.feed(piece).unwrap();
            let arrived = (index + 1) * READ;
            assert!(decoder.bytes.capacity() <= (2 * arrived).min(bytes.len() + READ));
        }
        assert!(matches!(
            decoder.take::<RequestFrame>(),
            Err(FrameFault::Malformed(_))
        ));
    }

    #[test]
    fn a_body_that_is_no_message_is_refused() {
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
                matches!(decode(&raw(body)), Err(FrameFault::Malformed(_))),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(decode(&raw(b"")), Err(FrameFault::Empty));
        let many = format!("(term:1,requests:[{}])", "Status,".repeat(5000));
        assert!(
            matches!(decode(&raw(many.as_bytes())), Err(FrameFault::Malformed(_))),
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
