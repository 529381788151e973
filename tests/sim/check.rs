//! What must hold at any time.

use super::World;
use super::app::{App, Stage};
use apparatus::store::memory::Extent;
use apparatus::store::{Owner, Store};
use apparatus::units::{DiskExtent, DiskId};
use std::collections::BTreeMap;

impl World {
    /// P6: an extent that a living apparatus's table names belongs to that volume still, or is in quarantine.
    pub fn check_ownership(&mut self) {
        let mut owners: BTreeMap<Extent, Owner> = BTreeMap::new();
        for disk in 1..=self.disks.len() as u32 {
            for one in self.store.uses(DiskId(disk)).unwrap_or_default() {
                for extent in one.area.start.0..one.area.end().0 {
                    let second = owners.insert((DiskId(disk), DiskExtent(extent)), one.owner);
                    self.must(second.is_none(), || {
                        format!(
                            "disk {disk} extent {extent}: two owners, {second:?} and {:?}",
                            one.owner
                        )
                    });
                }
            }
        }
        let mut wrong = None;
        // Drained, with its gate closed, and joined anew: it has the new table, and only lacks the time to load it.
        let reloads = |app: &&App| matches!(app.stage, Stage::Reloading(_)) && app.lanes.is_empty();
        for app in self
            .apps
            .iter()
            .flatten()
            .filter(|app| app.serves() && !reloads(app))
        {
            for (volume, _, home) in app.homes.iter() {
                let owner = owners.get(&home);
                let kept =
                    matches!(owner, Some(Owner::Quarantine(_))) || owner == Some(&Owner::Volume(volume));
                if !kept {
                    wrong = Some(format!(
                        "{} may still use {home:?} for volume {volume}, and it is of {owner:?}",
                        app.name
                    ));
                }
            }
        }
        if let Some(why) = wrong {
            self.fail(why);
        }
    }

    /// P1, P2: every block's history is linearizable.
    pub fn check_history(&mut self) {
        if let Err(why) = self.history.check() {
            self.fail(format!("not linearizable: {why}"));
        }
    }

    pub fn spec_read_begins(&mut self, _id: super::ReqId) {}
    pub fn spec_read_ends(&mut self, _id: super::ReqId, _block: u64, _tag: super::Tag) {}
    pub fn spec_write_begins(&mut self, _place: super::history::Place, _tag: super::Tag) {}
    pub fn spec_write_ends(&mut self, _place: super::history::Place, _tag: super::Tag) {}
}
