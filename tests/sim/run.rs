//! A run of one seed, from the first task to the result.

use super::disk::BLOCKS;
use super::host::{Ask, What};
use super::setup::Options;
use super::thread::{Scheduler, Turn};
use super::{Coverage, Delay, Task, World};
use apparatus::model::job::JobState;
use apparatus::model::units::VolumeId;
use apparatus::store::roles::*;

/// More tasks than any run needs: one that takes so many does not end.
const TASKS: u64 = 400_000;
/// And so much time to come to rest.
const REST_US: u64 = 3_000_000;

/// What a run waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    until: Until,
    begun: u64,
    tasks: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Until {
    /// This time.
    Time(u64),
    #[default]
    Rest,
    Idle,
}

/// What a seed showed.
pub fn run(options: Options) -> Result<Coverage, String> {
    let seed = options.seed;
    let (world, scheduler) = Scheduler::new(Box::new(World::new(options)));
    let mut world = phases(world, &scheduler);
    let coverage = std::mem::take(&mut world.coverage);
    let failure = world.failure.take();
    // Threads that are left end when their batons are dropped.
    drop(world);
    failure.map_or(Ok(coverage), |why| Err(format!("seed {seed}: {why}")))
}

fn phases(mut world: Box<World>, scheduler: &Scheduler) -> Box<World> {
    world.after(None, Delay::Exactly(300), Task::Vctl);
    let first = world.options.chaos.every_us;
    world.after(None, Delay::Exactly(first), Task::Chaos);
    let until = Until::Time(world.options.until);
    world.begin_phase(until);
    world = scheduler.run(world);
    if world.failure.is_none() {
        world.settle();
        world.begin_phase(Until::Rest);
        world = scheduler.run(world);
    }
    if world.failure.is_none() {
        world.read_everything();
        world.begin_phase(Until::Idle);
        world = scheduler.run(world);
    }
    if world.failure.is_none() {
        world.check_history();
        world.check_ownership();
    }
    world
}

impl World {
    fn begin_phase(&mut self, until: Until) {
        self.phase = Phase {
            until,
            begun: self.now,
            tasks: 0,
        };
    }

    fn phase_is_over(&self) -> bool {
        match self.phase.until {
            Until::Time(until) => self.now >= until,
            Until::Rest => self.at_rest(),
            Until::Idle => self.idle(),
        }
    }

    /// Has things happen until a driver is to go on, or the phase is over.
    pub fn turn(&mut self) -> Turn {
        loop {
            if self.failure.is_some() || self.phase_is_over() {
                return Turn::Over;
            }
            let Some((&key, _)) = self.queue.first_key_value() else {
                self.fail(format!("nothing more happens\n{}", self.describe_state()));
                continue;
            };
            self.happen(key);
            self.attend();
            self.check_holds();
            self.phase.tasks += 1;
            if self.phase.tasks > TASKS || self.now > self.phase.begun + REST_US {
                self.fail(format!("does not come to rest\n{}", self.describe_state()));
                continue;
            }
            if let Some(id) = self.resumed.take() {
                return Turn::Thread(id);
            }
        }
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
            self.beats.insert(proc, self.now);
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
            let drivers: Vec<_> = self.drivers.keys().copied().collect();
            drivers.into_iter().for_each(|id| self.kill_ctl(id));
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
        let calm = |app: &super::app::App| app.is_calm() && app.placed.is_empty() && app.is_drained();
        let stuck = |app: &super::app::App| self.stopped.contains(&app.proc);
        let calm_or_stuck = |app: &super::app::App| stuck(app) || calm(app);
        let asked = || self.reqs.values().any(|req| !self.stopped.contains(&req.proc));
        let mut apps = self.apps.iter();
        self.drivers.is_empty()
            && !asked()
            && apps.all(|app| app.as_ref().is_some_and(|app| calm_or_stuck(app)))
            && !self.work_left()
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
        let placements = self.store.placements();
        let sizes = placements.volumes().map(|volume| {
            (
                volume.id,
                placements
                    .segments(volume.id)
                    .last()
                    .map_or(0, |last| last.end().0),
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

    pub fn describe_state(&self) -> String {
        let mut out = format!(
            "time {}, tasks {}, lock {:?}\n",
            self.now,
            self.queue.len(),
            self.lock
        );
        for app in self.apps.iter().flatten() {
            out += &format!(
                "{} {:?} stage {:?} {:?} lanes {:?} strays {:?} {:?}\n",
                app.name,
                app.proc,
                stage(&app.stage),
                app.served,
                app.lanes.len(),
                app.strays,
                app.agent
            );
        }
        for driver in self.drivers.values() {
            out += &format!("{driver:?}\n");
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
        Stage::Rejoining(_) => "rejoining",
        Stage::Reloading(_) => "reloading",
    }
}
