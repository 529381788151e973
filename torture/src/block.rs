//! Content of blocks: each word names the volume, the block, the writer and the number of the write, with a checksum.
//!
//! Reads and writes of a block are not atomic, so a reader may see words of two writes. Each word therefore tells by itself whose it is.

use std::ops::RangeInclusive;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of a volume that words can name.
#[cfg(test)]
const MOST_BLOCKS: u64 = 1 << BLOCK_BITS;

const WORD: usize = 8;
const SEQUENCE_BITS: u32 = 28;
const BLOCK_BITS: u32 = 14;
const WRITER_BITS: u32 = 4;
const VOLUME_BITS: u32 = 6;
const CHECK_BITS: u32 = 12;

/// The volume and the block that bytes are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) volume: u64,
    pub(crate) block: u64,
}

/// A write to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) place: Place,
    pub(crate) writer: u64,
    pub(crate) sequence: u64,
}

/// What is wrong with the bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A write that had been replaced before the read began.
    Old { sequence: u64 },
    /// A write that had not begun when the read ended.
    Future { sequence: u64 },
    /// A write to another block.
    Foreign(Stamp),
    /// Bytes that nobody wrote.
    Damaged { word: u64 },
}

/// Moves the lowest `bits` of a field into a word.
fn pack(word: u64, field: u64, bits: u32) -> u64 {
    word << bits | field & ((1 << bits) - 1)
}

/// Takes the lowest `bits` out of a word.
fn unpack(word: &mut u64, bits: u32) -> u64 {
    let field = *word & ((1 << bits) - 1);
    *word >>= bits;
    field
}

/// Returns the checksum of a word and of its position in the block.
fn check(fields: u64, index: usize) -> u64 {
    let bytes = (fields ^ (index as u64) << 52).to_le_bytes();
    u64::from(crc32c::crc32c(&bytes)) & ((1 << CHECK_BITS) - 1)
}

fn encode(stamp: Stamp, index: usize) -> u64 {
    let fields = pack(0, stamp.place.volume, VOLUME_BITS);
    let fields = pack(fields, stamp.writer, WRITER_BITS);
    let fields = pack(fields, stamp.place.block, BLOCK_BITS);
    let fields = pack(fields, stamp.sequence, SEQUENCE_BITS);
    pack(fields, check(fields, index), CHECK_BITS)
}

fn decode(word: u64, index: usize) -> Option<Stamp> {
    let mut rest = word;
    let sum = unpack(&mut rest, CHECK_BITS);
    if sum != check(rest, index) {
        return None;
    }
    let sequence = unpack(&mut rest, SEQUENCE_BITS);
    let block = unpack(&mut rest, BLOCK_BITS);
    let writer = unpack(&mut rest, WRITER_BITS);
    let volume = unpack(&mut rest, VOLUME_BITS);
    Some(Stamp {
        place: Place { volume, block },
        writer,
        sequence,
    })
}

/// Fills a block with the words of a write.
pub(crate) fn fill(bytes: &mut [u8], stamp: Stamp) {
    for (index, word) in bytes.chunks_exact_mut(WORD).enumerate() {
        word.copy_from_slice(&encode(stamp, index).to_le_bytes());
    }
}

/// Returns the lowest sequence in a block, all of whose words must be of writes to this place in `expected`. Zeroes are write 0.
///
/// A later read sees no lower one in any word.
pub(crate) fn examine(bytes: &[u8], place: Place, expected: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let mut lowest = u64::MAX;
    for (index, word) in bytes.chunks_exact(WORD).enumerate() {
        let mut value = [0; WORD];
        value.copy_from_slice(word);
        let sequence = examine_word(u64::from_le_bytes(value), index, place)?;
        if sequence < *expected.start() {
            return Err(Wrong::Old { sequence });
        }
        if sequence > *expected.end() {
            return Err(Wrong::Future { sequence });
        }
        lowest = lowest.min(sequence);
    }
    Ok(lowest)
}

fn examine_word(word: u64, index: usize, place: Place) -> Result<u64, Wrong> {
    match decode(word, index) {
        _ if word == 0 => Ok(0),
        None => Err(Wrong::Damaged { word }),
        Some(stamp) if stamp.place != place => Err(Wrong::Foreign(stamp)),
        Some(stamp) => Ok(stamp.sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { volume: 3, block: 77 };

    fn block(place: Place, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        let writer = 5;
        fill(
            &mut bytes,
            Stamp {
                place,
                writer,
                sequence,
            },
        );
        bytes
    }

    #[test]
    fn a_block_is_right_within_what_was_begun_and_not_yet_replaced() {
        assert_eq!(examine(&block(PLACE, 9), PLACE, &(8..=9)), Ok(9));
        assert_eq!(
            examine(&block(PLACE, 9), PLACE, &(10..=12)),
            Err(Wrong::Old { sequence: 9 })
        );
        assert_eq!(
            examine(&block(PLACE, 9), PLACE, &(1..=8)),
            Err(Wrong::Future { sequence: 9 })
        );
    }

    #[test]
    fn zeroes_are_the_write_before_all_others() {
        assert_eq!(examine(&[0; BLOCK], PLACE, &(0..=4)), Ok(0));
        assert_eq!(
            examine(&[0; BLOCK], PLACE, &(1..=4)),
            Err(Wrong::Old { sequence: 0 })
        );
    }

    #[test]
    fn words_of_two_writes_are_right_if_both_are() {
        let mut bytes = block(PLACE, 6);
        bytes[..512].copy_from_slice(&block(PLACE, 7)[..512]);
        assert_eq!(examine(&bytes, PLACE, &(6..=7)), Ok(6));
        assert_eq!(examine(&bytes, PLACE, &(7..=7)), Err(Wrong::Old { sequence: 6 }));
    }

    #[test]
    fn words_of_another_place_are_foreign_and_all_others_damaged() {
        for place in [Place { volume: 2, ..PLACE }, Place { block: 78, ..PLACE }] {
            let found = examine(&block(place, 1), PLACE, &(0..=4));
            assert!(matches!(found, Err(Wrong::Foreign(stamp)) if stamp.place == place && stamp.writer == 5));
        }
        let mut bytes = block(PLACE, 1);
        bytes[100] ^= 1;
        assert!(matches!(
            examine(&bytes, PLACE, &(0..=4)),
            Err(Wrong::Damaged { .. })
        ));
        // A word at another position in the block is damaged too.
        let mut bytes = block(PLACE, 1);
        bytes.copy_within(0..8, 8);
        assert!(matches!(
            examine(&bytes, PLACE, &(0..=4)),
            Err(Wrong::Damaged { .. })
        ));
    }

    #[test]
    fn the_largest_fields_survive() {
        let stamp = Stamp {
            place: Place {
                volume: 63,
                block: MOST_BLOCKS - 1,
            },
            writer: 15,
            sequence: (1 << SEQUENCE_BITS) - 1,
        };
        assert_eq!(decode(encode(stamp, 511), 511), Some(stamp));
    }
}
