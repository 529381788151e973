//! Records of the loop devices that `volume attach` has made: files `loop-N` in the run directory. When an apparatus was killed and is started again, its
//! former mount is taken away, and the kernel does not say any more which pool and volume the loop devices on it belong to.

use crate::cluster;
use crate::model::dir::PoolDir;
use crate::model::units::VolumeId;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Records that this loop device was made for this volume.
///
/// # Errors
/// Fails when the run directory cannot be written.
pub(in crate::admin) fn record(pool: &PoolDir, device: &Path, volume: VolumeId) -> io::Result<()> {
    let (Some(file), Some(text)) = (file_of(pool, device), text_of(pool, device, volume)) else {
        return Ok(());
    };
    fs::write(file, text)
}

/// Returns whether this loop device, as it is set up now, was made for this volume.
pub(super) fn is_recorded(pool: &PoolDir, device: &Path, volume: VolumeId) -> bool {
    let Some(file) = file_of(pool, device) else {
        return false;
    };
    let recorded = fs::read_to_string(file).ok();
    recorded.is_some() && recorded == text_of(pool, device, volume)
}

fn file_of(pool: &PoolDir, device: &Path) -> Option<PathBuf> {
    let number = device.file_name()?.to_str()?.strip_prefix("loop")?;
    Some(pool.run().join(format!("loop-{number}")))
}

/// Returns the boot, the number by which the kernel tells successive uses of the device apart, and the volume. Returns `None` where the kernel has no
/// such number (before Linux 5.15).
fn text_of(pool: &PoolDir, device: &Path, volume: VolumeId) -> Option<String> {
    let epoch = cluster::open(pool).and_then(|cluster| cluster.epoch()).ok()?;
    let sequence = Path::new("/sys/block").join(device.file_name()?).join("diskseq");
    let sequence = fs::read_to_string(sequence).ok()?;
    Some(format!("{} {} {volume}\n", epoch.0, sequence.trim()))
}
