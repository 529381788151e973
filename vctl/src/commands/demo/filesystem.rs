//! With root privileges: ext4 on a loop device on a volume, with a tree of files that is moved, checked, mounted again and compared.

use super::stage::DemoDirs;
use apparatus::model::error::Result;
use apparatus::model::units::ByteCount;
use std::path::Path;
use std::process::{Command, Stdio};

const VOLUME: &str = "files";

/// Candidate trees; the first that exists is copied.
const TREES: [&str; 3] = ["src", "/usr/include", "/etc"];

/// The smallest volume that holds such a tree.
const SMALLEST: u64 = 64 << 20;

/// Copies a tree and returns whether the copy compares equal; `None` where that cannot be tried.
pub(super) fn play(stage: &DemoDirs, size: ByteCount) -> Result<Option<bool>> {
    let root = rustix::process::geteuid().is_root();
    let able = root && Path::new("/dev/loop-control").exists() && runs("mkfs.ext4");
    let tree = TREES.into_iter().find(|tree| Path::new(tree).is_dir());
    let (true, Some(tree), true) = (able, tree, size.0 >= SMALLEST) else {
        stage.say("ext4 on a loop device: passed over, it takes root, loop devices, e2fsprogs and 64M");
        return Ok(None);
    };
    stage.vctl(&["volume", "create", VOLUME, &size.to_string(), "--on", "d1"])?;
    let attached = stage.vctl(&["volume", "attach", VOLUME, "--apparatus", "a1"])?;
    let device = attached
        .split_whitespace()
        .find(|word| word.starts_with("/dev/"))
        .unwrap_or(&attached)
        .to_owned();
    let mounted = Mounted {
        stage,
        device,
        at: stage.scratch("ext4"),
    };
    mounted.use_it(tree).map(Some)
}

fn runs(program: &str) -> bool {
    let asked = Command::new(program)
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// A loop device and its mount; both are removed on drop.
struct Mounted<'a> {
    stage: &'a DemoDirs,
    device: String,
    at: String,
}

impl Mounted<'_> {
    fn use_it(&self, tree: &str) -> Result<bool> {
        self.stage.command("mkfs.ext4", &["-q", &self.device])?;
        self.stage.command("mkdir", &[&self.at])?;
        self.stage.command("mount", &[&self.device, &self.at])?;
        self.stage.command("cp", &["-a", tree, &self.at])?;
        self.stage.vctl(&["volume", "move", VOLUME, "--to", "d2"])?;
        self.stage.command("umount", &[&self.at])?;
        self.stage.command("e2fsck", &["-fn", &self.device])?;
        self.stage.command("mount", &[&self.device, &self.at])?;
        let name = Path::new(tree).file_name().unwrap_or_default();
        let copy = Path::new(&self.at).join(name);
        let equal = self
            .stage
            .command("diff", &["-r", "--no-dereference", tree, &copy.to_string_lossy()]);
        super::go_on(self.stage.stop())?;
        Ok(equal.is_ok())
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let quietly = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            let _ = command
                .args(words)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        };
        quietly("umount", &[&self.at]);
        quietly("losetup", &["--detach", &self.device]);
    }
}
