//! A disk of the pool that has lost its label, and the label that the database remembers.

use super::claim::{self, SameFile};
use super::content::head;
use super::label::{Fault, Label};
use super::open::{length, long_enough, open_file, unreadable, what};
use super::probe::{recognise, refuse_known, refuse_stacked};
use super::stack::refuse_cycle;
use super::{labelled, signature};
use crate::error::{Error, Result};
use crate::member::DiskMarks;
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::units::ByteCount;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A disk of the pool whose label is lost, looked at: what else is known of it speaks for its being the disk.
#[derive(Debug)]
pub struct Unlabelled {
    path: PathBuf,
    file: File,
    content: Option<&'static str>,
    label: Label,
    _same: SameFile,
}

impl Unlabelled {
    /// Looks at what lies at the path of a disk. `None` when there is a label that can be read, whosever it is. While this lives,
    /// nobody else uses it.
    ///
    /// # Errors
    /// Names the disk, and why it cannot be this one: too short, another disk of the pool, in use by another database, a newer label.
    pub fn inspect(record: &DiskRecord, header: &PoolHeader, known: &[DiskRecord]) -> Result<Option<Self>> {
        let what = what(record);
        refuse_cycle(&what, &record.path, header.uuid)?;
        let (file, kind) = open_file(&record.path, &what)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        match labelled::read(&file).map_err(failed)? {
            Ok(_) => return Ok(None),
            Err(fault @ Fault::Version(_)) => return Err(unreadable(&what, &record.name, fault)),
            Err(_) => {}
        }
        let others: Vec<_> = known
            .iter()
            .filter(|other| other.id != record.id)
            .cloned()
            .collect();
        let (own, identity) = recognise(&record.path, &what)?;
        refuse_known(&identity, &what, &others)?;
        refuse_stacked(&what, own)?;
        let size = ByteCount(record.extents.saturating_mul(header.extent_size.bytes()));
        long_enough(&what, &record.path, length(&file, kind).map_err(failed)?, size.0)?;
        let same = SameFile::claim(
            &what,
            &header.instance,
            record.id.0,
            &file.metadata().map_err(failed)?,
        )?;
        claim::own(&what, &file, &header.instance)?;
        let head = head(&file).map_err(failed)?;
        // Nothing but the label is ever written to the first extent.
        let behind = head.get(usize::try_from(labelled::BOTH).unwrap_or(head.len())..);
        let content = match behind {
            Some(rest) if !super::is_zero(rest) => signature::content(&head),
            _ => signature::known(&head),
        };
        Ok(Some(Self {
            path: record.path.clone(),
            file,
            content,
            label: Label {
                pool: header.uuid,
                disk: record.uuid,
                size,
                extent_size: header.extent_size,
                layout: header.layout,
                sequence: record.label + 1,
                instance: header.instance.id,
            },
            _same: same,
        }))
    }

    /// What its head holds that no disk of a pool has there: the caller asks first.
    #[must_use]
    pub fn content(&self) -> Option<&'static str> {
        self.content
    }

    /// Writes the label that the database remembers, for good.
    ///
    /// # Errors
    /// Names the path. The ledger of write errors remembers a failure.
    pub fn write_label(&self, ledger: &DiskMarks) -> Result<Label> {
        ledger
            .watch(|| labelled::write_both(&self.file, &self.label))
            .map_err(|why| Error::because(format!("{}: writing the label", self.path.display()), why))?;
        Ok(self.label)
    }
}
