//! The explorer's pool: small, and what rest means in it.

use super::app::App;
use super::chaos::Chaos;
use super::explore::HostRequest;
use super::fault::Fault;
use super::history::History;
use super::host::Ask;
use super::setup::Options;
use super::{Delay, Entry, Task, World, spec};
use apparatus::model::job::{JobState, Step};
use apparatus::model::records::Area;
use apparatus::model::units::{DiskId, Term, VolumeId};
use apparatus::store::roles::*;

impl World {
    /// An apparatus for each host, a volume of so many chunks that a job moves from one disk to another, and what the hosts do meanwhile.
    pub fn small(commands: &[&[HostRequest]], chunks: u64, fault: Option<Fault>) -> Self {
        let mut options = Options::random(0);
        options.chaos = Chaos::default();
        (options.apps, options.clients, options.explore) = (commands.len(), 1, true);
        (options.disks, options.volumes) = (vec![chunks + 1; 2], vec![chunks]);
        options.fault = fault;
        let mut world = Self::new(options);
        world.history = History::default();
        world.history.off = true;
        for (place, tag) in world.holds(&world.store.placements()) {
            world.spec.insert(place, spec::Block::new(tag));
        }
        let volume = VolumeId(1);
        for (client, commands) in commands.iter().enumerate() {
            let ask = |&(what, first, blocks)| Ask {
                what,
                volume,
                first,
                blocks,
            };
            world.clients[client].script = commands.iter().map(ask).collect();
        }
        world.move_all(volume, DiskId(2));
        world.serve_all();
        world.after(None, Delay::Step, Task::Vctl);
        world.eager();
        world
    }

    /// The same, with a job that copies its chunks ahead.
    pub fn small_ahead(commands: &[&[HostRequest]], chunks: u64, fault: Option<Fault>) -> Self {
        let mut world = Self::small(commands, chunks, fault);
        world.options.ahead = true;
        world
    }

    fn move_all(&mut self, volume: VolumeId, disk: DiskId) {
        let from = self.store.placements().segments(volume)[0];
        let to = Area {
            disk,
            ..from.placement
        };
        let steps = [Step {
            volume,
            from,
            to,
            done: 0,
        }];
        self.store
            .create_job(Term(0), &super::jobs::record(volume), &steps)
            .unwrap();
    }

    /// Everyone has joined, and nobody waits for anybody.
    fn serve_all(&mut self) {
        let calm = |app: &App| {
            let agent = app.agent.as_ref();
            agent.is_some_and(|agent| agent.awaited().is_empty())
        };
        let starts = |entry: &Entry| matches!(entry.task, Task::Start(_) | Task::Others(_));
        while !self
            .apps
            .iter()
            .all(|app| app.as_ref().is_some_and(|app| calm(app)))
        {
            let next = self.queue.iter().find(|(_, entry)| starts(entry));
            let Some(key) = next.map(|(&key, _)| key) else {
                return;
            };
            self.happen(key);
        }
    }

    /// Nothing is left to happen: then everyone serves, everything asked is answered, and the volume is moved.
    pub fn must_rest(&self) -> Result<(), String> {
        let calm = |app: &App| app.is_calm() && app.holds.holds() == 0;
        let apps = self
            .apps
            .iter()
            .all(|app| app.as_ref().is_some_and(|app| calm(app)));
        let asked = self.reqs.is_empty() && self.clients.iter().all(|client| client.script.is_empty());
        let moved = self
            .store
            .clone()
            .jobs()
            .unwrap_or_default()
            .iter()
            .all(|job| job.state == JobState::Done);
        let persisted = self.store.clone().unfinished().unwrap_or_default().is_empty();
        let worked = self.ctls.is_empty() && self.lock.is_none();
        if apps && asked && moved && persisted && worked {
            return Ok(());
        }
        Err(format!(
            "ends without rest: apparatuses {apps}, hosts {asked}, moved {moved}, persisted {persisted}, controllers {worked}"
        ))
    }
}
