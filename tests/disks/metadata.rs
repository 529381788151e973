//! A disk's copy of the pool's metadata: whatever write of it is cut, and however, the disk leads back to the last table that it was known to cover, or to the one that
//! was being written; and what fails in it is no loss of hosts' data.

use super::*;
use apparatus::blockdev::device::{BlockDevice, Fault, Faults, Faulty, On, Rule, Zeroing};
use apparatus::blockdev::found::look_at;
use apparatus::blockdev::label::{COPY, choose};
use apparatus::blockdev::metadata::{CopyState, Update, Updated};
use apparatus::metadata::contents::{Contents, Facts};
use apparatus::metadata::copy::read_with;
use apparatus::metadata::header::Position;
use apparatus::metadata::place::Place;
use apparatus::model::records::{Area, Edit, Segment, Snapshot, VolumeRecord};
use apparatus::model::units::{DiskExtent, Generation, VolumeExtent, VolumeId};
use std::ops::Range;
use std::sync::Mutex;

const SIZE: u64 = 16 * MIB;
const SECTOR: usize = 512;

/// What happened, in order.
#[derive(Clone)]
enum Step {
    /// Bytes were written durably.
    Wrote(u64, Vec<u8>),
    /// The copy was known to cover this layout.
    Reported(u64),
}

type Record = Arc<Mutex<Vec<Step>>>;

/// A device that records its durable writes.
struct Recorder {
    inner: Box<dyn BlockDevice>,
    record: Record,
}

impl Recorder {
    fn note(&self, at: u64, bytes: &[u8]) {
        let step = Step::Wrote(at, bytes.to_vec());
        self.record.lock().unwrap().push(step);
    }
}

impl BlockDevice for Recorder {
    fn handle(&self) -> &File {
        self.inner.handle()
    }
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buf, at)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unreachable!("the copy is written durably")
    }
    fn write_durably(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.note(at, buf);
        self.inner.write_durably(buf, at)
    }
    fn write_apart(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.note(at, buf);
        self.inner.write_apart(buf, at)
    }
    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
    fn data_from(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        self.inner.data_from(range)
    }
    fn data_until(&self, range: Range<u64>) -> io::Result<u64> {
        self.inner.data_until(range)
    }
    fn zero(&self, range: Range<u64>, how: Zeroing) -> io::Result<bool> {
        self.inner.zero(range, how)
    }
}

fn position(layout: u64) -> Position {
    Position {
        layout,
        generation: Generation(layout + 7),
    }
}

fn edits(layout: u64) -> Vec<Edit> {
    let segment = |n: u64| Segment {
        start: VolumeExtent(n * 2),
        placement: Area {
            disk: DiskId(1),
            start: DiskExtent(1 + layout * 1000 + n * 3),
            len: 1,
        },
    };
    // Some records are longer than a block.
    let count = if layout.is_multiple_of(5) { 1500 } else { 3 };
    vec![Edit::Map {
        volume: VolumeId(1),
        segments: (0..count).map(segment).collect(),
    }]
}

/// The pool's tables, by layout.
struct History(Vec<Contents>);

impl History {
    fn of(layouts: u64) -> Self {
        let volume = VolumeRecord {
            id: VolumeId(1),
            name: Name::new("volume", "v").unwrap(),
            size: ByteCount(4000 * MIB),
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        };
        let first = Snapshot {
            header: header(),
            disks: Vec::new(),
            volumes: vec![volume],
            segments: Vec::new(),
        };
        let mut tables = vec![Contents::of(Facts::default(), first)];
        for layout in 1..=layouts {
            let mut next = tables.last().unwrap().clone();
            edits(layout)
                .into_iter()
                .for_each(|edit| next.edit(edit).unwrap());
            tables.push(next);
        }
        Self(tables)
    }

    fn body(&self, layout: u64) -> Vec<u8> {
        self.0[layout as usize].body().unwrap()
    }

    /// Returns what a copy has to be reported that knows of `since`, and shall know of `layout`.
    fn update(&self, since: u64, layout: u64, body: bool) -> Update {
        Update {
            pool: pool(),
            lineage: Uuid::from_u128(77),
            target: position(layout),
            facts: Facts::default(),
            steps: (since + 1..=layout)
                .map(|layout| (position(layout).generation, edits(layout)))
                .collect(),
            body: body.then(|| self.body(layout)),
        }
    }

    fn is_of(&self, table: Contents, layout: u64) -> bool {
        let known = self.0[layout as usize].clone();
        known.into_snapshot(header()) == table.into_snapshot(header())
    }
}

fn reported(place: Place, layout: u64) -> CopyState {
    CopyState {
        place,
        position: position(layout),
    }
}

