//! What hosts do with a volume: file systems on loop devices over it, and a virtual machine's disk tools on the file itself.
//! They survive mkfs, a copied tree, unmount, a restart of the apparatus and a file system check, and compare equal.
//!
//! Loop devices need root; what cannot be tried here says so and is passed over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Daemon, TestPool};

const MIB: u64 = 1 << 20;

/// Runs a command to its end, at most two minutes, and answers what it printed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["-k", "5", "120", program])
        .args(args)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {} {text}",
        output.status
    );
    text
}

fn can(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program} >/dev/null")])
        .status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        println!("passed over: {program} is not installed");
    }
    found
}

fn can_loop() -> bool {
    let root = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !root {
        println!("passed over: loop devices need root");
    }
    root
}

/// A file system on a loop device; both are taken down on drop.
struct Looped {
    device: String,
    at: PathBuf,
}

impl Looped {
    fn new(file: &Path, at: PathBuf) -> Self {
        let device = run(
            "losetup",
            &["--direct-io=on", "--find", "--show", &file.display().to_string()],
        );
        fs::create_dir_all(&at).unwrap();
        Self {
            device: device.trim().into(),
            at,
        }
    }

    fn mount(&self) {
        run("mount", &[&self.device, &self.at.display().to_string()]);
    }

    fn unmount(&self) {
        run("umount", &[&self.at.display().to_string()]);
    }

    fn detach(mut self) {
        // From here on the device may be another test's.
        let device = std::mem::take(&mut self.device);
        run("losetup", &["--detach", &device]);
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        if self.device.is_empty() {
            return;
        }
        for words in [
            ["umount", "-l", &self.at.display().to_string()].as_slice(),
            &["losetup", "-d", &self.device],
        ] {
            let _already_gone = Command::new("timeout").arg("20").args(words).output();
        }
    }
}

fn pool_with_a_volume_on_two_disks() -> TestPool {
    let pool = TestPool::new(MIB);
    let (a, b) = (pool.add_disk("a", 300).id, pool.add_disk("b", 300).id);
    pool.add_volume("v", 500 * MIB, &[(a, 1, 200), (b, 10, 250), (a, 220, 50)]);
    pool
}

fn survives(mkfs: &[&str], check: &[&str]) {
    if !(can_loop() && can(mkfs[0]) && can(check[0])) {
        return;
    }
    let pool = pool_with_a_volume_on_two_disks();
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let first = pool.start("one");
    let looped = Looped::new(&first.path("v"), pool.scratch().join("fs"));
    run(mkfs[0], &[&mkfs[1..], &[looped.device.as_str()]].concat());
    looped.mount();
    run("cp", &["-a", tree, &looped.at.display().to_string()]);
    let copy = looped.at.join("src").display().to_string();
    run("diff", &["-r", tree, &copy]);
    looped.unmount();
    looped.detach();
    first.stop();

    let second: Daemon = pool.start("two");
    let looped = Looped::new(&second.path("v"), pool.scratch().join("fs"));
    run(check[0], &[&check[1..], &[looped.device.as_str()]].concat());
    looped.mount();
    run("diff", &["-r", tree, &copy]);
    looped.unmount();
    looped.detach();
    second.stop();
}

#[test]
fn ext4_survives() {
    survives(&["mkfs.ext4", "-q"], &["e2fsck", "-fn"]);
}

#[test]
fn xfs_survives() {
    survives(&["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}

/// Loop devices without direct I/O go through the page cache above the mount as well.
#[test]
fn a_buffered_loop_device_survives() {
    if !(can_loop() && can("mkfs.ext4")) {
        return;
    }
    let pool = pool_with_a_volume_on_two_disks();
    let daemon = pool.start("one");
    let file = daemon.path("v").display().to_string();
    let device = run("losetup", &["--direct-io=off", "--find", "--show", &file]);
    let looped = Looped {
        device: device.trim().into(),
        at: pool.scratch().join("fs"),
    };
    fs::create_dir_all(&looped.at).unwrap();
    run("mkfs.ext4", &["-q", &looped.device]);
    looped.mount();
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    run("cp", &["-a", tree, &looped.at.display().to_string()]);
    looped.unmount();
    run("e2fsck", &["-fn", &looped.device]);
    looped.mount();
    run(
        "diff",
        &["-r", tree, &looped.at.join("src").display().to_string()],
    );
    looped.unmount();
    looped.detach();
    daemon.stop();
}

#[test]
fn a_virtual_machines_disk_tools_work_on_the_file() {
    if !(can("qemu-io") && can("qemu-img")) {
        return;
    }
    let pool = pool_with_a_volume_on_two_disks();
    let daemon = pool.start("one");
    let file = daemon.path("v").display().to_string();
    let io = |command: &str| {
        let said = run("qemu-io", &["-f", "raw", "-d", "unmap", "-c", command, &file]);
        assert!(!said.contains("Pattern verification failed"), "{command}: {said}");
        said
    };
    io("write -P 0x5a 198M 5M");
    io("read -P 0x5a 198M 5M");
    io("discard 199M 2M");
    io("read -P 0 199M 2M");
    io("read -P 0x5a 198M 1M");
    io("write -z 202M 1M");
    io("read -P 0 202M 1M");
    io("flush");
    let info = run("qemu-img", &["info", "-f", "raw", &file]);
    assert!(info.contains("500 MiB"), "{info}");
    let copy = pool.scratch().join("copy.qcow2").display().to_string();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &file, &copy]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &file, &copy]);
    daemon.stop();
}
