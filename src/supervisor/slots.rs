//! Records in a file in memory, which a supervisor holds open: they survive the process that writes them.
//!
//! Each record has a place of its own that crosses no page, and is written by one call from memory that is present. So a process that is
//! killed has written it or has not.

use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use zerocopy::IntoBytes;

/// Words of a record.
const WORDS: usize = 8;
const BYTES: u64 = (WORDS * size_of::<u64>()) as u64;
/// First word of a record that is in use.
const USED: u64 = 1;

/// Content of a record: all of its words but the first.
pub type Content = [u64; WORDS - 1];

/// Records, by key.
pub struct Slots<K> {
    file: File,
    places: HashMap<K, u64>,
    free: Vec<u64>,
    end: u64,
}

impl<K: Hash + Eq> Slots<K> {
    /// Makes an empty file.
    ///
    /// # Errors
    /// Fails when there is no descriptor or no memory.
    pub fn create(name: &str) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        Ok(Self {
            file,
            places: HashMap::new(),
            free: Vec::new(),
            end: 0,
        })
    }

    /// Reads a file that an earlier process has written. `key` returns the key of a record.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    pub fn open(file: OwnedFd, key: impl Fn(&Content) -> K) -> io::Result<(Self, Vec<Content>)> {
        let file = File::from(file);
        let end = file.metadata()?.len() / BYTES;
        let (mut places, mut free, mut found) = (HashMap::new(), Vec::new(), Vec::new());
        for place in 0..end {
            let mut record = [0_u64; WORDS];
            file.read_exact_at(record.as_mut_bytes(), place * BYTES)?;
            match record {
                [USED, content @ ..] => {
                    places.insert(key(&content), place);
                    found.push(content);
                }
                _ => free.push(place),
            }
        }
        let slots = Self {
            file,
            places,
            free,
            end,
        };
        Ok((slots, found))
    }

    /// Writes the record of `key`, in place of an earlier one.
    ///
    /// # Errors
    /// Fails when there is no memory.
    pub fn put(&mut self, key: K, content: Content) -> io::Result<()> {
        let known = self.places.get(&key).copied();
        let place = known.or_else(|| self.free.pop()).unwrap_or(self.end);
        let [one, two, three, four, five, six, seven] = content;
        let record = [USED, one, two, three, four, five, six, seven];
        if let Err(why) = self.file.write_all_at(record.as_bytes(), place * BYTES) {
            if known.is_none() && place < self.end {
                self.free.push(place);
            }
            return Err(why);
        }
        self.end = self.end.max(place + 1);
        self.places.insert(key, place);
        Ok(())
    }

    /// Removes the record of `key`, if there is one.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn remove(&mut self, key: &K) -> io::Result<()> {
        let Some(place) = self.places.remove(key) else {
            return Ok(());
        };
        self.file.write_all_at([0_u64; WORDS].as_bytes(), place * BYTES)?;
        self.free.push(place);
        Ok(())
    }

    /// Returns the descriptor of the file.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(key: u64, value: u64) -> Content {
        [key, value, 0, 0, 0, 0, 0]
    }

    #[test]
    fn records_survive_and_places_are_used_again() {
        let mut slots = Slots::create("test").unwrap();
        for key in 1..=300 {
            slots.put(key, content(key, 10)).unwrap();
        }
        for key in 1..=290 {
            slots.remove(&key).unwrap();
        }
        slots.put(295, content(295, 20)).unwrap();
        slots.put(1000, content(1000, 30)).unwrap();
        slots.remove(&7777).unwrap();
        assert_eq!(slots.end, 300);
        let kept = slots.descriptor().try_clone_to_owned().unwrap();
        drop(slots);
        let (mut again, mut found) = Slots::open(kept, |content| content[0]).unwrap();
        found.sort_unstable();
        let expected: Vec<Content> = (291..=300)
            .map(|key| content(key, if key == 295 { 20 } else { 10 }))
            .chain([content(1000, 30)])
            .collect();
        assert_eq!(found, expected);
        again.put(5, content(5, 1)).unwrap();
        assert_eq!(again.end, 300, "in a free place");
    }

    #[test]
    fn no_record_crosses_a_page() {
        assert_eq!(4096 % BYTES, 0);
    }

    #[test]
    fn a_place_that_is_free_after_opening_is_given_once_and_no_other() {
        let mut slots = Slots::create("test").unwrap();
        for key in 1..=3 {
            slots.put(key, content(key, 10)).unwrap();
        }
        slots.remove(&2).unwrap();
        let mut kept = slots.descriptor().try_clone_to_owned().unwrap();
        for expected in [vec![1, 3], vec![1, 3, 7, 8]] {
            let (mut again, found) = Slots::open(kept, |content| content[0]).unwrap();
            let mut keys: Vec<u64> = found.iter().map(|content| content[0]).collect();
            keys.sort_unstable();
            assert_eq!(keys, expected);
            for key in [7, 8] {
                again.put(key, content(key, 20)).unwrap();
            }
            kept = again.descriptor().try_clone_to_owned().unwrap();
        }
    }
}
