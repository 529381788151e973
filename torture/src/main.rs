//! Works on a pool with hosts, commands and faults at the same time, and checks each block.
//!
//! A seed gives one schedule of commands and faults. The exit status is 1 if something was lost, stale, foreign, hung or broken, or
//! failed with an error that no fault explains.

mod admin;
mod block;
mod clients;
mod filesystem;
mod hosts;
mod ledger;
mod nemesis;
mod plan;
mod process;
mod report;
mod site;
mod weather;

use admin::Admin;
use clap::Parser;
use filesystem::{FileSystemHost, KINDS};
use hosts::Hosts;
use nemesis::Nemesis;
use plan::{APPARATUSES, Kind, Plan, Timed};
use report::{Failure, Report};
use site::{Outcome, PATIENCE, Site};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weather::Weather;

/// Works on a pool with hosts, commands and faults at the same time, and checks each block.
#[derive(Parser, Debug)]
struct Arguments {
    /// How long hosts, commands and faults go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of the schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the temporary directory is made; it takes up to 300 MiB
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Copies the logs and the database there when something failed
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Give the apparatuses supervisors, and kill a server under its supervisor each second besides: hosts must not notice
    #[arg(long)]
    supervisor: bool,
    /// Print the schedule and do nothing
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = Plan::new(arguments.seed, arguments.seconds);
    if arguments.plan {
        print!("{plan}");
        return ExitCode::SUCCESS;
    }
    match run(&arguments, &plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the schedule and returns whether nothing failed.
fn run(arguments: &Arguments, plan: &Plan) -> Outcome<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|error| error.to_string())?;
    }
    let site = Site::set(&arguments.dir, Arc::clone(&stop), arguments.supervisor)?;
    let site = Arc::new(site);
    let asked = Arc::downgrade(&site);
    let ask_for_losses = move || asked.upgrade().is_some_and(|site| site.has_reported_losses());
    let run = Run {
        site,
        weather: Arc::new(Weather::new(Box::new(ask_for_losses))),
        report: Arc::new(Report::new(Arc::clone(&stop))),
    };
    if !run.site.own_filesystems {
        eprintln!("full file systems are passed over: they take root, loop devices and e2fsprogs");
    }
    if !nemesis::DISKS_CAN_FAIL {
        eprintln!("disks that fail are passed over: they take debug programs");
    }
    admin::build(&run.site)?;
    (0..APPARATUSES).try_for_each(|apparatus| run.site.start(apparatus))?;
    let mounts = (0..APPARATUSES)
        .map(|apparatus| run.site.mount(apparatus))
        .collect();
    let mut file_systems = run.make_file_systems(arguments.seed)?;
    let (weather, report) = (Arc::clone(&run.weather), Arc::clone(&run.report));
    let hosts = Hosts::start(mounts, weather, report, arguments.seed);
    let mut hosts = hosts.map_err(|error| error.to_string())?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for host in &mut file_systems {
            scope.spawn(|| host.work(&over));
        }
        let (crashing, is_over) = (arguments.supervisor, AtomicBool::new(false));
        thread::scope(|inner| {
            if crashing {
                inner.spawn(|| run.crash_servers(&is_over));
            }
            run.follow(plan, Duration::from_secs(arguments.seconds));
            is_over.store(true, Ordering::SeqCst);
        });
        run.nemesis().heal();
        over.store(true, Ordering::SeqCst);
    });
    drop(file_systems);
    run.finish(&mut hosts);
    println!("seed {}, {} s\n{}", arguments.seed, arguments.seconds, run.report);
    if let Some(keep) = arguments.keep.as_ref().filter(|_| !run.report.is_clean()) {
        run.site.keep_logs(keep)?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err("a signal ended it before everything was checked".into());
    }
    Ok(run.report.is_clean())
}

/// A run under way.
struct Run {
    site: Arc<Site>,
    weather: Arc<Weather>,
    report: Arc<Report>,
}

impl Run {
    fn nemesis(&self) -> Nemesis<'_> {
        Nemesis {
            site: &self.site,
            weather: &self.weather,
            report: &self.report,
        }
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            site: &self.site,
            report: &self.report,
        }
    }

    /// Makes the volumes with file systems, if that is possible here, and mounts them.
    fn make_file_systems(&self, seed: u64) -> Outcome<Vec<FileSystemHost<'_>>> {
        if let Some(why) = filesystem::missing(&self.site) {
            eprintln!("file systems on loop devices are passed over: {why}");
            return Ok(Vec::new());
        }
        let mut made = Vec::new();
        for (index, kind) in KINDS.iter().enumerate() {
            self.site.must(&["volume", "create", kind.volume, kind.size])?;
            let mut host = FileSystemHost::new(index, &self.site, &self.weather, &self.report, seed);
            host.make()?;
            made.push(host);
        }
        Ok(made)
    }

    /// Follows the schedule to its end.
    fn follow(&self, plan: &Plan, length: Duration) {
        let end = Instant::now() + length;
        thread::scope(|scope| {
            scope.spawn(|| self.lane(&plan.moves, end, &|command| self.admin().execute(command)));
            scope.spawn(|| self.lane(&plan.others, end, &|command| self.admin().execute(command)));
            let wait = |lasts| self.wait_until(Instant::now() + Duration::from_millis(lasts));
            self.lane(&plan.faults, end, &|fault| self.nemesis().strike(fault, &wait));
        });
    }

    /// Kills the servers of the apparatuses in turn, one each second, until it is over.
    fn crash_servers(&self, is_over: &AtomicBool) {
        for apparatus in (0..APPARATUSES).cycle() {
            self.wait_until(Instant::now() + Duration::from_secs(1));
            if is_over.load(Ordering::SeqCst) || self.site.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.site.crash(apparatus) {
                self.report.fault(Kind::CRASH);
            }
        }
    }

    /// Does one thing after the other, none before its time and none after the end.
    fn lane<T: Copy>(&self, all: &[Timed<T>], end: Instant, act: &dyn Fn(T)) {
        let start = Instant::now();
        for one in all {
            self.wait_until(start + Duration::from_millis(one.at));
            if Instant::now() >= end || self.site.stop.load(Ordering::Relaxed) {
                return;
            }
            act(one.what);
        }
        self.wait_until(end);
    }

    /// Waits, unless the program is to end.
    fn wait_until(&self, end: Instant) {
        let slice = Duration::from_millis(50);
        while !self.site.stop.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left.min(slice));
        }
    }

    /// Ends all jobs and hosts, and checks everything. No fault is active any more.
    fn finish(&self, hosts: &mut Hosts) {
        if self.site.stop.load(Ordering::Relaxed) {
            return;
        }
        self.admin().detach_all();
        self.admin().end_jobs();
        self.admin().rescue();
        if hosts.end(PATIENCE) {
            hosts.verify(2 * PATIENCE);
        }
        if let Err(error) = self.admin().check_all().and_then(|()| self.stop_all()) {
            self.report.fail(Failure::Broken, &error);
        }
    }

    /// Ends the apparatuses in good order, and checks the pool without them.
    fn stop_all(&self) -> Outcome<()> {
        for pid in self.site.pids() {
            if process::is_stuck(pid) {
                let what = format!("process {pid} waits inside the kernel");
                self.report.fail(Failure::Hung, &what);
            }
        }
        for apparatus in 0..APPARATUSES {
            self.site.must(&["apparatus", "stop", &format!("a{apparatus}")])?;
            self.site.ended(apparatus)?;
        }
        self.site.must(&["pool", "check"]).map(|_| ())
    }
}
