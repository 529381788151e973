//! What hosts asked for and were told, and whether it could have happened so.
//!
//! Each block is a register. Each write has a tag of its own, so a history of a block is linearizable exactly if no read is
//! of the future or of nowhere, and the *zones* of its values fit: the zone of a value runs from the first end of an operation that wrote or read it
//! to the last begin of one. If that is forwards, the value was current throughout; so two such zones must not overlap, and no
//! backward zone may lie within a forward one (Gibbons and Korach, "Testing Shared Memories", 1997).
//!
//! A write that was run again after a fence is two writes with the same begin and end, of which the first is optional.

use apparatus::model::units::VolumeId;
use std::collections::BTreeMap;

/// What a block holds: which write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

impl Tag {
    /// What a block holds that nobody has written for its present owner.
    pub const GARBAGE: Self = Self(0);
}

/// A block of a volume.
pub type Place = (VolumeId, u64);

#[derive(Clone, Debug)]
struct Write {
    tag: Tag,
    begin: u64,
    end: Option<u64>,
    /// May never have taken effect, though it is acknowledged: it was run again.
    optional: bool,
    /// Was to be durable when it was acknowledged.
    durable: bool,
}

#[derive(Clone, Debug)]
struct Read {
    tag: Tag,
    begin: u64,
    end: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    writes: Vec<Write>,
    reads: Vec<Read>,
}

/// All blocks.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Nothing is written down: the explorer compares states, and no two would be alike.
    pub off: bool,
    clock: u64,
    tags: u32,
    blocks: BTreeMap<Place, Block>,
    /// Flushes that were acknowledged, by volume: begin and end.
    flushes: BTreeMap<VolumeId, Vec<(u64, u64)>>,
}

impl History {
    /// Now; later every time.
    pub fn tick(&mut self) -> u64 {
        self.clock += u64::from(!self.off);
        self.clock
    }

    /// A tag never given before.
    pub fn tag(&mut self) -> Tag {
        self.tags += 1;
        Tag(self.tags)
    }

    /// A write that begins to reach the disk under this tag, by a request that began at `begin`.
    pub fn write(&mut self, place: Place, tag: Tag, begin: u64) {
        if self.off {
            return;
        }
        let block = self.blocks.entry(place).or_default();
        block.writes.push(Write {
            tag,
            begin,
            end: None,
            optional: false,
            durable: false,
        });
    }

    /// The write under this tag is run again under another.
    pub fn again(&mut self, place: Place, tag: Tag) {
        if let Some(write) = self.find(place, tag) {
            write.optional = true;
        }
    }

    /// The write is acknowledged.
    pub fn acknowledged(&mut self, place: Place, tag: Tag, end: u64) {
        if let Some(write) = self.find(place, tag) {
            write.end = Some(end);
        }
    }

    /// The write is acknowledged as durable.
    pub fn durable(&mut self, place: Place, tag: Tag) {
        if let Some(write) = self.find(place, tag) {
            write.durable = true;
        }
    }

    /// The write under this tag, wherever it is, has taken place.
    pub fn filled(&mut self, tag: Tag, end: u64) {
        let writes = self.blocks.values_mut().flat_map(|block| &mut block.writes);
        let these = writes.filter(|write| write.tag == tag);
        these.for_each(|write| write.end = Some(end));
    }

    fn find(&mut self, place: Place, tag: Tag) -> Option<&mut Write> {
        self.blocks
            .get_mut(&place)?
            .writes
            .iter_mut()
            .rev()
            .find(|write| write.tag == tag)
    }

    /// A read that was answered.
    pub fn read(&mut self, place: Place, tag: Tag, begin: u64, end: u64) {
        if !self.off {
            self.blocks
                .entry(place)
                .or_default()
                .reads
                .push(Read { tag, begin, end });
        }
    }

    pub fn flush(&mut self, volume: VolumeId, begin: u64, end: u64) {
        if !self.off {
            self.flushes.entry(volume).or_default().push((begin, end));
        }
    }

