//! Commands of `vctl` on a schedule.

use crate::plan::{Command, DISKS, Kind, VOLUMES, Verb};
use crate::report::{Failure, Report};
use crate::site::{Ended, Outcome, PATIENCE, Site};
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Size of a volume that is only created and removed.
const SCRATCH: &str = "64K";
/// How long apparatuses may take to catch up with copies of the metadata: they try again after a minute at last.
const COPIES: Duration = Duration::from_secs(150);
/// Each command waits for the controller lock.
const WAIT: &str = "--wait=20s";

/// Creates the pool, its disks, and the volumes that are checked.
pub(crate) fn build(site: &Site) -> Outcome<()> {
    site.must(&["pool", "create", "--extent-size", "64K"])?;
    for disk in 0..DISKS {
        let image = site.image(disk);
        let size = if disk + 1 == DISKS { "40M" } else { "512M" };
        site.must(&["disk", "add", &image.to_string_lossy(), "--create", size])?;
    }
    for volume in 0..VOLUMES {
        site.must(&["volume", "create", &format!("v{volume}-0"), "4M"])?;
    }
    Ok(())
}

/// Runs commands and reports how they end.
pub(crate) struct Admin<'a> {
    pub(crate) site: &'a Site,
    pub(crate) report: &'a Report,
}

