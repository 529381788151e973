//! Two labelled images for the tests of this folder.

use crate::blockdev::{Candidate, Disk, create_image};
use crate::cluster::{self, FlushLedgers};
use crate::model::build;
use crate::model::dir::PoolDir;
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::{ByteCount, ExtentSize};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// Disks 1 and 2, of 16 extents of 1 MiB each, empty but for their labels.
pub(super) struct Images {
    dir: TempDir,
    pool: PoolHeader,
    /// The image files.
    pub(super) files: [File; 2],
    /// The records of the disks.
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

    /// Opens the ledgers of write errors of both disks.
    pub(super) fn ledgers(&self) -> Arc<dyn FlushLedgers> {
        let dir = PoolDir::new(self.dir.path());
        cluster::open(&dir)
            .unwrap()
            .share(self.pool.uuid)
            .unwrap()
            .ledgers
    }

    /// Opens both disks.
    pub(super) fn open(&self) -> [Arc<Disk>; 2] {
        assert!(self.dir.path().exists());
        self.records
            .each_ref()
            .map(|record| Arc::new(Disk::open(record, &self.pool).unwrap()))
    }
}

fn record(path: PathBuf, id: u32) -> DiskRecord {
    DiskRecord {
        uuid: Uuid::new_v4(),
        path,
        ..build::disk(id, 16)
    }
}
