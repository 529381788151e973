//! The environment of the demo: its own directories, commands that are printed before they run, and their removal at the end.

use super::go_on;
use crate::output::note;
use apparatus::admin;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, Result};
use apparatus::store::Store;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// Two temporary directories: one for images and the pool, and one for the mounts, below `mounts/` if that is writable.
pub(super) struct DemoDirs {
    scratch: TempDir,
    mounts: TempDir,
    vctl: PathBuf,
    stop: Arc<AtomicBool>,
    quiet: bool,
}

impl DemoDirs {
    pub(super) fn set(stop: Arc<AtomicBool>, quiet: bool) -> Result<Self> {
        let failed = |error| Error::because("demo", error);
        let scratch = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir()
            .map_err(failed)?;
        let mounts = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir_in("mounts")
            .or_else(|_| tempfile::Builder::new().prefix("demo-mounts-").tempdir())
            .map_err(failed)?;
        let vctl = std::env::current_exe().map_err(failed)?;
        let stage = Self {
            scratch,
            mounts,
            vctl,
            stop,
            quiet,
        };
        stage.say(&format!(
            "images and pool in {}, mounts in {}",
            stage.scratch.path().display(),
            stage.mounts.path().display()
        ));
        Ok(stage)
    }

    /// Prints a line.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            note(&format!("# {line}"));
        }
    }

    /// Prints and runs a command of vctl.
    pub(super) fn vctl(&self, words: &[&str]) -> Result<String> {
        self.typed("vctl", &self.vctl, words)
    }

    /// Prints and runs any other command.
    pub(super) fn command(&self, program: &str, words: &[&str]) -> Result<String> {
        self.typed(program, Path::new(program), words)
    }

    fn typed(&self, name: &str, program: &Path, words: &[&str]) -> Result<String> {
        go_on(&self.stop)?;
        if !self.quiet {
            note(&format!("$ {name} {}", words.join(" ")));
        }
        let output = self
            .prepared(program, words)
            .output()
            .map_err(|error| Error::because(name, error))?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        go_on(&self.stop)?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Error::failed(
                format!("{name} {}", words.join(" ")),
                why.trim().to_owned(),
            ));
        }
        if !(self.quiet || text.is_empty()) {
            note(&text);
        }
        Ok(text)
    }

    fn prepared(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(words)
            .stdin(Stdio::null())
            .env(admin::place::VARIABLE, self.pool().path());
        command
    }

    pub(super) fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    pub(super) fn store(&self) -> Result<Box<dyn Store>> {
        admin::open(&self.pool())
    }

    fn pool(&self) -> PoolDir {
        PoolDir::new(self.scratch.path().join("pool"))
    }

    /// Returns a path in the temporary directory.
    pub(super) fn scratch(&self, name: &str) -> String {
        text(self.scratch.path().join(name))
    }

    /// Returns the mount point of an apparatus.
    pub(super) fn mount(&self, apparatus: &str) -> String {
        text(self.mounts.path().join(apparatus))
    }

    /// Returns the file of a volume.
    pub(super) fn file(&self, apparatus: &str, volume: &str) -> PathBuf {
        self.mounts.path().join(apparatus).join(volume)
    }
}

impl Drop for DemoDirs {
    fn drop(&mut self) {
        self.say("take it all away");
        // An apparatus that was never started cannot be stopped: that failure is not reported.
        for apparatus in ["a1", "a2"] {
            let _ = self
                .prepared(&self.vctl, &["apparatus", "stop", apparatus])
                .output();
        }
    }
}

fn text(path: impl AsRef<OsStr>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}
