//! The package is built from the programs of this build and installed with dpkg in a copy-on-write copy of this system; what it installs is
//! tried there, and taken away again. Building needs dpkg-dev, installing needs root and overlay mounts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Where cargo has put the programs, if it has.
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

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
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
    let path = said(&command.output().unwrap()).trim().to_owned();
    Some((out, path.into()))
}

#[test]
fn the_package_is_complete_and_is_installed_used_and_taken_away() {
    let Some((_out, deb)) = build() else { return };
    has_everything_in_its_place(&deb);
    lives(&deb);
}

fn has_everything_in_its_place(deb: &Path) {
    let listed = said(
        &Command::new("dpkg-deb")
            .arg("--contents")
            .arg(deb)
            .output()
            .unwrap(),
    );
    for (mode, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/apparatus"),
        ("-rwxr-xr-x root/root", "./usr/bin/vctl"),
        (
            "lrwxrwxrwx root/root",
            "./usr/sbin/mount.apparatus -> ../bin/apparatus",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/lib/systemd/system/apparatus@.service",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/lib/systemd/user/apparatus@.service",
        ),
        ("-rw-r--r-- root/root", "./usr/lib/tmpfiles.d/apparatus.conf"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/bash-completion/completions/vctl",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/share/bash-completion/completions/apparatus",
        ),
        ("-rw-r--r-- root/root", "./usr/share/zsh/vendor-completions/_vctl"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/fish/vendor_completions.d/vctl.fish",
        ),
        (
            "-rw-r--r-- root/root",
            "./usr/share/man/man1/vctl-volume-move.1.gz",
        ),
        ("-rw-r--r-- root/root", "./usr/share/man/man8/apparatus.8.gz"),
        (
            "-rw-r--r-- root/root",
            "./usr/share/man/man8/mount.apparatus.8.gz",
        ),
        ("-rw-r--r-- root/root", "./usr/share/doc/apparatus/docs/SYSTEM.md"),
        ("drwxr-xr-x root/root", "./etc/apparatus/"),
    ] {
        let found = listed
            .lines()
            .any(|line| line.starts_with(mode) && line.ends_with(path));
        assert!(found, "{mode} {path}\n{listed}");
    }
    let control = said(
        &Command::new("dpkg-deb")
            .args(["--field"])
            .arg(deb)
            .output()
            .unwrap(),
    );
    let depends = control
        .lines()
        .find(|line| line.starts_with("Depends: "))
        .unwrap();
    assert!(
        depends.contains("libc6 (>= ") && depends.contains("fuse3"),
        "{depends}"
    );
}

/// This system with a layer over it that takes all that is written.
fn in_a_copy(deb: &Path, script: &str) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let setup = r#"
        set -e
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/upper" "$1/work" "$1/root"
        mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" || exit 77
        cp "$2" "$1/root/package.deb"
        cd "$1/root"
        mount -t proc proc proc
        mount --rbind /dev dev
        mount -t tmpfs tmpfs run
        mount -t tmpfs tmpfs tmp
        exec chroot . sh -exc "$3"
    "#;
    let mut command = Command::new("timeout");
    command.args([
        "-k",
        "5",
        "200",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    command.args(["--propagation", "private", "sh", "-c", setup, "sh"]);
    command.arg(scratch.path()).arg(deb).arg(script);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp");
    command.output().unwrap()
}

/// What an administrator does with it, from installing to taking it away.
const LIFE: &str = r#"
    dpkg -i package.deb
    test "$(stat -c %a /var/lib/apparatus)" = 700
    vctl --version
    vctl pool create
    vctl disk add /var/lib/apparatus/d1.img --create 64M
    vctl volume create v 8M
    echo ':a1 /run/apparatus/a1 apparatus allow_other,noauto 0 0' | sed 's|^|/var/lib/apparatus/pool|' > /tmp/fstab
    mount --fstab /tmp/fstab /run/apparatus/a1
    echo data | dd of=/run/apparatus/a1/v conv=notrunc status=none
    vctl status
    umount /run/apparatus/a1
    if command -v systemd-analyze; then
        systemd-analyze verify --man=no apparatus@a1.service
        mkdir -p /tmp/user
        XDG_RUNTIME_DIR=/tmp/user systemd-analyze verify --man=no --user apparatus@a1.service
    fi
    bash -n /usr/share/bash-completion/completions/vctl
    dpkg -r apparatus
    dpkg -P apparatus
    test ! -e /usr/bin/vctl && test ! -e /usr/sbin/mount.apparatus && test ! -e /usr/share/doc/apparatus
    test -e /var/lib/apparatus/pool/pool.db
"#;

fn lives(deb: &Path) {
    if said(&Command::new("id").arg("-u").output().unwrap()).trim() != "0" {
        return eprintln!("skipped: installing needs root");
    }
    let output = in_a_copy(deb, LIFE);
    if output.status.code() == Some(77) {
        return eprintln!("skipped: no overlay can be mounted here");
    }
    let told = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}\n{told}", output.status);
    assert!(
        !told.contains("Unknown key") && !told.contains("Failed to"),
        "{told}"
    );
}