fn in_extents(start: u64, len: u64) -> Place {
    let area = Area {
        disk: DiskId(1),
        start: DiskExtent(start),
        len,
    };
    Place::in_extents(EXTENT, area).unwrap()
}

/// Reads what a disk with these bytes covers.
fn read_image(image: &[u8]) -> Option<(u64, Contents)> {
    let copies: [[u8; COPY]; 2] = [0, COPY].map(|at| image[at..at + COPY].try_into().unwrap());
    let (label, _) = choose(&copies).unwrap();
    let place = label.copy?;
    let slots = place.slots();
    let copy = read_with(place.slot, &mut |slot, at, len| {
        let start = (slots[slot].start + at) as usize;
        Ok::<_, io::Error>(image[start..start + len].to_vec())
    });
    let copy = copy.unwrap_or_else(|why| panic!("the copy cannot be read: {why:?}"));
    Some((copy.position.layout, copy.contents))
}

/// Writes a history to a disk: records, checkpoints when the log is full, a place that moves twice, processes that end and forget.
fn write_history(history: &History, record: &Record, disk_record: &DiskRecord) {
    let open = || {
        let wrap = |inner| {
            let record = Arc::clone(record);
            Box::new(Recorder { inner, record }) as Box<_>
        };
        Disk::open_through(disk_record, &header(), wrap).unwrap()
    };
    let mut disk = open();
    let ledger = ledger(&disk);
    let mut place = Place {
        at: 8192,
        slot: 64 << 10,
    };
    let mut known = 0;
    let mut done = 0;
    for layout in 1..history.0.len() as u64 {
        match layout {
            1 | 30 | 60 => {
                place = match layout {
                    1 => place,
                    30 => in_extents(3, 1),
                    _ => in_extents(7, 2),
                };
                let update = history.update(done, layout, false);
                disk.place_copy(place, &update, &history.body(layout), &*ledger)
                    .unwrap();
            }
            _ => {
                if layout.is_multiple_of(11) {
                    disk = open();
                }
                let by_record = history.update(known.min(done), layout, false);
                let updated = disk.update_copy(reported(place, known), &by_record).unwrap();
                if updated == Updated::WantsCheckpoint {
                    let by_body = history.update(done, layout, true);
                    let updated = disk.update_copy(reported(place, known), &by_body).unwrap();
                    assert_eq!(updated, Updated::Current);
                } else {
                    assert_eq!(updated, Updated::Current);
                }
            }
        }
        done = layout;
        record.lock().unwrap().push(Step::Reported(layout));
        // A process may end before it has reported the store.
        if !layout.is_multiple_of(4) {
            known = layout;
        }
    }
}

struct Cuts<'a> {
    image: Vec<u8>,
    history: &'a History,
    /// The last table that the disk was known to cover.
    reported: u64,
    checked: u64,
}

impl Cuts<'_> {
    fn check(&mut self, what: &str) {
        self.checked += 1;
        let Some((layout, table)) = read_image(&self.image) else {
            assert_eq!(self.reported, 0, "{what}: the label names no copy");
            return;
        };
        assert!(
            (self.reported..=self.reported + 1).contains(&layout),
            "{what}: layout {layout}, reported of {}",
            self.reported
        );
        assert!(
            self.history.is_of(table, layout),
            "{what}: not the table of layout {layout}"
        );
    }

    /// Cuts this write: behind each of some sectors, before them, and with a hole.
    fn cut(&mut self, index: usize, at: u64, bytes: &[u8]) {
        let range = at as usize..at as usize + bytes.len();
        let before = self.image[range.clone()].to_vec();
        let sectors = bytes.len() / SECTOR;
        self.check(&format!("before write {index}"));
        let step = (sectors / 24).max(1);
        for sector in (0..sectors).step_by(step).chain([sectors - 1]) {
            let split = sector * SECTOR;
            let first = [&bytes[..split], &before[split..]].concat();
            let last = [&before[..split], &bytes[split..]].concat();
            let mut hole = bytes.to_vec();
            hole[split..split + SECTOR].copy_from_slice(&before[split..split + SECTOR]);
            for (how, torn) in [
                ("the first of", first),
                ("the last of", last),
                ("a hole in", hole),
            ] {
                self.image[range.clone()].copy_from_slice(&torn);
                self.check(&format!("{how} write {index}, sector {sector}"));
            }
        }
        self.image[range].copy_from_slice(bytes);
        self.check(&format!("after write {index}"));
    }
}

