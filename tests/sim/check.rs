//! What must hold at any time.

use super::app::{App, Stage};
use super::history::Place;
use super::host::{Ask, What};
use super::{ReqId, Tag, World};
use apparatus::model::change::Owner;
use apparatus::model::units::{DiskExtent, DiskId};
use apparatus::store::memory::Extent;
use apparatus::store::roles::*;
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
        // Drained, with its gate closed, and joined anew: it has the new table, and only lacks the time to load it, or the answer.
        let joined = |app: &App| app.unheard || matches!(app.stage, Stage::Reloading(_));
        let reloads = |app: &App| joined(app) && app.is_drained();
        for app in self
            .apps
            .iter()
            .flatten()
            .filter(|app| app.serves() && !reloads(app))
        {
            for (volume, _, placement) in app.placements.iter() {
                let owner = owners.get(&placement);
                let kept =
                    matches!(owner, Some(Owner::Quarantine(_))) || owner == Some(&Owner::Volume(volume));
                if !kept {
                    wrong = Some(format!(
                        "{} may still use {placement:?} for volume {volume}, and it is of {owner:?}",
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

    /// A host has asked for something: from now on a read may be answered with what is there, and what is acknowledged before is older.
    pub fn spec_asked(&mut self, id: ReqId) {
        let Some(ask) = self.reqs.get(&id).map(|req| req.ask) else {
            return;
        };
        match ask.what {
            What::Read => self.spec_read_begins(id),
            What::Write => self.past_of(ask, |past| past.asked_to_write(id.0)),
            What::Flush => self.past_of(ask, |past| past.asked_to_flush(id.0)),
        }
    }

    /// Of the blocks of a request; of all of its volume, for a flush.
    fn past_of(&mut self, ask: Ask, change: impl Fn(&mut super::past::Block)) {
        let blocks = ask.first..ask.first + ask.blocks;
        let meant = |&(volume, block): &Place| {
            volume == ask.volume && (ask.what == What::Flush || blocks.contains(&block))
        };
        let pasts = self.past.iter_mut().filter(|(place, _)| meant(place));
        pasts.for_each(|(_, past)| change(past));
    }

    pub fn spec_flush_ends(&mut self, id: ReqId, ask: Ask) {
        self.past_of(ask, |past| past.flush_acknowledged(id.0));
    }

    fn spec_read_begins(&mut self, id: ReqId) {
        let Some(ask) = self
            .reqs
            .get(&id)
            .map(|req| req.ask)
            .filter(|_| self.options.explore)
        else {
            return;
        };
        for block in ask.first..ask.first + ask.blocks {
            self.spec_at((ask.volume, block), |spec| spec.read_begins((id.0, block)));
        }
    }

    pub fn spec_read_ends(&mut self, id: ReqId, place: Place, tag: Tag) {
        self.spec_at(place, |spec| spec.read_ends((id.0, place.1), tag));
    }

    pub fn spec_write_begins(&mut self, place: Place, tag: Tag) {
        self.spec_at(place, |spec| spec.write_begins(tag));
        if let Some(past) = self.past.get_mut(&place) {
            past.written(tag);
        }
    }

    pub fn spec_write_ends(&mut self, id: ReqId, place: Place, tag: Tag) {
        self.spec_at(place, |spec| spec.write_ends(tag));
        if let Some(past) = self.past.get_mut(&place) {
            past.write_acknowledged(id.0, tag);
        }
    }

    /// The process that was to answer is no more.
    pub fn spec_dies(&mut self, id: ReqId) {
        self.past.values_mut().for_each(|past| past.dies(id.0));
        let Some(ask) = self
            .reqs
            .get(&id)
            .map(|req| req.ask)
            .filter(|ask| ask.what == What::Read)
        else {
            return;
        };
        for block in ask.first..ask.first + ask.blocks {
            self.spec_at((ask.volume, block), |spec| spec.read_dies((id.0, block)));
        }
    }

    fn spec_at(&mut self, place: Place, change: impl FnOnce(&mut super::spec::Block)) {
        if !self.options.explore {
            return;
        }
        let Some(spec) = self.spec.get_mut(&place) else {
            return;
        };
        change(spec);
        let sound = spec.sound();
        self.must(sound, || {
            format!("not linearizable: volume {} block {}", place.0, place.1)
        });
    }
}
