//! Disks that several nodes share on one kernel, each through a mount of its own: so each has a page cache of its own, as on a kernel of its own, and
//! whoever forgot to go past it would read what nobody wrote last.

use crate::support::{unmount, until};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A disk that one server has (nbdkit), for any number of nodes.
pub struct SharedDisk {
    image: PathBuf,
    server: Option<Child>,
}

/// What one node sees of a disk: a file in a file system of its own (nbdfuse).
pub struct View {
    mount: Option<(PathBuf, Child)>,
    path: PathBuf,
}

fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

impl SharedDisk {
    /// Creates a disk of this many MiB in the directory. Where the programs for it are not installed, all nodes use one file.
    pub fn new(dir: &Path, name: &str, mib: u64) -> Self {
        let image = dir.join(format!("{name}.img"));
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        if !(has("nbdkit") && has("nbdfuse")) {
            eprintln!(
                "skipped: page caches of their own for nodes: needs nbdkit and nbdfuse, which are not installed"
            );
            return Self { image, server: None };
        }
        let socket = image.with_extension("sock");
        let server = Command::new("nbdkit")
            .args(["--exit-with-parent", "--foreground", "--unix"])
            .args([&socket, Path::new("file"), &image])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the disk's server listens", || socket.exists());
        Self {
            image,
            server: Some(server),
        }
    }

    /// Returns the disk as one more node sees it, below this directory.
    pub fn view(&self, below: &Path) -> View {
        let name = self.image.file_stem().unwrap();
        if self.server.is_none() {
            return View {
                mount: None,
                path: self.image.clone(),
            };
        }
        let mount = below.join(format!("seen-{}", name.display()));
        fs::create_dir(&mount).unwrap();
        let path = mount.join("disk");
        let uri = format!(
            "nbd+unix:///?socket={}",
            self.image.with_extension("sock").display()
        );
        let program = Command::new("nbdfuse")
            .arg(&path)
            .arg(uri)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let view = View {
            mount: Some((mount, program)),
            path,
        };
        until("the disk is there", || view.path.exists());
        view
    }
}

impl View {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it is a file system of its own.
    pub fn is_mount(&self) -> bool {
        self.mount.is_some()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some((mount, program)) = &mut self.mount {
            unmount(mount);
            let _ = program.wait();
        }
    }
}

impl Drop for SharedDisk {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
