//! `bench compare`: the same image through our mount, a loop device, the bare library and other programs, interleaved in one run.

mod cells;
mod chart;
mod fio;
mod report;
mod segments;
mod targets;

use cells::{CELLS, Cell};
use clap::{Parser, Subcommand};
use report::{Report, Samples};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use targets::{Ground, Images, Target};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Starts a target.
type Maker<'a> = Box<dyn Fn() -> Outcome<Target> + 'a>;
/// The samples of each target, by cell.
type Rows = Vec<(String, Vec<Samples>)>;

#[derive(Parser)]
#[command(about = "Measures the mount against the image itself, the bare library and the peers")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run all targets in several interleaved rounds.
    Compare(Compare),
    /// Compare a volume of a million segments with one of a single segment, and measure the memory for it.
    Segments(Segments),
}

#[derive(clap::Args)]
struct Segments {
    /// A directory for the images, which are mostly holes: 4 KiB for each segment of two volumes are in use.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    on: PathBuf,
    /// Segments of the scattered volume.
    #[arg(long, default_value_t = 1_000_000)]
    segments: u64,
    /// Seconds for each reading.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Readings of each volume.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
}

#[derive(clap::Args)]
struct Compare {
    /// Directories for images, one for each file system to measure; by default one on /dev/shm and one below the target directory.
    #[arg(long = "on", value_name = "DIR")]
    grounds: Vec<PathBuf>,
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Seconds for each reading.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Readings of each target in each cell. Servers are restarted for each.
    #[arg(long, default_value_t = 7)]
    rounds: u64,
    /// One short reading of each target in each cell, on the first file system: shows that everything works, and the approximate result.
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Only cells whose name contains one of these; all when not given.
    #[arg(long)]
    cell: Vec<String>,
    /// Only targets whose name contains one of these; all when not given.
    #[arg(long)]
    target: Vec<String>,
    /// A direct pool, and direct reads and writes of the bare program, without the other programs.
    #[arg(long)]
    direct: bool,
    /// Only the files, without a loop device on each.
    #[arg(long)]
    no_loop: bool,
    /// Thread counts of the bare program.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    bare: Vec<u32>,
    /// Where `compare.json`, `compare.md` and a picture for each file system are written.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
}

impl Compare {
    fn quickened(mut self) -> Self {
        if self.quick {
            (self.seconds, self.rounds) = (0.4, 1);
            self.bare.truncate(2);
            if self.grounds.is_empty() {
                self.grounds = default_grounds();
                self.grounds.truncate(1);
            }
        }
        self
    }

    /// Returns the requested cells that make sense.
    fn cells(&self, file_system: &str) -> Vec<&'static Cell> {
        CELLS
            .iter()
            .filter(|cell| wanted(&self.cell, cell.name))
            // A file system in memory has no cold cache, and a direct pool no cache.
            .filter(|cell| !cell.cold || file_system != "tmpfs" && !self.direct)
            .collect()
    }
}

/// Returns whether a name contains one of these parts; every name does if there are none.
fn wanted(parts: &[String], name: &str) -> bool {
    parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
}

/// A flag that SIGINT and SIGTERM set. The started programs are ended on the way out.
#[derive(Default)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn on_signals() -> Outcome<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, interrupt.0.clone())?;
        }
        Ok(interrupt)
    }

    fn check(&self) -> Outcome<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        Ok(())
    }
}

fn main() -> Outcome<()> {
    if !targets::installed("fio") {
        return Err("fio is not installed: apt-get install fio (and nbdkit libnbd-bin qemu-system-common for the peers)".into());
    }
    match Args::parse().what {
        What::Compare(args) => compare_all(&args.quickened(), &build()?, &Interrupt::on_signals()?),
        What::Segments(args) => segments(&args, &build()?),
    }
}

fn segments(args: &Segments, programs: &Path) -> Outcome<()> {
    let scratch = tempfile::Builder::new()
        .prefix("segments-")
        .tempdir_in(&args.on)?;
    let plan = segments::Plan {
        segments: args.segments,
        seconds: args.seconds,
        rounds: args.rounds,
    };
    let ground = Ground {
        dir: &scratch.path().canonicalize()?,
        programs,
    };
    println!("{}", segments::measure(&plan, &ground)?);
    Ok(())
}

