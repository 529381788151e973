//! A world's fingerprint: two worlds that can go on alike have the same.

use super::World;
use super::app::{App, Stage};
use super::ctl::Todo;
use super::disk::Begun;
use super::driver::Goal;
use super::explore::Budget;
use super::host::Flush;
use std::hash::{Hash, Hasher};

impl World {
    pub fn fingerprint(&self, budget: Budget) -> u64 {
        let mut hasher = Mixer::default();
        budget.hash(&mut hasher);
        let mut tasks: Vec<u64> = self.queue.values().map(hash_of).collect();
        tasks.sort_unstable();
        tasks.hash(&mut hasher);
        self.store.fingerprint().hash(&mut hasher);
        self.disks
            .iter()
            .flat_map(|disk| disk.contents())
            .for_each(|tag| tag.hash(&mut hasher));
        if self.options.power {
            self.hash_what_power_may_take(&mut hasher);
        }
        (
            &self.rows,
            self.lock,
            &self.wires,
            &self.clients,
            &self.reqs,
            &self.spec,
        )
            .hash(&mut hasher);
        self.apps
            .iter()
            .for_each(|app| hash_app(app.as_deref(), &mut hasher));
        for ctl in self.ctls.values() {
            (
                ctl.id,
                ctl.host,
                ctl.goal == Goal::Work,
                ctl.term,
                &ctl.recovery,
                &ctl.changes,
            )
                .hash(&mut hasher);
            (&ctl.todo, &ctl.inbound, ctl.stepping, &ctl.links).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn hash_what_power_may_take(&self, hasher: &mut impl Hasher) {
        (self.store.fingerprint_at_risk(), &self.past).hash(hasher);
        for (index, disk) in self.disks.iter().enumerate() {
            let flushes = self.flushes_of(index);
            disk.at_risk(&flushes).for_each(|at_risk| at_risk.hash(hasher));
        }
    }

    /// The flushes of a disk that are under way.
    fn flushes_of(&self, disk: usize) -> Vec<Begun> {
        let hosts = self.reqs.values().filter_map(|req| match &req.flush {
            Flush::Disks(begun, _) => Some(begun),
            _ => None,
        });
        let todos = self.ctls.values().flat_map(|ctl| &ctl.todo);
        let controllers = todos.filter_map(|todo| match todo {
            Todo::PersistFlush(begun, _) => Some(begun),
            _ => None,
        });
        let all = hosts.chain(controllers).flatten();
        all.filter(|(on, _)| *on == disk)
            .map(|&(_, begun)| begun)
            .collect()
    }
}

/// A quick 64-bit hash: of a million states, two are taken for one with a chance of one in ten million.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 31)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = Mixer::default();
    value.hash(&mut hasher);
    hasher.finish()
}

fn hash_app(app: Option<&App>, hasher: &mut impl Hasher) {
    let Some(app) = app else { return 0.hash(hasher) };
    match &app.stage {
        Stage::Booting => (0, 0),
        Stage::Joining => (1, 0),
        Stage::Loading(joined) => (2, joined.member.incarnation.0),
        Stage::Serving => (3, 0),
        Stage::Rejoining(from) => (5, from.0),
        Stage::Reloading(joined) => (6, joined.member.incarnation.0),
    }
    .hash(hasher);
    (
        app.proc,
        app.slot,
        app.incarnation,
        app.generation,
        &app.placements,
        &app.agent,
    )
        .hash(hasher);
    (
        &app.holds,
        &app.lanes,
        &app.strays,
        &app.settling,
        &app.finding,
        app.wakes,
        app.takeover,
    )
        .hash(hasher);
}
