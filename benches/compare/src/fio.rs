//! Runs fio on one path for one cell and reads its JSON.

use crate::cells::Cell;
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// The result of one run of fio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Requests per second.
    pub(crate) iops: f64,
    /// 99th percentile of the completion latency, in microseconds.
    pub(crate) p99_us: f64,
    /// Total requests.
    pub(crate) requests: f64,
}

/// Duration, and the part of the file that is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Seconds of each run.
    pub(crate) seconds: f64,
    /// Bytes of the file that are used, from its beginning.
    pub(crate) bytes: u64,
    /// Seed of the random offsets: the same for every target in a round.
    pub(crate) seed: u64,
}

/// Runs one cell on `path`.
///
/// # Errors
/// Fails when fio fails, or when its output is unexpected.
pub(crate) fn run(path: &Path, cell: &Cell, load: Load) -> Result<Reading, Box<dyn Error>> {
    let engine = if cell.depth == 1 { "psync" } else { "libaio" };
    let output = Command::new("fio")
        .args([
            "--name=cell",
            "--output-format=json",
            "--direct=1",
            "--group_reporting",
            "--randrepeat=1",
            "--allow_file_create=0",
        ])
        // A cold cell reads its data once: the second time the data would be in memory.
        .args(if cell.cold {
            &[][..]
        } else {
            &["--time_based", "--norandommap"]
        })
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--rw={}", cell.pattern))
        .arg(format!("--bs={}", cell.block))
        .arg(format!("--iodepth={}", cell.depth))
        .arg(format!("--numjobs={}", cell.jobs))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--size={}", load.bytes))
        .arg(format!("--runtime={}ms", (load.seconds * 1000.0).round()))
        .arg(format!("--randseed={}", load.seed))
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "fio on {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    parse(&output.stdout, cell.pattern.ends_with("read")).ok_or_else(|| "fio printed no figures".into())
}

fn parse(json: &[u8], read: bool) -> Option<Reading> {
    let start = json.iter().position(|&byte| byte == b'{')?;
    let report: serde_json::Value = serde_json::from_slice(&json[start..]).ok()?;
    let side = report
        .get("jobs")?
        .get(0)?
        .get(if read { "read" } else { "write" })?;
    let p99 = side
        .get("clat_ns")?
        .get("percentile")
        .and_then(|all| all.get("99.000000"));
    Some(Reading {
        iops: side.get("iops")?.as_f64()?,
        requests: side.get("total_ios")?.as_f64()?,
        p99_us: p99.and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN) / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_side_that_was_asked_for() {
        let json = br#"note: x
            {"jobs":[{"read":{"iops":1.5,"total_ios":3,"clat_ns":{"percentile":{"99.000000":9000}}},
                      "write":{"iops":7.0,"total_ios":14,"clat_ns":{"percentile":{"99.000000":4000}}}}]}"#;
        let write = parse(json, false).unwrap();
        assert!((write.iops - 7.0).abs() < 1e-9 && (write.p99_us - 4.0).abs() < 1e-9);
        assert!((write.requests - 14.0).abs() < 1e-9);
        assert!((parse(json, true).unwrap().iops - 1.5).abs() < 1e-9);
        assert!(parse(b"no figures", true).is_none());
    }
}
