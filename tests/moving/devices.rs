//! Small file systems and devices for tests: tmpfs of a given size, file systems on loop
//! devices. The functions return `None` where the test may not make them, and print the reason.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Returns the output of the command; `None` where it failed.
pub fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let bounded = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    if !bounded.status.success() {
        let why = String::from_utf8_lossy(&bounded.stderr).into_owned();
        println!("skipped: {program} {arguments:?}: {why}");
        return None;
    }
    Some(String::from_utf8(bounded.stdout).unwrap().trim().to_owned())
}

/// A loop device over a file, detached on drop.
pub struct Loop {
    pub path: PathBuf,
}

impl Loop {
    pub fn over(file: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loop devices need root");
            return None;
        }
        let path = run("losetup", &["--find", "--show", text(file)])?.into();
        Some(Self { path })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", text(&self.path)]);
    }
}

/// A mounted file system.
pub struct Mount {
    pub at: TempDir,
    _device: Option<Loop>,
}

impl Mount {
    /// Mounts a tmpfs of this size.
    pub fn tmpfs(bytes: u64) -> Option<Self> {
        Self::of_kind("tmpfs", &format!("size={bytes}"))
    }

    /// Mounts a file system without a device.
    pub fn of_kind(kind: &str, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        let at = tempfile::tempdir().unwrap();
        run("mount", &["-t", kind, "-o", options, "none", text(at.path())])?;
        Some(Self { at, _device: None })
    }

    /// Mounts a file system made by `mkfs` (and its arguments) on a sparse file in `dir`.
    pub fn made_by(mkfs: &[&str], bytes: u64, dir: &Path) -> Option<Self> {
        let image = dir.join("file-system.img");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        Self::made_on(Loop::over(&image)?, mkfs)
    }

    /// Mounts a file system made by `mkfs` (and its arguments) on this device.
    pub fn made_on(device: Loop, mkfs: &[&str]) -> Option<Self> {
        let arguments = [&mkfs[1..], &[text(&device.path)]].concat();
        run(mkfs[0], &arguments)?;
        let at = tempfile::tempdir().unwrap();
        run("mount", &[text(&device.path), text(at.path())])?;
        Some(Self {
            at,
            _device: Some(device),
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The unmount is lazy: files that a failed test has open there are closed with its process.
        run("umount", &["-l", text(self.at.path())]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
