//! The content of the package, with its paths.

use crate::{Result, output};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files that are copied from the project to the package unchanged.
const FILES: &[(&str, &str)] = &[
    (
        "packaging/systemd/apparatus@.service",
        "usr/lib/systemd/system/apparatus@.service",
    ),
    (
        "packaging/systemd/user/apparatus@.service",
        "usr/lib/systemd/user/apparatus@.service",
    ),
    (
        "packaging/tmpfiles.d/apparatus.conf",
        "usr/lib/tmpfiles.d/apparatus.conf",
    ),
    ("packaging/debian/copyright", "usr/share/doc/apparatus/copyright"),
    ("README.md", "usr/share/doc/apparatus/README.md"),
    (
        "mounts/apparatus.ron",
        "usr/share/doc/apparatus/examples/apparatus.ron",
    ),
];

/// The paths where shells look for completions.
const COMPLETIONS: &[(&str, &str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions", "{}"),
    ("zsh", "usr/share/zsh/vendor-completions", "_{}"),
    ("fish", "usr/share/fish/vendor_completions.d", "{}.fish"),
];

/// Fills the tree of the package.
pub(crate) fn fill(package: &Path, root: &Path, binaries: &Path) -> Result<()> {
    for program in ["apparatus", "vctl"] {
        let from = binaries.join(program);
        let to = package.join("usr/bin").join(program);
        copy(&from, &to, 0o755)?;
        output(Command::new("strip").arg("--strip-unneeded").arg(&to))?;
    }
    make_dir(&package.join("usr/sbin"))?;
    for helper in ["mount.apparatus", "mount.fuse.apparatus"] {
        symlink("../bin/apparatus", package.join("usr/sbin").join(helper))?;
    }
    make_dir(&package.join("etc/apparatus"))?;
    for (from, to) in FILES {
        copy(&root.join(from), &package.join(to), 0o644)?;
    }
    let docs = package.join("usr/share/doc/apparatus/docs");
    for folder in ["", "console"] {
        documents(&root.join("docs").join(folder), &docs.join(folder))?;
    }
    let vctl = binaries.join("vctl");
    completions(package, &vctl)?;
    manual(package, &vctl)
}

/// Copies the files of a folder, without the folders in it.
fn documents(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let file = entry?.path();
        if file.is_file() {
            copy(&file, &to.join(file.file_name().unwrap_or_default()), 0o644)?;
        }
    }
    Ok(())
}

fn completions(package: &Path, vctl: &Path) -> Result<()> {
    for (shell, dir, name) in COMPLETIONS {
        for program in ["vctl", "apparatus"] {
            let script = output(Command::new(vctl).args(["completions", shell, "--program", program]))?;
            let file = package.join(dir).join(name.replace("{}", program));
            write(&file, &script, 0o644)?;
        }
    }
    Ok(())
}

fn manual(package: &Path, vctl: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    output(Command::new(vctl).arg("man").arg(scratch.path()))?;
    for entry in fs::read_dir(scratch.path())? {
        let page = entry?.path();
        let section = page
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = page.file_name().unwrap_or_default();
        let to = package.join(format!("usr/share/man/man{section}")).join(name);
        copy(&page, &to, 0o644)?;
        output(Command::new("gzip").arg("-9n").arg(&to))?;
    }
    Ok(())
}

/// Writes the control files for dpkg.
pub(crate) fn describe(package: &Path, root: &Path, architecture: &str) -> Result<()> {
    let from = root.join("packaging/debian");
    let to = package.join("DEBIAN");
    let control = fs::read_to_string(from.join("control"))?
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@ARCHITECTURE@", architecture)
        .replace("@SIZE@", &kilobytes(package)?)
        .replace("@SHLIBS@", &libraries(package)?);
    write(&to.join("control"), &control, 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        copy(&from.join(script), &to.join(script), 0o755)?;
    }
    let sums = Command::new("sh")
        .current_dir(package)
        .args(["-c", "find usr -type f -print0 | sort -z | xargs -0 md5sum"])
        .output()?;
    write(&to.join("md5sums"), &String::from_utf8(sums.stdout)?, 0o644)
}

fn kilobytes(package: &Path) -> Result<String> {
    let log = output(Command::new("du").args(["-ks", "--apparent-size"]).arg(package))?;
    Ok(log.split_whitespace().next().unwrap_or("0").to_owned())
}

/// Returns the packages of the shared libraries that the programs use.
fn libraries(package: &Path) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    // dpkg-shlibdeps requires the description of a source package, but uses no part of it.
    write(
        &scratch.path().join("debian/control"),
        "Source: apparatus\n\nPackage: apparatus\nArchitecture: any\n",
        0o644,
    )?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.current_dir(scratch.path()).arg("-O");
    for program in ["apparatus", "vctl"] {
        command
            .arg("-e")
            .arg(absolute(package)?.join("usr/bin").join(program));
    }
    let log = output(&mut command).map_err(|error| format!("{error}; it is in the package dpkg-dev"))?;
    let depends = log.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(depends.ok_or("dpkg-shlibdeps names no library")?.to_owned())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_dir(to.parent().unwrap_or(to))?;
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn write(to: &Path, text: &str, mode: u32) -> Result<()> {
    make_dir(to.parent().unwrap_or(to))?;
    fs::write(to, text)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// Creates a directory with the permissions of the package, whatever the umask.
fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    make_dir(dir.parent().unwrap_or(Path::new("/")))?;
    fs::create_dir(dir)?;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?)
}
