//! What goes wrong: processes are killed, stopped, cut off; power fails.

use super::driver::Goal;
use super::host::What;
use super::{Delay, ProcId, Task, World};

/// How often, in thousandths of the occasions.
#[derive(Clone, Debug, Default)]
pub struct Chaos {
    /// Time between two troubles, in microseconds; none if 0.
    pub every_us: u64,
    /// Weights of the troubles.
    pub kill_app: u64,
    pub kill_ctl: u64,
    pub stop_app: u64,
    pub stop_ctl: u64,
    pub cut: u64,
    pub power: u64,
    /// Of messages and disk accesses.
    pub slow: u64,
    pub drop: u64,
    pub double: u64,
    pub disk_refused: u64,
    pub disk_slow: u64,
    pub store_fails: u64,
    /// Death or a stop right after a step of the protocol.
    pub crash_points: u64,
}

impl World {
    pub fn chaos(&mut self) {
        if self.ending || self.options.chaos.every_us == 0 {
            return;
        }
        let every = self.options.chaos.every_us;
        let next = self.rng.between(every / 4, every * 2);
        let chaos = self.options.chaos.clone();
        let weights = [
            chaos.kill_app,
            chaos.kill_ctl,
            chaos.stop_app,
            chaos.stop_ctl,
            chaos.cut,
            chaos.power,
        ];
        let total: u64 = weights.iter().sum();
        if total > 0 {
            let mut at = self.rng.below(total);
            let mut chosen = 0;
            while at >= weights[chosen] {
                at -= weights[chosen];
                chosen += 1;
            }
            self.trouble(chosen);
        }
        self.after(None, Delay::Exactly(next), Task::Chaos);
    }

    fn trouble(&mut self, which: usize) {
        let apps: Vec<usize> = (0..self.apps.len())
            .filter(|&index| self.apps[index].is_some())
            .collect();
        let ctls: Vec<ProcId> = self.drivers.keys().copied().collect();
        match which {
            0 => {
                if let Some(&index) = self.rng.pick(&apps) {
                    self.kill_app(index);
                }
            }
            1 => {
                if let Some(&id) = self.rng.pick(&ctls) {
                    self.kill_ctl(id);
                }
            }
            2 => {
                let procs: Vec<ProcId> = self.apps.iter().flatten().map(|app| app.proc).collect();
                if let Some(&proc) = self.rng.pick(&procs) {
                    self.count("apparatuses stopped");
                    self.stop(proc);
                }
            }
            3 => {
                if let Some(&id) = self.rng.pick(&ctls) {
                    self.count("controllers stopped");
                    self.stop(id);
                }
            }
            4 => {
                let links: Vec<_> = self.wires.keys().copied().collect();
                if let Some(&link) = self.rng.pick(&links) {
                    self.count("connections cut");
                    self.cut(link);
                }
            }
            _ => self.power_loss(),
        }
    }

    /// `kill -9`. What the kernel had begun for it ends, done or not; then it is no more.
    pub fn kill_app(&mut self, index: usize) {
        let Some(app) = self.apps[index].take() else {
            return;
        };
        self.count("apparatuses killed");
        let theirs: Vec<_> = self
            .reqs
            .iter()
            .filter(|(_, req)| req.proc == app.proc)
            .map(|(&id, _)| id)
            .collect();
        self.last_accesses_of(app.proc);
        self.end_data_path(&app);
        for id in theirs {
            self.last_accesses(id);
            self.spec_dies(id);
            if let Some(req) = self.reqs.remove(&id) {
                self.clients[req.client].busy = None;
            }
        }
        self.end_of(app.proc);
        let hosted = self.hosted(index);
        hosted.into_iter().for_each(|id| self.kill_ctl(id));
        let pause = if self.options.explore {
            0
        } else {
            self.rng.between(100, 6_000)
        };
        self.after(None, Delay::Exactly(pause), Task::Start(index));
    }

    /// Now and then a process dies, or is stopped, right after a step of the protocol.
    pub fn maybe_kill_app(&mut self, index: usize) {
        let crash = self.options.chaos.crash_points;
        if !self.options.explore
            && self.rng.permille(crash)
            && let Some(proc) = self.apps[index].as_ref().map(|app| app.proc)
        {
            if self.rng.permille(500) {
                self.after(None, Delay::Exactly(0), Task::Kill(index, proc));
            } else {
                self.count("apparatuses stopped at a step");
                self.stop(proc);
            }
        }
    }

    pub fn kill_at_step(&mut self, index: usize, proc: ProcId) {
        if self.apps[index].as_ref().is_some_and(|app| app.proc == proc) {
            self.count("apparatuses killed at a step");
            self.kill_app(index);
        }
    }

