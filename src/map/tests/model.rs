//! Random deltas, valid and invalid ones, against a model that keeps each extent separately.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
struct Model {
    disks: BTreeMap<u32, u64>,
    volumes: BTreeMap<u64, ModelVolume>,
}

#[derive(Clone, Debug)]
struct ModelVolume {
    name: String,
    extents: u64,
    placements: BTreeMap<u64, (u32, u64)>,
}

fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}

impl Model {
    /// Returns the model after the edits; `None` if one does not fit.
    fn after(&self, edits: &[Edit]) -> Option<Self> {
        let mut next = self.clone();
        for edit in edits {
            next.edit(edit)?;
        }
        for edit in edits {
            let Edit::Map { segments, .. } = edit else {
                continue;
            };
            for Segment { placement, .. } in segments {
                require(placement.start.0 > 0 && placement.end().0 <= *next.disks.get(&placement.disk.0)?)?;
            }
        }
        let fits = |volume: &ModelVolume| volume.placements.keys().all(|extent| *extent < volume.extents);
        require(next.volumes.values().all(fits))?;
        Some(next)
    }

    fn edit(&mut self, edit: &Edit) -> Option<()> {
        match edit {
            Edit::AddDisk(new) => require(self.disks.insert(new.id.0, new.extents).is_none()),
            Edit::SetDisk(new) => {
                let old = self.disks.insert(new.id.0, new.extents)?;
                let shrinks = new.extents < old;
                require(
                    !shrinks
                        || self
                            .placements()
                            .all(|(disk, placement)| disk != new.id.0 || placement < new.extents),
                )
            }
            Edit::RemoveDisk(id) => {
                self.disks.remove(&id.0)?;
                require(self.placements().all(|(disk, _)| disk != id.0))
            }
            Edit::AddVolume(new) => {
                require(!self.volumes.contains_key(&new.id.0))?;
                self.put(new, BTreeMap::new())
            }
            Edit::SetVolume(new) => {
                let old = self.volumes.remove(&new.id.0)?;
                self.put(new, old.placements)
            }
            Edit::RemoveVolume(id) => self.volumes.remove(&id.0).map(|_| ()),
            Edit::Map { volume, segments } => {
                let placements = &mut self.volumes.get_mut(&volume.0)?.placements;
                let mut free = 0;
                for segment in segments {
                    require(segment.placement.len > 0 && segment.start.0 >= free)?;
                    free = segment.end().0;
                    for i in 0..segment.placement.len {
                        placements.insert(
                            segment.start.0 + i,
                            (segment.placement.disk.0, segment.placement.start.0 + i),
                        );
                    }
                }
                Some(())
            }
            Edit::Unmap { volume, start, end } => {
                self.volumes
                    .get_mut(&volume.0)?
                    .placements
                    .retain(|extent, _| !(start.0..end.0).contains(extent));
                Some(())
            }
        }
    }

    fn put(&mut self, new: &VolumeRecord, placements: BTreeMap<u64, (u32, u64)>) -> Option<()> {
        let name = new.name.to_string();
        require(self.volumes.values().all(|other| other.name != name))?;
        let extents = new.size.0 / UNIT.bytes();
        self.volumes.insert(
            new.id.0,
            ModelVolume {
                name,
                extents,
                placements,
            },
        );
        Some(())
    }

    fn placements(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.volumes
            .values()
            .flat_map(|volume| volume.placements.values().copied())
    }

