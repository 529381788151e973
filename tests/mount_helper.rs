//! `mount -t apparatus` and umount as mount(8) does them, in a mount namespace of its own where the helper is in /sbin: needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use apparatus::model::member::Member;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::TestPool;

const EXTENT: u64 = 64 << 10;

/// A mount namespace in which commands are run one after the other; it lasts as long as they and this process.
struct Namespace {
    holder: std::process::Child,
}

impl Namespace {
    /// Makes one with the helper as the only file in /sbin. `None` where that is not permitted.
    fn new(scratch: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting by mount(8) needs root");
            return None;
        }
        let sbin = scratch.join("sbin");
        std::fs::create_dir(&sbin).unwrap();
        for helper in ["mount.apparatus", "mount.fuse.apparatus"] {
            symlink(env!("CARGO_BIN_EXE_apparatus"), sbin.join(helper)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command
            .arg("mount --bind \"$1\" \"$(realpath /sbin)\" && echo ready && exec cat")
            .arg("sh")
            .arg(&sbin);
        let piped = std::process::Stdio::piped;
        let mut holder = command.stdin(piped()).stdout(piped()).spawn().ok()?;
        let mut ready = [0; 6];
        let read = std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready);
        let namespace = Self { holder };
        if read.is_err() {
            eprintln!("skipped: no mount namespace can be had here");
            return None;
        }
        Some(namespace)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command
            .args(["60", "nsenter", "--mount", "--target"])
            .arg(self.holder.id().to_string());
        command.args(words).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, words: &[&str], status: i32, why: &[&str]) {
        let output = self.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {error}");
        why.iter()
            .for_each(|part| assert!(error.contains(part), "{part:?} in {error}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Rig {
    pool: TestPool,
    namespace: Namespace,
}

impl Rig {
    fn new() -> Option<Self> {
        let pool = TestPool::new(EXTENT);
        let namespace = Namespace::new(pool.scratch())?;
        let disk = pool.add_disk("d", 40).id;
        pool.add_volume("v", 8 * EXTENT, &[(disk, 1, 8)]);
        Some(Self { pool, namespace })
    }

    fn source(&self, name: &str) -> String {
        format!("{}:{name}", self.pool.dir.path().display())
    }

    fn point(&self, name: &str) -> (PathBuf, String) {
        let point = self.pool.scratch().join(name);
        std::fs::create_dir_all(&point).unwrap();
        let text = point.to_str().unwrap().to_owned();
        (point, text)
    }

    fn members(&self) -> Vec<Member> {
        self.pool.store().members().unwrap().1
    }

    /// Returns the process of an apparatus that has not left.
    fn process(&self, name: &str) -> OwnedFd {
        let members = self.members();
        let member = members
            .iter()
            .find(|member| member.name.as_str() == name)
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(member.pid).unwrap()).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
    }

    fn ended_in_order(&self, process: &OwnedFd) {
        let patience = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&patience)).unwrap(), 1, "still runs");
        let members = self.members();
        assert!(members.is_empty(), "did not leave in order: {members:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for member in self.members() {
            let pid = i32::try_from(member.pid).ok().and_then(Pid::from_raw);
            if let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
    }
}

#[test]
fn mount_and_umount_begin_and_end_an_apparatus() {
    let Some(rig) = Rig::new() else { return };
    let (source, (_, point)) = (rig.source("a"), rig.point("mnt"));
    let mount = [
        "mount",
        "-t",
        "apparatus",
        "-o",
        "allow_other,_netdev,nofail,x-note=1",
        &source,
        &point,
    ];
    rig.namespace.succeeds(&mount);
    let process = rig.process("a");
    rig.namespace.succeeds(&[
        "sh",
        "-c",
        "printf hello | dd of=\"$1/v\" conv=notrunc status=none",
        "sh",
        &point,
    ]);
    // As `mount -a` does, which does not recognise these mounts.
    rig.namespace.succeeds(&mount);
    let (_, other) = rig.point("other");
    let elsewhere = ["mount", "-t", "apparatus", &source, &other];
    rig.namespace
        .fails(&elsewhere, 32, &["serves at", "already", &point]);
    rig.namespace.succeeds(&["umount", &point]);
    rig.ended_in_order(&process);

    // A new mount right after that waits for the end of the earlier process.
    for options in ["ro", "threads=3"] {
        rig.namespace
            .succeeds(&["mount", "-t", "apparatus", "-o", options, &source, &point]);
        let file = format!("{point}/v");
        assert_eq!(rig.namespace.succeeds(&["head", "-c", "5", &file]), "hello");
        let written = rig.namespace.run(&[
            "dd",
            "if=/dev/zero",
            &format!("of={file}"),
            "count=1",
            "conv=notrunc",
        ]);
        assert_eq!(written.status.success(), options != "ro", "{written:?}");
        rig.namespace.succeeds(&["umount", &point]);
    }
}