impl Admin<'_> {
    /// Runs a command of the schedule.
    pub(crate) fn execute(&self, command: Command) {
        let kill_after = command.kill_after.map(Duration::from_millis);
        let (name, words) = self.words(command.verb);
        let Some(words) = words else {
            self.report.command(name, "not possible");
            return;
        };
        self.run(name, &words, kill_after);
        if let Verb::Evacuate { disk } = command.verb {
            let disk = format!("d{disk}");
            self.run(
                "disk set",
                &strings(["disk", "set", &disk, "--allocate", WAIT]),
                None,
            );
        }
    }

    /// Runs a command, and returns whether it succeeded.
    pub(crate) fn run(&self, name: &'static str, words: &[String], kill_after: Option<Duration>) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self.site.vctl(&words, kill_after) {
            Ok(ended) => self.judge(name, &words, &ended),
            Err(error) => {
                self.report.fail(Failure::Broken, &error);
                false
            }
        }
    }

    fn judge(&self, name: &'static str, words: &[&str], ended: &Ended) -> bool {
        let how = match ended {
            Ended { hung: true, .. } => "hung",
            Ended { killed: true, .. } => "killed",
            Ended { status, .. } => match status {
                Some(0) => "done",
                Some(5) => "done, fenced",
                Some(1) => "failed",
                Some(3) => "not found",
                Some(4) => "busy",
                Some(6) => "timed out",
                Some(7) => "problems",
                Some(8) => "cancelled",
                _ => "broken",
            },
        };
        self.report.command(name, how);
        let described = format!(
            "vctl {}: {how} {:?}: {}{}",
            words.join(" "),
            ended.status,
            ended.err,
            ended.out
        );
        match how {
            "hung" => self.report.fail(Failure::Hung, &described),
            "broken" => self.report.fail(Failure::Broken, &described),
            "killed" => self.report.fault(Kind::KILLED_COMMAND),
            "done" | "done, fenced" => {
                if name == "volume attach" {
                    self.site.remember_loop(&ended.out);
                }
                return true;
            }
            _ => {
                let line = ended.err.lines().chain(ended.out.lines()).next();
                self.report
                    .complaint(&format!("{name}: {}", line.unwrap_or_default()));
            }
        }
        false
    }

    /// Returns the present name of a volume.
    fn name_of(&self, volume: u64) -> Option<String> {
        let listed = self.site.json(&["volume", "list"]).ok()?;
        let is_it = |name: &String| match volume.checked_sub(VOLUMES) {
            None => name.starts_with(&format!("v{volume}-")),
            Some(file_system) => *name == format!("f{file_system}"),
        };
        names(&listed, "volumes").find(is_it)
    }

    /// Returns what the report calls a command, and its words if what it names is there.
    fn words(&self, verb: Verb) -> (&'static str, Option<Vec<String>>) {
        let of = |volume, words: &dyn Fn(&str) -> Vec<String>| self.name_of(volume).map(|name| words(&name));
        match verb {
            Verb::Move {
                volume,
                to,
                background,
            } => {
                let (to, how) = (
                    format!("d{to}"),
                    if background {
                        "--background"
                    } else {
                        "--progress=none"
                    },
                );
                let words =
                    |name: &str| strings(["volume", "move", name, "--to", &to, "--rate", "16M", WAIT, how]);
                ("volume move", of(volume, &words))
            }
            Verb::Evacuate { disk } => {
                let disk = format!("d{disk}");
                ("disk evacuate", Some(strings(["disk", "evacuate", &disk, WAIT])))
            }
            Verb::Grow { volume } => (
                "volume resize",
                of(volume, &|name| strings(["volume", "resize", name, "+64K", WAIT])),
            ),
            Verb::Rename { volume, number } => {
                let new = format!("v{volume}-{number}");
                let words = |name: &str| strings(["volume", "rename", name, &new, WAIT]);
                ("volume rename", of(volume, &words))
            }
            Verb::Hold { volume, all } => {
                let requests = format!("--requests={}", if all { "all" } else { "writes" });
                let words = |name: &str| strings(["volume", "hold", name, "--for", "300ms", &requests, WAIT]);
                ("volume hold", of(volume, &words))
            }
            Verb::Create { number } => {
                let name = format!("t{number}");
                (
                    "volume create",
                    Some(strings(["volume", "create", &name, SCRATCH, WAIT])),
                )
            }
            Verb::Remove { number } => {
                let name = format!("t{number}");
                (
                    "volume remove",
                    Some(strings([
                        "volume",
                        "remove",
                        &name,
                        "--yes",
                        "--cut-off-users",
                        WAIT,
                    ])),
                )
            }
            Verb::Attach { volume } => (
                "volume attach",
                of(volume, &|name| strings(["volume", "attach", name])),
            ),
            Verb::Detach { volume } => (
                "volume detach",
                of(volume, &|name| strings(["volume", "detach", name])),
            ),
            Verb::Check => ("pool check", Some(strings(["pool", "check"]))),
        }
    }

    /// Does what an operator has to do after disks have failed while data was moved to them: nothing on such a disk is persisted until all of
    /// that lies elsewhere. The disks of this program lose nothing but what they have refused, so evacuating is the right way. Where two disks
    /// have lost writes, the evacuation of the first is persisted only with that of the second.
    pub(crate) fn rescue(&self) {
        let end = Instant::now() + 2 * PATIENCE;
        while !self.site.stop.load(Ordering::Relaxed) {
            let lost = self.disks_with_lost_writes();
            if lost.is_empty() {
                return;
            }
            if Instant::now() > end {
                let what = format!("{} still have lost writes", lost.join(", "));
                return self.report.fail(Failure::Broken, &what);
            }
            self.cancel_failed_jobs();
            for name in &lost {
                self.run("disk evacuate", &strings(["disk", "evacuate", name, WAIT]), None);
                let allocate = ["disk", "set", name, "--allocate", WAIT];
                self.run("disk set", &strings(allocate), None);
            }
        }
    }

    fn disks_with_lost_writes(&self) -> Vec<String> {
        let checked = self.site.vctl(&["pool", "check"], None);
        let out = checked.map(|ended| ended.out).unwrap_or_default();
        let names = (0..DISKS).map(|disk| format!("d{disk}"));
        names
            .filter(|name| out.contains(&format!("disk {name}: has lost writes")))
            .collect()
    }

    /// Cancels the jobs that have failed, whose destinations would stay reserved.
    fn cancel_failed_jobs(&self) {
        let Ok(listed) = self.site.json(&["job", "list"]) else {
            return;
        };
        let jobs = listed["jobs"].as_array().into_iter().flatten();
        for job in jobs.filter(|job| job["state"].as_str() == Some("failed")) {
            let id = job["id"].to_string();
            self.run("job cancel", &strings(["job", "cancel", &id, WAIT]), None);
        }
    }

    /// Ends all jobs: those that nobody works on are continued, or cancelled where that fails.
    pub(crate) fn end_jobs(&self) {
        let Ok(listed) = self.site.json(&["job", "list"]) else {
            return;
        };
        for job in listed["jobs"].as_array().into_iter().flatten() {
            let id = job["id"].to_string();
            let state = job["state"].as_str().unwrap_or_default();
            if matches!(state, "done" | "cancelled") {
                continue;
            }
            let owned = !job["abandoned"].as_bool().unwrap_or_default();
            if state == "running" && owned {
                self.run("job wait", &strings(["job", "wait", &id]), None);
            } else if state == "failed"
                || !self.run("job resume", &strings(["job", "resume", &id, WAIT]), None)
            {
                self.run("job cancel", &strings(["job", "cancel", &id, WAIT]), None);
            }
        }
    }

    /// Detaches the loop devices of all volumes.
    pub(crate) fn detach_all(&self) {
        for volume in 0..VOLUMES {
            if let Some(name) = self.name_of(volume) {
                // Most have none, which is no failure.
                let _ = self.site.vctl(&["volume", "detach", &name], None);
            }
        }
    }

    /// Waits until the apparatuses have caught up with the copies of the metadata that faults of disks have left behind.
    fn await_copies(&self) -> Outcome<()> {
        let end = Instant::now() + COPIES;
        loop {
            let status = self.site.vctl(&["status", "--json"], None)?.out;
            if !status.contains("metadata-copy-behind") {
                return Ok(());
            }
            if Instant::now() > end || self.site.stop.load(Ordering::Relaxed) {
                return Err(format!("a copy of the metadata stays behind: {status}"));
            }
            thread::park_timeout(Duration::from_millis(500));
        }
    }

    /// Checks the pool, removes all volumes, and checks that all space is free again.
    pub(crate) fn check_all(&self) -> Outcome<()> {
        self.await_copies()?;
        self.site.must(&["pool", "check"])?;
        let jobs = self.site.json(&["job", "list"])?;
        for job in jobs["jobs"].as_array().into_iter().flatten() {
            if !matches!(job["state"].as_str(), Some("done" | "cancelled")) {
                return Err(format!("a job is left over: {job}"));
            }
        }
        let listed = self.site.json(&["volume", "list"])?;
        for name in names(&listed, "volumes") {
            self.site
                .must(&["volume", "remove", &name, "--yes", "--cut-off-users", WAIT])?;
        }
        self.site.must(&["pool", "check"])?;
        let disks = self.site.json(&["disk", "list"])?;
        for disk in disks["disks"].as_array().into_iter().flatten() {
            for what in ["reserved", "quarantined", "volumes"] {
                if disk[what].as_u64() != Some(0) {
                    return Err(format!("without volumes, a disk is not empty: {disk}"));
                }
            }
        }
        Ok(())
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn names(listed: &Value, of: &str) -> impl Iterator<Item = String> {
    let all = listed[of].as_array().into_iter().flatten();
    all.filter_map(|one| one["name"].as_str().map(str::to_owned))
}