#[test]
fn a_copy_that_another_process_has_brought_further_is_not_taken_back() {
    let dir = TempDir::new().unwrap();
    let record = image(dir.path(), 1, SIZE / MIB);
    let history = History::of(12);
    let [late, quick] = [(); 2].map(|()| Disk::open(&record, &header()).unwrap());
    let place = Place {
        at: 8192,
        slot: 64 << 10,
    };
    let first = history.update(0, 1, false);
    quick
        .place_copy(place, &first, &history.body(1), &*ledger(&quick))
        .unwrap();
    // It writes a checkpoint, because it does not know all steps, and goes on behind that.
    let checkpoint = history.update(8, 9, true);
    quick.update_copy(reported(place, 1), &checkpoint).unwrap();
    let further = history.update(9, 11, false);
    assert_eq!(
        quick.update_copy(reported(place, 9), &further).unwrap(),
        Updated::Current
    );
    // The other one has asked the store before all that.
    let old = history.update(1, 2, true);
    assert_eq!(
        late.update_copy(reported(place, 1), &old).unwrap(),
        Updated::Current
    );
    let image = fs::read(&record.path).unwrap();
    let (layout, table) = read_image(&image).unwrap();
    assert!(layout == 11 && history.is_of(table, 11), "{layout}");
}

#[test]
fn every_cut_of_a_write_leads_to_the_last_table_or_the_one_before() {
    let dir = TempDir::new().unwrap();
    let disk = image(dir.path(), 1, SIZE / MIB);
    let history = History::of(90);
    let record = Record::default();
    let image = fs::read(&disk.path).unwrap();
    write_history(&history, &record, &disk);
    let steps = record.lock().unwrap().clone();
    let mut cuts = Cuts {
        image,
        history: &history,
        reported: 0,
        checked: 0,
    };
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Wrote(at, bytes) => cuts.cut(index, *at, bytes),
            Step::Reported(layout) => {
                cuts.reported = *layout;
                cuts.check(&format!("reported of {layout}"));
            }
        }
    }
    println!("{} cuts", cuts.checked);
    assert!(cuts.checked > 4000, "{}", cuts.checked);
    assert_eq!(cuts.image, fs::read(&disk.path).unwrap(), "a write went unseen");
    let found = look_at(&disk.path).unwrap().copy.unwrap().unwrap();
    assert_eq!(found.position.layout, 90);
}

#[test]
fn a_copy_that_cannot_be_written_is_no_loss_of_hosts_data() {
    let dir = TempDir::new().unwrap();
    let disk = image(dir.path(), 1, SIZE / MIB);
    let faults = Arc::new(Faults::default());
    let wrap = |inner| Box::new(Faulty::new(inner, Arc::clone(&faults))) as Box<_>;
    let disk = Disk::open_through(&disk, &header(), wrap).unwrap();
    let ledger = ledger(&disk);
    let history = History::of(3);
    let place = Place::behind_the_label(EXTENT);
    disk.place_copy(place, &history.update(0, 1, false), &history.body(1), &*ledger)
        .unwrap();
    for errno in [libc::EIO, libc::ENOSPC] {
        faults.set([Rule::always(On::Metadata, Fault::Error(errno))]);
        let failed = disk.update_copy(reported(place, 1), &history.update(1, 2, false));
        assert!(failed.unwrap_err().to_string().contains("the pool's metadata"));
        assert!(!ledger.has_lost(), "errno {errno}");
        disk.flush(&*ledger).unwrap();
    }
    faults.set([]);
    let updated = disk.update_copy(reported(place, 1), &history.update(1, 2, false));
    assert_eq!(updated.unwrap(), Updated::Current);
}

#[test]
fn a_copy_is_written_only_where_the_label_and_the_store_say_the_same() {
    let dir = TempDir::new().unwrap();
    let disk_record = image(dir.path(), 1, SIZE / MIB);
    let (first, second) = (opened(&disk_record), opened(&disk_record));
    let ledger = ledger(&first);
    let history = History::of(3);
    let (behind, own) = (Place::behind_the_label(EXTENT), in_extents(5, 2));
    let before = history.update(0, 1, false);
    first
        .place_copy(behind, &before, &history.body(1), &*ledger)
        .unwrap();
    let next = history.update(1, 2, false);
    assert_eq!(
        second.update_copy(reported(behind, 1), &next).unwrap(),
        Updated::Current
    );
    // One process moves the copy; the other, which does not know it yet, writes nothing.
    first.place_copy(own, &next, &history.body(2), &*ledger).unwrap();
    let image = fs::read(&disk_record.path).unwrap();
    let later = history.update(2, 3, true);
    assert_eq!(
        second.update_copy(reported(behind, 2), &later).unwrap(),
        Updated::Unplaced
    );
    assert_eq!(fs::read(&disk_record.path).unwrap(), image);
    assert_eq!(
        second.update_copy(reported(own, 2), &later).unwrap(),
        Updated::Current
    );
    first.drop_copy(&*ledger).unwrap();
    assert_eq!(
        second.update_copy(reported(own, 3), &later).unwrap(),
        Updated::Unplaced
    );
}