#[test]
fn a_line_of_fstab_is_enough() {
    let Some(rig) = Rig::new() else { return };
    let (source, (_, point)) = (rig.source("a"), rig.point("a mount"));
    let line = format!(
        "{source} {} apparatus defaults,noauto,user,nofail,threads=1 0 0\n",
        point.replace(' ', "\\040")
    );
    let table = rig.pool.scratch().join("fstab");
    std::fs::write(&table, line).unwrap();
    let table = table.to_str().unwrap();
    rig.namespace.succeeds(&["mount", "--fstab", table, &point]);
    let process = rig.process("a");
    assert!(rig.namespace.succeeds(&["ls", &point]).contains('v'));
    rig.namespace.succeeds(&["umount", &point]);
    rig.ended_in_order(&process);
}

#[test]
fn a_mount_becomes_read_only_and_writable_again() {
    let Some(rig) = Rig::new() else { return };
    let (source, (_, point)) = (rig.source("a"), rig.point("mnt"));
    let file = format!("{point}/v");
    let write = |expected: bool| {
        let words = [
            "dd",
            "if=/dev/zero",
            &format!("of={file}"),
            "count=1",
            "conv=notrunc",
        ];
        let written = rig.namespace.run(&words);
        assert_eq!(written.status.success(), expected, "{written:?}");
    };
    rig.namespace
        .succeeds(&["mount", "-t", "fuse.apparatus", &source, &point]);
    write(true);
    for kind in ["apparatus", "fuse.apparatus"] {
        let words = ["mount", "-t", kind, "-o", "ro", &source, &point];
        rig.namespace.fails(&words, 32, &["can be written", "remount,ro"]);
    }
    let held = format!("exec 3<>{file}; mount -o remount,ro {point}");
    rig.namespace
        .fails(&["sh", "-c", &held], 32, &["busy", "open for writing"]);
    rig.namespace.succeeds(&["mount", "-o", "remount,ro", &point]);
    write(false);
    rig.namespace
        .succeeds(&["mount", "-t", "apparatus", "-o", "ro", &source, &point]);
    rig.namespace.succeeds(&["mount", "-o", "remount,rw", &point]);
    write(true);
    rig.namespace.fails(
        &["mount", "-o", "remount,threads=3", &point],
        1,
        &["ro and rw", "umount"],
    );
    rig.namespace.succeeds(&["umount", &point]);

    rig.namespace
        .succeeds(&["mount", "-t", "apparatus", "-o", "ro", &source, &point]);
    write(false);
    rig.namespace.succeeds(&["mount", "-o", "remount,rw", &point]);
    write(true);
    rig.namespace.succeeds(&["umount", &point]);
}

#[test]
fn what_cannot_be_is_refused_and_starts_nothing() {
    let Some(rig) = Rig::new() else { return };
    let (source, (_, point)) = (rig.source("a"), rig.point("mnt"));
    let mount = |options: &str, source: &str, status, why: &[&str]| {
        let words = ["mount", "-t", "apparatus", "-o", options, source, &point];
        rig.namespace.fails(&words, status, why);
    };
    mount("sync", &source, 1, &["sync", "is not known", "--help"]);
    mount("threads=0", &source, 32, &["threads is 0"]);
    mount("metrics=0.0.0.0:1", &source, 32, &["other machines"]);
    mount("defaults", "/nowhere:a", 32, &["/nowhere"]);
    mount("defaults", "nowhere:a", 1, &["relative path", "POOL:NAME"]);
    rig.namespace
        .fails(&["mount", "-t", "apparatus", &source, "/proc"], 32, &["in use"]);
    rig.namespace
        .succeeds(&["mount", "-f", "-t", "apparatus", &source, &point]);
    rig.namespace.succeeds(&[
        "mount",
        "-s",
        "-f",
        "-t",
        "apparatus",
        "-o",
        "sync",
        &source,
        &point,
    ]);
    let members = rig.members();
    assert!(members.is_empty(), "{members:?}");
}