    /// The explorer's: disk accesses that are under way take place, or do not.
    fn last_accesses(&mut self, id: super::ReqId) {
        let Some(req) = self.reqs.get(&id).filter(|req| req.ask.what == What::Write) else {
            return;
        };
        for index in 0..req.pieces.len() {
            if self.options.lands {
                self.io(id, index);
            }
        }
    }

    pub fn kill_ctl(&mut self, id: ProcId) {
        let driver = self.remove_driver(id);
        if driver.is_none() && self.ctls.remove(&id).is_none() {
            return;
        }
        self.count("controllers killed");
        let applying = |driver: super::driver::Driver| driver.asked.values().any(|asked| asked.applying);
        if driver.is_some_and(applying) {
            self.count("controllers killed while applying");
        }
        self.end_of(id);
        if self.lock == Some(id) {
            self.lock = None;
        }
    }

    /// The controllers in the process of this apparatus.
    fn hosted(&self, index: usize) -> Vec<ProcId> {
        let ctls = self.ctls.values().map(|ctl| (ctl.id, ctl.host));
        let drivers = self.drivers.values().map(|driver| (driver.id, driver.host));
        let all = ctls.chain(drivers);
        all.filter(|(_, host)| *host == Some(index))
            .map(|(id, _)| id)
            .collect()
    }

    fn end_of(&mut self, proc: ProcId) {
        self.alive.remove(&proc);
        self.stopped.remove(&proc);
        self.beats.remove(&proc);
        self.waiting.retain(|entry| entry.owner != Some(proc));
        self.hang_up(proc);
    }

    /// SIGSTOP, with everything that runs in the process; SIGCONT some time later.
    fn stop(&mut self, proc: ProcId) {
        let index = self
            .apps
            .iter()
            .position(|app| app.as_ref().is_some_and(|app| app.proc == proc));
        let hosted = index.map(|index| self.hosted(index)).unwrap_or_default();
        let all: Vec<ProcId> = hosted.into_iter().chain([proc]).collect();
        let pause = self.rng.between(500, 25_000);
        self.delay_accesses(proc);
        for proc in all {
            self.stopped.insert(proc);
            self.beats.insert(proc, self.now);
            self.after(None, Delay::Exactly(pause), Task::Thaw(proc));
        }
    }

    /// Disk accesses of a process that is stopped take their time: some outlast the fence that it earns.
    fn delay_accesses(&mut self, proc: ProcId) {
        let theirs = |entry: &super::Entry| match entry.task {
            Task::Access(id) => self.accesses.get(&id).is_some_and(|access| access.proc == proc),
            _ => false,
        };
        let keys: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, entry)| theirs(entry))
            .map(|(&key, _)| key)
            .collect();
        for key in keys {
            if self.rng.permille(500)
                && let Some(entry) = self.queue.remove(&key)
            {
                let later = self.rng.between(500, 20_000);
                self.after(entry.owner, Delay::Exactly(later), entry.task);
            }
        }
    }

    pub fn thaw(&mut self, proc: ProcId) {
        if !self.stopped.remove(&proc) {
            return;
        }
        let now = self.now;
        self.beats.remove(&proc);
        if let Some(app) = self.apps.iter_mut().flatten().find(|app| app.proc == proc) {
            app.awake = now;
        }
        let mut rest = Vec::new();
        for entry in std::mem::take(&mut self.waiting) {
            if entry.owner == Some(proc) {
                self.after(entry.owner, Delay::Step, entry.task);
            } else {
                rest.push(entry);
            }
        }
        self.waiting = rest;
    }

    /// Somebody runs `vctl`, in a process of its own or in an apparatus; again and again.
    pub fn vctl(&mut self) {
        if self.options.explore {
            if !self.ctls.values().any(|ctl| ctl.goal == Goal::Work) {
                self.new_ctl(Goal::Work, None);
            }
        } else {
            // Now and then there are two, which take turns. Faults are looked for with one.
            let at_work = self
                .drivers
                .values()
                .filter(|driver| driver.goal == Goal::Work)
                .count();
            let second = at_work == 1 && self.options.fault.is_none() && self.rng.permille(400);
            if at_work == 0 || (second && !self.ending) {
                let host = if self.ending { None } else { self.host_of_job() };
                self.new_driver(Goal::Work, host);
            }
            let most = self.options.vctl_us;
            let pause = self.rng.between(500, most);
            self.after(None, Delay::Exactly(pause), Task::Vctl);
        }
    }

    fn host_of_job(&mut self) -> Option<usize> {
        let serving = |index: &usize| self.apps[*index].as_ref().is_some_and(|app| app.serves());
        let apps: Vec<usize> = (0..self.apps.len()).filter(serving).collect();
        let background = !self.options.explore && self.rng.permille(300);
        let index = self.rng.pick(&apps).copied().filter(|_| background)?;
        let stopped = self.apps[index]
            .as_ref()
            .is_some_and(|app| self.stopped.contains(&app.proc));
        (!stopped).then_some(index)
    }
}