    /// A volume is no more.
    pub fn forget(&mut self, volume: VolumeId) {
        self.blocks.retain(|&(other, _), _| other != volume);
        self.flushes.remove(&volume);
    }

    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        let mut last = None;
        self.blocks
            .keys()
            .map(|&(volume, _)| volume)
            .filter(move |&volume| last.replace(volume) != Some(volume))
    }

    /// Operations that were answered.
    pub fn answered(&self) -> usize {
        let done = |block: &Block| {
            block.reads.len() + block.writes.iter().filter(|write| write.end.is_some()).count()
        };
        self.blocks.values().map(done).sum()
    }

    /// Whether all blocks' histories are linearizable.
    pub fn check(&self) -> Result<(), String> {
        self.blocks.iter().try_for_each(|(place, block)| {
            block.check().map_err(|why| {
                format!(
                    "volume {} block {}: {why}\n{}",
                    place.0,
                    place.1,
                    self.describe(*place)
                )
            })
        })
    }

    /// Whether a block may hold this after a power loss: not what an acknowledged flush had covered with something later.
    pub fn survives(&self, place: Place, tag: Tag) -> Result<(), String> {
        let Some(block) = self.blocks.get(&place) else {
            return Ok(());
        };
        let what = || {
            format!(
                "after power loss volume {} block {} holds {tag:?}",
                place.0, place.1
            )
        };
        let Some(write) = block.writes.iter().find(|write| write.tag == tag) else {
            return Err(format!("{}, which was never written there", what()));
        };
        let flushes = self.flushes.get(&place.0).map_or(&[][..], Vec::as_slice);
        let begun = flushes.iter().map(|&(begin, _)| begin).max().unwrap_or(0);
        let after = |later: &&Write| {
            let flushed = later.end.is_some_and(|end| end < begun) || later.durable;
            write.end.is_some_and(|end| end < later.begin) && flushed
        };
        match block.writes.iter().find(after) {
            None => Ok(()),
            Some(later) => Err(format!(
                "{}, though {:?} came after it and was flushed",
                what(),
                later.tag
            )),
        }
    }

    /// Power was lost: what this block holds now is what there is, and nothing is known of before.
    pub fn begin_again(&mut self, holds: &BTreeMap<Place, Tag>) {
        let now = self.tick();
        self.flushes.clear();
        let start = |tag| Block {
            writes: vec![Write {
                tag,
                begin: now,
                end: Some(now),
                optional: false,
                durable: true,
            }],
            reads: Vec::new(),
        };
        self.blocks = holds.iter().map(|(&place, &tag)| (place, start(tag))).collect();
    }

    /// The last lines of a block's history, for a report.
    pub fn describe(&self, place: Place) -> String {
        let Some(block) = self.blocks.get(&place) else {
            return String::new();
        };
        let mut lines: Vec<(u64, String)> = Vec::new();
        for Write {
            tag,
            begin,
            end,
            optional,
            ..
        } in &block.writes
        {
            lines.push((
                *begin,
                format!(
                    "write {tag:?} [{begin}, {end:?}]{}",
                    if *optional { " run again" } else { "" }
                ),
            ));
        }
        for Read { tag, begin, end } in &block.reads {
            lines.push((*begin, format!("read  {tag:?} [{begin}, {end}]")));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }
}

/// First end and last begin of a value's operations.
struct Zone {
    tag: Tag,
    end: u64,
    begin: u64,
}

impl Block {
    fn check(&self) -> Result<(), String> {
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        let mut zones: BTreeMap<Tag, (Zone, u64, bool)> = BTreeMap::new();
        for write in &self.writes {
            let zone = Zone {
                tag: write.tag,
                end: write.end.unwrap_or(u64::MAX),
                begin: write.begin,
            };
            let sure = write.end.is_some() && !write.optional;
            zones.insert(write.tag, (zone, write.begin, sure));
        }
        for read in &self.reads {
            let Some((zone, written, sure)) = zones.get_mut(&read.tag) else {
                return Err(format!(
                    "a read returned {:?}, which was never written there",
                    read.tag
                ));
            };
            if read.end < *written {
                return Err(format!("a read returned {:?}, which was written later", read.tag));
            }
            zone.end = zone.end.min(read.end);
            zone.begin = zone.begin.max(read.begin);
            *sure = true;
        }
        for (zone, _, sure) in zones.into_values() {
            match (sure, zone.end < zone.begin) {
                (false, _) => {}
                (true, true) => forward.push(zone),
                (true, false) => backward.push(zone),
            }
        }
        forward.sort_by_key(|zone| zone.end);
        if let Some(pair) = forward.windows(2).find(|pair| pair[1].end < pair[0].begin) {
            return Err(format!(
                "{:?} was current between reads of {:?}",
                pair[1].tag, pair[0].tag
            ));
        }
        for zone in backward {
            let after = forward.partition_point(|around| around.end < zone.begin);
            if let Some(around) = forward[..after].last().filter(|around| zone.end < around.begin) {
                return Err(format!(
                    "{:?} was current between operations of {:?}",
                    zone.tag, around.tag
                ));
            }
        }
        Ok(())
    }
}