fn compare_all(args: &Compare, programs: &Path, interrupt: &Interrupt) -> Outcome<()> {
    fs::create_dir_all(&args.out)?;
    let grounds = if args.grounds.is_empty() {
        default_grounds()
    } else {
        args.grounds.clone()
    };
    let (mut text, mut all) = (String::new(), Vec::new());
    for dir in &grounds {
        let report = compare(args, dir, programs, interrupt)?;
        text.push_str(&report.markdown());
        fs::write(
            args.out.join(format!("compare-{}.svg", report.ground)),
            report.svg()?,
        )?;
        all.push(report.json());
    }
    fs::write(args.out.join("compare.md"), &text)?;
    fs::write(args.out.join("compare.json"), serde_json::to_vec_pretty(&all)?)?;
    println!("{text}");
    eprintln!("written to {}", args.out.display());
    Ok(())
}

fn default_grounds() -> Vec<PathBuf> {
    vec![PathBuf::from("/dev/shm"), PathBuf::from("target")]
}

/// Builds the programs to measure, and returns their directory.
fn build() -> Outcome<PathBuf> {
    let status = Command::new("cargo")
        .args([
            "build",
            "--profile",
            "dist",
            "-p",
            "apparatus",
            "-p",
            "vctl",
            "-p",
            "bench",
        ])
        .status()?;
    if !status.success() {
        return Err("cargo build failed".into());
    }
    let own = std::env::current_exe()?;
    own.parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| "the program has no directory".into())
}

fn compare(args: &Compare, dir: &Path, programs: &Path, interrupt: &Interrupt) -> Outcome<Report> {
    fs::create_dir_all(dir)?;
    let scratch = tempfile::Builder::new().prefix("compare-").tempdir_in(dir)?;
    let dir = scratch.path().canonicalize()?;
    let ground = Ground { dir: &dir, programs };
    let images = Images::make(&ground, args.size << 20, args.direct)?;
    let cells = args.cells(&file_system(&dir)?);
    let (makers, mut skipped) = makers(args, &ground, &images);
    let mut rows = Rows::new();
    for round in 0..args.rounds {
        let (mut targets, failed) = start(args, &ground, &makers);
        if round == 0 {
            skipped.extend(failed);
            let row = |target: &Target| (target.name.clone(), vec![Samples::default(); cells.len()]);
            rows = targets.iter().map(row).collect();
        }
        // Ratios are computed within a round, so every round needs all targets.
        let hot = match targets.len() == rows.len() {
            true => measure_hot(args, round, &targets, &cells, &mut rows, interrupt),
            false => Err(format!("round {}: not all targets started again", round + 1).into()),
        };
        // Loop devices are removed before their backing files.
        while targets.pop().is_some() {}
        hot?;
    }
    // Cold cells come last: after them the page cache consists of folios of other sizes than after writing, which affects writes.
    for round in 0..args.rounds {
        measure_cold(args, round, &makers, &cells, &mut rows, interrupt)?;
    }
    Ok(Report {
        ground: file_system(&dir)?,
        cells: cells.iter().map(|cell| cell.name.to_owned()).collect(),
        rows,
        skipped,
    })
}