    fn compare(&self, table: &Table) -> Result<(), TestCaseError> {
        let reader = &mut table.reader();
        let disks: BTreeMap<u32, u64> = table
            .disks(reader)
            .iter()
            .map(|disk| (disk.id.0, disk.extents))
            .collect();
        prop_assert_eq!(&disks, &self.disks);
        let ids: Vec<u64> = table.volumes(reader).iter().map(|volume| volume.id.0).collect();
        prop_assert_eq!(ids, self.volumes.keys().copied().collect::<Vec<_>>());
        for (id, volume) in &self.volumes {
            let record = table.lookup(reader, &volume.name).unwrap();
            prop_assert_eq!((record.id.0, record.size.0), (*id, extents(volume.extents)));
            let mut placements = BTreeMap::new();
            for segment in table.segments(reader, VolumeId(*id)).unwrap() {
                for i in 0..segment.placement.len {
                    placements.insert(
                        segment.start.0 + i,
                        (segment.placement.disk.0, segment.placement.start.0 + i),
                    );
                }
            }
            prop_assert_eq!(&placements, &volume.placements);
            let (mut found, mut expected) = (Vec::new(), BTreeSet::new());
            table.disks_of(reader, VolumeId(*id), &mut found).unwrap();
            expected.extend(volume.placements.values().map(|(disk, _)| DiskId(*disk)));
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        Ok(())
    }

    fn locate(&self, table: &Table, id: u64, at: u64, len: u64) -> Result<(), TestCaseError> {
        let mut pieces = Vec::new();
        let found = table.locate(
            &mut table.reader(),
            VolumeId(id),
            VolumeOffset(at),
            len,
            &mut pieces,
        );
        let Some(volume) = self.volumes.get(&id) else {
            prop_assert_eq!(found, Err(Missing::NoVolume));
            return Ok(());
        };
        let size = extents(volume.extents);
        if at + len > size {
            prop_assert_eq!(found, Err(Missing::PastEnd(ByteCount(size))));
            return Ok(());
        }
        let placement = |byte: u64| {
            let (disk, extent) = volume.placements.get(&(byte / UNIT.bytes()))?;
            Some((*disk, extents(*extent) + byte % UNIT.bytes()))
        };
        match found {
            Err(Missing::Unmapped(hole)) => {
                prop_assert!(placement(hole.0).is_none() && (at..at + len).contains(&hole.0))
            }
            Err(other) => prop_assert!(false, "{other:?}"),
            Ok(generation) => {
                prop_assert_eq!(generation, table.generation());
                let mut next = at;
                for piece in pieces {
                    for byte in [next, next + piece.len - 1] {
                        prop_assert_eq!(placement(byte), Some((piece.disk.0, piece.at.0 + byte - next)));
                    }
                    next += piece.len;
                }
                prop_assert_eq!(next, at + len);
            }
        }
        Ok(())
    }
}

fn any_segment() -> impl Strategy<Value = Segment> {
    // A few are invalid: empty ones, extent 0, and those past the end of a small disk.
    let len = prop_oneof![20 => 1u64..5, 1 => Just(0)];
    (0u64..16, 1u32..4, prop_oneof![20 => 1u64..40, 1 => Just(0)], len)
        .prop_map(|(start, disk, placement, len)| segment(start, disk, placement, len))
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let disks =
        || (1u32..4, prop_oneof![1 => 5u64..50, 3 => Just(50)]).prop_map(|(id, extents)| disk(id, extents));
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    let volumes = (1u64..4, name, prop_oneof![1 => 0u64..20, 3 => Just(20)])
        .prop_map(|(id, name, n)| volume(id, name, extents(n)));
    let segments = prop_oneof![
        8 => any_segment().prop_map(|one| vec![one]),
        4 => prop::collection::vec(any_segment(), 0..4).prop_map(|mut several| {
            several.sort();
            several.dedup_by(|b, a| b.start < a.end());
            several
        }),
        1 => prop::collection::vec(any_segment(), 2..4),
    ];
    prop_oneof![
        4 => disks().prop_map(Edit::AddDisk),
        2 => disks().prop_map(Edit::SetDisk),
        1 => (1u32..4).prop_map(|id| Edit::RemoveDisk(DiskId(id))),
        4 => volumes.clone().prop_map(Edit::AddVolume),
        3 => volumes.prop_map(Edit::SetVolume),
        1 => (1u64..4).prop_map(|id| Edit::RemoveVolume(VolumeId(id))),
        16 => (1u64..4, segments).prop_map(|(volume, segments)| map(volume, &segments)),
        2 => (1u64..4, 0u64..20, 0u64..8).prop_map(|(volume, start, len)| Edit::Unmap {
            volume: VolumeId(volume),
            start: VolumeExtent(start),
            end: VolumeExtent(start + len),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn behaves_like_the_model(
        steps in prop::collection::vec((prop::collection::vec(any_edit(), 1..4), 1u64..4, 0u64..22, 1u64..300_000), 20..80),
    ) {
        let all = vec![Edit::AddDisk(disk(1, 50)), Edit::AddDisk(disk(2, 50)), Edit::AddVolume(volume(1, "a", extents(20)))];
        let table = Table::new(&snapshot(0, vec![], vec![], &[])).unwrap();
        let mut model = Model::default();
        let mut generation = 0;
        for (edits, id, extent, bytes) in std::iter::once((all, 1, 0, 1)).chain(steps) {
            let next = model.after(&edits);
            let applied = table.apply(&delta(generation, edits));
            prop_assert_eq!(applied.is_ok(), next.is_some(), "{:?}", applied);
            if let Some(next) = next {
                model = next;
                generation += 1;
            }
            prop_assert_eq!(table.generation(), Generation(generation));
            model.compare(&table)?;
            model.locate(&table, id, extents(extent) + bytes % 1000, bytes)?;
        }
    }
}
