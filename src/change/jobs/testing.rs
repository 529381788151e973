//! Two labelled images for the tests of this folder.

use crate::disk::{Candidate, Disk, create_image};
use crate::member::MemberTable;
use crate::pool::dir::PoolDir;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::pool::names::Name;
use crate::units::{BootId, ByteCount, DiskId, ExtentSize};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// Disks 1 and 2, of 16 extents of 1 MiB each, empty but for their labels.
pub(super) struct Images {
    dir: TempDir,
    pool: PoolHeader,
    /// The images themselves.
    pub(super) files: [File; 2],
    /// Their records.
    pub(super) records: [DiskRecord; 2],
}

impl Images {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolHeader {
            uuid: Uuid::new_v4(),
            ..PoolHeader::before(ExtentSize::DEFAULT)
        };
        let records = [1, 2].map(|id| record(dir.path().join(format!("d{id}.img")), id));
        for record in &records {
            create_image(&record.path, ByteCount(16 << 20), ExtentSize::DEFAULT).unwrap();
            let probe = Candidate::inspect(&record.path, &pool, &[]).unwrap();
            probe.write_label(&pool, record.uuid).unwrap();
        }
        let files = records
            .each_ref()
            .map(|record| File::options().read(true).write(true).open(&record.path).unwrap());
        Self {
            dir,
            pool,
            files,
            records,
        }
    }

    /// Their ledgers of write errors.
    pub(super) fn ledgers(&self) -> Arc<MemberTable> {
        MemberTable::open(
            &PoolDir::new(self.dir.path()),
            self.pool.uuid,
            BootId(Uuid::nil()),
        )
        .unwrap()
    }

    /// Opens both.
    pub(super) fn open(&self) -> [Arc<Disk>; 2] {
        assert!(self.dir.path().exists());
        self.records
            .each_ref()
            .map(|record| Arc::new(Disk::open(record, &self.pool).unwrap()))
    }
}

fn record(path: PathBuf, id: u32) -> DiskRecord {
    DiskRecord {
        id: DiskId(id),
        name: Name::new("disk", &format!("d{id}")).unwrap(),
        uuid: Uuid::new_v4(),
        path,
        extents: 16,
        tags: BTreeSet::new(),
        allocate: true,
        reserve: 0,
        label: 0,
    }
}
