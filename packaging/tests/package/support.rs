//! The package, and a copy of this system for testing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Returns the directory of the programs that cargo has built, if they exist.
fn binaries() -> Option<PathBuf> {
    let this = std::env::current_exe().unwrap();
    let dir = this.parent()?.parent()?;
    let there = ["apparatus", "vctl"]
        .iter()
        .all(|program| dir.join(program).is_file());
    if !there {
        eprintln!("skipped: apparatus and vctl are not built; cargo test builds them");
    }
    there.then(|| dir.to_owned())
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Returns the standard output of a command that has succeeded.
#[track_caller]
pub fn stdout_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the package, built once from the programs of this build; `None` where a tool is missing.
pub fn package() -> Option<&'static Path> {
    static BUILT: LazyLock<Option<(TempDir, PathBuf)>> = LazyLock::new(build);
    BUILT.as_ref().map(|(_, path)| path.as_path())
}

fn build() -> Option<(TempDir, PathBuf)> {
    let binaries = binaries()?;
    if !["dpkg-deb", "dpkg-shlibdeps", "strip", "gzip"]
        .into_iter()
        .all(has)
    {
        return None;
    }
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_packaging"));
    command
        .arg("deb")
        .arg("--binaries")
        .arg(binaries)
        .arg("--out")
        .arg(out.path())
        .args(["--compression", "none"]);
    let path = stdout_of(&command.output().unwrap()).trim().to_owned();
    Some((out, path.into()))
}

/// Creates a copy-on-write copy of this system, without its pool, in which the script may do everything. Its processes and files are gone
/// when the script ends.
const COPY: &str = r#"
    set -e
    mkdir "$1/layer"
    mount -t tmpfs tmpfs "$1/layer"
    cd "$1/layer"
    mkdir upper work root
    mount -t overlay overlay -o "lowerdir=/,upperdir=upper,workdir=work" root || exit 77
    cd root
    rm -rf var/lib/apparatus etc/apparatus
    cp "$2" package.deb
    touch log
    mount --bind "$1/log" log
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,ro,bind proc/sys
    mount -t sysfs sysfs sys
    if [ -n "$4" ]; then mount -t cgroup2 cgroup2 sys/fs/cgroup; fi
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    exec chroot . sh -ec "exec > log 2>&1; set -x; $3"
"#;

/// Runs a script in a copy of this system where the package can be installed, on request in a control group of its own, and returns its
/// output. Returns `None`, with the reason on standard error, where no such copy can be created.
pub fn in_a_copy(deb: &Path, script: &str, group: Option<&Path>) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: installing needs root");
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    fs::write(&log, "").unwrap();
    let group = group.map(|group| group.to_str().unwrap()).unwrap_or_default();
    let enter = r#"if [ -n "$5" ]; then echo $$ > "$5/cgroup.procs"; fi
        exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --propagation private sh -c "$1" sh "$2" "$3" "$4" "$5""#;
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "200", "sh", "-c", enter, "sh", COPY]);
    command.arg(scratch.path()).arg(deb).args([script, group]);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp");
    let output = command.output().unwrap();
    let log = fs::read_to_string(&log).unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: no overlay can be mounted here");
        return None;
    }
    assert!(output.status.success(), "{output:?}\n{log}");
    Some(log)
}
