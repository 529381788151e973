//! Power fails: page cache, transactions that were not synced and all processes are lost, and the machine comes up as another boot.

use super::disk::BLOCKS;
use super::history::{Place, Tag};
use super::ledger::Ledger;
use super::{Delay, Row, Task, World, past, spec};
use apparatus::blockdev::label::choose;
use apparatus::model::job::JobState;
use apparatus::store::memory::Placements;
use apparatus::store::roles::*;
use std::collections::BTreeMap;
use std::sync::Arc;

impl World {
    /// By chance: each block keeps any of its values since the last flush, and the store any prefix of its transactions.
    pub fn power_loss(&mut self) {
        self.count("power losses");
        self.check_history();
        if self.failure.is_some() {
            return;
        }
        let mut rng = self.rng.clone();
        for disk in &mut self.disks {
            disk.power_loss(|_, choices| Some(rng.below(choices as u64) as usize));
        }
        self.rng = rng;
        let jobs = self.store.jobs().unwrap_or_default();
        if jobs
            .iter()
            .any(|job| job.back && job.state == JobState::RollingBack)
        {
            self.count("power losses on a planned way back");
        }
        let unsynced = self.store.unsynced() as u64;
        let keep = self.rng.below(unsynced + 1) as usize;
        if (keep as u64) < unsynced {
            self.count("power losses with transactions lost");
        }
        self.lose_power(keep);
        self.check_labels();
        let placements = self.next_boot_finds();
        let holds = self.holds(&placements);
        self.check_survivors(&placements, &holds);
        for index in 0..self.apps.len() {
            let pause = self.rng.between(10, 3_000);
            self.after(None, Delay::Exactly(pause), Task::Start(index));
        }
    }

    /// No label is ahead of the database: the next boot would take that for an older copy.
    fn check_labels(&mut self) {
        let layout = self.store.header().map_or(0, |header| header.layout);
        let ahead = |copies| choose(copies).is_ok_and(|(label, _)| label.layout > layout);
        let any = self.labels.iter().any(ahead);
        self.must(!any, || {
            format!("after power loss a label is ahead of the database, which has layout {layout}")
        });
    }

    /// What is left of the machine, without its disks.
    fn lose_power(&mut self, keep: usize) {
        self.boots += 1;
        self.store.power_loss(keep, self.boot());
        self.forget_everything();
        self.forget_copied();
    }

    fn forget_everything(&mut self) {
        self.queue
            .retain(|_, entry| matches!(entry.task, Task::Chaos | Task::Vctl));
        self.waiting.clear();
        self.stopped.clear();
        self.alive.clear();
        let apps: Vec<_> = self.apps.iter_mut().filter_map(Option::take).collect();
        apps.iter().for_each(|app| self.end_data_path(app));
        self.ctls.clear();
        let drivers: Vec<_> = self.drivers.keys().copied().collect();
        drivers.into_iter().for_each(|id| _ = self.remove_driver(id));
        self.beats.clear();
        self.claims.clear();
        self.shown = Default::default();
        self.wires.clear();
        self.reqs.clear();
        self.accesses.clear();
        self.inbox.clear();
        self.late_answers.clear();
        self.ledgers
            .iter_mut()
            .for_each(|ledger| *ledger = Ledger::default());
        self.clients.iter_mut().for_each(|client| client.busy = None);
        self.rows.iter_mut().for_each(|row| *row = Row::default());
        self.lock = None;
    }

    /// The table that the next boot will have.
    fn next_boot_finds(&mut self) -> Arc<Placements> {
        let mut store = self.store.fork();
        let undone = store.recover_epoch(self.boot()).unwrap_or_default();
        if !undone.is_empty() {
            self.count("power losses that took changes back");
        }
        store.placements()
    }

    /// What each block of each volume holds, by this table.
    pub fn holds(&self, placements: &Placements) -> BTreeMap<Place, Tag> {
        let places = places(placements);
        places
            .map(|(place, (disk, block))| (place, self.disks[disk].read(block)))
            .collect()
    }

    /// What the next boot will find has to be something that a disk may hold after power loss.
    fn check_survivors(&mut self, placements: &Placements, holds: &BTreeMap<Place, Tag>) {
        for (&place, &tag) in holds {
            if let Err(why) = self.history.survives(place, tag) {
                self.fail(format!("{why}\n{}", self.history.describe(place)));
            }
        }
        self.history.begin_again(holds);
        self.usable = placements
            .volumes()
            .map(|volume| (volume.id, volume.size.0 / super::host::BLOCK))
            .collect();
    }

    /// The explorer's: how many ways there are to lose power with so many of the unsynced transactions kept.
    pub fn ways_to_lose_power(&self, keep: usize) -> usize {
        let placements = self.placements_after(keep);
        places(&placements)
            .map(|(_, (disk, block))| self.disks[disk].choices(block))
            .product()
    }

    fn placements_after(&self, keep: usize) -> Arc<Placements> {
        let next = self.boots + 1;
        let mut store = self.store.fork();
        store.power_loss(keep, self.boot_of(next));
        _ = store.recover_epoch(self.boot_of(next));
        store.placements()
    }

    /// One of these ways. What no volume's block lies on holds garbage: whoever reads it reads what is not his.
    pub fn lose_power_so(&mut self, keep: usize, mut way: usize) {
        let placements = self.placements_after(keep);
        let mut kept: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for (_, (disk, block)) in places(&placements) {
            let choices = self.disks[disk].choices(block);
            kept.insert((disk, block), way % choices);
            way /= choices;
        }
        for (index, disk) in self.disks.iter_mut().enumerate() {
            disk.power_loss(|block, _| kept.get(&(index, block)).copied());
        }
        self.queue.clear();
        self.lose_power(keep);
        _ = self.store.checkpoint();
        self.options.power = false;
        for (place, tag) in self.holds(&placements) {
            if let Some(past) = self.past.remove(&place) {
                let survives = past.survives(tag);
                self.must(survives, || {
                    let (volume, block) = place;
                    format!("after power loss volume {volume} block {block} holds {tag:?}, which a flush had replaced or nobody has written: {past:?}")
                });
            }
            self.spec.insert(place, spec::Block::new(tag));
        }
        for index in 0..self.apps.len() {
            self.after(None, Delay::Step, Task::Start(index));
        }
        self.after(None, Delay::Step, Task::Vctl);
    }

    /// The explorer's: power can fail from now on, so what is durable is part of a state.
    pub fn may_lose_power(&mut self) {
        _ = self.store.checkpoint();
        self.options.power = true;
        let holds = self.holds(&self.store.placements());
        self.past = holds
            .into_iter()
            .map(|(place, tag)| (place, past::Block::new(tag)))
            .collect();
    }
}

/// Each block of each volume, and where it lies: disk and block.
pub fn places(placements: &Placements) -> impl Iterator<Item = (Place, (usize, u64))> + '_ {
    placements.iter().flat_map(|(volume, extent, (disk, at))| {
        let block = move |into| {
            let place = (volume, extent.0 * BLOCKS + into);
            (place, (disk.0 as usize - 1, at.0 * BLOCKS + into))
        };
        (0..BLOCKS).map(block)
    })
}
