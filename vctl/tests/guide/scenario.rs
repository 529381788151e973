//! A pool's first days, by commands that the documents name: a loop block device and an image file, a mounted file system on one volume
//! and a VM's image on the other, the block device evacuated and removed while both are in use, and the machine started anew.

use crate::document;
use crate::place::{Place, has, is_root};
use std::path::Path;

/// What the system's unit runs, for the apparatus of this name at this mount point.
fn unit(name: &str, mount: &str) -> String {
    let unit = document("packaging/systemd/apparatus@.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let command = line.unwrap().replace("%i", name);
    command.replace("${MOUNT}", mount).replace("$OPTIONS", "")
}

#[test]
fn a_disk_leaves_under_hosts_and_all_is_there_after_a_new_start() {
    let this = "the first days of a pool";
    if !is_root() || !Path::new("/dev/loop-control").exists() {
        return eprintln!("skipped: {this}: needs root and loop devices");
    }
    for program in ["mkfs.ext4", "e2fsck", "qemu-img", "qemu-io", "losetup"] {
        if !has(program) {
            return eprintln!("skipped: {this}: needs {program}");
        }
    }
    let starts =
        ["a1", "a2"].map(|name| format!("{} > /tmp/{name}.log 2>&1 &", unit(name, &format!("/tmp/{name}"))));
    let script = include_str!("scenario.sh").replace("START_BY_UNITS", &starts.join("\n"));
    Place::new(false).run(&script);
}
