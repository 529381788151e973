//! `vctl demo`: the main task from nothing to a verified move, by the commands that an operator would type.

mod filesystem;
mod hosts;
mod stage;

use crate::context::Context;
use crate::exit::{Done, status_of};
use crate::output::{duration, note, size};
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::holds::Holds;
use apparatus::model::job::JobRecord;
use apparatus::model::size::parse as parse_size;
use apparatus::model::units::ByteCount;
use clap::Args;
use hosts::{HostReport, Hosts};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use stage::DemoDirs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The name of the demo's volume.
const VOLUME: &str = "demo";

/// `vctl demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// Size of the volume, a whole number of MiB
    #[arg(long, default_value = "256M", value_name = "SIZE", value_parser = parse_size)]
    size: ByteCount,
    /// How many times it is moved there and back
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// The results of the demo; times in microseconds.
#[derive(Serialize)]
struct DemoFigures {
    volume_bytes: u64,
    moves: u32,
    moved_bytes: u64,
    copied_bytes: u64,
    moving_us: u64,
    bytes_per_second: u64,
    host_requests: u64,
    host_requests_while_moving: u64,
    held_requests: u64,
    longest_host_latency_us: u64,
    longest_hold_us: u64,
    median_hold_us: u64,
    p99_hold_us: u64,
    errors: u64,
    lost_writes: u64,
    file_system: Option<bool>,
}

impl Demo {
    /// Runs the demo and removes everything it made, also after Ctrl-C.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        const MIB: u64 = 1 << 20;
        if self.size.0 == 0 || !self.size.0.is_multiple_of(MIB) {
            let what = format!("size {}", self.size);
            return Err(Error::usage(what, "is not a whole number of MiB").hint("--size 256M"));
        }
        let stage = DemoDirs::set(stop_flag()?, context.out.style().json)?;
        let figures = self.play(&stage)?;
        drop(stage);
        context.out.say(&figures, |out| {
            text_lines(&figures).iter().for_each(|line| out.line(line));
            Ok(())
        })?;
        let right = figures.errors == 0 && figures.lost_writes == 0 && figures.file_system != Some(false);
        Ok(if right {
            Done::Plainly
        } else {
            Done::Of(status_of(ErrorKind::Failed))
        })
    }

    fn play(&self, stage: &DemoDirs) -> Result<DemoFigures> {
        // One disk has room for two volumes of this size, and its label.
        let disk_size = (self.size.0 * 2 + (64 << 20)).to_string();
        stage.vctl(&["pool", "create"])?;
        for image in ["d1.img", "d2.img"] {
            stage.vctl(&["disk", "add", &stage.scratch(image), "--create", &disk_size])?;
        }
        stage.vctl(&["volume", "create", VOLUME, &self.size.to_string(), "--on", "d1"])?;
        for apparatus in ["a1", "a2"] {
            stage.vctl(&["apparatus", "start", apparatus, &stage.mount(apparatus)])?;
        }
        let figures = self.moves_under_load(stage)?;
        let file_system = filesystem::play(stage, self.size)?;
        Ok(DemoFigures {
            file_system,
            ..figures
        })
    }

    fn moves_under_load(&self, stage: &DemoDirs) -> Result<DemoFigures> {
        let files = ["a1", "a2"].map(|apparatus| stage.file(apparatus, VOLUME));
        stage.say("fill it through a1, then write and verify through a1 and a2 from four threads");
        let hosts = Hosts::start(&files, self.size.0)?;
        let mut moving = Duration::ZERO;
        let mut requests = 0;
        for disk in ["d2", "d1"].into_iter().cycle().take(self.moves()) {
            let (began, before) = (Instant::now(), hosts.requests());
            stage.vctl(&["volume", "move", VOLUME, "--to", disk])?;
            moving += began.elapsed();
            requests += hosts.requests() - before;
        }
        let report = hosts.finish()?;
        stage.say("compared: every block is what was last acknowledged, through both");
        let jobs = stage.store()?.jobs()?;
        let records: Vec<&JobRecord> = jobs.iter().collect();
        Ok(self.figures(&records, &report, moving, requests))
    }

    fn moves(&self) -> usize {
        usize::try_from(self.rounds).unwrap_or(1) * 2
    }

    fn figures(
        &self,
        jobs: &[&JobRecord],
        report: &HostReport,
        moving: Duration,
        requests: u64,
    ) -> DemoFigures {
        let moved = self.size.0 * u64::from(self.rounds) * 2;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut holds = Holds::default();
        jobs.iter().for_each(|job| holds.merge(&job.holds));
        let longest = jobs.iter().map(|job| job.longest_hold_us).max().unwrap_or(0);
        let hold = |per_mille| holds.quantile(per_mille).unwrap_or(0).min(longest);
        DemoFigures {
            volume_bytes: self.size.0,
            moves: self.rounds * 2,
            moved_bytes: moved,
            copied_bytes: jobs.iter().map(|job| job.copied.0).sum(),
            moving_us: micros(moving),
            bytes_per_second: moved.saturating_mul(1_000_000) / micros(moving).max(1),
            host_requests: report.requests,
            host_requests_while_moving: requests,
            held_requests: jobs.iter().map(|job| job.held).sum(),
            longest_host_latency_us: micros(report.longest),
            longest_hold_us: longest,
            median_hold_us: hold(500),
            p99_hold_us: hold(990),
            errors: report.errors,
            lost_writes: report.lost,
            file_system: None,
        }
    }
}

fn text_lines(figures: &DemoFigures) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "moved                 {} in {} moves, {}/s",
            size(figures.moved_bytes),
            figures.moves,
            size(figures.bytes_per_second)
        ),
        format!("copied                {}", size(figures.copied_bytes)),
        format!(
            "host requests         {} while moving, {} in all, of which {} were held",
            figures.host_requests_while_moving, figures.host_requests, figures.held_requests
        ),
        format!(
            "longest host latency  {}",
            duration(figures.longest_host_latency_us)
        ),
        format!(
            "holds                 median {}, p99 {}, longest {}",
            duration(figures.median_hold_us),
            duration(figures.p99_hold_us),
            duration(figures.longest_hold_us)
        ),
        format!("errors                {}", figures.errors),
        format!("lost writes           {}", figures.lost_writes),
    ];
    if let Some(same) = figures.file_system {
        let word = if same {
            "copied tree compares equal"
        } else {
            "copied tree DIFFERS"
        };
        lines.push(format!("ext4 on a loop device {word}"));
    }
    lines
}

/// Returns a flag that SIGINT and SIGTERM set. Unlike elsewhere, a second signal does not end the process at once, because mounts would
/// remain.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Error::because("signals", error))?;
    }
    Ok(stop)
}

/// Returns the error for a demo that the operator interrupted.
fn interrupted() -> Error {
    note("vctl: demo: stopped, taking down what it made");
    Error::new(ErrorKind::Cancelled, "demo", "stopped")
}

/// Fails when the flag is set.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        Err(interrupted())
    } else {
        Ok(())
    }
}
