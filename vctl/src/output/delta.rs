//! Describes the effect of a change in an operator's terms, for `--dry-run`.

use super::Style;
use super::cell::{exact, size};
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, Snapshot, VolumeRecord};
use apparatus::model::units::{ByteCount, DiskId, ExtentSize, VolumeExtent, VolumeId};
use std::collections::BTreeMap;

/// The expected state of a pool. Each described delta is applied to it, so deltas that follow each other are described one by one.
pub struct PoolPreview {
    extent_size: ExtentSize,
    bytes: bool,
    disks: BTreeMap<DiskId, DiskRecord>,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    segments: BTreeMap<(VolumeId, VolumeExtent), Segment>,
}

impl PoolPreview {
    /// Starts from the current state of a pool.
    pub fn of(snapshot: Snapshot, style: Style) -> Self {
        let segments = snapshot.segments.into_iter();
        Self {
            disks: snapshot.disks.into_iter().map(|disk| (disk.id, disk)).collect(),
            volumes: snapshot
                .volumes
                .into_iter()
                .map(|volume| (volume.id, volume))
                .collect(),
            segments: segments
                .map(|(volume, segment)| ((volume, segment.start), segment))
                .collect(),
            ..Self::empty(snapshot.header.extent_size, style)
        }
    }

    /// Starts from an empty pool.
    pub fn empty(extent_size: ExtentSize, style: Style) -> Self {
        Self {
            extent_size,
            bytes: style.bytes,
            disks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }

    /// Describes the effect of this delta in lines, and applies it.
    pub fn describe(&mut self, delta: &Delta) -> Vec<String> {
        let lines = delta.edits.iter().flat_map(|edit| self.describe_edit(edit));
        lines.map(|line| format!("would {line}")).collect()
    }

    fn describe_edit(&mut self, edit: &Edit) -> Vec<String> {
        match edit {
            Edit::AddDisk(disk) => {
                let line = format!("add disk {}: {}", disk.name, self.disk_in_words(disk));
                self.disks.insert(disk.id, disk.clone());
                vec![line]
            }
            Edit::SetDisk(disk) => {
                let line = self.disk_becomes(disk);
                self.disks.insert(disk.id, disk.clone());
                line.into_iter().collect()
            }
            Edit::RemoveDisk(disk) => {
                let line = format!("remove disk {}", self.disk(*disk));
                self.disks.remove(disk);
                vec![line]
            }
            Edit::AddVolume(volume) => {
                let line = format!("create volume {}: {}", volume.name, self.volume_in_words(volume));
                self.volumes.insert(volume.id, volume.clone());
                vec![line]
            }
            Edit::SetVolume(volume) => {
                let line = self.volume_becomes(volume);
                self.volumes.insert(volume.id, volume.clone());
                line.into_iter().collect()
            }
            Edit::RemoveVolume(volume) => vec![self.volume_goes(*volume)],
            Edit::Map { volume, segments } => {
                let lines = segments
                    .iter()
                    .map(|segment| self.placed(*volume, *segment))
                    .collect();
                self.unmap(
                    *volume,
                    segments.iter().map(|segment| (segment.start, segment.end())),
                );
                self.segments.extend(
                    segments
                        .iter()
                        .map(|segment| ((*volume, segment.start), *segment)),
                );
                lines
            }
            Edit::Unmap { volume, start, end } => {
                let (from, to) = (self.extents(start.0), self.extents(end.0));
                let places = self.overlapping(*volume, *start, *end);
                let disks: Vec<String> = places
                    .iter()
                    .map(|segment| self.place(segment.placement))
                    .collect();
                let line = format!(
                    "free what volume {} has from {from} to {to}: {}",
                    self.volume(*volume),
                    disks.join(", ")
                );
                self.unmap(*volume, [(*start, *end)]);
                vec![line]
            }
        }
    }

    fn volume_goes(&mut self, id: VolumeId) -> String {
        let size = self.volumes.get(&id).map_or(ByteCount(0), |volume| volume.size);
        let line = format!(
            "remove volume {} and the {} that it holds",
            self.volume(id),
            self.about(size.0)
        );
        self.volumes.remove(&id);
        line
    }

    fn placed(&self, volume: VolumeId, segment: Segment) -> String {
        let name = self.volume(volume);
        let (at, len) = (self.extents(segment.start.0), self.extents(segment.placement.len));
        let before = self.overlapping(volume, segment.start, segment.end());
        let to = self.place(segment.placement);
        if before.is_empty() {
            return format!("place {len} of volume {name} at {at} on {to}");
        }
        let from: Vec<String> = before
            .iter()
            .map(|segment| self.place(segment.placement))
            .collect();
        format!(
            "move {len} of volume {name} at {at} from {} to {to}",
            from.join(", ")
        )
    }

    /// Returns the parts of a volume's segments inside this range.
    fn overlapping(&self, volume: VolumeId, start: VolumeExtent, end: VolumeExtent) -> Vec<Segment> {
        let before = self.segments.range(..(volume, start)).next_back();
        let inside = self.segments.range((volume, start)..(volume, end));
        let near = before
            .into_iter()
            .chain(inside)
            .filter(|((of, _), _)| *of == volume);
        near.filter_map(|(_, segment)| segment.clip(start, end)).collect()
    }

    fn unmap(&mut self, volume: VolumeId, ranges: impl IntoIterator<Item = (VolumeExtent, VolumeExtent)>) {
        for (start, end) in ranges {
            let before = self.segments.range(..(volume, start)).next_back();
            let inside = self.segments.range((volume, start)..(volume, end));
            let near = before
                .into_iter()
                .chain(inside)
                .filter(|((of, _), _)| *of == volume);
            let near: Vec<Segment> = near
                .map(|(_, segment)| *segment)
                .filter(|near| near.end() > start)
                .collect();
            for segment in near {
                self.segments.remove(&(volume, segment.start));
                let kept = [
                    segment.clip(VolumeExtent(0), start),
                    segment.clip(end, VolumeExtent(u64::MAX)),
                ];
                let kept = kept.into_iter().flatten();
                self.segments
                    .extend(kept.map(|part| ((volume, part.start), part)));
            }
        }
    }

    fn disk_in_words(&self, disk: &DiskRecord) -> String {
        let mut words = format!("{} at {}", self.extents(disk.extents), disk.path.display());
        if !disk.tags.is_empty() {
            words.push_str(&format!(", tags {}", tags(disk)));
        }
        if !disk.allocate {
            words.push_str(", nothing is placed on it");
        }
        if disk.reserve > 0 {
            words.push_str(&format!(", {} of it stay free", self.extents(disk.reserve)));
        }
        words
    }

    /// Describes the changed properties of a disk; `None` if only the recorded label number changes.
    fn disk_becomes(&self, new: &DiskRecord) -> Option<String> {
        let old = self.disks.get(&new.id)?;
        let placing = |disk: &DiskRecord| if disk.allocate { "yes" } else { "no" };
        let new_places = changed("allocate", placing(old), placing(new));
        let changes = [
            changed("name", old.name.as_str(), new.name.as_str()),
            changed(
                "path",
                &old.path.display().to_string(),
                &new.path.display().to_string(),
            ),
            changed("size", &self.extents(old.extents), &self.extents(new.extents)),
            changed("tags", &tags(old), &tags(new)),
            new_places,
            changed("reserve", &self.extents(old.reserve), &self.extents(new.reserve)),
        ];
        in_one_line(&format!("change disk {}", old.name), changes)
    }

    fn volume_in_words(&self, volume: &VolumeRecord) -> String {
        let writes = if volume.read_only { ", read-only" } else { "" };
        let VolumeRecord {
            size, mode, uid, gid, ..
        } = volume;
        format!(
            "{}, mode {mode:04o}, owner {uid}:{gid}{writes}",
            self.size(size.0)
        )
    }

    fn volume_becomes(&self, new: &VolumeRecord) -> Option<String> {
        let old = self.volumes.get(&new.id)?;
        let mode = |volume: &VolumeRecord| format!("{:04o}", volume.mode);
        let owner = |volume: &VolumeRecord| format!("{}:{}", volume.uid, volume.gid);
        let writes = |volume: &VolumeRecord| if volume.read_only { "refused" } else { "allowed" };
        let changes = [
            changed("name", old.name.as_str(), new.name.as_str()),
            changed("size", &self.size(old.size.0), &self.size(new.size.0)),
            changed("mode", &mode(old), &mode(new)),
            changed("owner", &owner(old), &owner(new)),
            changed("writes", writes(old), writes(new)),
        ];
        in_one_line(&format!("change volume {}", old.name), changes)
    }

    fn disk(&self, id: DiskId) -> String {
        let disk = self.disks.get(&id);
        disk.map_or_else(|| format!("#{id}"), |disk| disk.name.to_string())
    }

    fn volume(&self, id: VolumeId) -> String {
        let volume = self.volumes.get(&id);
        volume.map_or_else(|| format!("#{id}"), |volume| volume.name.to_string())
    }

    fn place(&self, area: Area) -> String {
        format!("{} at {}", self.disk(area.disk), self.extents(area.start.0))
    }

    fn extents(&self, extents: u64) -> String {
        self.size(extents.saturating_mul(self.extent_size.bytes()))
    }

    /// Returns a size without rounding.
    fn size(&self, bytes: u64) -> String {
        let exact = exact(bytes);
        match self.bytes {
            true => bytes.to_string(),
            false if has_unit(&exact) || bytes == 0 => exact,
            false => format!("{bytes} bytes"),
        }
    }

    /// Returns a size of which nothing depends on the last byte: rounded where no unit divides it.
    fn about(&self, bytes: u64) -> String {
        match self.bytes || has_unit(&exact(bytes)) || bytes < 1024 {
            true => self.size(bytes),
            false => size(bytes),
        }
    }
}

fn has_unit(size: &str) -> bool {
    size.ends_with(|last: char| !last.is_ascii_digit())
}

fn tags(disk: &DiskRecord) -> String {
    let names: Vec<&str> = disk.tags.iter().map(|tag| tag.as_str()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    }
}

fn changed(what: &str, old: &str, new: &str) -> Option<String> {
    (old != new).then(|| format!("{what} from {old} to {new}"))
}

fn in_one_line<const N: usize>(what: &str, changes: [Option<String>; N]) -> Option<String> {
    let changes: Vec<String> = changes.into_iter().flatten().collect();
    (!changes.is_empty()).then(|| format!("{what}: {}", changes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::segment;
    use apparatus::model::names::Name;
    use apparatus::model::records::PoolHeader;
    use apparatus::model::units::Generation;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    fn disk(id: u32, name: &str) -> DiskRecord {
        DiskRecord {
            id: DiskId(id),
            name: Name::new("disk", name).unwrap(),
            uuid: Uuid::nil(),
            path: format!("/{name}.img").into(),
            extents: 64,
            tags: BTreeSet::new(),
            allocate: true,
            reserve: 0,
            label: 1,
        }
    }

    fn volume() -> VolumeRecord {
        VolumeRecord {
            id: VolumeId(1),
            name: Name::new("volume", "v").unwrap(),
            size: ByteCount(8 << 20),
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        }
    }

    fn described(outlook: &mut PoolPreview, edits: Vec<Edit>) -> Vec<String> {
        outlook.describe(&Delta {
            from: Generation(1),
            edits,
        })
    }

    #[test]
    fn each_edit_is_described_and_counts_as_done_for_the_next() {
        let header = PoolHeader::before(ExtentSize::DEFAULT);
        let snapshot = Snapshot {
            header,
            disks: vec![disk(1, "d1"), disk(2, "d2")],
            volumes: vec![volume()],
            segments: vec![(VolumeId(1), segment(0, 1, 1, 8))],
        };
        let mut outlook = PoolPreview::of(snapshot, Style::default());
        let moved = Edit::Map {
            volume: VolumeId(1),
            segments: vec![segment(2, 2, 1, 4)],
        };
        assert_eq!(
            described(&mut outlook, vec![moved]),
            ["would move 4M of volume v at 2M from d1 at 3M to d2 at 1M"]
        );
        let cut = Edit::Unmap {
            volume: VolumeId(1),
            start: VolumeExtent(4),
            end: VolumeExtent(8),
        };
        let smaller = Edit::SetVolume(VolumeRecord {
            size: ByteCount(4 << 20),
            mode: 0o640,
            ..volume()
        });
        assert_eq!(
            described(&mut outlook, vec![cut, smaller]),
            [
                "would free what volume v has from 4M to 8M: d2 at 3M, d1 at 7M",
                "would change volume v: size from 8M to 4M, mode from 0600 to 0640"
            ]
        );
        let tagged = DiskRecord {
            tags: BTreeSet::from([Name::new("tag", "fast").unwrap()]),
            allocate: false,
            ..disk(1, "d1")
        };
        let label_alone = DiskRecord {
            label: 2,
            ..disk(2, "d2")
        };
        assert_eq!(
            described(
                &mut outlook,
                vec![Edit::SetDisk(tagged), Edit::SetDisk(label_alone)]
            ),
            ["would change disk d1: tags from none to fast, allocate from yes to no"]
        );
        assert_eq!(
            described(
                &mut outlook,
                vec![Edit::RemoveVolume(VolumeId(1)), Edit::RemoveDisk(DiskId(2))]
            ),
            [
                "would remove volume v and the 4M that it holds",
                "would remove disk d2"
            ]
        );
    }

    #[test]
    fn a_size_that_no_unit_divides_has_one_all_the_same() {
        let odd = |bytes| VolumeRecord {
            size: ByteCount(bytes),
            ..volume()
        };
        let mut outlook = PoolPreview::empty(ExtentSize::DEFAULT, Style::default());
        let edits = vec![
            Edit::AddVolume(odd(1_258_291_712)),
            Edit::SetVolume(odd(512)),
            Edit::SetVolume(odd(1_258_291_712)),
            Edit::RemoveVolume(VolumeId(1)),
        ];
        assert_eq!(
            described(&mut outlook, edits),
            [
                "would create volume v: 1258291712 bytes, mode 0600, owner 0:0",
                "would change volume v: size from 1258291712 bytes to 512 bytes",
                "would change volume v: size from 512 bytes to 1258291712 bytes",
                "would remove volume v and the 1.2G that it holds"
            ]
        );
    }

    #[test]
    fn a_new_pool_is_described_from_an_empty_one() {
        let mut outlook = PoolPreview::empty(ExtentSize::DEFAULT, Style::default());
        let edits = vec![
            Edit::AddDisk(disk(1, "d1")),
            Edit::AddVolume(volume()),
            Edit::Map {
                volume: VolumeId(1),
                segments: vec![segment(0, 1, 1, 8)],
            },
        ];
        assert_eq!(
            described(&mut outlook, edits),
            [
                "would add disk d1: 64M at /d1.img",
                "would create volume v: 8M, mode 0600, owner 0:0",
                "would place 8M of volume v at 0 on d1 at 1M"
            ]
        );
    }
}