/// Returns how each requested target is started, and the targets whose programs are not installed.
fn makers<'a>(
    args: &Compare,
    ground: &'a Ground<'_>,
    images: &'a Images,
) -> (Vec<(String, Maker<'a>)>, Vec<String>) {
    let mut makers: Vec<(String, Maker<'_>)> = vec![
        ("image, O_DIRECT".into(), Box::new(|| Ok(ground.plain(images)))),
        ("apparatus".into(), Box::new(|| ground.ours(images))),
        (
            "over io_uring".into(),
            Box::new(|| ground.ours_over_uring(images)),
        ),
    ];
    for &threads in &args.bare {
        makers.push((
            format!("bare fuser, {threads} threads"),
            Box::new(move || ground.bare(images, threads)),
        ));
    }
    let mut skipped = Vec::new();
    for (program, name) in [
        ("qemu-storage-daemon", "qemu-storage-daemon"),
        ("nbdfuse", "nbdfuse over nbdkit"),
    ] {
        if !targets::installed(program) {
            skipped.push(format!("{name}: {program} is not installed"));
        } else if program == "nbdfuse" {
            makers.push((name.into(), Box::new(|| ground.nbdfuse(images))));
        } else {
            makers.push((name.into(), Box::new(|| ground.qsd(images))));
        }
    }
    if args.direct {
        makers.retain(|(name, _)| !name.contains("nbd") && !name.contains("qemu"));
    }
    makers.retain(|(name, _)| wanted(&args.target, name));
    (makers, skipped)
}

/// Starts all targets, and a loop device on each if requested; returns also those that did not start.
fn start(args: &Compare, ground: &Ground<'_>, makers: &[(String, Maker<'_>)]) -> (Vec<Target>, Vec<String>) {
    let (mut targets, mut failed) = (Vec::new(), Vec::new());
    for (name, make) in makers {
        match make().and_then(|target| target.warmed(args.size << 20)) {
            Ok(target) => targets.push(target),
            Err(why) => failed.push(format!("{name}: {why}")),
        }
    }
    let below = if args.no_loop { 0 } else { targets.len() };
    for at in 0..below {
        match ground.looped(&targets[at]) {
            Ok(target) => targets.push(target),
            Err(why) => failed.push(format!("loop on {}: {why}", targets[at].name)),
        }
    }
    (targets, failed)
}

impl Compare {
    fn load(&self, round: u64) -> fio::Load {
        fio::Load {
            seconds: self.seconds,
            bytes: self.size << 20,
            seed: round + 1,
        }
    }
}

/// Measures the targets, which have just been started, in random order. They are restarted in each round, because the memory layout of a
/// process makes it up to a tenth faster or slower than another process of the same program.
fn measure_hot(
    args: &Compare,
    round: u64,
    targets: &[Target],
    cells: &[&Cell],
    rows: &mut Rows,
    interrupt: &Interrupt,
) -> Outcome<()> {
    // The order is the same in each run, and differs between rounds and cells: a target may affect the next one.
    let mut random = fastrand::Rng::with_seed(round);
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.cold) {
        let mut order: Vec<_> = targets.iter().collect();
        random.shuffle(&mut order);
        for target in order {
            interrupt.check()?;
            if let Some(row) = rows.iter_mut().find(|(name, _)| *name == target.name) {
                reading(target, cell, args.load(round), &mut row.1[at])?;
            }
        }
        eprintln!("round {} of {}: {}", round + 1, args.rounds, cell.name);
    }
    Ok(())
}

/// Starts each target for each reading, as the only one that has the image mapped.
fn measure_cold(
    args: &Compare,
    round: u64,
    makers: &[(String, Maker<'_>)],
    cells: &[&Cell],
    rows: &mut Rows,
    interrupt: &Interrupt,
) -> Outcome<()> {
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.cold) {
        for (name, make) in makers {
            interrupt.check()?;
            // A target that does not start has been skipped already.
            if let Some(row) = rows.iter_mut().find(|row| row.0 == *name) {
                let target = make()?;
                target.chill()?;
                reading(&target, cell, args.load(round), &mut row.1[at])?;
            }
        }
        eprintln!("round {} of {}: {}", round + 1, args.rounds, cell.name);
    }
    Ok(())
}

fn reading(target: &Target, cell: &Cell, load: fio::Load, samples: &mut Samples) -> Outcome<()> {
    let before = target.cpu();
    let found = fio::run(&target.path, cell, load)?;
    samples.iops.push(found.iops);
    samples.p99_us.push(found.p99_us);
    if let (Some(before), Some(after)) = (before, target.cpu()) {
        samples.cpu_us.push((after - before) * 1e6 / found.requests);
    }
    Ok(())
}

fn file_system(dir: &Path) -> Outcome<String> {
    let output = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(dir)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace('/', "-"))
}
