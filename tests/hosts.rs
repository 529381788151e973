//! Uses of a volume by hosts: file systems on loop devices over it, and a virtual machine's disk tools on the file itself.
//! They survive mkfs, a copied tree, unmount, a restart of the apparatus and a file system check, and compare equal.
//!
//! Loop devices need root; a test that cannot run here prints that and passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use apparatus::model::records::{DiskRecord, Edit, Span};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Daemon, TestPool};

const MIB: u64 = 1 << 20;

/// Runs a command to its end, at most two minutes, and returns its output.
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
        // From here on another test may use the device.
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

/// The file system of an image gets freed space back, unless the operator has disabled that.
#[test]
fn freed_space_is_discarded() {
    use std::os::unix::fs::MetadataExt;
    let pool = TestPool::new(MIB);
    let (a, b) = (pool.add_disk("a", 40), pool.add_disk("b", 40));
    let tagged = DiskRecord {
        tags: [support::name_of("no-discard")].into(),
        ..b.clone()
    };
    pool.change(vec![Edit::SetDisk(tagged)], vec![]);
    let kept = pool.add_volume("kept", 5 * MIB, &[(a.id, 1, 5)]);
    let gone = pool.add_volume("gone", 40 * MIB, &[(a.id, 6, 20), (b.id, 1, 20)]);
    let daemon = pool.start("one");
    let content = vec![7; 5 << 20];
    daemon.open("kept").write_all_at(&content, 0).unwrap();
    for at in 0..8 {
        daemon.open("gone").write_all_at(&content, at * 5 * MIB).unwrap();
    }
    daemon.open("gone").sync_all().unwrap();
    let blocks = |disk: &str| fs::metadata(pool.image(disk)).unwrap().blocks() * 512 / MIB;
    let before = [blocks("a"), blocks("b")];
    pool.change(vec![Edit::RemoveVolume(gone.id)], vec![Span::whole(gone.id)]);
    pool.controller().free().unwrap();
    assert!(blocks("a") >= before[0], "it can still be had back");
    let mut controller = pool.controller();
    let removed = controller.store().removed().unwrap();
    assert_eq!(
        removed.iter().map(|each| each.volume.id).collect::<Vec<_>>(),
        [gone.id]
    );
    controller.store().forget_removed(&[removed[0].change]).unwrap();
    controller.free().unwrap();
    drop(controller);
    assert!(blocks("a") + 20 <= before[0], "{} of {}", blocks("a"), before[0]);
    assert!(blocks("b") >= before[1]);
    assert_eq!(kept.size.0, 5 * MIB);
    assert!(fs::read(daemon.path("kept")).unwrap() == content);
    daemon.stop();
}

/// File handles, as an NFS server keeps them.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    data: [u8; 128],
}

#[allow(unsafe_code)]
impl Handle {
    fn of(path: &Path) -> Self {
        let mut handle = Self {
            bytes: 128,
            kind: 0,
            data: [0; 128],
        };
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let mut mount = 0;
        // SAFETY: `Handle` begins as `struct file_handle` does, has room for
        // the bytes that it says, and lives through the call, as the path does.
        let done = unsafe {
            libc::name_to_handle_at(
                libc::AT_FDCWD,
                path.as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount,
                0,
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        handle
    }

    fn open(&mut self, mount: &fs::File) -> std::io::Result<fs::File> {
        use std::os::fd::{AsRawFd, FromRawFd};
        // SAFETY: as above; the returned descriptor has no other owner.
        unsafe {
            match libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *self).cast(), libc::O_RDWR) {
                -1 => Err(std::io::Error::last_os_error()),
                file => Ok(fs::File::from_raw_fd(file)),
            }
        }
    }
}

#[test]
fn handles_of_files_outlast_eviction_and_a_restart() {
    if !rustix::process::geteuid().is_root() {
        println!("passed over: opening by handle needs root");
        return;
    }
    let pool = TestPool::new(MIB);
    let a = pool.add_disk("a", 30).id;
    let volume = pool.add_volume("v", 5 * MIB, &[(a, 1, 5)]);
    let daemon = pool.start("one");
    daemon.open("v").write_all_at(b"hello", 0).unwrap();
    let mut handle = Handle::of(&daemon.path("v"));
    let mut opens = |daemon: &Daemon| handle.open(&fs::File::open(daemon.mount()).unwrap());
    let is_found = |file: std::io::Result<fs::File>| {
        assert_eq!(support::read_up_to(&file.unwrap(), 5, 0), b"hello");
    };
    is_found(opens(&daemon));
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    is_found(opens(&daemon));
    daemon.stop();
    let daemon = pool.start("one");
    is_found(opens(&daemon));
    pool.change(vec![Edit::RemoveVolume(volume.id)], vec![Span::whole(volume.id)]);
    let gone = opens(&daemon).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ESTALE));
    daemon.stop();
}

/// Each of these tools treats the volume, which is larger and full of other data, as a file that it may replace.
#[test]
fn programs_that_write_files_write_images_to_a_volume() {
    let pool = pool_with_a_volume_on_two_disks();
    let daemon = pool.start("one");
    let volume = daemon.path("v").display().to_string();
    let image = pool.scratch().join("image");
    let mut content = vec![0; 250 << 20];
    for at in [0, 100 << 20, 205 << 20] {
        content[at..at + 5000].fill(b'x');
    }
    let file = fs::File::create(&image).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for at in [0, 100 << 20, 205 << 20] {
        file.write_all_at(&[b'x'; 5000], at).unwrap();
    }
    let image = image.display().to_string();
    let convert = format!("qemu-img convert -f raw -O raw {image} {volume}");
    let convert_there = format!("qemu-img convert -n -f raw -O raw {image} {volume}");
    for (program, command) in [
        ("cp", format!("cp {image} {volume}")),
        ("cp", format!("cp --sparse=always {image} {volume}")),
        ("cat", format!("cat {image} > {volume}")),
        ("tee", format!("tee < {image} > /dev/null {volume}")),
        (
            "dd",
            format!("dd if={image} of={volume} bs=1M conv=sparse status=none"),
        ),
        ("nbdcopy", format!("nbdcopy {image} {volume}")),
        ("qemu-img", convert),
        ("qemu-img", convert_there),
    ] {
        if !can(program) {
            continue;
        }
        run(
            "dd",
            &[
                "if=/dev/zero",
                "bs=1M",
                "count=500",
                "conv=notrunc",
                "status=none",
                &format!("of={volume}"),
            ],
        );
        run(
            "sh",
            &[
                "-c",
                &format!(
                    "tr '\\0' y < /dev/zero | dd of={volume} iflag=fullblock bs=1M count=300 conv=notrunc status=none"
                ),
            ],
        );
        run("sh", &["-c", &command]);
        let found = support::read_up_to(&daemon.open("v"), content.len(), 0);
        assert!(found == content, "{command}");
        assert_eq!(fs::metadata(&volume).unwrap().len(), 500 * MIB, "{command}");
    }
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
        let output = run("qemu-io", &["-f", "raw", "-d", "unmap", "-c", command, &file]);
        assert!(
            !output.contains("Pattern verification failed"),
            "{command}: {output}"
        );
        output
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
