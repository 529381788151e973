//! A run of one seed, from the first task to the verdict.

use super::disk::BLOCKS;
use super::host::{Ask, What};
use super::setup::Options;
use super::{Coverage, Delay, Task, World};
use apparatus::change::participant::Standing;
use apparatus::store::{JobState, Store};
use apparatus::units::VolumeId;

/// More tasks than any run needs: one that takes so many does not end.
const TASKS: usize = 400_000;
/// And so much time to come to rest.
const REST_US: u64 = 3_000_000;

/// What a seed showed.
pub fn run(options: Options) -> Result<Coverage, String> {
    let seed = options.seed;
    let mut world = World::new(options);
    match world.run() {
        Ok(()) => Ok(world.coverage),
        Err(why) => Err(format!("seed {seed}: {why}")),
    }
}

impl World {
    pub fn run(&mut self) -> Result<(), String> {
        self.after(None, Delay::Exactly(300), Task::Vctl);
        let first = self.options.chaos.every_us;
        self.after(None, Delay::Exactly(first), Task::Chaos);
        let until = self.options.until;
        self.run_until(|world| world.now >= until)?;
        self.settle();
        self.run_until(World::at_rest)?;
        self.read_everything();
        self.run_until(World::idle)?;
        self.check_history();
        self.check_ownership();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let (begun, mut tasks) = (self.now, 0);
        while !done(self) {
            let Some((&key, _)) = self.queue.first_key_value() else {
                return Err(format!("nothing more happens\n{}", self.tell_state()));
            };
            self.happen(key);
            self.check_holds();
            tasks += 1;
            if let Some(why) = self.failure.take() {
                return Err(why);
            }
            if tasks > TASKS || self.now > begun + REST_US {
                return Err(format!("does not come to rest\n{}", self.tell_state()));
            }
        }
        Ok(())
    }

    /// No more trouble: everybody lives and runs, and what was begun is ended. Sometimes one apparatus is stopped for good:
    /// nobody else may wait for it.
    fn settle(&mut self) {
        self.ending = true;
        let last = self.apps.len() - 1;
        let stuck = last > 0 && self.rng.permille(250);
        let stopped: Vec<_> = self.stopped.iter().copied().collect();
        stopped.into_iter().for_each(|proc| self.thaw(proc));
        self.options.chaos = super::chaos::Chaos::default();
        self.leave_it_there();
        if let Some(proc) = self.apps[last].as_ref().map(|app| app.proc).filter(|_| stuck) {
            self.count("apparatuses stopped for good");
            self.stopped.insert(proc);
        }
        for index in 0..self.apps.len() {
            if self.apps[index].is_none() {
                self.after(None, Delay::Step, Task::Start(index));
            }
        }
    }

    /// Sometimes the last controller dies now, and nobody goes on with its jobs: what it leaves has to be put right all the same.
    fn leave_it_there(&mut self) {
        if self.rng.permille(500) {
            let ctls: Vec<_> = self.ctls.keys().copied().collect();
            ctls.into_iter().for_each(|id| self.kill_ctl(id));
        }
        if self.rng.permille(500) {
            for job in self.store.jobs().unwrap_or_default() {
                _ = self
                    .store
                    .set_job_state(job.id, JobState::Running, JobState::Cancelled, "");
            }
        }
    }

    /// Everyone serves, nothing is held or asked, no controller runs and none is needed.
    fn at_rest(&self) -> bool {
        let calm = |app: &super::app::App| {
            let standing = app
                .machine
                .as_ref()
                .is_some_and(|machine| machine.standing() == Standing::Serving && machine.holds() == 0);
            standing && app.holds.holds() == 0 && app.lanes.is_empty() && app.strays.is_empty()
        };
        let stuck = |app: &super::app::App| self.stopped.contains(&app.proc);
        let apps = self
            .apps
            .iter()
            .all(|app| app.as_ref().is_some_and(|app| stuck(app) || calm(app)));
        let asked = self.reqs.values().any(|req| !self.stopped.contains(&req.proc));
        apps && !asked && self.ctls.is_empty() && !self.work_left()
    }

    fn work_left(&self) -> bool {
        let mut store = self.store.clone();
        let running = store
            .jobs()
            .unwrap_or_default()
            .iter()
            .any(|job| matches!(job.state, JobState::Running | JobState::RollingBack));
        running || !store.unfinished().unwrap_or_default().is_empty()
    }

    fn idle(&self) -> bool {
        let stuck = |client: &super::host::Client| {
            self.apps[client.app]
                .as_ref()
                .is_some_and(|app| self.stopped.contains(&app.proc))
        };
        self.clients
            .iter()
            .all(|client| stuck(client) || (client.script.is_empty() && client.busy.is_none()))
    }

    /// Through every apparatus.
    fn read_everything(&mut self) {
        let homes = self.store.homes();
        let sizes = homes.volumes().map(|volume| {
            (
                volume.id,
                homes.segments(volume.id).last().map_or(0, |last| last.end().0),
            )
        });
        let sizes: Vec<(VolumeId, u64)> = sizes.collect();
        for client in 0..self.options.apps {
            for &(volume, extents) in &sizes {
                let asks = (0..extents * BLOCKS).map(|first| Ask {
                    what: What::Read,
                    volume,
                    first,
                    blocks: 1,
                });
                self.clients[client].script.extend(asks);
            }
            self.after(None, Delay::Step, Task::Issue(client));
        }
    }

    pub fn tell_state(&self) -> String {
        let mut out = format!(
            "time {}, tasks {}, lock {:?}\n",
            self.now,
            self.queue.len(),
            self.lock
        );
        for app in self.apps.iter().flatten() {
            out += &format!(
                "{} {:?} stage {:?} lanes {:?} strays {:?} machine {:?}\n",
                app.name,
                app.proc,
                stage(&app.stage),
                app.lanes.len(),
                app.strays,
                app.machine
            );
        }
        for ctl in self.ctls.values() {
            out += &format!(
                "{:?} {:?} todo {:?} heard {:?} changes {:?}\n",
                ctl.id,
                ctl.goal,
                ctl.todo,
                ctl.heard,
                ctl.changes
                    .values()
                    .map(|change| change.machine.state())
                    .collect::<Vec<_>>()
            );
        }
        out += &format!("reqs {:?}\n", self.reqs);
        out
    }
}

fn stage(stage: &super::app::Stage) -> &'static str {
    use super::app::Stage;
    match stage {
        Stage::Booting => "booting",
        Stage::Joining => "joining",
        Stage::Loading(_) => "loading",
        Stage::Serving => "serving",
        Stage::Draining => "draining",
        Stage::Rejoining => "rejoining",
        Stage::Reloading(_) => "reloading",
    }
}
