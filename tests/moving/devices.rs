//! Small file systems and devices for tests: tmpfs of a given size, file systems on loop devices. None where the test may not make
//! them, and the reason is printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What the command said; `None` where it did not do.
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

/// A loop device over a file, given back when dropped.
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
    /// In memory, for so many bytes.
    pub fn tmpfs(bytes: u64) -> Option<Self> {
        Self::of_kind("tmpfs", &format!("size={bytes}"))
    }

    /// A file system without a device.
    pub fn of_kind(kind: &str, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return None;
        }
        let at = tempfile::tempdir().unwrap();
        run("mount", &["-t", kind, "-o", options, "none", text(at.path())])?;
        Some(Self { at, _device: None })
    }

    /// Made by `mkfs` (and its arguments) on a sparse file in `dir`.
    pub fn made_by(mkfs: &[&str], bytes: u64, dir: &Path) -> Option<Self> {
        let image = dir.join("file-system.img");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        Self::made_on(Loop::over(&image)?, mkfs)
    }

    /// Made by `mkfs` (and its arguments) on this device.
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
        // Lazily: what a failed test has open there ends with its process.
        run("umount", &["-l", text(self.at.path())]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
