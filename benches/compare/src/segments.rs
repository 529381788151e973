//! The cost of a large table. One apparatus serves two volumes of the same size, one in a single segment and one in a segment for each
//! extent, and the same random reads, one block of each extent, alternate between them. The memory of the apparatus beyond its mappings is
//! measured too.

use crate::Outcome;
use crate::report::{median, ratio, spread};
use crate::targets::Ground;
use apparatus::blockdev::{Candidate, create_image};
use apparatus::controller::{Controller, Wait};
use apparatus::model::change::{HoldMode, NewChange};
use apparatus::model::dir::PoolDir;
use apparatus::model::names::Name;
use apparatus::model::records::{Area, Delta, DiskRecord, Edit, Segment, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, VolumeExtent, VolumeId,
};
use apparatus::store;
use std::fs;
use std::path::Path;
use std::process::Command;

const EXTENT: ExtentSize = ExtentSize::MIN;

/// Number of segments, and duration.
pub(crate) struct Plan {
    /// Extents of each volume, and segments of the scattered one.
    pub(crate) segments: u64,
    /// Seconds of each reading.
    pub(crate) seconds: f64,
    /// Readings of each volume.
    pub(crate) rounds: u64,
}

/// Measures, and returns the results as Markdown.
///
/// # Errors
/// Fails with the error of the step that failed.
pub(crate) fn measure(plan: &Plan, ground: &Ground<'_>) -> Outcome<String> {
    let pool = ground.dir.join("pool");
    make(&pool, ground.dir, plan.segments)?;
    let served = ground.served_pool(&pool)?;
    let pid = served.server.ok_or("the apparatus has no process")?;
    let idle = own_memory_kib(pid)?;
    let bytes = plan.segments * EXTENT.bytes();
    let volumes = ["whole", "scattered"].map(|name| served.path.join(name));
    for path in &volumes {
        blocks(path, bytes, &["--rw=read:60k", "--size=100%"])?;
    }
    let mut found = [Vec::new(), Vec::new()];
    for round in 1..=plan.rounds {
        for (path, found) in volumes.iter().zip(&mut found) {
            let (seed, time) = (
                format!("--randseed={round}"),
                format!("--runtime={}ms", (plan.seconds * 1000.0).round()),
            );
            found.push(blocks(
                path,
                bytes,
                &[
                    "--rw=randread",
                    "--norandommap",
                    "--time_based",
                    "--blockalign=64k",
                    &seed,
                    &time,
                ],
            )?);
        }
    }
    let busy = own_memory_kib(pid)?;
    let [of_whole, of_scattered] = &found;
    let ratio = ratio(of_scattered, of_whole);
    let [whole, scattered] = found.map(|rates| (median(&rates), spread(&rates) * 100.0));
    Ok(format!(
        "| what | 1 segment | {} segments | ratio |\n|---|---|---|---|\n\
         | 4K random read QD16, requests per second | {:.0} ±{:.0}% | {:.0} ±{:.0}% | {:.2} |\n\
         | memory beyond the mappings, MiB, at start / after | | {:.0} / {:.0} | |\n",
        plan.segments,
        whole.0,
        whole.1,
        scattered.0,
        scattered.1,
        ratio,
        idle / 1024.0,
        busy / 1024.0,
    ))
}

fn blocks(path: &Path, bytes: u64, more: &[&str]) -> Outcome<f64> {
    let output = Command::new("fio")
        .args([
            "--name=cell",
            "--output-format=json",
            "--direct=1",
            "--bs=4k",
            "--iodepth=16",
            "--ioengine=libaio",
        ])
        .args(["--allow_file_create=0"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--filesize={bytes}"))
        .args(more)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value =
        serde_json::from_str(&text[text.find('{').ok_or("fio printed no figures")?..])?;
    report["jobs"][0]["read"]["iops"]
        .as_f64()
        .filter(|_| output.status.success())
        .ok_or_else(|| {
            format!(
                "fio on {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            )
            .into()
        })
}

/// Returns the resident memory that does not belong to a file.
fn own_memory_kib(pid: u32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the kernel does not tell the memory")?.parse()?)
}

/// Creates a pool with the two volumes; the extents of the scattered one alternate between two disks, so that no two segments merge.
fn make(at: &Path, dir: &Path, segments: u64) -> Outcome<()> {
    let pool = PoolDir::new(at.to_owned());
    store::create(&pool, EXTENT)?;
    let mut controller = Controller::acquire(&pool, "bench", Wait::No)?;
    let disks = ["odd", "even", "whole"]
        .into_iter()
        .map(|name| add_disk(&mut controller, &dir.join(name), name, segments))
        .collect::<Outcome<Vec<DiskId>>>()?;
    let segment = |start, disk, placement| Segment {
        start: VolumeExtent(start),
        placement: Area {
            disk,
            start: DiskExtent(1 + placement),
            len: 1,
        },
    };
    let scattered = (0..segments)
        .map(|at| segment(at, disks[usize::from(at % 2 == 0)], at / 2))
        .collect();
    let mut whole = segment(0, disks[2], 0);
    whole.placement.len = segments;
    for (name, segments_of) in [("whole", vec![whole]), ("scattered", scattered)] {
        let id = controller.store().next_volume_id()?;
        let record = VolumeRecord {
            id,
            name: Name::new("volume", name)?,
            size: ByteCount(segments * EXTENT.bytes()),
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            read_only: false,
        };
        run(
            &mut controller,
            vec![Edit::AddVolume(record), map(id, segments_of)],
        )?;
    }
    Ok(controller.persist()?)
}

fn map(volume: VolumeId, segments: Vec<Segment>) -> Edit {
    Edit::Map { volume, segments }
}

fn add_disk(controller: &mut Controller, path: &Path, name: &str, segments: u64) -> Outcome<DiskId> {
    let pool = controller.store().header()?;
    create_image(path, ByteCount((segments + 1) * EXTENT.bytes()), EXTENT)?;
    let candidate = Candidate::inspect(path, &pool, &[])?;
    let (uuid, extents) = (uuid::Uuid::new_v4(), candidate.extents());
    candidate.write_label(&pool, uuid)?;
    let id = controller.store().next_disk_id()?;
    let record = DiskRecord {
        id,
        name: Name::new("disk", name)?,
        uuid,
        path: path.to_owned(),
        extents,
        tags: Default::default(),
        allocate: true,
        reserve: 0,
        label: 0,
    };
    run(controller, vec![Edit::AddDisk(record)])?;
    Ok(id)
}

fn run(controller: &mut Controller, edits: Vec<Edit>) -> Outcome<()> {
    let delta = Delta {
        from: Generation(0),
        edits,
    };
    let change = NewChange {
        title: "bench".into(),
        job: None,
        delta,
        spans: Vec::new(),
        mode: HoldMode::Writes,
    };
    controller.run_whole(change, &mut || Ok(()))?;
    Ok(())
}
