//! [`MetadataStore`] of this store.

use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::error::Result;
use crate::model::records::Area;
use crate::model::units::DiskId;
use crate::store::MetadataStore;
use crate::store::metadata::Persisted;
use crate::store::sqlite::{SqliteStore, metadata, space, table};
use rusqlite::params;

impl MetadataStore for SqliteStore {
    fn persisted(&mut self) -> Result<Option<Persisted>> {
        self.read(|db, _| {
            let mut persisted = metadata::read(db)?;
            if let Some(since) = metadata::oldest_due(&persisted) {
                persisted.steps = metadata::steps(db, since)?;
            }
            Ok(Some(persisted))
        })
    }

    fn persisted_table(&mut self) -> Result<Option<(Persisted, Vec<u8>)>> {
        let (persisted, snapshot, unpersisted) = self.read(|db, place| {
            Ok((
                metadata::read(db)?,
                table::snapshot(db, place)?,
                metadata::unpersisted(db)?,
            ))
        })?;
        let body = metadata::body(&persisted.facts, snapshot, unpersisted)?;
        Ok(Some((persisted, body)))
    }

    fn copies_written(&mut self, copies: &[(DiskId, Place)], position: Position) -> Result<()> {
        self.write(|db| {
            let sql = "UPDATE copies SET layout = ?2, generation = ?3, lag = NULL
                       WHERE disk = ?1 AND start = ?4 AND slot = ?5 AND layout <= ?2";
            let mut update = db.prepare_cached(sql)?;
            for (disk, place) in copies {
                update.execute(params![
                    disk.0,
                    position.layout,
                    position.generation.0,
                    place.at,
                    place.slot
                ])?;
            }
            Ok(())
        })
    }

    fn copy_lags(&mut self, disk: DiskId, why: &str) -> Result<()> {
        self.write(|db| {
            let unit = metadata::extent_size(db)?;
            let place = Place::behind_the_label(unit);
            let sql = "INSERT INTO copies (disk, start, slot, layout, generation, lag) VALUES (?1, ?2, ?3, 0, 0, ?4)
                       ON CONFLICT (disk) DO UPDATE SET lag = excluded.lag";
            db.prepare_cached(sql)?
                .execute(params![disk.0, place.at, place.slot, why])?;
            Ok(())
        })
    }

    fn copy_extents(&mut self) -> Result<Vec<Area>> {
        self.read(|db, _| space::of_all_copies(db))
    }

    fn claim_for_copy(&mut self, area: Area) -> Result<()> {
        let lost = self.write(|db| space::claim_for_copy(db, area))?;
        self.sync_if(lost)
    }

    fn copy_placed(&mut self, disk: DiskId, place: Place, position: Position) -> Result<()> {
        self.write(|db| {
            let sql = "INSERT INTO copies (disk, start, slot, layout, generation, lag) VALUES (?1, ?2, ?3, ?4, ?5, NULL)
                       ON CONFLICT (disk) DO UPDATE SET (start, slot, layout, generation, lag)
                       = (excluded.start, excluded.slot, excluded.layout, excluded.generation, NULL)";
            db.prepare_cached(sql)?.execute(params![
                disk.0,
                place.at,
                place.slot,
                position.layout,
                position.generation.0
            ])?;
            let own = place.extents(metadata::extent_size(db)?, disk);
            space::free_of_copies(db, disk, own)
        })
    }

    fn copy_dropped(&mut self, disk: DiskId) -> Result<()> {
        self.write(|db| metadata::forget(db, disk))
    }
}
