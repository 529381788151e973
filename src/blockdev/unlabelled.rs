//! Restores the label of a disk of the pool that has lost it, from the database.

use super::acceptable::{long_enough, unreadable, what};
use super::claim::{self, SameFile};
use super::content::head;
use super::found::is_copy_of;
use super::label::{Label, LabelFault};
use super::open::open_file;
use super::probe::{recognise, refuse_known, refuse_stacked};
use super::stack::refuse_cycle;
use super::{labelled, signature};
use crate::cluster::FlushLedger;
use crate::model::error::{Error, Result};
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::ByteCount;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Disk of the pool without a label that passes all other checks of its identity.
#[derive(Debug)]
pub struct Unlabelled {
    path: PathBuf,
    file: File,
    content: Option<&'static str>,
    label: Label,
    _same: SameFile,
}

impl Unlabelled {
    /// Inspects the path of a disk. Returns `None` when there is a readable label, of any disk. Until it is dropped, no other database can use the
    /// disk.
    ///
    /// # Errors
    /// Fails when the path cannot be this disk: it is too short, another disk of the pool, in use by another database, or has a newer label. The
    /// error names the disk and the reason.
    pub fn inspect(record: &DiskRecord, header: &PoolHeader, known: &[DiskRecord]) -> Result<Option<Self>> {
        let (what, path) = (what(record, header), header.path_of(record));
        refuse_cycle(&what, path, header.uuid)?;
        let (file, kind) = open_file(path, &what)?;
        let failed = |why: io::Error| Error::because(what.clone(), why);
        match labelled::read(&file).map_err(failed)? {
            Ok(_) => return Ok(None),
            Err(fault @ LabelFault::Version(_)) => return Err(unreadable(&what, &record.name, fault)),
            Err(_) => {}
        }
        let others: Vec<_> = known
            .iter()
            .filter(|other| other.id != record.id)
            .cloned()
            .collect();
        let (own, identity) = recognise(path, &what)?;
        refuse_known(&identity, &what, &others, header)?;
        refuse_stacked(&what, own)?;
        let size = ByteCount(record.extents.saturating_mul(header.extent_size.bytes()));
        long_enough(&what, &file, kind, record, header)?;
        let same = SameFile::claim(
            &what,
            &header.instance,
            record.id.0,
            &file.metadata().map_err(failed)?,
        )?;
        claim::own(&what, &file, &header.instance)?;
        let head = head(&file).map_err(failed)?;
        // A pool writes nothing but the label and its metadata to the first extent.
        let behind = head.get(usize::try_from(labelled::BOTH).unwrap_or(head.len())..);
        let content = match behind {
            Some(rest) if !super::is_zero(rest) && !is_copy_of(&file, record, header.extent_size) => {
                signature::content(&head)
            }
            _ => signature::known(&head),
        };
        Ok(Some(Self {
            path: path.to_owned(),
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
                copy: None,
            },
            _same: same,
        }))
    }

    /// Returns content in its head that no disk of a pool has there, for which the caller needs a confirmation.
    #[must_use]
    pub fn content(&self) -> Option<&'static str> {
        self.content
    }

    /// Writes the label from the database, durably.
    ///
    /// # Errors
    /// Fails with an error that names the path. The ledger of write errors records it.
    pub fn write_label(&self, ledger: &dyn FlushLedger) -> Result<Label> {
        ledger
            .watch(&mut || labelled::write_both(&self.file, &self.label))
            .map_err(|why| Error::because(format!("{}: writing the label", self.path.display()), why))?;
        Ok(self.label)
    }
}
