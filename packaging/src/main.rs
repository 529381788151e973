//! Builds the Debian package: `cargo run -p packaging -- deb`. Assembles the tree and runs dpkg-deb on it.

mod tree;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "usage: packaging deb [--binaries DIR] [--out DIR] [--compression KIND]

Writes apparatus_VERSION_ARCHITECTURE.deb to DIR (target/debian by default) and prints its path. The programs are built with the profile dist, unless
a directory is named that has them. KIND is one that dpkg-deb has: xz, or none for a quick build.";

/// The arguments.
struct Wanted {
    binaries: Option<PathBuf>,
    out: PathBuf,
    compression: String,
}

fn main() -> ExitCode {
    match wanted(env::args().skip(1)).and_then(|wanted| deb(&wanted)) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("packaging: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wanted(mut words: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut wanted = Wanted {
        binaries: None,
        out: root().join("target/debian"),
        compression: "xz".to_owned(),
    };
    if words.next().as_deref() != Some("deb") {
        return Err(USAGE.into());
    }
    while let Some(word) = words.next() {
        let value = words.next().map(PathBuf::from).ok_or(USAGE)?;
        match word.as_str() {
            "--binaries" => wanted.binaries = Some(value),
            "--out" => wanted.out = value,
            "--compression" => wanted.compression = value.to_string_lossy().into_owned(),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(wanted)
}

/// Returns the root of the project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn deb(wanted: &Wanted) -> Result<PathBuf> {
    let binaries = match &wanted.binaries {
        Some(dir) => dir.clone(),
        None => build()?,
    };
    let scratch = tempfile::tempdir()?;
    let package = scratch.path().join("package");
    tree::fill(&package, &root(), &binaries)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    tree::describe(&package, &root(), architecture.trim())?;
    std::fs::create_dir_all(&wanted.out)?;
    let name = format!(
        "apparatus_{}_{}.deb",
        env!("CARGO_PKG_VERSION"),
        architecture.trim()
    );
    let path = wanted.out.join(name);
    output(
        Command::new("dpkg-deb")
            .arg(format!("-Z{}", wanted.compression))
            .args(["--root-owner-group", "--build"])
            .args([&package, &path]),
    )?;
    Ok(path)
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "--bins",
        "--features",
        "etcd",
    ]);
    let built = command.args(["-p", "apparatus", "-p", "vctl"]).status()?;
    if !built.success() {
        return Err("the programs could not be built".into());
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("dist"))
}

/// Returns the output of a command, which must succeed.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("{program}: {} {why}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
